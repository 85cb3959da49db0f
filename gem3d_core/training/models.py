"""Training a network of any kind: from what, on what and for what (section 3.1, Appendix A)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gem3d_core.budget.costs import TrainingPlan, training_units
from gem3d_core.codec.interface import Codec
from gem3d_core.diffusion.adversarial import Verdict, adversarial_loss
from gem3d_core.diffusion.denoise import predict_slices
from gem3d_core.diffusion.losses import Example, Loss, diffusion_loss, draw_timesteps
from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.networks.files import build, encoder_of, recompute_activations, seeded
from gem3d_core.networks.interface import Network
from gem3d_core.networks.whole import Discriminator
from gem3d_core.spec.kinds import KINDS
from gem3d_core.spec.method import NetworkFacts, TrainSpec
from gem3d_core.training.batches import Batch, LatentCase, draw_positions, draw_windows
from gem3d_core.training.loop import Draw, OnStep, Trained, train
from gem3d_core.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Training:
    """What all trainings share."""

    cases: list[LatentCase]
    schedule: Schedule
    spec: TrainSpec
    seed: int
    folder: Path
    """Where checkpoints are kept."""
    device: torch.device
    on_step: OnStep
    emphasis: Tensor
    """The codec's weight of each latent channel (c,)."""
    codec: Codec | None = None
    """Whose latents these are, for networks that see decoded slices."""
    ranks: Ranks = ALONE
    plan: TrainingPlan = field(default_factory=TrainingPlan)


DISCRIMINATOR = "discriminator."
"""Before the names of its parameters, which are not part of the model."""


def train_model(
    facts: NetworkFacts, training: Training, start: Path | None = None
) -> tuple[dict[str, Tensor], Trained]:
    """Train a network of any kind; returns the EMA of what is trained beside the rest of its weights.

    Stage 1 trains on slices of windows, a t for every slice; stage 2 on whole windows, one t for each, and only the
    volumetric layers. start: stage 1's EMA, for a kind that extends another. Raises ValueError where that is missing.
    """
    kind, spec = KINDS[facts.kind], training.spec
    if kind.extends and start is None:
        raise ValueError(f"a {facts.kind} network extends a trained {kind.extends} network: give its weights")
    network = build(facts, training.seed, encoder_of(facts, training.codec, training.device), start)
    parameters = network.trained_parameters()
    discriminator, loss = None, partial(diffusion_loss, schedule=training.schedule)
    if spec.objective == "adversarial":
        with seeded(training.seed):
            discriminator = Discriminator(facts).to(training.device)
        parameters |= {f"{DISCRIMINATOR}{name}": p for name, p in discriminator.named_parameters()}
        loss = partial(adversarial_loss, schedule=training.schedule)

    units, size = training_units(facts, spec)

    def draw(rng: torch.Generator) -> Iterator[Example]:
        if kind.told == "position":
            batch = draw_positions(training.cases, units, rng)
        else:
            batch = draw_windows(training.cases, spec.batch, facts.condition, units * size // spec.batch, rng)
        t = draw_timesteps(units, size, training.schedule, rng)
        if discriminator is not None:  # the network is to draw in one step
            t = torch.full_like(t, training.schedule.timesteps(1)[0])
        return _pieces(training, network, batch, t, rng, discriminator)

    weights, trained = _run(network, parameters, draw, loss, training)
    return {name: w for name, w in weights.items() if not name.startswith(DISCRIMINATOR)}, trained


def _pieces(
    training: Training,
    network: Network,
    batch: Batch,
    t: Tensor,
    rng: torch.Generator,
    discriminator: Discriminator | None,
) -> Iterator[Example]:
    """This rank's rows of a batch, piece by piece on the device; the noise is drawn for all rows by every rank."""
    clean, drawn = batch.clean, batch.drawn
    eps = torch.randn(clean.shape, generator=rng)
    mine, count, device = training.ranks.rows(len(clean)), training.plan.pieces, training.device
    weighs = training.schedule.spec.channel_weighting == "spread"
    emphasis = training.emphasis.to(device) if weighs else None
    size = (mine.stop - mine.start) // count
    for first in range(mine.start, mine.stop, size):
        rows = slice(first, first + size)
        x, e, s = (part[rows].to(device) for part in (clean, eps, t))
        conditions = batch.conditions.rows(rows, device)
        judge = None if discriminator is None else Verdict(discriminator, conditions)
        counted = None if drawn is None else drawn[rows].to(device)
        predict = predict_slices(network, conditions)
        yield Example(x, e, s, predict, batch.names, emphasis, counted, judge, 1 / count)


def _run(
    network: Network,
    parameters: dict[str, nn.Parameter],
    draw: Draw,
    loss: Loss,
    training: Training,
) -> tuple[dict[str, Tensor], Trained]:
    if training.plan.recompute:
        recompute_activations(network)
    trained = train(
        network,
        parameters,
        draw,
        loss,
        training.spec,
        training.seed,
        training.folder,
        training.device,
        training.on_step,
        training.ranks,
        training.plan.divide,
    )
    return {**network.state_dict(), **trained.ema}, trained
