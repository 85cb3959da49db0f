"""The three models of the method: how each is built, trained and opened again (section 3.1, Appendix A)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from gem3d_core.adversarial import Verdict, adversarial_loss
from gem3d_core.batches import Batch, LatentCase, draw_positions, draw_windows
from gem3d_core.checkpoints import load_facts
from gem3d_core.codec import Codec
from gem3d_core.denoise import Predict, freeze, predict_at_position, predict_slices
from gem3d_core.image_encoders import open_encoder
from gem3d_core.injections import Branched, CrossAttended, ImageEncoder
from gem3d_core.networks import SliceNetwork, WindowNetwork, position_network
from gem3d_core.ranks import ALONE, Ranks
from gem3d_core.schedule import Schedule
from gem3d_core.settings import NetworkFacts, TrainSpec
from gem3d_core.training import Draw, Example, Judge, Loss, Trained, diffusion_loss, draw_timesteps, train
from gem3d_core.volumetric import VolumeNetwork
from gem3d_core.whole import Discriminator, WholeNetwork


@dataclass
class TrainingPlan:
    """How a batch is brought through a device's memory; the steps are the same, up to rounding.

    pieces: of equal size, computed one after the other. recompute: activations are computed again in the backward
    pass instead of kept. units: what this process's share of a batch can be cut into, slices or windows.
    """

    pieces: int = 1
    recompute: bool = False
    units: int = 1

    def divide(self) -> bool:
        """Smaller pieces, about half as large, because these do not fit; False where each is one unit."""
        finer = [k for k in range(2 * self.pieces, self.units + 1) if self.units % k == 0]
        self.pieces = min(finer, default=self.pieces)
        return bool(finer)


Network: TypeAlias = SliceNetwork | WindowNetwork | UNet2DConditionModel
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
    codec: Codec | None = None
    """Whose latents these are, for networks that see decoded slices."""
    ranks: Ranks = ALONE
    plan: TrainingPlan = field(default_factory=TrainingPlan)


def recompute_activations(network: Network) -> None:
    """Keep no activations for the backward pass: it computes them again. Networks of MONAI keep theirs."""
    for module in network.modules():
        if isinstance(module, ModelMixin):
            module.enable_gradient_checkpointing()


def build(facts: NetworkFacts, seed: int, encoder: ImageEncoder | None = None) -> Network:
    """A network with fresh weights, drawn from a seed; torch's global generator is left as it was.

    encoder: of the informed slice, where the network attends to it.
    """
    with _seeded(seed):
        return _build(facts, encoder)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _build(facts: NetworkFacts, encoder: ImageEncoder | None) -> Network:
    if facts.kind == "position":
        return position_network(facts.unet, facts.latent_channels)
    if facts.kind == "whole":
        return WholeNetwork(facts)
    slices = _slice_network(facts, encoder)
    return slices if facts.kind == "slice" else VolumeNetwork(slices, facts)


def _slice_network(facts: NetworkFacts, encoder: ImageEncoder | None) -> SliceNetwork:
    if facts.condition.injection == "cross_attention":
        if encoder is None:
            raise ValueError("a network that attends to the informed slice needs an image encoder")
        return CrossAttended(facts, encoder)
    return Branched(facts) if facts.condition.injection == "controlnet" else SliceNetwork(facts)


def encoder_of(facts: NetworkFacts, codec: Codec | None, device: torch.device) -> ImageEncoder | None:
    """The image encoder of a network; none for those without one. Raises NotAvailable where it cannot be had."""
    if facts.condition.injection != "cross_attention" or facts.kind in {"position", "whole"}:
        return None
    if codec is None:
        raise ValueError("an image encoder sees decoded slices: give the codec of the latents")
    return open_encoder(facts.condition.image_encoder, codec, device)


def load_network(network_json: Path, weights: Path, device: torch.device, codec: Codec | None = None) -> Network:
    """A saved network, frozen, on a device; `codec` is that of its latents."""
    facts = load_facts(network_json)
    encoder = encoder_of(facts, codec, device)
    with torch.device("meta"):
        network = _build(facts, encoder)
    network.load_state_dict(load_file(weights), assign=True)
    freeze(network)
    return network.to(device)


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
    with _seeded(training.seed):
        network = VolumeNetwork(slices, facts)
    return _run(network, network.volumetric_parameters(), _windows(training, network), training)


def train_whole_model(facts: NetworkFacts, training: Training) -> tuple[dict[str, Tensor], Trained]:
    """A 3D network from scratch, on whole volumes with one t for each: 3D LDM, or adversarially Pix2Pix 3D."""
    network = build(facts, training.seed)
    assert isinstance(network, WholeNetwork)
    parameters = dict(network.named_parameters())
    if training.spec.objective == "diffusion":
        return _run(network, parameters, _windows(training, network), training)

    with _seeded(training.seed):
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
