"""What a network costs, counted on torch's meta device: nothing is allocated and nothing is run."""

import math
import time
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from gem3d_core.budget.memory import (
    MOST_WINDOWS,
    NONE_IN_FLIGHT,
    OVERHEAD,
    PROCESS_BYTES,
    InFlight,
    codec_bytes,
    live_bytes,
    live_step_bytes,
    plan_drawing,
    weight_bytes,
)
from gem3d_core.codec.kl import autoencoder
from gem3d_core.machine.devices import device_type
from gem3d_core.networks.files import attends, build, recompute_activations
from gem3d_core.networks.image_encoders import blank
from gem3d_core.networks.interface import Network, count_parameters
from gem3d_core.spec.kinds import KINDS
from gem3d_core.spec.method import NetworkFacts, TrainSpec


@dataclass
class TrainingPlan:
    """How a batch is brought through a device's memory; the steps are the same, up to rounding.

    pieces: of equal size, computed one after the other. recompute: activations are computed again in the backward
    pass instead of kept. units: what this process's share of a batch can be cut into, slices or windows.
    """

    pieces: int = 1
    recompute: bool = False
    units: int = 1

    def divide(self) -> bool:
        """Smaller pieces, about half as large, because these do not fit; False where each is one unit."""
        finer = [k for k in range(2 * self.pieces, self.units + 1) if self.units % k == 0]
        self.pieces = min(finer, default=self.pieces)
        return bool(finer)


EFFICIENCY = 0.6
"""Share of the machine's matrix-product speed that UNets reach; measured on two CPU cores: 0.75 at base width 64."""
MATRIX_PRODUCTS = 20
"""The best of which is told as a machine's speed beside a measurement; for an estimate fewer do."""


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and what one call on some slices needs: operations, and bytes held at once where
    there is no backward pass (weights not in them)."""

    parameters: int
    trained: int
    forward_flops: float
    held_bytes: int

    @property
    def state_bytes(self) -> int:
        """Weights, EMA and two AdamW moments in float32: what a training holds between two steps."""
        return 4 * self.parameters + 12 * self.trained


def network_cost(facts: NetworkFacts, slices: int, latent_size: tuple[int, int]) -> Cost:
    """Cost of one call on `slices` latents of (h, w); a volume network takes whole windows."""
    network, trained = _on_meta(facts)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*network.blank_arguments(slices, latent_size))
    return Cost(
        parameters=count_parameters(network),
        trained=trained,
        forward_flops=float(counter.get_total_flops()),
        held_bytes=live_bytes(network, lambda: network.blank_arguments(slices, latent_size)),
    )


@cache
def step_bytes(facts: NetworkFacts, slices: int, latent_size: tuple[int, int], *, recompute: bool = False) -> int:
    """Bytes that one training step on `slices` latents of (h, w) holds at once, gradients included, weights not.

    recompute: activations are computed again in the backward pass.
    """
    network, _ = _on_meta(facts)
    if recompute:
        recompute_activations(network)
    return live_step_bytes(network, lambda: network.blank_arguments(slices, latent_size))


def training_peak(facts: NetworkFacts, slices: int, latent_size: tuple[int, int], *, recompute: bool = False) -> float:
    """Bytes to expect of a process that trains on `slices` latents at once."""
    state = network_cost(facts, facts.window, latent_size).state_bytes
    return PROCESS_BYTES + state + OVERHEAD * step_bytes(facts, slices, latent_size, recompute=recompute)


def training_units(facts: NetworkFacts, spec: TrainSpec, processes: int = 1) -> tuple[int, int]:
    """What a process's share of a batch can be cut into: how many units, and of how many slices each.

    Windows where slices see each other, else single slices: of a window some, or one by its position alone.
    """
    kind, share = KINDS[facts.kind], spec.batch // processes
    if kind.unit == "window":
        return share, facts.window
    return share * (min(spec.slices_per_window, facts.window) if kind.told == "conditions" else 1), 1


def plan_training(
    facts: NetworkFacts, units: int, slices: int, latent_size: tuple[int, int], budget: float
) -> TrainingPlan:
    """How to train within a budget of bytes for the whole process.

    units: of this process's share of a batch, each of `slices` slices. The fewest equal pieces that fit, with
    recomputation where not even one unit fits without; where none fits at all, one at a time.
    """
    room = budget - PROCESS_BYTES - network_cost(facts, facts.window, latent_size).state_bytes

    def fits(pieces: int, *, recompute: bool) -> bool:
        return OVERHEAD * step_bytes(facts, units // pieces * slices, latent_size, recompute=recompute) <= room

    can_recompute = KINDS[facts.kind].recomputes
    for recompute in (False, True) if can_recompute else (False,):
        if fits(units, recompute=recompute):
            pieces = next(k for k in range(1, units + 1) if units % k == 0 and fits(k, recompute=recompute))
            return TrainingPlan(pieces, recompute, units)
    return TrainingPlan(units, recompute=can_recompute, units=units)


def drawing_peak(
    facts: NetworkFacts,
    codec: tuple[tuple[int, ...], int] | None,
    latent_size: tuple[int, int],
    budget: float,
    most: int = MOST_WINDOWS,
    flying: InFlight = NONE_IN_FLIGHT,
) -> tuple[int, float]:
    """Windows that are drawn at once within a budget of bytes, at most `most`, and the bytes to expect of the process.

    codec: widths and layers of an autoencoder that decodes meanwhile; none where there is nothing to count.
    """
    network, _ = _on_meta(facts)
    with torch.device("meta"):
        decoder = None if codec is None else autoencoder(*codec)
    fitting, slices = plan_drawing(network, decoder, latent_size, budget, flying)
    windows = max(1, min(fitting, most))
    held = live_bytes(network, lambda: network.blank_arguments(windows * facts.window, latent_size))
    peak = PROCESS_BYTES + weight_bytes(network) + OVERHEAD * held + flying.held(windows)
    if decoder is not None:
        peak += weight_bytes(decoder) + OVERHEAD * codec_bytes(decoder, slices, latent_size)
    return windows, peak


def codec_flops(widths: tuple[int, ...], layers: int, slice_size: tuple[int, int]) -> tuple[float, float]:
    """Operations of an autoencoder that encodes one slice (H, W), and of it decoding that slice again."""
    with torch.device("meta"), torch.no_grad():
        model = autoencoder(widths, layers)
        with FlopCounterMode(display=False) as encoding:
            z = model.encode(torch.zeros(1, 3, *slice_size)).latent_dist.mean
        with FlopCounterMode(display=False) as decoding:
            model.decode(z)
    return float(encoding.get_total_flops()), float(decoding.get_total_flops())


def _on_meta(facts: NetworkFacts) -> tuple[Network, int]:
    """A network that costs nothing, only what it trains requiring gradients; and how many parameters these are."""
    encoder = blank(facts.condition.image_encoder) if attends(facts) else None
    with torch.device("meta"):
        network = build(facts, seed=0, encoder=encoder).to("meta")
    network.requires_grad_(False)
    return network, sum(p.requires_grad_(True).numel() for p in network.trained_parameters().values())


@cache
def network_flops(device: str) -> float:
    """Operations a second to expect of a network on a device (`auto`, `cpu` or `cuda`); nan for a GPU that is not here.

    The speed of a float32 matrix product, measured in well under a second, times the share that networks reach.
    """
    name = device_type(device)
    if name == "cuda" and not torch.cuda.is_available():
        return math.nan
    return EFFICIENCY * matrix_flops(torch.device(name))


def matrix_flops(device: torch.device, tries: int = 3) -> float:
    """Operations a second of a float32 matrix product on a device, the best of so many."""
    size = 8192 if device.type == "cuda" else 1536  # a smaller product does not fill a GPU
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
