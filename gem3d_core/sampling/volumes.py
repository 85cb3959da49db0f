"""From masks and informed slices to volumes in slice space: encode, Algorithm 1, decode."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gem3d_core.codec.interface import Codec
from gem3d_core.diffusion.schedule import Schedule, make_schedule
from gem3d_core.errors import BadInput
from gem3d_core.networks.conditions import encode_mask
from gem3d_core.networks.interface import Network
from gem3d_core.sampling.batched import VolumeRequest, sample_volumes
from gem3d_core.sampling.model import ModelFacts, open_network
from gem3d_core.sampling.windows import plan_volume, start_slice, window_borders
from gem3d_core.spec.kinds import KINDS
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


def open_drawing(folder: Path, device: torch.device) -> tuple[ModelFacts, VolumeModel]:
    """A model that samples volumes. Raises BadInput for one that does not, and as `read_facts`."""
    facts, network, codec = open_network(folder, device)
    if KINDS[facts.network.kind].told != "conditions":
        raise BadInput(f"{folder} holds a {facts.network.kind} model: expected one that samples volumes")
    return facts, VolumeModel(network, codec, make_schedule(facts.diffusion), facts.labels, device)


@dataclass(frozen=True)
class Drawn:
    """A volume with its recipe: slices (Z, H, W) float32 in [-1, 1], -1 outside the outline, and its window borders."""

    recipe: Recipe
    slices: Tensor
    borders: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return self.recipe.name


@dataclass(frozen=True)
class _Request(VolumeRequest):
    """A request that keeps the recipe that it was made of."""

    recipe: Recipe


def volume_bytes(facts: NetworkFacts, factor: int, shape: tuple[int, int, int]) -> int:
    """Bytes of a volume (Z, H, W) in flight: slices, mask and outline; latents, `factor` smaller, and conditions."""
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
    decoding: deque[Future[Drawn]] = deque()
    requests = (_request(model, recipe) for recipe in recipes)
    drawn = sample_volumes(model.network, requests, model.schedule, spec, model.device, on_windows)
    with ThreadPoolExecutor(1) as decoder:
        for request, latents in drawn:
            assert isinstance(request, _Request)
            decoding.append(decoder.submit(_decoded, model, request.recipe, latents, spec))
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
    return Drawn(recipe, slices, drawn_borders(model, recipe, spec))


def drawn_borders(model: VolumeModel, recipe: Recipe, spec: SampleSpec) -> tuple[int, ...]:
    """Where the windows of a volume meet."""
    Z = len(recipe.mask)
    return window_borders(plan_volume(Z, model.network.facts.condition, start_slice(recipe.p, Z), spec), Z)


def _request(model: VolumeModel, recipe: Recipe) -> _Request:
    condition = recipe.condition
    if condition is None:
        condition = encode_mask(model.network.facts.condition, model.codec, model.labels, recipe.mask, recipe.outline)
    informed = model.codec.encode(recipe.informed[None])[0]
    start = start_slice(recipe.p, len(recipe.mask))
    return _Request(recipe.name, condition, informed, start, recipe.seed, recipe)
