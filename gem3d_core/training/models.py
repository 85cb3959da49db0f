"""The three models of the method: how each is built, trained and opened again (section 3.1, Appendix A)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from gem3d_core.budget.costs import TrainingPlan
from gem3d_core.codec.interface import Codec
from gem3d_core.diffusion.adversarial import Verdict, adversarial_loss
from gem3d_core.diffusion.denoise import Predict, predict_at_position, predict_slices
from gem3d_core.diffusion.losses import Example, Judge, Loss, diffusion_loss, draw_timesteps
from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.networks.files import Network, build, encoder_of, recompute_activations, seeded
from gem3d_core.networks.slices import SliceNetwork, WindowNetwork
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.networks.whole import Discriminator, WholeNetwork
from gem3d_core.spec.method import NetworkFacts, TrainSpec
from gem3d_core.training.batches import Batch, LatentCase, draw_positions, draw_windows
from gem3d_core.training.loop import Draw, OnStep, Trained, train
from gem3d_core.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Training:
    """What all three trainings share."""

    cases: list[LatentCase]
    schedule: Schedule
    spec: TrainSpec
    seed: int
    folder: Path
    """Where checkpoints are kept."""
    device: torch.device
    on_step: OnStep
    emphasis: Tensor | None = None
    """The codec's weight of each latent channel (c,)."""
    codec: Codec | None = None
    """Whose latents these are, for networks that see decoded slices."""
    ranks: Ranks = ALONE
    plan: TrainingPlan = field(default_factory=TrainingPlan)


def train_slice_model(facts: NetworkFacts, training: Training) -> tuple[dict[str, Tensor], Trained]:
    """Stage 1: slices of windows, a t for every slice; returns the EMA weights of the whole network."""
    network = build(facts, training.seed, encoder_of(facts, training.codec, training.device))
    assert isinstance(network, SliceNetwork)
    spec, keep = training.spec, min(training.spec.slices_per_window, facts.window)

    def draw(rng: torch.Generator) -> Iterator[Example]:
        batch = draw_windows(training.cases, spec.batch, facts.condition, keep, rng)
        t = draw_timesteps(len(batch.clean), 1, training.schedule, rng)
        return _of_windows(training, network, batch, t, rng)

    return _run(network, dict(network.named_parameters()), draw, training)


def tune_volume_model(
    facts: NetworkFacts, slice_weights: Path, training: Training
) -> tuple[dict[str, Tensor], Trained]:
    """Stage 2: whole windows, one t for each; only the volumetric layers, inserted into stage 1's EMA, are trained."""
    slices = build(replace(facts, kind="slice"), training.seed, encoder_of(facts, training.codec, training.device))
    assert isinstance(slices, SliceNetwork)
    slices.load_state_dict(load_file(slice_weights))
    with seeded(training.seed):
        network = VolumeNetwork(slices, facts)
    return _run(network, network.volumetric_parameters(), _windows(training, network), training)


def train_whole_model(facts: NetworkFacts, training: Training) -> tuple[dict[str, Tensor], Trained]:
    """A 3D network from scratch, on whole volumes with one t for each: 3D LDM, or adversarially Pix2Pix 3D."""
    network = build(facts, training.seed)
    assert isinstance(network, WholeNetwork)
    parameters = dict(network.named_parameters())
    if training.spec.objective == "diffusion":
        return _run(network, parameters, _windows(training, network), training)

    with seeded(training.seed):
        discriminator = Discriminator(facts)
    discriminator.to(training.device)
    both = parameters | {f"{DISCRIMINATOR}{name}": p for name, p in discriminator.named_parameters()}
    loss = partial(adversarial_loss, schedule=training.schedule)
    weights, trained = _run(network, both, _windows(training, network, discriminator), training, loss)
    return {name: w for name, w in weights.items() if not name.startswith(DISCRIMINATOR)}, trained


DISCRIMINATOR = "discriminator."
"""Before the names of its parameters, which are not part of the model."""


def _windows(training: Training, network: WindowNetwork, discriminator: Discriminator | None = None) -> Draw:
    """Whole windows; to be drawn in one step where there is a discriminator, from timesteps of all kinds elsewhere."""

    def draw(rng: torch.Generator) -> Iterator[Example]:
        n, count = network.n, training.spec.batch
        batch = draw_windows(training.cases, count, network.facts.condition, n, rng)
        t = draw_timesteps(count, n, training.schedule, rng)
        if discriminator is not None:
            t = torch.full_like(t, training.schedule.timesteps(1)[0])
        return _of_windows(training, network, batch, t, rng, discriminator)

    return draw


def train_position_model(facts: NetworkFacts, training: Training) -> tuple[dict[str, Tensor], Trained]:
    """The mask-free slice model conditioned on p; returns its EMA weights."""
    network = build(facts, training.seed)
    assert isinstance(network, UNet2DConditionModel)

    def draw(rng: torch.Generator) -> Iterator[Example]:
        clean, p, names = draw_positions(training.cases, training.spec.batch, rng)
        t = draw_timesteps(len(clean), 1, training.schedule, rng)

        def bind(rows: slice) -> tuple[Predict, None]:
            return predict_at_position(network, p[rows].to(training.device)), None

        return _pieces(training, clean, t, names, bind, rng)

    return _run(network, dict(network.named_parameters()), draw, training)


def _of_windows(
    training: Training,
    network: SliceNetwork | WindowNetwork,
    batch: Batch,
    t: Tensor,
    rng: torch.Generator,
    discriminator: Discriminator | None = None,
) -> Iterator[Example]:
    def bind(rows: slice) -> tuple[Predict, Judge | None]:
        conditions = batch.conditions.rows(rows, training.device)
        judge = None if discriminator is None else Verdict(discriminator, conditions)
        return predict_slices(network, conditions), judge

    return _pieces(training, batch.clean, t, batch.names, bind, rng, batch.drawn)


def _pieces(
    training: Training,
    clean: Tensor,
    t: Tensor,
    names: tuple[str, ...],
    bind: Callable[[slice], tuple[Predict, Judge | None]],
    rng: torch.Generator,
    drawn: Tensor | None = None,
) -> Iterator[Example]:
    """This rank's rows of a batch, piece by piece on the device; the noise is drawn for all rows by every rank."""
    eps = torch.randn(clean.shape, generator=rng)
    mine, count, device = training.ranks.rows(len(clean)), training.plan.pieces, training.device
    emphasis = training.emphasis if training.schedule.spec.channel_weighting == "spread" else None
    emphasis = None if emphasis is None else emphasis.to(device)
    size = (mine.stop - mine.start) // count
    for first in range(mine.start, mine.stop, size):
        rows = slice(first, first + size)
        x, e, s = (part[rows].to(device) for part in (clean, eps, t))
        predict, judge = bind(rows)
        counted = None if drawn is None else drawn[rows].to(device)
        yield Example(x, e, s, predict, names, emphasis, counted, judge, 1 / count)


def _run(
    network: Network,
    parameters: dict[str, nn.Parameter],
    draw: Draw,
    training: Training,
    loss: Loss | None = None,
) -> tuple[dict[str, Tensor], Trained]:
    if training.plan.recompute:
        recompute_activations(network)
    trained = train(
        network,
        parameters,
        draw,
        loss or partial(diffusion_loss, schedule=training.schedule),
        training.spec,
        training.seed,
        training.folder,
        training.device,
        training.on_step,
        training.ranks,
        training.plan.divide,
    )
    return {**network.state_dict(), **trained.ema}, trained
