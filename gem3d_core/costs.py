"""What a network costs, counted on torch's meta device: nothing is allocated and nothing is run."""

import math
import time
from dataclasses import dataclass
from functools import cache

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gem3d_core.checkpoints import NetworkFacts
from gem3d_core.codec import autoencoder
from gem3d_core.memory import OVERHEAD, PROCESS_BYTES, Arguments, largest_batch, live_bytes, weight_bytes
from gem3d_core.models import Network, TrainingPlan, build
from gem3d_core.networks import POSITION_EMBEDDING, VolumeNetwork, count_parameters

EFFICIENCY = 0.6
"""Share of the machine's matrix-product speed that UNets reach; measured on two CPU cores: 0.75 at base width 64."""


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and what one call on some slices needs: operations, bytes kept for the backward pass,
    and bytes held at once where there is none (weights in neither)."""

    parameters: int
    trained: int
    forward_flops: float
    kept_bytes: int
    held_bytes: int

    @property
    def training_bytes(self) -> int:
        """Weights, EMA, two AdamW moments and gradients in float32, and what one step keeps."""
        return 4 * self.parameters + 16 * self.trained + self.kept_bytes


def network_cost(facts: NetworkFacts, slices: int, latent_size: tuple[int, int]) -> Cost:
    """Cost of one call on `slices` latents of (h, w); a volume network takes whole windows."""
    with torch.device("meta"):
        network = build(facts, seed=0)
        trained = (
            network.volumetric_parameters().values() if isinstance(network, VolumeNetwork) else network.parameters()
        )
        network.requires_grad_(False)
        count = sum(p.requires_grad_(True).numel() for p in trained)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[id(tensor)] = tensor.numel() * tensor.element_size()
            return tensor

        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            arguments, named = _arguments(network, facts, slices, latent_size)
            network(*arguments, **named)
    return Cost(
        parameters=count_parameters(network),
        trained=count,
        forward_flops=float(counter.get_total_flops()),
        kept_bytes=max(0, sum(kept.values()) - weight_bytes(network)),
        held_bytes=live_bytes(network, lambda: _arguments(network, facts, slices, latent_size)),
    )


def plan_training(
    facts: NetworkFacts, units: int, slices: int, latent_size: tuple[int, int], budget: float
) -> TrainingPlan:
    """How to train within a budget of bytes for the whole process.

    units: windows or slices of this process's share of a batch, each of `slices` slices. The fewest equal pieces that
    fit; where not even one unit does, one at a time with recomputation.
    """
    one, two = (network_cost(facts, count * slices, latent_size).training_bytes for count in (1, 2))
    room = budget - PROCESS_BYTES
    if OVERHEAD * one > room:
        return TrainingPlan(units, recompute=True)
    fitting = largest_batch(lambda count: one + (count - 1) * (two - one), room)
    return TrainingPlan(next(k for k in range(1, units + 1) if units % k == 0 and units // k <= fitting))


def codec_flops(widths: tuple[int, ...], layers: int, slice_size: tuple[int, int]) -> tuple[float, float]:
    """Operations of an autoencoder that encodes one slice (H, W), and of it decoding that slice again."""
    with torch.device("meta"), torch.no_grad():
        model = autoencoder(widths, layers)
        with FlopCounterMode(display=False) as encoding:
            z = model.encode(torch.zeros(1, 3, *slice_size)).latent_dist.mean
        with FlopCounterMode(display=False) as decoding:
            model.decode(z)
    return float(encoding.get_total_flops()), float(decoding.get_total_flops())


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
