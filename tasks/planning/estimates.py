"""About how long each stage takes and how much memory it holds, from the headers of a dataset and a configuration.

Networks: operations counted over this machine's measured speed. What runs no network of ours: seconds a voxel as
measured on two cores (docs/results), a basis for minutes against hours and no more.
"""

import math
from dataclasses import dataclass, replace
from math import prod

from configs import Config
from gem3d_core.budget.costs import (
    Cost,
    TrainingPlan,
    codec_flops,
    drawing_peak,
    network_cost,
    network_flops,
    plan_training,
    training_peak,
    training_units,
)
from gem3d_core.budget.memory import OVERHEAD
from gem3d_core.codec.kl import PAPER_LAYERS, PAPER_WIDTHS, trained_widths
from gem3d_core.codec.kl_training import BATCH as KL_BATCH
from gem3d_core.diffusion.denoise import window_calls
from gem3d_core.machine.devices import device_type
from gem3d_core.spec.method import NetworkFacts, NetworkKind, UNetSpec
from gem3d_core.spec.terms import PLANES
from tasks.artifacts.model import useful_batch, volumes_beside, writing_ahead
from tasks.planning.workload import Load
from tasks.stages.informed import mode_of, variants
from tasks.stages.train import Course, TrainInformed, TrainSlices, TuneVolume

BACKWARD = 2.0
"""Operations of a backward pass over those of the forward pass."""
KL_CHANNELS, KL_FACTOR = 4, 8

READ, PREPARE, EDIT, WRITE = 7e-8, 1e-6, 3e-7, 1e-7
"""Seconds a source voxel: check, nnU-Net's preprocessing with ours, one edited mask, one published volume."""
ENCODE = 2e-7
"""Seconds a pixel of a prepared slice."""
FEATURES, RESAMPLED, NEAREST, PICTURES = 0.03, 0.4, 2e-9, 20.0
"""Seconds: the features of one slice for FID; one FID of resampled volumes in one plane; one voxel of one pair of
volumes; the pictures and what else is fixed."""
PLANNING, ARM_START = 12.0, 30.0
"""Seconds that nnU-Net's planning, and one training and prediction with it, take for nothing but their start."""
NNUNET_OPERATIONS = 432
"""Operations of nnU-Net's forward pass for each voxel of a patch and each squared feature of the first level: two
3x3x3 convolutions in and two out at full resolution, and as much again in all levels below."""
NNUNET_PATCH, NNUNET_FEATURES, NNUNET_TILES = 128, 32, 8
"""The longest side of a patch, the features where the profile leaves them to the plan, and how often the halfway
overlapping tiles of a prediction see a voxel."""
LIBRARIES = 1.0
"""GiB of a process before it holds any data."""
NNUNET_GIB = 3.5
"""GiB of nnU-Net's processes together before they hold any data: it plans, reads and predicts with several."""
COPIES = 12
"""Float32 copies of the largest volume that a stage holds at once, about."""


@dataclass(frozen=True)
class Estimate:
    """What a stage would do; seconds and GiB are about, and None where there is no basis for one."""

    work: str
    network_calls: int = 0
    seconds: float | None = None
    memory_gib: float | None = None


def known(estimate: Estimate) -> Estimate:
    """Without seconds where they are of a GPU that is not here."""
    return replace(estimate, seconds=None) if estimate.seconds and math.isnan(estimate.seconds) else estimate


def ingesting(load: Load) -> Estimate:
    """Every file is read."""
    return Estimate(f"{len(load.depths)} cases checked", seconds=READ * load.voxels, memory_gib=_held(load))


def preparing(load: Load) -> Estimate:
    """nnU-Net plans; every case is resampled."""
    seconds = PLANNING + PREPARE * load.voxels
    work = f"nnU-Net's plan; {len(load.depths)} cases prepared"
    return Estimate(work, seconds=seconds, memory_gib=_held(load) + NNUNET_GIB)


def editing_masks(load: Load) -> Estimate:
    """Every training mask, for each repeat."""
    factor = load.config.factor
    seconds = EDIT * factor * load.train_voxels
    return Estimate(f"{factor * len(load.train)} masks edited", seconds=seconds, memory_gib=_held(load))


def publishing(load: Load) -> Estimate:
    """Every volume is laid out once for each dataset that holds it."""
    seconds = WRITE * load.train_voxels * load.volumes / max(1, len(load.train))
    return Estimate(f"datasets at 1x to {load.config.factor}x", seconds=seconds, memory_gib=_held(load))


def encoding(load: Load) -> Estimate:
    """Every slice is encoded, and decoded again for the PSNR; an autoencoder may have to be trained first."""
    config, spec = load.config, load.config.codec
    pixels = load.slices * prod(config.prepare.slice_size)
    work = f"{load.slices} slices encoded ({spec.kind})"
    if spec.kind == "haar":
        return Estimate(work, seconds=ENCODE * pixels, memory_gib=_held(load))
    steps = spec.train_steps if spec.weights == "train" else 0
    seen = load.slices + steps * KL_BATCH * (1 + BACKWARD)
    seconds = ENCODE * pixels + seen * sum(_codec_flops(config)) / network_flops(config.runtime.device)
    return Estimate(f"{steps} codec steps, {work}" if steps else work, steps, seconds, _held(load))


def _codec_flops(config: Config) -> tuple[float, float]:
    """Operations of encoding and of decoding one slice; one that others trained is taken to be of the paper's size."""
    widths, layers = _codec_shape(config) or (PAPER_WIDTHS, PAPER_LAYERS)
    return codec_flops(widths, layers, config.prepare.slice_size)


def _codec_shape(config: Config) -> tuple[tuple[int, ...], int] | None:
    """Widths and layers of the autoencoder; none where there is none."""
    if config.codec.kind == "haar":
        return None
    return (trained_widths(config.codec), 1) if config.codec.weights == "train" else (PAPER_WIDTHS, PAPER_LAYERS)


def _held(load: Load) -> float:
    """GiB of a process that has the largest volume open."""
    largest = max((prod(shape) for shape in load.shapes.values()), default=0)
    return LIBRARIES + COPIES * 4 * largest / 2**30


def training_slices(load: Load) -> Estimate:
    """Stage 1."""
    return _training(load, TrainSlices.course(load.config))


def tuning_volumes(load: Load) -> Estimate:
    """Stage 2, or a network on whole volumes."""
    return _training(load, TuneVolume.course(load.config))


def training_informed(load: Load) -> Estimate:
    """The position-conditioned model."""
    return _training(load, TrainInformed.course(load.config))


def _training(load: Load, course: Course) -> Estimate:
    config, spec, kind, unet = load.config, course.spec, course.kind, course.unet
    facts, size, budget = _facts(load, kind, unet), _latent_size(config), config.runtime.memory_bytes
    units, unit = training_units(facts, spec)
    plan = TrainingPlan() if budget is None else plan_training(facts, units, unit, size, budget)
    cost = network_cost(facts, units * unit, size)
    peak = training_peak(facts, units // plan.pieces * unit, size, recompute=plan.recompute)
    cut = f" in {plan.pieces} pieces" if plan.pieces > 1 else ""
    again = ", activations computed again" if plan.recompute else ""
    tight = "; more than the memory budget" if budget is not None and peak > budget else ""
    operations = cost.forward_flops * (1 + BACKWARD + plan.recompute)
    return Estimate(
        f"{spec.steps} steps of {units * unit} slices{cut}{again}; {cost.parameters / 1e6:.1f} M parameters{tight}",
        spec.steps,
        spec.steps * operations / network_flops(config.runtime.device),
        peak / 2**30,
    )


def choosing_informed(load: Load) -> Estimate:
    """Donors' slices are picked; generated ones are drawn, one after the other in batches."""
    config = load.config
    if not config.condition.informed:
        return Estimate("none: the system has no informed slice", seconds=1.0 * config.factor)
    mode = mode_of(config, load.patients)
    work = f"{load.volumes} slices ({mode})"
    if mode == "cross":
        return Estimate(work, seconds=1.0 * config.factor, memory_gib=_held(load))
    spec = config.informed.sample
    cost = _cost(load, "position", config.position_unet, spec.batch)
    calls = -(-load.volumes // spec.batch) * spec.steps
    seconds = load.volumes / spec.batch * spec.steps * cost.forward_flops / network_flops(config.runtime.device)
    return Estimate(work, calls, seconds, _inference(cost, 1))


def resampling(load: Load) -> Estimate:
    depths = [load.depths[case] for case in load.drawn_for] * len(variants(load.config))
    calls, seconds, memory = _drawing(load, depths, load.windows, writing=writing_ahead(load.config))
    return Estimate(f"{load.volumes} volumes, {load.windows} windows", calls, seconds, memory)


def _drawing(load: Load, depths: list[int], windows: int, *, writing: int = 0) -> tuple[int, float, float]:
    """Network calls, seconds and GiB of drawing so many windows, volumes of such depths together, and decoding them.

    writing: volumes that may wait to be written.
    """
    config, spec, n = load.config, load.config.resample, load.drawn_under.window
    facts, size, budget = _facts(load, config.generator, config.unet), _latent_size(config), config.runtime.memory_bytes
    batch, peak = spec.batch, None
    if budget is not None:
        factor = config.prepare.slice_size[0] // size[0]
        flying = volumes_beside(config, facts, factor, depths, device_type(config.runtime.device), writing)
        most = useful_batch(config, load.drawn_under, depths)
        batch, peak = drawing_peak(facts, _codec_shape(config), size, budget, most, flying)
    cost = _cost(load, config.generator, config.unet, n)
    steps = window_calls(spec, informed=config.condition.informed)
    operations = windows * steps * cost.forward_flops
    if config.codec.kind == "kl":
        operations += windows * n * _codec_flops(config)[1]
    seconds = operations / network_flops(config.runtime.device)
    memory = _inference(cost, batch) if peak is None else peak / 2**30
    return -(-windows // batch) * steps, seconds, memory


def _inference(cost: Cost, batch: int) -> float:
    """GiB of a process that calls a network on so many batches at once without gradients."""
    return LIBRARIES + (4 * cost.parameters + OVERHEAD * batch * cost.held_bytes) / 2**30


def evaluating(load: Load) -> Estimate:
    """Fidelity of the first repeat and of the test volumes; nnU-Net on the true data and on each dataset."""
    config = load.config
    work, seconds, calls = "the report", PICTURES, 0
    if config.evaluate.fidelity:
        windows = load.paired_windows
        test = [load.depths[case] for case in load.paired]
        calls, drawing, _ = _drawing(load, test, windows) if windows else (0, 0.0, 0.0)
        work, seconds = f"fidelity, {windows} windows", seconds + drawing + _fidelity_seconds(load)
    factors = config.evaluate.factors or range(1, config.factor + 1)
    if not config.evaluate.downstream or len(load.train) == len(load.depths):
        return Estimate(work, calls, seconds, _held(load))
    per_factor = load.volumes // max(1, config.factor)
    sizes = [len(load.train), *([per_factor] if config.evaluate.baseline else []), *(k * per_factor for k in factors)]
    judged = min(config.evaluate.fid_volumes or per_factor, per_factor)
    seconds += sum(_arm_seconds(load, cases) for cases in sizes) + _judging_seconds(load, judged)
    work += f"; nnU-Net {len(sizes)} times, {config.evaluate.arm.epochs} epochs each"
    return Estimate(work, calls, seconds, _held(load) + NNUNET_GIB + _arm_gib(load))


def _fidelity_seconds(load: Load) -> float:
    """Features in three planes of real, held-out and synthetic volumes, and FID of both sets resampled; every volume
    against every training volume."""
    config, cases, train = load.config, len(load.depths), max(1, len(load.train))
    height, width = config.prepare.slice_size
    drawn = load.volumes // max(1, config.factor)
    drawn = min(config.evaluate.fid_volumes or drawn, drawn)
    seen = (cases + drawn) / max(1, cases) * load.slices
    lines = (cases + drawn) * (height + width)  # the planes of other directions have a fixed number of slices
    pairs = (load.volumes + cases - train) * train
    features = FEATURES * (seen + lines) + RESAMPLED * 2 * len(PLANES) * config.evaluate.fid_resamples
    return features + NEAREST * pairs * load.slices / max(1, cases) * height * width


def _arm_seconds(load: Load, cases: int) -> float:
    """Preprocess, train and predict with one nnU-Net."""
    arm = load.config.evaluate.arm
    features = arm.first_features or NNUNET_FEATURES
    patch, batch = _patch(load), arm.batch_size or 2
    mean = load.train_voxels / max(1, len(load.train))
    trained = arm.epochs * arm.iterations * batch * patch * (1 + BACKWARD)
    operations = NNUNET_OPERATIONS * features**2 * trained + _predicting(load, max(load.voxels - load.train_voxels, 0))
    return ARM_START + PREPARE * mean * cases + operations / network_flops(load.config.runtime.device)


def _judging_seconds(load: Load, volumes: int) -> float:
    """Segment so many drawn volumes with a trained nnU-Net."""
    mean = load.train_voxels / max(1, len(load.train))
    return ARM_START + _predicting(load, volumes * mean) / network_flops(load.config.runtime.device)


def _predicting(load: Load, voxels: float) -> float:
    """Operations of nnU-Net's prediction."""
    arm = load.config.evaluate.arm
    features = arm.first_features or NNUNET_FEATURES
    return NNUNET_OPERATIONS * features**2 * NNUNET_TILES * (8 if arm.mirroring else 1) * voxels


def _arm_gib(load: Load) -> float:
    """GiB that nnU-Net's network keeps for its backward pass."""
    arm = load.config.evaluate.arm
    return 4 * 32 * (arm.first_features or NNUNET_FEATURES) * (arm.batch_size or 2) * _patch(load) / 2**30


def _patch(load: Load) -> int:
    """Voxels of a patch: the volumes' size, as far as the profile or the plan allows."""
    side = load.config.evaluate.arm.max_patch or NNUNET_PATCH
    shapes = list(load.shapes.values()) or [(side,) * 3]
    return prod(min(side, round(sum(sizes) / len(sizes))) for sizes in zip(*shapes, strict=True))


def _cost(load: Load, kind: NetworkKind, unet: UNetSpec, slices: int) -> Cost:
    return network_cost(_facts(load, kind, unet), slices, _latent_size(load.config))


def _facts(load: Load, kind: NetworkKind, unet: UNetSpec) -> NetworkFacts:
    condition, codec = load.drawn_under, load.config.codec
    channels = 4**codec.levels if codec.kind == "haar" else KL_CHANNELS
    mask = load.labels + 1 if condition.mask == "one_hot" else channels
    return NetworkFacts(kind, unet, channels, mask, condition)


def _latent_size(config: Config) -> tuple[int, int]:
    factor = 2**config.codec.levels if config.codec.kind == "haar" else KL_FACTOR
    height, width = config.prepare.slice_size
    return height // factor, width // factor
