"""Mask edits: what is drawn is what is replayed, geometry in millimetres, nothing lost, nothing outside."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d_core.errors import BadInput
from gem3d_core.masks.augment import Edit, apply_edit, augment_mask, draw_edit
from gem3d_core.spec.masks import AugmentSpec

SHAPE = (32, 40, 24)
SPACING = (1.0, 1.0, 2.0)
STILL = Edit((), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0, None, 0, 0)


def ball(centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(SHAPE) - np.array(centre).reshape(3, 1, 1, 1)
    return np.linalg.norm(grid * np.array(SPACING).reshape(3, 1, 1, 1), axis=0) <= radius


@pytest.fixture
def head() -> tuple[np.ndarray, np.ndarray]:
    """A brain-like outline, a ventricle (3) and an off-centre tumour: oedema (1) around a core (2)."""
    outline = ball((15.5, 19.5, 11.5), 15)
    mask = np.zeros(SHAPE, np.uint8)
    mask[ball((15.5, 19.5, 11.5), 3)] = 3
    mask[ball((21, 24, 12), 4)] = 1
    mask[ball((21, 24, 12), 2)] = 2
    return mask, outline


def centroid_mm(voxels: np.ndarray) -> np.ndarray:
    return np.argwhere(voxels).mean(axis=0) * np.array(SPACING)


def edit(**changes: object) -> Edit:
    return Edit(**{**STILL.__dict__, **changes})


def test_nothing_drawn_changes_nothing(head: tuple[np.ndarray, np.ndarray]) -> None:
    mask, outline = apply_edit(STILL, *head, SPACING)
    assert (mask == head[0]).all()
    assert (outline == head[1]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_label_ids_and_dtype_survive(dtype: type) -> None:
    mask = np.where(ball((16, 20, 12), 6), 200 if dtype is np.uint8 else 1000, 0).astype(dtype)
    moved, outline = apply_edit(edit(degrees=(5.0, -3.0, 9.0)), mask, np.ones(SHAPE, bool), SPACING)
    assert moved.dtype == dtype
    assert set(np.unique(moved)) == set(np.unique(mask))
    assert outline.dtype == np.bool_


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_is_the_mirror_image(head: tuple[np.ndarray, np.ndarray], axis: int) -> None:
    mask, outline = apply_edit(edit(flip_axes=(axis,)), *head, SPACING)
    assert (mask == np.flip(head[0], axis)).all()
    assert (outline == np.flip(head[1], axis)).all()


def test_a_translation_is_in_millimetres_along_ras(head: tuple[np.ndarray, np.ndarray]) -> None:
    mask, outline = apply_edit(edit(translation_mm=(3.0, -2.0, 4.0)), *head, SPACING)
    assert (mask[3:, :-2, 2:] == head[0][:-3, 2:, :-2]).all()
    assert (outline[3:, :-2, 2:] == head[1][:-3, 2:, :-2]).all()


def test_a_rotation_about_the_foot_head_axis_turns_by_its_angle() -> None:
    mask = ball((25, 19.5, 11.5), 3).astype(np.uint8)
    moved, _ = apply_edit(edit(degrees=(0.0, 0.0, 30.0)), mask, np.ones(SHAPE, bool), SPACING)
    centre = (np.array(SHAPE) - 1) / 2 * np.array(SPACING)
    before, after = (centroid_mm(array > 0) - centre for array in (mask, moved))
    turned = math.degrees(math.atan2(after[1], after[0]) - math.atan2(before[1], before[0]))
    assert abs(turned) == pytest.approx(30, abs=1.5)
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), abs=0.3)


def test_chosen_labels_move_inside_an_unchanged_outline(head: tuple[np.ndarray, np.ndarray]) -> None:
    mask, outline = apply_edit(edit(labels=(1, 2), translation_mm=(-4.0, 0.0, 0.0)), *head, SPACING)
    assert (outline == head[1]).all()
    for label in (1, 2):
        assert (mask[:-4] == label)[head[0][4:] == label].all()
    vacated = np.isin(head[0], (1, 2)) & ~np.isin(np.roll(head[0], -4, 0), (1, 2, 3))
    assert (mask[vacated] == 0).all()
    assert (mask[(head[0] == 3) & ~np.isin(mask, (1, 2))] == 3).all()


@pytest.mark.parametrize(("asked", "gone"), [(3.0, 3.0), (500.0, None)])
def test_towards_the_centre_and_never_past_it(
    head: tuple[np.ndarray, np.ndarray], asked: float, gone: float | None
) -> None:
    change = edit(labels=(1, 2), towards_centre_mm=asked, degrees=(2.0, 1.0, -2.5), flip_axes=(0,))
    mask, _ = apply_edit(change, *head, SPACING)
    centre = (np.array(SHAPE) - 1) / 2 * np.array(SPACING)
    before = np.linalg.norm(centroid_mm(np.isin(head[0], (1, 2))) - centre)
    after = np.linalg.norm(centroid_mm(np.isin(mask, (1, 2))) - centre)
    assert after == pytest.approx(0 if gone is None else before - gone, abs=0.6)


def test_the_full_box_outline_stays_and_a_found_one_moves(head: tuple[np.ndarray, np.ndarray]) -> None:
    turn = edit(degrees=(0.0, 0.0, 20.0), translation_mm=(2.0, 0.0, 0.0))
    assert apply_edit(turn, head[0], np.ones(SHAPE, bool), SPACING)[1].all()
    moved = apply_edit(turn, *head, SPACING)[1]
    assert centroid_mm(moved)[0] - centroid_mm(head[1])[0] == pytest.approx(2.0, abs=0.2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), attempt=st.integers(0, 9), labels=st.sampled_from([None, (1,), (1, 2)]))
def test_a_draw_stays_in_its_ranges_and_survives_json(seed: int, attempt: int, labels: tuple[int, ...] | None) -> None:
    spec = AugmentSpec(flip_axes=(0, 2), max_translation_mm=5, max_towards_centre_mm=60, max_degrees=2.5, labels=labels)
    drawn = draw_edit(spec, seed, attempt)
    assert drawn == draw_edit(spec, seed, attempt)
    assert Edit.from_dict(json.loads(json.dumps(drawn.to_dict()))) == drawn
    assert max(map(abs, drawn.degrees)) <= 2.5
    assert max(map(abs, drawn.translation_mm)) <= 5
    assert 0 <= drawn.towards_centre_mm <= 60
    assert set(drawn.flip_axes) <= {0, 2}


def test_attempts_and_seeds_draw_differently() -> None:
    spec = AugmentSpec(max_translation_mm=5)
    assert len({draw_edit(spec, seed, attempt).degrees for seed in range(4) for attempt in range(4)}) == 16


@pytest.mark.parametrize("labels", [None, (1, 2)])
def test_an_accepted_edit_replays_bit_for_bit(
    head: tuple[np.ndarray, np.ndarray], labels: tuple[int, ...] | None
) -> None:
    spec = AugmentSpec(labels=labels, max_translation_mm=3, max_towards_centre_mm=4)
    for seed in range(5):
        result = augment_mask(spec, *head, SPACING, seed)
        assert result.accepted
        assert set(np.unique(result.mask)) == {0, 1, 2, 3}
        assert not (result.mask[~result.outline] > 0).any()
        mask, outline = apply_edit(Edit.from_dict(result.edit.to_dict()), *head, SPACING)
        assert mask.tobytes() == result.mask.tobytes()
        assert outline.tobytes() == result.outline.tobytes()


def test_a_draw_outside_the_outline_is_drawn_again(head: tuple[np.ndarray, np.ndarray]) -> None:
    spec = AugmentSpec(labels=(1, 2), max_translation_mm=12, flip_probability=0)
    results = [augment_mask(spec, *head, SPACING, seed) for seed in range(12)]
    redrawn = [result for result in results if result.accepted and result.edit.attempt > 0]
    assert redrawn
    assert all("outside the outline" in redrawn[0].reasons[k] for k in range(redrawn[0].edit.attempt))
    assert not any((result.mask[~result.outline] > 0).any() for result in results)


def test_ten_refused_draws_give_the_mask_back_with_the_reasons(head: tuple[np.ndarray, np.ndarray]) -> None:
    tight = np.isin(head[0], (1, 2))
    mask = np.where(tight, head[0], 0).astype(np.uint8)
    spec = AugmentSpec(labels=(1, 2), max_translation_mm=20, flip_probability=0)
    result = augment_mask(spec, mask, tight, SPACING, 4)
    assert not result.accepted
    assert len(result.reasons) == 10
    assert all("outline" in reason for reason in result.reasons)
    assert (result.mask == mask).all()


def test_a_label_covered_by_a_moved_one_counts_as_lost() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:14, 10:14, 10:14] = 1
    mask[20:22, 11:13, 11:13] = 2
    outline = np.ones(SHAPE, bool)
    covered, _ = apply_edit(edit(labels=(1,), translation_mm=(9.0, 0.0, 0.0)), mask, outline, SPACING)
    assert 2 not in covered
    spec = AugmentSpec(labels=(1,), max_degrees=0, flip_probability=0, max_translation_mm=9)
    assert all(2 in augment_mask(spec, mask, outline, SPACING, seed).mask for seed in range(20))


def test_a_whole_mask_pushed_over_the_edge_is_refused() -> None:
    mask = ball((3, 20, 12), 3).astype(np.uint8)
    spec = AugmentSpec(max_translation_mm=30, flip_probability=0, attempts=3)
    results = [augment_mask(spec, mask, np.ones(SHAPE, bool), SPACING, seed) for seed in range(8)]
    assert any("outside the volume" in reason or "lost" in reason for one in results for reason in one.reasons)
    assert all((one.mask > 0).sum() >= 0.9 * mask.sum() for one in results)


def test_a_mask_without_the_labels_says_so(head: tuple[np.ndarray, np.ndarray]) -> None:
    result = augment_mask(AugmentSpec(labels=(7,)), *head, SPACING, 0)
    assert not result.accepted
    assert "[7]" in result.reasons[0]


def test_faulty_input_is_named() -> None:
    with pytest.raises(BadInput, match="float32"):
        apply_edit(STILL, np.zeros(SHAPE, np.float32), np.ones(SHAPE, bool), SPACING)
    with pytest.raises(BadInput, match="outline"):
        apply_edit(STILL, np.zeros(SHAPE, np.uint8), np.ones((2, 2, 2), bool), SPACING)
    with pytest.raises(BadInput, match="degrees"):
        Edit.from_dict({**STILL.to_dict(), "degrees": [1.0]})
    with pytest.raises(ValueError, match="flip_probability"):
        AugmentSpec(flip_probability=1.5)
    with pytest.raises(ValueError, match="labels"):
        AugmentSpec(labels=(0,))
