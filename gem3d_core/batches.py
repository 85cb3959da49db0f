"""What the training loops read: cached latents, drawn into batches by one seeded generator."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gem3d_core.conditions import fold, pad_slices
from gem3d_core.denoise import Conditions


@dataclass(frozen=True)
class LatentCase:
    """One training volume: image (Z, c, h, w) and condition (Z, m, h, w) latents.

    depth: its true number of slices; those beyond repeat the last.
    """

    name: str
    image: Tensor
    condition: Tensor
    depth: int


def open_latents(files: Mapping[str, Path], window: int) -> list[LatentCase]:
    """Training volumes from safetensors files (case -> file), memory-mapped, at least a window deep."""
    cases = []
    for name, path in sorted(files.items()):
        with safe_open(path, framework="pt") as tensors:
            image, condition = tensors.get_tensor("image"), tensors.get_tensor("condition")
        cases.append(LatentCase(name, pad_slices(image, window), pad_slices(condition, window), len(image)))
    return cases


def held_on(device: torch.device, cases: list[LatentCase], room: float) -> list[LatentCase]:
    """The cases on a device, where all of them take no more than `room` bytes; else as they are."""
    if sum(t.numel() * t.element_size() for case in cases for t in (case.image, case.condition)) > room:
        return cases
    return [replace(case, image=case.image.to(device), condition=case.condition.to(device)) for case in cases]


@dataclass(frozen=True)
class Batch:
    """Clean latents (N, c, h, w), their conditions, and names for an error message."""

    clean: Tensor
    conditions: Conditions
    names: tuple[str, ...]


def draw_windows(cases: list[LatentCase], count: int, n: int, keep: int, rng: torch.Generator) -> Batch:
    """`count` windows of n consecutive slices with an informed slice drawn uniformly from each (section 3.2).

    Of every window `keep` slices are used: all n in stage 2, fewer in stage 1, where slices are independent. Every
    window of a volume is drawn with the same probability, the first and the last included.
    """
    clean, masks, informed, offsets, names = [], [], [], [], []
    for case in _pick(cases, count, rng):
        start = int(torch.randint(len(case.image) - n + 1, (), generator=rng))
        source = int(torch.randint(n, (), generator=rng))
        slots = torch.arange(n) if keep == n else torch.randperm(n, generator=rng)[:keep].sort().values
        clean.append(case.image[start + slots])
        masks.append(case.condition[start + slots])
        informed.append(case.image[start + source].expand(keep, -1, -1, -1))
        offsets.append((slots - source).float())
        names.append(f"{case.name}[{start}:{start + n}]")
    conditions = Conditions(fold(torch.stack(masks)), fold(torch.stack(informed)), torch.cat(offsets))
    return Batch(fold(torch.stack(clean)), conditions, tuple(names))


def draw_positions(cases: list[LatentCase], count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Slices (N, c, h, w) with their normalised positions p = (k + 1/2) / Z (N,), for the mask-free model."""
    slices, positions, names = [], [], []
    for case in _pick(cases, count, rng):
        k = int(torch.randint(case.depth, (), generator=rng))
        slices.append(case.image[k])
        positions.append((k + 0.5) / case.depth)
        names.append(f"{case.name}[{k}]")
    return torch.stack(slices), torch.tensor(positions), tuple(names)


def _pick(cases: list[LatentCase], count: int, rng: torch.Generator) -> list[LatentCase]:
    return [cases[int(i)] for i in torch.randint(len(cases), (count,), generator=rng)]
