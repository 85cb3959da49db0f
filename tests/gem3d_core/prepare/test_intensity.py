"""Intensities to [-1, 1] and back."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d_core.errors import BadInput
from gem3d_core.prepare.intensity import IntensityMap, fit_intensity, median_map
from gem3d_core.prepare.outline import Outline
from gem3d_core.spec.prepare import IntensitySpec

FLOATS = st.floats(-1e6, 1e6, width=32)


def full(shape: tuple[int, ...], background: float = 0.0) -> Outline:
    return Outline(np.ones(shape, np.bool_), "full-box", background)


@given(FLOATS, st.floats(2**-6, 1e6, width=32), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_invertible_inside_the_window(low: float, width: float, seed: int) -> None:
    mapping = IntensityMap("mri", low, low + width, 0.0)
    inside = np.random.default_rng(seed).uniform(low, low + width, 50).astype(np.float32)
    inside = np.clip(inside, np.float32(low), None)
    mapped = mapping.forward(inside)
    tolerance = 2**-23 * (width + max(abs(low), abs(low + width)))

    assert mapped.dtype == np.float32
    assert np.abs(mapped).max() <= 1
    assert np.abs(mapping.inverse(mapped).astype(np.float64) - inside).max() <= tolerance


def test_clipped_outside_the_window() -> None:
    mapping = IntensityMap("ct", -200, 300, -1000)
    assert mapping.forward(np.array([-1024, -200, 50, 300, 3000])).tolist() == [-1, -1, 0, 1, 1]
    assert mapping.inverse(np.array([-7.0, -1.0, 0.0, 1.0, 7.0])).tolist() == [-200, -200, 50, 300, 300]


def test_outside_the_outline_stands_the_background() -> None:
    mapping = IntensityMap("mri", 0, 10, -3.5)
    outline = np.array([True, False])
    mapped = mapping.forward(np.array([5.0, 5.0]), outline)
    assert mapped.tolist() == [0, -1]
    assert mapping.inverse(mapped, outline).tolist() == [5, -3.5]


def test_every_hu_of_the_window_comes_back_as_the_integer_it_was() -> None:
    hu = np.arange(-200, 301, dtype=np.int16)
    mapping = fit_intensity(hu, np.ones(hu.shape, bool), -1023.0, "ct", IntensitySpec())
    assert mapping == IntensityMap("ct", -200, 300, -1023)
    assert np.array_equal(np.rint(mapping.inverse(mapping.forward(hu))), hu)


def test_mri_window_is_robust_and_looks_only_inside() -> None:
    image = np.full((20, 20, 20), -99.0, np.float32)
    mask = np.zeros(image.shape, np.bool_)
    mask[5:15, 5:15, 5:15] = True
    image[mask] = np.random.default_rng(0).uniform(100, 200, mask.sum())
    image[7, 7, 7] = 1e6  # a vessel that glows
    mapping = fit_intensity(image, mask, -99.0, "mri", IntensitySpec())

    assert 99 < mapping.low < 102
    assert 198 < mapping.high < 201
    assert mapping.background == -99


def test_a_constant_image_gets_a_window() -> None:
    image = np.full((3, 3, 3), 7, np.uint8)
    mapping = fit_intensity(image, np.ones(image.shape, bool), 7.0, "mri", IntensitySpec())
    assert (mapping.low, mapping.high) == (7, 8)
    assert (mapping.inverse(mapping.forward(image)) == 7).all()


def test_json_gives_the_same_map() -> None:
    mapping = IntensityMap("mri", 0.1, 1.7e6 / 3, -3.6243944)
    assert IntensityMap.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


def test_a_map_of_version_0_1_0_is_read_and_one_of_another_kind_refused() -> None:
    window = {"low": 0.0, "high": 10.0, "background": -3.5}
    assert IntensityMap.from_dict({"kind": "mri", **window}) == IntensityMap("mri", 0, 10, -3.5)
    with pytest.raises(BadInput, match=r"kind 'curve': this version knows 'line'; use the version that wrote it"):
        IntensityMap.from_dict({"kind": "curve", "modality": "mri", **window})


def test_median_of_maps() -> None:
    maps = [IntensityMap("mri", low, high, 0) for low, high in [(0, 10), (2, 30), (100, 1e6)]]
    assert median_map(maps) == IntensityMap("mri", 2, 30, 0)


@pytest.mark.parametrize("maps", [[], [IntensityMap("ct", 0, 1, 0), IntensityMap("mri", 0, 1, 0)]])
def test_median_needs_one_modality(maps: list[IntensityMap]) -> None:
    with pytest.raises(BadInput, match="one modality"):
        median_map(maps)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_an_empty_window_is_refused(low: float, high: float) -> None:
    with pytest.raises(BadInput, match="low < high"):
        IntensityMap("mri", low, high, 0.0)
