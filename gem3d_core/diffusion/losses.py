"""The objective of diffusion training (equation 2), of a piece of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gem3d_core.diffusion.denoise import Predict
from gem3d_core.diffusion.schedule import Schedule


class Judge(Protocol):
    """A discriminator that is told the conditions of a piece of a batch."""

    def learning(self, x: Tensor) -> Tensor:
        """What it says of clean latents (N, c, h, w), for its own learning."""

    def fixed(self, x: Tensor) -> Tensor:
        """The same, for the learning of who drew them."""


@dataclass(frozen=True)
class Example:
    """A piece of a batch, ready for the loss: clean latents x_0 and noise eps (N, c, h, w), t (N,), and how x_t is
    predicted."""

    clean: Tensor
    eps: Tensor
    t: Tensor
    predict: Predict
    names: tuple[str, ...]
    emphasis: Tensor | None = None
    """Weight of each latent channel's squared error, (c,); none: all alike."""
    drawn: Tensor | None = None
    """Slices that count (N,) bool; the others are known. None: all."""
    judge: Judge | None = None
    """Where one is trained too."""
    share: float = 1.0
    """Share of the batch; the shares of its pieces add up to 1."""


Loss = Callable[[Example], Tensor]
"""A scalar of a piece of a batch."""


def diffusion_loss(example: Example, schedule: Schedule) -> Tensor:
    """L = E w(t) || target - prediction(sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t) ||^2 (equation 2)."""
    x0, eps, t = example.clean, example.eps, example.t
    x_t = schedule.add_noise(x0, eps, t)
    error = (example.predict(x_t, t).float() - schedule.target(x0, eps, t)).square()
    if example.emphasis is not None:
        error = error * example.emphasis[:, None, None]
    weight = schedule.weight(t)
    if example.drawn is not None:
        weight = weight * example.drawn
    return (weight * error.mean(dim=(1, 2, 3))).mean()


def draw_timesteps(count: int, repeat: int, schedule: Schedule, rng: torch.Generator) -> Tensor:
    """Uniform timesteps (count * repeat,): one for each of `count` units, repeated for its slices."""
    t = torch.randint(schedule.spec.T, (count,), generator=rng)
    return t.repeat_interleave(repeat)
