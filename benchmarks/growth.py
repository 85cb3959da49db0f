"""Seconds and memory of re-sampling against slices, volumes and in-plane size: docs/results/growth.{md,json,png}.

Example: python benchmarks/growth.py

The network is that of the profile hippocampus-cpu with random weights, at five steps: how long a step takes does not
depend on the weights. Every point is measured in a process of its own. About ten minutes on two cores.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from matplotlib.figure import Figure
from provenance import RESULTS, keep
from random_model import random_model, random_recipes

from configs import load
from gem3d_core.bench.effort import watched
from gem3d_core.report.document import Column, Table
from gem3d_core.report.markdown import markdown
from gem3d_core.sampling.batched import count_windows
from gem3d_core.sampling.volumes import Recipe, VolumeModel, draw_volumes, volume_bytes
from gem3d_core.spec.method import SampleSpec

STEPS = 5


@dataclass(frozen=True)
class Point:
    """So many volumes of Z slices of (H, W), and what drawing them took.

    held: bytes of the volumes in flight (slices, latents, conditions), which must grow with them; other: all else
    above what the loaded model holds.
    """

    axis: str
    Z: int
    volumes: int
    size: int
    windows: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    held_bytes: int = 0

    @property
    def other_bytes(self) -> int:
        """What should not depend on Z and on the number of volumes."""
        return max(0, self.peak_bytes - self.held_bytes)


POINTS = [
    *(Point("slices", Z, 1, 64) for Z in (32, 64, 128, 256, 512)),
    *(Point("volumes", 32, volumes, 64) for volumes in (1, 4, 16, 64)),
    *(Point("in-plane size", 32, 1, size) for size in (32, 64, 96, 128, 192)),
]


def main() -> None:
    """Measure every point, then write table, numbers and picture."""
    context = multiprocessing.get_context("spawn")
    measured = []
    for point in POINTS:
        with context.Pool(1) as pool:
            measured.append(pool.apply(measure, (point,)))
        sys.stderr.write(f"{measured[-1]}\n")
    sections = ["# Growth", markdown(_table(measured)), "![Growth](growth.png)"]
    points = [{**asdict(p), "other_bytes": p.other_bytes} for p in measured]
    keep("growth", "python benchmarks/growth.py", sections, {"points": points})
    _plot(measured)


def measure(point: Point) -> Point:
    """Draw the point's volumes, after one window that sets the machine up."""
    config = load("hippocampus-cpu")
    size = (point.size, point.size)
    model, spec = random_model(config, size), replace(config.resample, steps=STEPS, precision="fp32")
    _drain(model, random_recipes(config.condition.window, 1, size), spec)
    _, effort = watched(lambda: _drain(model, random_recipes(point.Z, point.volumes, size), spec), model.device)
    windows = point.volumes * count_windows([point.Z], config.condition, spec)
    flying = min(point.volumes, spec.batch)
    held = flying * volume_bytes(model.network.facts, model.codec.factor, (point.Z, *size))
    return replace(point, windows=windows, seconds=effort.seconds, peak_bytes=effort.peak_bytes, held_bytes=held)


def _drain(model: VolumeModel, recipes: Iterator[Recipe], spec: SampleSpec) -> None:
    for _ in draw_volumes(model, recipes, spec):
        pass


def _table(points: list[Point]) -> Table:
    return Table(
        title="Re-sampling against what is asked of it",
        caption=(
            f"Random weights of the profile hippocampus-cpu, {STEPS} steps of DPM-Solver++, float32, up to eight "
            "windows in a call. Memory: peak above what the loaded model holds; of the volumes in flight: their "
            "slices, masks, latents and conditions; other: the difference, mostly activations."
        ),
        n="one run of each point",
        columns=(
            Column("varied"), Column("slices", digits=0), Column("volumes", digits=0),
            Column("size", "pixels", digits=0),
            Column("windows", digits=0), Column("time", "s", "lower", 2), Column("time", "s per window", "lower", 3),
            Column("peak memory", "MiB", "lower", 0), Column("of the volumes", "MiB", digits=0),
            Column("other", "MiB", "lower", 0),
        ),
        rows=tuple(
            (p.axis, p.Z, p.volumes, p.size, p.windows, p.seconds, p.seconds / p.windows, p.peak_bytes / 2**20,
             p.held_bytes / 2**20, p.other_bytes / 2**20)
            for p in points
        ),
    )  # fmt: skip


def _plot(points: list[Point]) -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for panel, (axis, of) in zip(
        figure.subplots(1, 3),
        {"slices": "Z", "volumes": "volumes", "in-plane size": "size"}.items(),
        strict=True,
    ):
        chosen = [p for p in points if p.axis == axis]
        x = [getattr(p, of) ** (2 if of == "size" else 1) for p in chosen]
        panel.plot(x, [p.seconds for p in chosen], "o-", color="tab:blue", label="seconds")
        memory = panel.twinx()
        memory.plot(x, [p.peak_bytes / 2**20 for p in chosen], "s--", color="tab:orange", label="peak memory")
        memory.plot(x, [p.other_bytes / 2**20 for p in chosen], "^:", color="tab:green", label="without the volumes")
        panel.set(xlabel="pixels of a slice" if of == "size" else axis, ylim=(0, None))
        panel.set_ylabel("seconds", color="tab:blue")
        memory.set(ylabel="MiB", ylim=(0, None))
        memory.legend(loc="lower right", fontsize=7)
    figure.savefig(RESULTS / "growth.png", dpi=110)


if __name__ == "__main__":
    main()
