"""What a network costs, counted on torch's meta device: nothing is allocated and nothing is run."""

import math
import time
from dataclasses import dataclass
from functools import cache

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from gem3d_core.checkpoints import NetworkFacts
from gem3d_core.codec import autoencoder
from gem3d_core.memory import OVERHEAD, PROCESS_BYTES, Arguments, largest_batch, live_bytes, live_step_bytes
from gem3d_core.models import Network, TrainingPlan, build, recompute_activations
from gem3d_core.networks import POSITION_EMBEDDING, VolumeNetwork, count_parameters

EFFICIENCY = 0.6
"""Share of the machine's matrix-product speed that UNets reach; measured on two CPU cores: 0.75 at base width 64."""


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
        arguments, named = _arguments(network, facts, slices, latent_size)
        network(*arguments, **named)
    return Cost(
        parameters=count_parameters(network),
        trained=trained,
        forward_flops=float(counter.get_total_flops()),
        held_bytes=live_bytes(network, lambda: _arguments(network, facts, slices, latent_size)),
    )


@cache
def step_bytes(facts: NetworkFacts, slices: int, latent_size: tuple[int, int], *, recompute: bool = False) -> int:
    """Bytes that one training step on `slices` latents of (h, w) holds at once, gradients included, weights not.

    recompute: activations are computed again in the backward pass.
    """
    network, _ = _on_meta(facts)
    if recompute:
        recompute_activations(network)
    return live_step_bytes(network, lambda: _arguments(network, facts, slices, latent_size))


def training_peak(facts: NetworkFacts, slices: int, latent_size: tuple[int, int], *, recompute: bool = False) -> float:
    """Bytes to expect of a process that trains on `slices` latents at once."""
    state = network_cost(facts, facts.window, latent_size).state_bytes
    return PROCESS_BYTES + state + OVERHEAD * step_bytes(facts, slices, latent_size, recompute=recompute)


def plan_training(
    facts: NetworkFacts, units: int, slices: int, latent_size: tuple[int, int], budget: float
) -> TrainingPlan:
    """How to train within a budget of bytes for the whole process.

    units: windows or slices of this process's share of a batch, each of `slices` slices. The fewest equal pieces that
    fit, with recomputation where not even one unit fits without; where none fits at all, one at a time.
    """
    room = budget - PROCESS_BYTES - network_cost(facts, facts.window, latent_size).state_bytes
    for recompute in (False, True):
        one, two = (step_bytes(facts, k * slices, latent_size, recompute=recompute) for k in (1, 2))
        fitting = largest_batch(one, two, room)
        if fitting:
            pieces = next(k for k in range(1, units + 1) if units % k == 0 and units // k <= fitting)
            return TrainingPlan(pieces, recompute)
    return TrainingPlan(units, recompute=True)


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
    with torch.device("meta"):
        network = build(facts, seed=0).to("meta")
    trained = network.volumetric_parameters().values() if isinstance(network, VolumeNetwork) else network.parameters()
    network.requires_grad_(False)
    return network, sum(p.requires_grad_(True).numel() for p in list(trained))


def _arguments(network: Network, facts: NetworkFacts, slices: int, latent_size: tuple[int, int]) -> Arguments:
    t = torch.zeros(slices, dtype=torch.long)
    if isinstance(network, UNet2DConditionModel):
        x = torch.zeros(slices, facts.latent_channels, *latent_size)
        return (x, t), {"encoder_hidden_states": torch.zeros(slices, 1, POSITION_EMBEDDING)}
    x = torch.zeros(slices, 2 * facts.latent_channels + facts.mask_channels, *latent_size)
    return (x, t), {"class_labels": torch.zeros(slices) if facts.offset else None}


@cache
def network_flops(device: str, size: int = 1536) -> float:
    """Operations a second to expect of a network on a device (`auto`, `cpu` or `cuda`); nan for a GPU that is not here.

    The speed of a float32 matrix product, measured in well under a second, times the share that networks reach.
    """
    here = torch.cuda.is_available()
    name = ("cuda" if here else "cpu") if device == "auto" else device
    if name == "cuda" and not here:
        return math.nan
    return EFFICIENCY * _matrix_flops(torch.device(name), size)


def _matrix_flops(device: torch.device, size: int) -> float:
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
