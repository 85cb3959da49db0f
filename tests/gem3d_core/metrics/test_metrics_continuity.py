"""Continuity on volumes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from gem3d_core.errors import BadInput
from gem3d_core.metrics.continuity import all_differences, border_ratio, slice_differences, smoothness_ratio


def stair(heights: list[float]) -> np.ndarray:
    return np.broadcast_to(np.cumsum(heights)[:, None, None], (len(heights), 5, 6)).astype(np.float32)


def test_even_steps_have_ratio_one_and_a_doubled_border_two() -> None:
    assert border_ratio(all_differences(stair([0, 1, 1, 1, 1])), [1]) == pytest.approx(1)
    assert border_ratio(all_differences(stair([0, 1, 2, 1, 1])), [1]) == pytest.approx(2)
    assert border_ratio(all_differences(stair([0, 1, 2, 1, 4])), {1, 3}) == pytest.approx(3)


def test_a_volume_of_one_window_has_no_border_ratio() -> None:
    assert border_ratio(all_differences(stair([0, 1, 1])), []) is None
    assert border_ratio(all_differences(stair([0, 1])), [0]) is None
    assert border_ratio(all_differences(stair([0, 0, 1])), [1]) is None


def test_a_border_outside_the_volume_is_refused() -> None:
    with pytest.raises(BadInput, match=r"expected 0 to 2"):
        border_ratio(all_differences(stair([0, 1, 1, 1])), [3])


def test_differences_are_of_neighbours_in_the_plane_asked_for() -> None:
    volume = np.random.default_rng(0).uniform(-1, 1, (4, 5, 6)).astype(np.float32)
    assert np.allclose(slice_differences(volume), np.abs(np.diff(volume, axis=0)).mean((1, 2)))
    assert np.allclose(slice_differences(volume, "coronal"), np.abs(np.diff(volume, axis=1)).mean((0, 2)))
    assert np.allclose(slice_differences(volume, "sagittal"), np.abs(np.diff(volume, axis=2)).mean((0, 1)))


def test_stripes_are_seen_in_their_plane_only() -> None:
    real = np.indices((8, 9, 10)).sum(0).astype(np.float32)
    stripes = real + 5 * (np.arange(8) % 2)[:, None, None].astype(np.float32)
    ratios = smoothness_ratio(all_differences(stripes), all_differences(real))
    # up by 6, down by 4, in turn: seven pairs, four of them up
    assert ratios["axial"] == pytest.approx((4 * 6 + 3 * 4) / 7)
    assert ratios["coronal"] == pytest.approx(1)
    assert ratios["sagittal"] == pytest.approx(1)
    # what the border ratio alone cannot see
    assert border_ratio(all_differences(stripes), [3]) == pytest.approx(4 / (32 / 6))


def test_a_constant_real_volume_gives_no_ratio() -> None:
    flat = np.zeros((3, 4, 5), np.float32)
    assert smoothness_ratio(all_differences(flat + 1), all_differences(flat)) == {
        "axial": None,
        "coronal": None,
        "sagittal": None,
    }
    with pytest.raises(BadInput, match="one shape"):
        smoothness_ratio(all_differences(flat), all_differences(flat[:2]))
