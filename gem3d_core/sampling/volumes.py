"""From masks and informed slices to volumes in slice space: encode, Algorithm 1, decode."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gem3d_core.codec.interface import Codec
from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.networks.conditions import encode_mask
from gem3d_core.networks.interface import Network
from gem3d_core.sampling.batched import VolumeRequest, sample_volumes
from gem3d_core.sampling.windows import plan_volume, start_slice, window_borders
from gem3d_core.spec.method import NetworkFacts, SampleSpec

OUTSIDE = -1.0
"""Value outside the outline."""
DECODED_AHEAD = 2
"""Volumes that wait for being decoded before drawing waits for them."""


@dataclass(frozen=True)
class Recipe:
    """What one volume is made of.

    mask (Z, H, W) integer ids, outline (Z, H, W) bool, informed (H, W) in [-1, 1]; p in [0, 1], the normalised
    position of the informed slice, at which the volume is begun; seed of all noise. condition (Z, m, h, w): mask and
    outline as they were encoded before; none: they are encoded here.
    """

    name: str
    mask: Tensor
    outline: Tensor
    informed: Tensor
    p: float
    seed: int
    condition: Tensor | None = None


@dataclass(frozen=True)
class VolumeModel:
    """A trained network with everything that it was trained under; a slice network draws a window slice by slice."""

    network: Network
    codec: Codec
    schedule: Schedule
    labels: tuple[int, ...]
    device: torch.device


@dataclass(frozen=True)
class Drawn:
    """One volume: slices (Z, H, W) float32 in [-1, 1], -1 outside the outline, and its window borders."""

    name: str
    slices: Tensor
    borders: tuple[int, ...]


def volume_bytes(facts: NetworkFacts, factor: int, shape: tuple[int, int, int]) -> int:
    """Of a volume (Z, H, W) while it is drawn: slices, mask and outline; latents, `factor` smaller, and conditions."""
    Z, H, W = shape
    informed = facts.latent_channels if facts.condition.informed else 0
    encoded = Z * (facts.latent_channels + facts.mask_channels) + informed
    return Z * H * W * (4 + 8 + 1) + 4 * encoded * (H // factor) * (W // factor)


def draw_volumes(
    model: VolumeModel,
    recipes: Iterable[Recipe],
    spec: SampleSpec,
    on_windows: Callable[[int], None] = lambda _: None,
) -> Iterator[Drawn]:
    """Volumes in the order in which they finish; a recipe is read only when there is room for it.

    A finished volume is decoded while the next windows are drawn, on a GPU on a stream of its own.
    """
    flying: dict[str, Recipe] = {}
    decoding: deque[Future[Drawn]] = deque()

    def requests() -> Iterator[VolumeRequest]:
        for recipe in recipes:
            flying[recipe.name] = recipe
            yield _request(model, recipe)

    drawn = sample_volumes(model.network, requests(), model.schedule, spec, model.device, on_windows)
    with ThreadPoolExecutor(1) as decoder:
        for name, latents in drawn:
            decoding.append(decoder.submit(_decoded, model, flying.pop(name), latents, spec))
            while decoding and (decoding[0].done() or len(decoding) > DECODED_AHEAD):
                yield decoding.popleft().result()
        while decoding:
            yield decoding.popleft().result()


def _decoded(model: VolumeModel, recipe: Recipe, latents: Tensor, spec: SampleSpec) -> Drawn:
    """A finished volume; latents (Z, c, h, w) are on the CPU, so that no stream waits for another."""
    # torch gives streams no types
    own_stream = torch.cuda.stream(torch.cuda.Stream()) if model.device.type == "cuda" else nullcontext()  # type: ignore[no-untyped-call]
    with own_stream:
        slices = model.codec.decode(latents, spec.precision).clamp_(-1, 1)
    slices[~recipe.outline] = OUTSIDE
    return Drawn(recipe.name, slices, drawn_borders(model, recipe, spec))


def drawn_borders(model: VolumeModel, recipe: Recipe, spec: SampleSpec) -> tuple[int, ...]:
    """Where the windows of a volume meet."""
    Z = len(recipe.mask)
    return window_borders(plan_volume(Z, model.network.facts.condition, start_slice(recipe.p, Z), spec), Z)


def _request(model: VolumeModel, recipe: Recipe) -> VolumeRequest:
    condition = recipe.condition
    if condition is None:
        condition = encode_mask(model.network.facts.condition, model.codec, model.labels, recipe.mask, recipe.outline)
    informed = model.codec.encode(recipe.informed[None])[0]
    return VolumeRequest(recipe.name, condition, informed, start_slice(recipe.p, len(recipe.mask)), recipe.seed)
