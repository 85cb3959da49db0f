"""Single slices drawn by the position-conditioned model."""

import torch
from torch import Tensor

from gem3d_core.diffusion.denoise import denoiser, predict_slices
from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.diffusion.solvers import Noise, nothing_pinned, solve
from gem3d_core.networks.conditions import at_positions
from gem3d_core.networks.interface import Network
from gem3d_core.seeds import generator, normal
from gem3d_core.spec.method import SampleSpec


def sample_slices(
    network: Network,
    positions: list[float],
    seeds: list[int],
    shape: tuple[int, int, int],
    schedule: Schedule,
    spec: SampleSpec,
    device: torch.device,
) -> Tensor:
    """Slices drawn by the position-conditioned model at normalised positions -> latents (N, c, h, w) on the CPU."""
    drawn = []
    for first in range(0, len(positions), spec.batch):
        p = torch.tensor(positions[first : first + spec.batch], device=device)
        noise = _slice_noise(seeds[first : first + spec.batch], shape, device)
        x = noise()
        denoise = denoiser(predict_slices(network, at_positions(p)), schedule, spec.precision, device)
        drawn.append(solve(denoise, x, schedule, spec, noise, nothing_pinned(x)).cpu())
    return torch.cat(drawn)


def _slice_noise(seeds: list[int], shape: tuple[int, int, int], device: torch.device) -> Noise:
    generators = [generator(seed, "slice") for seed in seeds]
    return lambda: normal(shape, generators, device)
