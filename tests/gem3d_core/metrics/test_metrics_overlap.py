"""Dice and HD95 against a brute-force definition, and the rules for empty masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from gem3d_core.errors import BadInput
from gem3d_core.metrics.overlap import MISSED_HD95_MM, Overlap, overlap, score_case

SHAPE = (9, 10, 8)
SPACING = (1.0, 0.5, 2.0)


def surface_mm(mask: np.ndarray) -> np.ndarray:
    inner = ndimage.binary_erosion(mask, border_value=0)
    return np.argwhere(mask & ~inner) * np.array(SPACING)


def brute_hd95(a: np.ndarray, b: np.ndarray) -> float:
    distances = cdist(surface_mm(a), surface_mm(b))
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


def blob(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    mask = ndimage.gaussian_filter(noise, 1.2) > 0.1
    return mask if mask.any() else np.ones(SHAPE, bool)


@settings(max_examples=15, deadline=None)
@given(a=st.integers(0, 10_000), b=st.integers(0, 10_000))
def test_both_scores_equal_their_definition(a: int, b: int) -> None:
    one, two = blob(a), blob(b)
    score = overlap(one, two, SPACING)
    assert score.dice == pytest.approx(2 * (one & two).sum() / (one.sum() + two.sum()), rel=1e-5)
    assert score.hd95 == pytest.approx(brute_hd95(one, two), rel=1e-4, abs=1e-5)


def test_a_cube_moved_by_two_voxels_is_off_by_their_millimetres() -> None:
    one, two = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    one[2:4, 2:8, 1:3], two[2:4, 2:8, 3:5] = True, True
    assert overlap(one, two, SPACING) == Overlap(0.0, 4.0)
    assert overlap(one, one, SPACING) == Overlap(1.0, 0.0)


def test_brats_rules_for_empty_masks() -> None:
    empty, full = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    assert overlap(empty, empty, SPACING) == Overlap(1.0, 0.0)
    assert overlap(empty, full, SPACING) == Overlap(0.0, MISSED_HD95_MM)
    assert overlap(full, empty, SPACING) == Overlap(0.0, 373.1287)
    assert pytest.approx(np.linalg.norm([240, 240, 155]), abs=1e-3) == MISSED_HD95_MM


def test_regions_unite_labels_and_the_mean_is_over_names() -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[2:6, 2:6, 2:6], truth[3:5, 3:5, 3:5] = 1, 2
    prediction = np.where(truth == 2, 1, truth).astype(np.int16)
    labels = {"background": 0, "whole": (1, 2), "core": (2,), "absent": 9}
    case = score_case(prediction, truth, labels, SPACING)
    assert case.labels["whole"] == Overlap(1.0, 0.0)
    assert case.labels["core"] == Overlap(0.0, MISSED_HD95_MM)
    assert case.labels["absent"] == Overlap(1.0, 0.0)
    assert "background" not in case.labels
    assert case.mean.dice == pytest.approx(2 / 3)
    assert case.mean.hd95 == pytest.approx(MISSED_HD95_MM / 3)


def test_faulty_maps_are_named() -> None:
    good = np.ones(SHAPE, np.uint8)
    with pytest.raises(BadInput, match="float64"):
        score_case(good.astype(float), good, {"a": 1}, SPACING)
    with pytest.raises(BadInput, match="one shape"):
        score_case(good[:2], good, {"a": 1}, SPACING)
    with pytest.raises(BadInput, match="nothing but background"):
        score_case(good, good, {"background": 0}, SPACING)
