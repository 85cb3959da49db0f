"""What the training loops read: windows with their conditions, positions, and latents from their files."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gem3d_core.sampling.windows import start_slice
from gem3d_core.spec.method import ConditionSpec
from gem3d_core.training.batches import LatentCase, draw_positions, draw_window, draw_windows, held_on, open_latents

C, M, N = 2, 2, 4
CONDITION = ConditionSpec(window=N)


def latents(Z: int, channels: int, seed: int) -> Tensor:
    return torch.randn(Z, channels, 4, 4, generator=torch.Generator().manual_seed(seed))


def depth_marked(Z: int) -> LatentCase:
    """A case whose every slice and condition hold the slice's index."""
    index = torch.arange(Z, dtype=torch.float32)[:, None, None, None]
    return LatentCase("marked", index.expand(Z, C, 4, 4), 100 + index.expand(Z, M, 4, 4), Z)


@pytest.mark.parametrize("keep", [1, 2, N])
def test_windows_are_drawn_with_their_own_conditions_and_offsets(keep: int) -> None:
    rng = torch.Generator().manual_seed(1)
    for _ in range(50):
        batch = draw_windows([depth_marked(9)], 3, CONDITION, keep, rng)
        index = batch.clean[:, 0, 0, 0]
        cond = batch.conditions
        assert batch.clean.shape == (3 * keep, C, 4, 4)
        assert torch.equal(cond.mask[:, 0, 0, 0], index + 100)
        assert cond.informed is not None
        assert cond.known is None
        source = cond.informed[:, 0, 0, 0]
        assert torch.equal(cond.offset, index - source)
        for window, name in enumerate(batch.names):
            rows = slice(window * keep, (window + 1) * keep)
            start = int(name.removeprefix("marked[").split(":")[0])
            used = index[rows].tolist()
            assert used == sorted(set(used))
            assert len(set(source[rows].tolist())) == 1
            assert all(start <= k < start + N for k in [*used, float(source[rows][0])])


def test_first_and_last_window_are_drawn_as_often_as_the_others() -> None:
    rng = torch.Generator().manual_seed(2)
    batch = draw_windows([depth_marked(7)], 4000, CONDITION, 1, rng)
    counts = Counter(batch.names)
    assert set(counts) == {f"marked[{k}:{k + N}]" for k in range(4)}
    assert min(counts.values()) > 850
    assert batch.conditions.informed is not None
    informed_slots = Counter((batch.conditions.informed[:, 0, 0, 0] - torch.tensor(starts(batch.names))).tolist())
    assert set(informed_slots) == {0.0, 1.0, 2.0, 3.0}
    assert min(informed_slots.values()) > 850


def starts(names: tuple[str, ...]) -> list[float]:
    return [float(name.removeprefix("marked[").split(":")[0]) for name in names]


def test_positions_are_the_middles_of_their_slices() -> None:
    """p = (k + 1/2) / Z, which `start_slice` turns into k again; slices of a short volume's padding are not drawn."""
    padded = replace(depth_marked(9), depth=5)
    batch = draw_positions([padded], 300, torch.Generator().manual_seed(0))
    k, p, names = batch.clean[:, 0, 0, 0], batch.conditions.position, batch.names
    assert p is not None
    assert set(k.tolist()) == {0, 1, 2, 3, 4}
    torch.testing.assert_close(p, (k + 0.5) / 5)
    assert [start_slice(float(position), 5) for position in p] == k.int().tolist()
    assert names == tuple(f"marked[{index}]" for index in k.int().tolist())


def test_latents_are_read_from_their_files_and_padded_to_a_window(tmp_path: Path) -> None:
    files = {}
    for name, Z in (("b", 2), ("a", 9)):
        save_file({"image": latents(Z, C, Z), "condition": latents(Z, M, 2 * Z)}, tmp_path / f"{name}.safetensors")
        files[name] = tmp_path / f"{name}.safetensors"
    opened = open_latents(files, N)
    assert [(c.name, c.depth, len(c.image), len(c.condition)) for c in opened] == [("a", 9, 9, 9), ("b", 2, N, N)]
    assert torch.equal(opened[0].image, latents(9, C, 9))
    assert torch.equal(opened[1].condition, latents(2, M, 4)[[0, 1, 1, 1]])


def test_latents_are_held_on_a_device_where_all_of_them_fit() -> None:
    cases = [LatentCase(str(Z), latents(Z, C, seed=1), latents(Z, M, seed=2), Z) for Z in (5, 7)]
    needed = 12 * (C + M) * 4 * 4 * 4
    held = held_on(torch.device("meta"), cases, needed)
    assert [(case.name, case.image.device.type, case.condition.shape[0]) for case in held] == [
        ("5", "meta", 5), ("7", "meta", 7)
    ]  # fmt: skip
    assert held_on(torch.device("meta"), cases, needed - 1) is cases


def test_without_an_informed_slice_there_is_none() -> None:
    alone = ConditionSpec(window=N, informed=False, slice_offset=False)
    batch = draw_windows([depth_marked(9)], 3, alone, N, torch.Generator().manual_seed(0))
    assert batch.conditions.informed is None


def test_strides_are_drawn_and_told() -> None:
    strided = ConditionSpec(window=N, strides=(1, 3))
    rng = torch.Generator().manual_seed(3)
    seen = Counter[float]()
    for _ in range(200):
        batch = draw_windows([depth_marked(15)], 1, strided, N, rng)
        index, stride = batch.clean[:, 0, 0, 0], float(batch.conditions.stride[0])
        assert torch.equal(index.diff(), torch.full((N - 1,), stride))
        assert batch.conditions.informed is not None
        assert torch.equal(batch.conditions.offset, index - batch.conditions.informed[:, 0, 0, 0])
        seen[stride] += 1
    assert set(seen) == {1.0, 3.0}
    assert min(seen.values()) > 70


def test_a_window_longer_than_the_volume_repeats_its_last_slice() -> None:
    strided = ConditionSpec(window=N, strides=(1, 3))
    rng = torch.Generator().manual_seed(3)
    for _ in range(50):
        index = draw_windows([depth_marked(6)], 1, strided, N, rng).clean[:, 0, 0, 0]
        assert float(index.max()) <= 5
        assert bool((index.diff() >= 0).all())


KNOWING = ConditionSpec(window=8, known=True)


def test_known_slots_lie_at_an_end_and_the_informed_slice_next_to_the_others() -> None:
    rng = torch.Generator().manual_seed(4)
    drawn = [draw_window(20, KNOWING, rng, with_known=True) for _ in range(600)]
    free = [one for one in drawn if not one.known]
    assert 140 < len(free) < 260, "a third begins a volume"
    assert {one.source for one in free} == set(range(8))
    ends = [one for one in drawn if one.known]
    assert {len(one.known) for one in ends} == set(range(1, 8))
    for one in ends:
        assert one.known in {tuple(range(len(one.known))), tuple(range(8 - len(one.known), 8))}
        assert one.source in one.known
        assert {one.source - 1, one.source + 1} & (set(range(8)) - set(one.known))
    assert {one.known[0] for one in ends} > {0}, "both ends occur"


def test_between_key_frames_every_slot_of_the_coarser_stride_is_known() -> None:
    rng = torch.Generator().manual_seed(5)
    spec = replace(KNOWING, strides=(1, 3))
    drawn = [draw_window(40, spec, rng, with_known=True) for _ in range(300)]
    between = [one for one in drawn if len(one.known) > 1 and one.known[1] - one.known[0] == 3]
    assert len(between) > 60
    assert all(one.stride == 1 and one.source in one.known and one.source in range(2, 6) for one in between)
    assert {one.known[0] for one in between} == {0, 1, 2}


def test_only_windows_of_stage_2_have_known_slots_and_those_do_not_count() -> None:
    rng = torch.Generator().manual_seed(6)
    whole = draw_windows([depth_marked(20)], 16, KNOWING, 8, rng)
    assert whole.conditions.known is not None
    assert torch.equal(whole.conditions.known.clean, whole.clean)
    assert whole.drawn is not None
    assert torch.equal(whole.drawn, ~whole.conditions.known.mask)
    assert 0 < int(whole.drawn.sum()) < len(whole.drawn)
    assert draw_windows([depth_marked(20)], 16, KNOWING, 2, rng).drawn is None


def test_conditions_are_dropped_window_by_window_as_often_as_asked() -> None:
    """Nothing is told, or the mask alone: the informed slice is never told alone."""
    spec = ConditionSpec(window=N, drop_mask=0.25, drop_informed=0.5)
    conditions = draw_windows([depth_marked(9)], 800, spec, N, torch.Generator().manual_seed(7)).conditions
    assert conditions.informed is not None
    mask, informed = (bool_of(x).reshape(800, N) for x in (conditions.mask, conditions.informed))
    assert torch.equal(mask.all(dim=1), mask.any(dim=1))
    assert bool(informed[mask].all())
    assert float(mask[:, 0].float().mean()) == pytest.approx(0.25, abs=0.05)
    assert float(informed.all(dim=1).float().mean()) == pytest.approx(0.75, abs=0.05)


def bool_of(x: Tensor) -> Tensor:
    """Slices of zeros."""
    return (x.flatten(1) == 0).all(dim=1)


def test_no_slot_past_the_end_is_known_or_informed() -> None:
    rng = torch.Generator().manual_seed(8)
    spec = replace(KNOWING, strides=(1, 3))
    for _ in range(300):
        drawn = draw_window(13, spec, rng, with_known=True)
        assert all(drawn.start + slot * drawn.stride < 13 for slot in (*drawn.known, drawn.source))


def test_what_a_shallow_volume_is_padded_with_is_neither_known_nor_informed(tmp_path: Path) -> None:
    true = depth_marked(2)
    save_file({"image": true.image.contiguous(), "condition": true.condition.contiguous()}, tmp_path / "a.safetensors")
    n = KNOWING.window
    (case,) = open_latents({"a": tmp_path / "a.safetensors"}, n)
    assert (len(case.image), case.depth) == (n, 2)
    rng = torch.Generator().manual_seed(8)
    for _ in range(100):
        cond = draw_windows([case], 1, KNOWING, n, rng).conditions
        assert cond.known is not None
        assert not cond.known.mask[2:].any()
        assert float(cond.offset[0]) in {0.0, -1.0}, "the informed slice is one of the two that there are"
