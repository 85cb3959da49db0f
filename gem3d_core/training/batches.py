"""What the training loops read: cached latents, drawn into batches by one seeded generator."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gem3d_core.networks.conditions import Conditions, Pinned, at_positions, fold, pad_slices
from gem3d_core.spec.method import ConditionSpec


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

    @property
    def drawn(self) -> Tensor | None:
        """Which slices are to be drawn (N,); none where all are, because no slot is known."""
        return None if self.conditions.known is None else ~self.conditions.known.mask


@dataclass(frozen=True)
class WindowDraw:
    """Which window of a volume is trained on: slot k is slice start + k * stride, at most the last one.

    known: slots that are given clean. source: slot of the informed slice; among the known ones where there are some,
    as in sampling.
    """

    start: int
    stride: int
    known: tuple[int, ...]
    source: int

    def slices(self, slots: Tensor, depth: int) -> Tensor:
        """Slice indices of slots."""
        return (self.start + slots * self.stride).clamp_max(depth - 1)


def draw_windows(
    cases: list[LatentCase], count: int, condition: ConditionSpec, keep: int, rng: torch.Generator
) -> Batch:
    """`count` windows of n slices with an informed slice drawn from each (section 3.2), folded into one batch.

    Of every window `keep` slices are used: all n in stage 2, fewer in stage 1, where slices are independent and none
    is known. Every window of a volume is drawn with the same probability, the first and the last included.
    """
    n = condition.window
    clean, masks, informed, offsets, strides, known, names = [], [], [], [], [], [], []
    for case in _pick(cases, count, rng):
        depth = case.depth
        drawn = draw_window(depth, condition, rng, with_known=condition.known and keep == n)
        slots = torch.arange(n) if keep == n else torch.randperm(n, generator=rng)[:keep].sort().values
        slices = drawn.slices(slots, depth)
        source = int(drawn.slices(torch.tensor(drawn.source), depth))
        clean.append(case.image[slices])
        masks.append(case.condition[slices])
        informed.append(case.image[source].expand(keep, -1, -1, -1))
        offsets.append(((slots - drawn.source) * drawn.stride).float())
        strides.append(torch.full((keep,), float(drawn.stride)))
        known.append(torch.tensor([slot in drawn.known for slot in slots.tolist()]))
        by = f":{drawn.stride}" if drawn.stride > 1 else ""
        names.append(f"{case.name}[{drawn.start}:{int(drawn.slices(torch.tensor(n - 1), depth)) + 1}{by}]")
    batch, told = fold(torch.stack(clean)), torch.cat(known)
    conditions = Conditions(
        mask=fold(torch.stack(masks)),
        informed=fold(torch.stack(informed)) if condition.informed else None,
        offset=torch.cat(offsets),
        stride=torch.cat(strides),
        known=Pinned(batch, told) if condition.known and keep == n else None,
    )
    return Batch(batch, _dropped(conditions, condition, count, keep, rng), tuple(names))


def draw_window(depth: int, condition: ConditionSpec, rng: torch.Generator, *, with_known: bool) -> WindowDraw:
    """A window of a volume of `depth` slices.

    with_known: a third of the windows begin a volume and know nothing, the others continue one: from finished slices at
    an end, or, where there are strides, between key frames.
    """
    n, levels = condition.window, condition.strides
    kind = _integer(3, rng) if with_known else 0
    between = kind == 2 and condition.strided
    level = _integer(len(levels) - between, rng)
    stride = levels[level]
    beyond = depth - 1 - (n - 1) * stride
    start = _integer(beyond + 1 if beyond >= 0 else min(stride, depth), rng)

    slots = min(n, (depth - 1 - start) // stride + 1)  # of slices that there are; known and informed ones are such
    known: tuple[int, ...] = ()
    if between:
        ratio = levels[level + 1] // stride
        known = tuple(range(_integer(min(ratio, slots), rng), slots, ratio))
    elif kind and slots > 1:
        finished = 1 + int((slots - 1) * float(torch.rand((), generator=rng)) ** 2)  # few more often than many
        known = tuple(range(finished)) if _integer(2, rng) else tuple(range(slots - finished, slots))
    return WindowDraw(start, stride, known, _source(slots, known, rng))


def _source(slots: int, known: tuple[int, ...], rng: torch.Generator) -> int:
    """Slot of the informed slice: anywhere [paper], or where sampling takes it from finished slices."""
    if not known:
        return _integer(slots, rng)
    if known[-1] - known[0] == len(known) - 1:  # at one end: the one next to the unknown slots
        return known[-1] if known[0] == 0 else known[0]
    return min(known, key=lambda slot: abs(2 * slot - (slots - 1)))


def _dropped(conditions: Conditions, spec: ConditionSpec, count: int, keep: int, rng: torch.Generator) -> Conditions:
    """Without mask or informed slice for some windows."""
    if not spec.drop_mask and not spec.drop_informed:
        return conditions
    drawn = torch.rand(count, generator=rng)
    nothing, no_slice = drawn < spec.drop_mask, drawn < spec.drop_mask + spec.drop_informed
    return conditions.without(nothing.repeat_interleave(keep), no_slice.repeat_interleave(keep))


def _integer(below: int, rng: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=rng))


def draw_positions(cases: list[LatentCase], count: int, rng: torch.Generator) -> Batch:
    """Slices with their normalised positions p = (k + 1/2) / Z, for the mask-free model."""
    slices, positions, names = [], [], []
    for case in _pick(cases, count, rng):
        k = int(torch.randint(case.depth, (), generator=rng))
        slices.append(case.image[k])
        positions.append((k + 0.5) / case.depth)
        names.append(f"{case.name}[{k}]")
    return Batch(torch.stack(slices), at_positions(torch.tensor(positions)), tuple(names))


def _pick(cases: list[LatentCase], count: int, rng: torch.Generator) -> list[LatentCase]:
    return [cases[int(i)] for i in torch.randint(len(cases), (count,), generator=rng)]
