"""What a memory budget gives each profile: docs/results/memory.{md,json}.

Example: python benchmarks/memory.py

Computed on torch's meta device, except that the profile hippocampus-cpu at 4 GiB is also run on this machine's CPU.
About two minutes on two cores.
"""

import multiprocessing
import resource
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from provenance import keep
from random_model import random_model, random_recipes
from safetensors.torch import save_file

from configs import Config, load
from gem3d_core.budget.costs import TrainingPlan, drawing_peak, plan_training, training_peak, training_units
from gem3d_core.codec.kl import PAPER_LAYERS, PAPER_WIDTHS
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.networks.files import build
from gem3d_core.report.document import Cell, Column, Table
from gem3d_core.report.markdown import markdown
from gem3d_core.sampling.volumes import draw_volumes
from gem3d_core.spec.method import NetworkFacts, NetworkKind, TrainSpec
from gem3d_core.training.batches import LatentCase
from gem3d_core.training.models import Training, train_model

GIB = 2**30
PRESETS = {"hippocampus-cpu": (4,), "hippocampus-gpu": (8, 16, 24, 80), "brats-paper": (8, 16, 24, 80)}
"""GiB: of the machine's memory for a profile of the CPU, of a GPU's for the others."""
LABELS = 3
STEPS = 3
"""Of the trainings whose memory is measured."""


@dataclass(frozen=True)
class Row:
    """One profile within one budget (GiB); peaks in bytes of the whole process."""

    profile: str
    budget: int
    windows: int
    sampling_peak: float
    slices: TrainingPlan
    slices_peak: float
    volume: TrainingPlan
    volume_peak: float
    measured_peak: int | None = None
    slices_measured: int | None = None
    volume_measured: int | None = None


def main() -> None:
    """Compute every row, measure one, then write the table and the numbers."""
    rows = [computed(profile, budget) for profile, budgets in PRESETS.items() for budget in budgets]
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        drawing = alone.apply(measured, (rows[0].profile, rows[0].windows))
    trained = {}
    for kind in ("slice", "volume"):
        with multiprocessing.get_context("spawn").Pool(1) as alone:  # a peak is a process's own
            trained[kind] = alone.apply(measured_training, (rows[0].profile, kind))
    rows[0] = replace(
        rows[0], measured_peak=drawing, slices_measured=trained["slice"], volume_measured=trained["volume"]
    )
    sections = ["# Memory budgets", markdown(_table(rows))]
    keep("memory", "python benchmarks/memory.py", sections, {"rows": [asdict(row) for row in rows]})


def computed(profile: str, budget: int) -> Row:
    """What `--memory` chooses, and what that should take."""
    config = load(profile)
    codec = (PAPER_WIDTHS, PAPER_LAYERS) if config.codec.kind == "kl" else None
    windows, peak = drawing_peak(_facts(config, "volume"), codec, _latent_size(config), budget * GIB)
    slices = _training(config, "slice", config.train_slices, budget)
    volume = _training(config, "volume", config.tune_volume, budget)
    return Row(profile, budget, windows, peak, *slices, *volume)


def _training(config: Config, kind: NetworkKind, spec: TrainSpec, budget: int) -> tuple[TrainingPlan, float]:
    facts, size = _facts(config, kind), _latent_size(config)
    units, slices = training_units(facts, spec)
    plan = plan_training(facts, units, slices, size, budget * GIB)
    return plan, training_peak(facts, units // plan.pieces * slices, size, recompute=plan.recompute)


def _facts(config: Config, kind: NetworkKind) -> NetworkFacts:
    channels = 4**config.codec.levels if config.codec.kind == "haar" else 4
    mask = LABELS + 1 if config.condition.mask == "one_hot" else channels
    return NetworkFacts(kind, config.unet, channels, mask, config.condition)


def _latent_size(config: Config) -> tuple[int, int]:
    factor = 2**config.codec.levels if config.codec.kind == "haar" else 8
    height, width = config.prepare.slice_size
    return height // factor, width // factor


def measured(profile: str, windows: int) -> int:
    """The most that this process holds, having drawn as many windows at once as were computed."""
    config = load(profile)
    size, spec = config.prepare.slice_size, replace(config.resample, batch=windows, steps=2)
    recipes = random_recipes(config.condition.window, windows, size, LABELS)
    for _ in draw_volumes(random_model(config, size, LABELS), recipes, spec):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_training(profile: str, kind: NetworkKind) -> int:
    """The most that this process holds while it makes a few training steps on random latents."""
    config = load(profile)
    spec = replace(config.train_slices if kind == "slice" else config.tune_volume, steps=STEPS)
    facts, size, window = _facts(config, kind), _latent_size(config), config.condition.window
    rng = torch.Generator().manual_seed(0)
    cases = [
        LatentCase(
            str(k),
            torch.randn(2 * window, facts.latent_channels, *size, generator=rng),
            torch.randn(2 * window, facts.mask_channels, *size, generator=rng),
            2 * window,
        )
        for k in range(4)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        weights, cpu = Path(scratch, "slices.safetensors"), torch.device("cpu")
        save_file({name: t.contiguous() for name, t in build(_facts(config, "slice"), 0).state_dict().items()}, weights)
        schedule, alike = make_schedule(config.diffusion), torch.ones(facts.latent_channels)
        plan = Training(cases, schedule, spec, 0, Path(scratch), cpu, lambda _step, _loss: None, alike)
        train_model(facts, plan, weights if kind == "volume" else None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _table(rows: list[Row]) -> Table:
    return Table(
        title="What `--memory` chooses",
        caption=(
            "Computed on torch's meta device in float32, with an allowance for kernels and libraries: windows drawn "
            "at once; pieces of a training batch (r: activations are computed again in the backward pass). Attention "
            "is counted as if it kept its matrices, which fused kernels do not. Peaks are of a whole process, with a "
            "KL codec that decodes meanwhile; without the volumes in flight, which take from a CPU's budget too. "
            "Measured: processes on the CPU that draw so many windows at once or make a few training steps; no GPU was "
            "measured. Where a peak is marked as above its budget, one window, or one slice of a batch, is all that is "
            "left to try: by this count it does not fit."
        ),
        n="computed",
        columns=(
            Column("profile"), Column("budget", "GiB", digits=0), Column("windows at once", digits=0),
            Column("computed peak", "GiB"), Column("measured", "GiB"),
            Column("train-slices, pieces"), Column("computed peak", "GiB"), Column("measured", "GiB"),
            Column("tune-volume, pieces"), Column("computed peak", "GiB"), Column("measured", "GiB"),
        ),
        rows=tuple(_cells(row) for row in rows),
    )  # fmt: skip


def _cells(row: Row) -> tuple[Cell, ...]:
    def beside_budget(peak: float) -> str:
        return f"{peak / GIB:.1f}{' (above)' if peak > row.budget * GIB else ''}"

    def seen(peak: int | None) -> str:
        return "-" if peak is None else f"{peak / GIB:.1f}"

    return (
        row.profile, row.budget, row.windows, beside_budget(row.sampling_peak), seen(row.measured_peak),
        _told(row.slices), beside_budget(row.slices_peak), seen(row.slices_measured),
        _told(row.volume), beside_budget(row.volume_peak), seen(row.volume_measured),
    )  # fmt: skip


def _told(plan: TrainingPlan) -> str:
    return f"{plan.pieces}{' r' if plan.recompute else ''}"


if __name__ == "__main__":
    main()
