"""Samplers as free functions of one contract: a step from x_t to x_s given the clean signal that x_t implies.

Timestep -1 is clean data. All steps hold at alpha_t = 0, where a schedule of zero terminal SNR starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gem3d_core.diffusion.denoise import Denoise
from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.networks.conditions import Pinned
from gem3d_core.spec.method import SampleSpec

REACH = 1.75
"""The largest h / h_before by which the clean signal is extrapolated. Only the step of a leading grid to timestep 1 is
longer (2.3 to 4.2): in full, 20 steps would give a Gaussian of spread 0.3 to 1 between 4 and 10% too much of it, so
1 to 4% on either side. A narrower one, of spread 0.2, gets 11% too little, in full 3% too much."""

Noise = Callable[[], Tensor]
"""Fresh standard normal noise of the shape of x."""


@dataclass(frozen=True)
class Previous:
    """What a multistep solver remembers of the step before: its timestep and clean signal."""

    t: int
    x0: Tensor


def solve(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    spec: SampleSpec,
    noise: Noise,
    pinned: Pinned,
    pin_noise: Noise | None = None,
) -> Tensor:
    """Denoise x (N, c, h, w) from the last timestep to clean data (Algorithm 1, lines 8-16).

    RePaint: before every call the pinned slots are overwritten with their clean latents at the noise level that
    the sample is at, and at the end with the clean latents themselves. With spec.resample > 1 every step is taken
    that often, going back up in noise in between, so that the free slots settle with the pinned ones.

    pin_noise: for pinned slots, anything elsewhere; none: `noise` gives it too.
    """
    times = [*schedule.timesteps(spec.steps), -1]
    previous: Previous | None = None
    for t, s in pairwise(times):
        for attempt in range(spec.resample):
            x = pin(x, pinned, schedule, t, pin_noise or noise)
            x0 = denoise(x, torch.full((len(x),), t, device=x.device))
            if spec.solver == "ddim":
                x_s = ddim_step(x, x0, schedule, t, s, spec.eta, noise)
            else:
                x_s = dpm_step(x, x0, schedule, t, s, previous)
            last = attempt == spec.resample - 1 or s == -1
            if last:
                break
            x = renoise(x_s, schedule, s, t, noise())
            previous = None  # its estimate belongs to other noise
        previous = Previous(t, x0)
        x = x_s
    return torch.where(_rows(pinned.mask, x), pinned.clean, x)


def pin(x: Tensor, pinned: Pinned, schedule: Schedule, t: int, noise: Noise) -> Tensor:
    """Known slots at exactly the noise level of timestep t: sqrt(abar_t) o_0 + sqrt(1 - abar_t) eps.

    Noise is taken whether or not a slot is known, so that a generator stands where it would without known slots.
    """
    alpha, sigma = _levels(schedule, t, x)
    return torch.where(_rows(pinned.mask, x), alpha * pinned.clean + sigma * noise(), x)


def ddim_step(x: Tensor, x0: Tensor, schedule: Schedule, t: int, s: int, eta: float, noise: Noise) -> Tensor:
    """One step of DDIM (Song et al., equation 12); eta = 0 deterministic, 1 ancestral."""
    alpha_t, sigma_t = _levels(schedule, t, x)
    alpha_s, sigma_s = _levels(schedule, s, x)
    eps = (x - alpha_t * x0) / sigma_t
    if eta == 0:
        return alpha_s * x0 + sigma_s * eps
    step = eta * (sigma_s / sigma_t) * (1 - (alpha_t / alpha_s) ** 2).clamp_min(0).sqrt()
    return alpha_s * x0 + (sigma_s**2 - step**2).clamp_min(0).sqrt() * eps + step * noise()


def dpm_step(x: Tensor, x0: Tensor, schedule: Schedule, t: int, s: int, previous: Previous | None) -> Tensor:
    """One step of DPM-Solver++ 2M (Lu et al., Algorithm 2), of first order where there is no step before.

    With lambda = log(alpha / sigma) and h = lambda_s - lambda_t, exp(-h) = alpha_t sigma_s / (alpha_s sigma_t).
    The first step from alpha = 0 and the last to sigma = 0 have infinite h and are of first order; a step much longer
    than the one before is extrapolated by `REACH` only.
    """
    alpha_t, sigma_t = _levels(schedule, t, x)
    alpha_s, sigma_s = _levels(schedule, s, x)
    decay = (alpha_t * sigma_s) / (alpha_s * sigma_t)
    if previous is not None and s >= 0:
        h = _log_snr(schedule, s) - _log_snr(schedule, t)
        h_before = _log_snr(schedule, t) - _log_snr(schedule, previous.t)
        x0 = x0 + min(h / h_before, REACH) / 2 * (x0 - previous.x0)
    return (sigma_s / sigma_t) * x + alpha_s * (1 - decay) * x0


def renoise(x: Tensor, schedule: Schedule, s: int, t: int, eps: Tensor) -> Tensor:
    """x_t drawn from q(x_t | x_s) for t noisier than s (RePaint's way back up)."""
    alpha_t, sigma_t = _levels(schedule, t, x)
    alpha_s, sigma_s = _levels(schedule, s, x)
    ratio = alpha_t / alpha_s
    return ratio * x + (sigma_t**2 - (ratio * sigma_s) ** 2).clamp_min(0).sqrt() * eps


def nothing_pinned(x: Tensor) -> Pinned:
    """No slot of x is known."""
    return Pinned(torch.zeros_like(x), torch.zeros(len(x), dtype=torch.bool, device=x.device))


def _levels(schedule: Schedule, t: int, x: Tensor) -> tuple[Tensor, Tensor]:
    index = torch.tensor(t)
    return schedule.alpha(index).to(x.device), schedule.sigma(index).to(x.device)


def _log_snr(schedule: Schedule, t: int) -> float:
    index = torch.tensor(t)
    return float(torch.log(schedule.alpha(index)) - torch.log(schedule.sigma(index)))


def _rows(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (x.ndim - 1))
