"""The three models of the method: how each is built, trained and opened again (section 3.1, Appendix A)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from gem3d_core.batches import Batch, LatentCase, draw_positions, draw_windows
from gem3d_core.checkpoints import NetworkFacts, load_facts
from gem3d_core.denoise import Predict, freeze, predict_at_position, predict_slices
from gem3d_core.networks import VolumeNetwork, position_network, slice_network
from gem3d_core.ranks import ALONE, Ranks
from gem3d_core.schedule import Schedule
from gem3d_core.settings import TrainSpec
from gem3d_core.training import Draw, Example, Trained, draw_timesteps, train


@dataclass(frozen=True)
class TrainingPlan:
    """How a batch is brought through a device's memory; the steps are the same, up to rounding.

    pieces: of equal size, computed one after the other. recompute: activations are computed again in the backward
    pass instead of kept.
    """

    pieces: int = 1
    recompute: bool = False


Network: TypeAlias = UNet2DModel | UNet2DConditionModel | VolumeNetwork
OnStep = Callable[[int, float], None]


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
    ranks: Ranks = ALONE
    plan: TrainingPlan = TrainingPlan()


def recompute_activations(network: Network) -> None:
    """Keep no activations for the backward pass: it computes them again."""
    (network.unet if isinstance(network, VolumeNetwork) else network).enable_gradient_checkpointing()


def build(facts: NetworkFacts, seed: int) -> Network:
    """A network with fresh weights, drawn from a seed; torch's global generator is left as it was."""
    with _seeded(seed):
        return _build(facts)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _build(facts: NetworkFacts) -> Network:
    if facts.kind == "position":
        return position_network(facts.unet, facts.latent_channels)
    inputs = 2 * facts.latent_channels + facts.mask_channels
    slices = slice_network(facts.unet, inputs, facts.latent_channels, offset=facts.offset)
    return slices if facts.kind == "slice" else VolumeNetwork(slices, facts.unet, facts.window)


def load_network(network_json: Path, weights: Path, device: torch.device) -> Network:
    """A saved network, frozen, on a device."""
    with torch.device("meta"):
        network = _build(load_facts(network_json))
    network.load_state_dict(load_file(weights), assign=True)
    freeze(network)
    return network.to(device)


def train_slice_model(facts: NetworkFacts, training: Training) -> tuple[dict[str, Tensor], Trained]:
    """Stage 1: slices of windows, a t for every slice; returns the EMA weights of the whole network."""
    network = build(facts, training.seed)
    assert isinstance(network, UNet2DModel)
    spec, keep = training.spec, min(training.spec.slices_per_window, facts.window)

    def draw(rng: torch.Generator) -> Iterator[Example]:
        batch = draw_windows(training.cases, spec.batch, facts.window, keep, rng)
        t = draw_timesteps(len(batch.clean), 1, training.schedule, rng)
        return _of_windows(training, network, batch, t, rng)

    return _run(network, dict(network.named_parameters()), draw, training)


def tune_volume_model(
    facts: NetworkFacts, slice_weights: Path, training: Training
) -> tuple[dict[str, Tensor], Trained]:
    """Stage 2: whole windows, one t for each; only the volumetric layers, inserted into stage 1's EMA, are trained."""
    slices = build(replace(facts, kind="slice"), training.seed)
    assert isinstance(slices, UNet2DModel)
    slices.load_state_dict(load_file(slice_weights))
    with _seeded(training.seed):
        network = VolumeNetwork(slices, facts.unet, facts.window)

    def draw(rng: torch.Generator) -> Iterator[Example]:
        n = facts.window
        batch = draw_windows(training.cases, training.spec.batch, n, n, rng)
        t = draw_timesteps(training.spec.batch, n, training.schedule, rng)
        return _of_windows(training, network, batch, t, rng)

    return _run(network, network.volumetric_parameters(), draw, training)


def train_position_model(facts: NetworkFacts, training: Training) -> tuple[dict[str, Tensor], Trained]:
    """The mask-free slice model conditioned on p; returns its EMA weights."""
    network = build(facts, training.seed)
    assert isinstance(network, UNet2DConditionModel)

    def draw(rng: torch.Generator) -> Iterator[Example]:
        clean, p, names = draw_positions(training.cases, training.spec.batch, rng)
        t = draw_timesteps(len(clean), 1, training.schedule, rng)

        def bind(rows: slice) -> Predict:
            return predict_at_position(network, p[rows].to(training.device))

        return _pieces(training, clean, t, names, bind, rng)

    return _run(network, dict(network.named_parameters()), draw, training)


def _of_windows(
    training: Training, network: UNet2DModel | VolumeNetwork, batch: Batch, t: Tensor, rng: torch.Generator
) -> Iterator[Example]:
    def bind(rows: slice) -> Predict:
        return predict_slices(network, batch.conditions.rows(rows, training.device))

    return _pieces(training, batch.clean, t, batch.names, bind, rng)


def _pieces(
    training: Training,
    clean: Tensor,
    t: Tensor,
    names: tuple[str, ...],
    bind: Callable[[slice], Predict],
    rng: torch.Generator,
) -> Iterator[Example]:
    """This rank's rows of a batch, piece by piece on the device; the noise is drawn for all rows by every rank."""
    eps = torch.randn(clean.shape, generator=rng)
    mine, count, device = training.ranks.rows(len(clean)), training.plan.pieces, training.device
    emphasis = None if training.emphasis is None else training.emphasis.to(device)
    size = (mine.stop - mine.start) // count
    for first in range(mine.start, mine.stop, size):
        rows = slice(first, first + size)
        x, e, s = (part[rows].to(device) for part in (clean, eps, t))
        yield Example(x, e, s, bind(rows), names, emphasis, 1 / count)


def _run(
    network: Network,
    parameters: dict[str, nn.Parameter],
    draw: Draw,
    training: Training,
) -> tuple[dict[str, Tensor], Trained]:
    if training.plan.recompute:
        recompute_activations(network)
    trained = train(
        network,
        parameters,
        draw,
        training.schedule,
        training.spec,
        training.seed,
        training.folder,
        training.device,
        training.on_step,
        training.ranks,
    )
    return {**network.state_dict(), **trained.ema}, trained
