"""The forward process x_t = alpha_t x_0 + sigma_t eps and what the network is asked to predict.

alpha_t^2 = abar_t and sigma_t^2 = 1 - abar_t: the process is variance preserving. Timestep -1 stands for
clean data (alpha 1, sigma 0), so that a sampler's last move needs no special case.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gem3d_core.spec.method import DiffusionSpec


@dataclass(frozen=True)
class Schedule:
    """abar (T,) float64 of one forward process with its specification."""

    spec: DiffusionSpec
    abar: Tensor

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(abar_t) of integer timesteps, any shape; 1 at t = -1."""
        return self._at(t, self.abar).sqrt().float()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - abar_t) of integer timesteps, any shape; 0 at t = -1."""
        return (1 - self._at(t, self.abar)).sqrt().float()

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t of x_0 (N, ...) with t (N,)."""
        return _like(self.alpha(t), x0) * x0 + _like(self.sigma(t), x0) * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should return: eps, v = alpha eps - sigma x_0, or x_0."""
        if self.spec.prediction == "epsilon":
            return eps
        if self.spec.prediction == "sample":
            return x0
        return _like(self.alpha(t), x0) * eps - _like(self.sigma(t), x0) * x0

    def to_x0(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean signal that a prediction at x_t implies."""
        alpha, sigma = _like(self.alpha(t), x), _like(self.sigma(t), x)
        if self.spec.prediction == "epsilon":
            return (x - sigma * prediction) / alpha
        if self.spec.prediction == "sample":
            return prediction
        return alpha * x - sigma * prediction

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error at t (N,): all alike, or min-SNR-gamma (Hang et al.).

        For v the min-SNR weight is (min(SNR, gamma) + 1) / (SNR + 1): unlike min(SNR, gamma) / (SNR + 1) it does
        not vanish at zero terminal SNR, where the first sampling step stands.
        """
        if self.spec.weighting == "uniform":
            return torch.ones_like(t, dtype=torch.float32)
        abar = self._at(t, self.abar)
        snr = abar / (1 - abar).clamp_min(1e-12)
        clamped = snr.clamp_max(self.spec.gamma)
        if self.spec.prediction == "epsilon":
            return (clamped / snr.clamp_min(1e-12)).float()
        if self.spec.prediction == "sample":
            return clamped.float()
        return ((clamped + 1) / (snr + 1)).float()

    def timesteps(self, steps: int) -> list[int]:
        """Descending timesteps that a sampler visits, without the final -1.

        Raises ValueError when more steps are asked for than the process has.
        """
        T = self.spec.T
        if not 1 <= steps <= T:
            raise ValueError(f"{steps} sampling steps of a process of T={T}: choose 1 to {T}")
        if self.spec.spacing == "trailing":
            return [round(T - i * T / steps) - 1 for i in range(steps)]
        offset = min(1, T - 1 - (steps - 1) * (T // steps))  # [release] adds 1, which steps = T has no room for
        return [i * (T // steps) + offset for i in reversed(range(steps))]

    @staticmethod
    def _at(t: Tensor, abar: Tensor) -> Tensor:
        clean = torch.ones(1, dtype=abar.dtype)
        return torch.cat([abar, clean]).to(t.device)[t]  # index -1 is the appended 1


def make_schedule(spec: DiffusionSpec) -> Schedule:
    """The schedule of a specification.

    cosine: abar of Nichol and Dhariwal without their clip of beta, so that abar ends at 0 (zero terminal SNR, as Lin
    et al. want it).
    scaled_linear: beta linear in its square root from 0.00085 to 0.0120 [release].
    """
    if spec.schedule == "cosine":
        u = torch.arange(1, spec.T + 1, dtype=torch.float64) / spec.T
        s = 0.008
        f = torch.cos((u + s) / (1 + s) * torch.pi / 2) ** 2
        f0 = torch.cos(torch.tensor(s / (1 + s) * torch.pi / 2, dtype=torch.float64)) ** 2
        abar = f / f0
        abar[-1] = 0.0
        return Schedule(spec, abar)
    beta = torch.linspace(0.00085**0.5, 0.0120**0.5, spec.T, dtype=torch.float64) ** 2
    return Schedule(spec, torch.cumprod(1 - beta, 0))


def _like(scale: Tensor, x: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
