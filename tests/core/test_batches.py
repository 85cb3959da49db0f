"""What the training loops read: windows with their conditions, positions, and latents from their files."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gem3d_core.batches import LatentCase, draw_positions, draw_windows, held_on, open_latents
from gem3d_core.windows import start_slice

C, M, N = 2, 2, 4


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
        batch = draw_windows([depth_marked(9)], 3, N, keep, rng)
        index = batch.clean[:, 0, 0, 0]
        cond = batch.conditions
        assert batch.clean.shape == (3 * keep, C, 4, 4)
        assert torch.equal(cond.mask[:, 0, 0, 0], index + 100)
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
    batch = draw_windows([depth_marked(7)], 4000, N, 1, rng)
    counts = Counter(batch.names)
    assert set(counts) == {f"marked[{k}:{k + N}]" for k in range(4)}
    assert min(counts.values()) > 850
    informed_slots = Counter((batch.conditions.informed[:, 0, 0, 0] - torch.tensor(starts(batch.names))).tolist())
    assert set(informed_slots) == {0.0, 1.0, 2.0, 3.0}
    assert min(informed_slots.values()) > 850


def starts(names: tuple[str, ...]) -> list[float]:
    return [float(name.removeprefix("marked[").split(":")[0]) for name in names]


def test_positions_are_the_middles_of_their_slices() -> None:
    """p = (k + 1/2) / Z, which `start_slice` turns into k again; slices of a short volume's padding are not drawn."""
    padded = replace(depth_marked(9), depth=5)
    slices, p, names = draw_positions([padded], 300, torch.Generator().manual_seed(0))
    k = slices[:, 0, 0, 0]
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
