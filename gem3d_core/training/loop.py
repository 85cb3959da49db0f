"""One loop for every network that draws: draw a batch, noise it, predict, weigh the squared error, step, average.

A run that is stopped and started again gives the same losses and weights as one that was not: raw weights, EMA,
optimiser moments, the generator and the losses so far are in every checkpoint.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gem3d_core.diffusion.losses import Example, Loss
from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.checkpoints import load_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint
from gem3d_core.machine.devices import autocast
from gem3d_core.machine.out_of_memory import until_it_fits
from gem3d_core.machine.processes import Interrupted, terminated
from gem3d_core.spec.method import TrainSpec
from gem3d_core.training.ranks import ALONE, Ranks

OnStep = Callable[[int, float], None]
Draw = Callable[[torch.Generator], Iterable[Example]]
"""Draws the next batch, taking all randomness from the generator; its pieces are computed one after the other."""


@dataclass(frozen=True)
class Trained:
    """The outcome: EMA weights of the trained parameters, the loss of every step, and seconds of this process."""

    ema: dict[str, Tensor]
    losses: Tensor
    seconds: float
    resumed_at: int


def train(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    draw: Draw,
    loss: Loss,
    spec: TrainSpec,
    seed: int,
    folder: Path,
    device: torch.device,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
    ranks: Ranks = ALONE,
    divide: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train `parameters` of `network` for spec.steps, going on from the newest checkpoint in `folder`.

    Only the given parameters hold gradients. Of several ranks the first writes checkpoints and calls `on_step`.
    divide: called where a batch does not fit into memory; makes `draw` give smaller pieces, or returns False.

    Raises Gem3dError when loss or gradient is not finite, naming step and batch, or when no piece is small enough, and
    Interrupted after SIGTERM, once a checkpoint is written.
    """
    network.requires_grad_(False).train().to(device)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    run = _Run(parameters, spec, seed, ranks, divide)
    resumed_at = run.restore(folder)

    began = time.monotonic()
    with terminated() as stop:
        for step in range(resumed_at, spec.steps):
            value = run.step(draw, loss, device, step)
            if ranks.first:
                on_step(step + 1, value)
            stopped = ranks.any(stop.is_set(), device)
            if ranks.first and (stopped or (step + 1) % spec.checkpoint_every == 0 or step + 1 == spec.steps):
                run.save(folder, step + 1)
            if stopped:
                raise Interrupted(f"stopped at step {step + 1} of {spec.steps}; the same command goes on from there")
    return Trained(run.ema, torch.tensor(run.losses), time.monotonic() - began, resumed_at)


class _Run:
    """Everything that changes during training."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        spec: TrainSpec,
        seed: int,
        ranks: Ranks,
        divide: Callable[[], bool],
    ) -> None:
        self.parameters = parameters
        self.divide = divide
        self.spec = spec
        self.ranks = ranks
        self.rng = torch.Generator().manual_seed(seed)
        self.ema = {name: p.detach().clone() for name, p in parameters.items()}
        self.losses: list[float] = []
        self.optimiser = torch.optim.AdamW(
            parameters.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )

    def step(self, draw: Draw, loss: Loss, device: torch.device, step: int) -> float:
        """One optimiser step; returns the loss."""
        value, names = self._gradients(draw, loss, device)
        value = self.ranks.mean(value, device)
        self._require_finite("the loss", value, step, names)
        self.ranks.average([p.grad for p in self.parameters.values() if p.grad is not None])
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), self.spec.clip))
        self._require_finite("the gradient", norm, step, names)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.spec, step)
        self.optimiser.step()
        self._average(step)
        self.losses.append(value)
        return value

    def _gradients(self, draw: Draw, loss: Loss, device: torch.device) -> tuple[float, dict[str, None]]:
        """Compute gradients of one batch: its loss and names; in smaller pieces from now on where it does not fit."""
        before = self.rng.get_state()

        def smaller() -> bool:
            self.optimiser.zero_grad(set_to_none=True)
            self.rng.set_state(before)
            return self.divide()

        self.optimiser.zero_grad(set_to_none=True)
        return until_it_fits(
            lambda: self._backward(draw, loss, device), smaller, "the smallest piece of a training batch"
        )

    def _backward(self, draw: Draw, loss: Loss, device: torch.device) -> tuple[float, dict[str, None]]:
        """A batch, piece by piece; nothing of a piece outlives an error."""
        value, names = 0.0, dict[str, None]()
        for piece in draw(self.rng):
            with autocast(self.spec.precision, device):
                part = piece.share * loss(piece)
            torch.autograd.backward(part)
            value += float(part.detach())
            names |= dict.fromkeys(piece.names)
        return value, names

    @staticmethod
    def _require_finite(what: str, value: float, step: int, names: Iterable[str]) -> None:
        """Stop before the weights are spoilt: a step on a gradient that is not finite would reach the checkpoint."""
        if not math.isfinite(value):
            raise Gem3dError(
                f"{what} became {value} at step {step + 1} on {', '.join(names)}: look at these slices, "
                "or lower the learning rate; checkpoints before this step are kept"
            )

    def _average(self, step: int) -> None:
        decay = min(self.spec.ema, (1 + step) / (10 + step))
        current = [p.detach() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.ema.values()), current, 1 - decay)

    def save(self, folder: Path, step: int) -> None:
        """Write a checkpoint of everything."""
        groups: dict[str, Mapping[str, Tensor]] = {
            "raw": dict(self.parameters),
            "ema": self.ema,
            "optimiser": optimiser_tensors(self.optimiser),
            "run": {
                "generator": self.rng.get_state(),
                "losses": torch.tensor(self.losses, dtype=torch.float64),
            },
        }
        save_checkpoint(folder, step, groups, {"steps": self.spec.steps})

    def restore(self, folder: Path) -> int:
        """Go back to the newest checkpoint; returns its step, 0 when there is none. Raises BadInput for another's."""
        found = load_checkpoint(folder)
        if found is None:
            return 0
        step, groups = found
        if _shapes(groups["raw"]) != _shapes(self.parameters):
            raise BadInput(
                f"{folder} holds the checkpoint of another training, whose parameters are not these: "
                "give each training a folder of its own"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(groups["raw"][name])
                self.ema[name].copy_(groups["ema"][name])
        restore_optimiser(self.optimiser, groups["optimiser"])
        self.rng.set_state(groups["run"]["generator"])
        self.losses = groups["run"]["losses"].tolist()
        return step


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Linear warm-up, then constant [paper] or a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, spec.warmup))
    if not spec.cosine_decay:
        return spec.learning_rate * warm
    return spec.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / spec.steps))
