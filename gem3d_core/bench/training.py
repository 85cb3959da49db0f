"""A training step on stored latents beside the literal one, which encodes its constants anew each time."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gem3d_core.bench.effort import watched
from gem3d_core.budget.costs import MATRIX_PRODUCTS, matrix_flops
from gem3d_core.codec.kl import KL, PAPER_LAYERS, PAPER_WIDTHS, autoencoder
from gem3d_core.diffusion.denoise import predict_slices
from gem3d_core.diffusion.losses import Example, diffusion_loss, draw_timesteps
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.networks.files import build
from gem3d_core.networks.slices import SliceNetwork
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, Precision, TrainSpec, UNetSpec
from gem3d_core.training.batches import LatentCase, draw_windows
from gem3d_core.training.loop import train
from gem3d_core.training.models import Training, train_model

PAPER_SCALE = 0.18215
"""Scale of the KL-f8 latents [release]."""
VOLUMES, DEPTH = 2, 24
"""Volumes and slices of the random dataset; what its numbers are does not change how long a step takes."""


@dataclass(frozen=True)
class TrainingCase:
    """What is compared: a slice network and windows of n slices of (H, W), on a device."""

    unet: UNetSpec
    size: tuple[int, int]
    n: int
    windows: int
    """In a batch; every slice of a window is used [paper]."""
    device: torch.device
    precision: Precision


@dataclass(frozen=True)
class Pace:
    """Pace of one way to train, over the steps after the first; first_loss: of the first.

    flops_per_second: operations of the matrix products and convolutions of a step, forward and backward, a second.
    """

    steps_per_second: float
    first_loss: float
    peak_bytes: int
    flops_per_second: float
    share_of_matrix_product: float


@dataclass(frozen=True)
class TrainingComparison:
    """What `gem3d bench training` tells. encoding_seconds: once for the whole dataset, a slice."""

    speedup: float
    reference: Pace
    ours: Pace
    loss_difference: float
    encoding_seconds: float
    codec_parameters: int
    network_parameters: int
    matrix_flops: float
    """Operations a second of this device's float32 matrix product."""


def compare_training(case: TrainingCase, steps: int, codec: KL | None = None) -> TrainingComparison:
    """Time `steps` steps of each after one that warms up; both draw the same windows, t and noise.

    The literal step encodes its windows' images and masks and n copies of the informed slice each time, in float32,
    as the release does; the codec is of the paper's size with random weights unless another is given.
    """
    codec = codec or paper_codec(case.device)
    raw = _random_cases(case)
    began = time.perf_counter()
    latents = [replace(c, image=codec.encode(c.image[:, 0]), condition=codec.encode(c.condition[:, 0])) for c in raw]
    encoding = (time.perf_counter() - began) / (2 * VOLUMES * DEPTH)

    facts = NetworkFacts("slice", case.unet, codec.channels, codec.channels, ConditionSpec(window=case.n))
    spec = TrainSpec(
        steps=1 + steps, batch=case.windows, slices_per_window=case.n, checkpoint_every=2 + steps, precision="fp32"
    )
    schedule, alike = make_schedule(DiffusionSpec()), torch.ones(codec.channels)
    literal = Training(raw, schedule, spec, 0, Path(), case.device, lambda _step, _loss: None, alike)
    stored = replace(literal, cases=latents, spec=replace(spec, precision=case.precision))
    peak = matrix_flops(case.device, MATRIX_PRODUCTS)
    theirs = _pace(lambda training: _train_literally(facts, codec, training), literal, peak)
    ours = _pace(lambda training: train_model(facts, training), stored, peak)
    return TrainingComparison(
        speedup=ours.steps_per_second / theirs.steps_per_second,
        reference=theirs,
        ours=ours,
        loss_difference=abs(ours.first_loss - theirs.first_loss),
        encoding_seconds=encoding,
        codec_parameters=sum(p.numel() for p in codec.model.parameters()),
        network_parameters=sum(p.numel() for p in build(facts, 0).parameters()),
        matrix_flops=peak,
    )


def paper_codec(device: torch.device) -> KL:
    """An autoencoder of latent diffusion's KL-f8 shape (83.7 M parameters) with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = autoencoder(PAPER_WIDTHS, PAPER_LAYERS)
    return KL(model.to(device), PAPER_SCALE)


def _random_cases(case: TrainingCase) -> list[LatentCase]:
    """Volumes of slices and grey masks in [-1, 1], (DEPTH, 1, H, W)."""
    rng = torch.Generator().manual_seed(0)

    def volume() -> Tensor:
        return torch.rand(DEPTH, 1, *case.size, generator=rng) * 2 - 1

    return [LatentCase(f"random{k}", volume(), volume(), DEPTH) for k in range(VOLUMES)]


def _train_literally(facts: NetworkFacts, codec: KL, training: Training) -> None:
    """The same loop, but what is drawn are slices, and all that the network sees of them is encoded on the way."""
    network = build(facts, 0)
    assert isinstance(network, SliceNetwork)

    spec, schedule, device, n = training.spec, training.schedule, training.device, facts.window

    def draw(rng: torch.Generator) -> list[Example]:
        batch = draw_windows(training.cases, spec.batch, facts.condition, n, rng)
        t = draw_timesteps(len(batch.clean), 1, schedule, rng)
        drawn = batch.conditions.rows(slice(None), device)
        assert drawn.informed is not None
        image, mask, informed = (
            codec.encode(slices[:, 0].to(device)) for slices in (batch.clean, drawn.mask, drawn.informed)
        )
        eps = torch.randn(image.shape, generator=rng)
        predict = predict_slices(network, replace(drawn, mask=mask, informed=informed))
        return [Example(image, eps.to(device), t.to(device), predict, batch.names)]

    parameters = dict(network.named_parameters())
    loss = partial(diffusion_loss, schedule=schedule)
    train(network, parameters, draw, loss, spec, training.seed, training.folder, device, training.on_step)


def _pace(run: Callable[[Training], object], training: Training, peak: float) -> Pace:
    """Time the steps of a training after its first, then count the operations of one."""
    ticks: list[tuple[float, float]] = []

    def on_step(_step: int, loss: float) -> None:
        ticks.append((time.perf_counter(), loss))

    _, effort = watched(lambda: _run_apart(run, replace(training, on_step=on_step)), training.device)
    pace = (len(ticks) - 1) / (ticks[-1][0] - ticks[0][0])
    with FlopCounterMode(display=False) as counter:
        _run_apart(run, replace(training, spec=replace(training.spec, steps=1)))
    flops = pace * counter.get_total_flops()
    return Pace(pace, ticks[0][1], effort.peak_bytes, flops, flops / peak)


def _run_apart(run: Callable[[Training], object], training: Training) -> None:
    """In a folder of its own, with nothing to go on from."""
    with tempfile.TemporaryDirectory() as folder:
        run(replace(training, folder=Path(folder)))
