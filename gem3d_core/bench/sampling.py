"""Re-sampling beside Algorithm 1 to the letter: the same weights, masks, informed slices and noise."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
from torch import Tensor

from gem3d_core.bench.effort import watched
from gem3d_core.metrics.intervals import Interval, mean_interval
from gem3d_core.reference import STEPS, Algorithm1, draw_reference
from gem3d_core.report import Cell, Column, Missing, Table
from gem3d_core.resampling import Recipe, VolumeModel, draw_volumes
from gem3d_core.settings import SampleSpec

Quality = Literal["ms_ssim", "lpips"]
Score = Callable[[str, np.ndarray], tuple[float, float | None]]
"""MS-SSIM and LPIPS (None: not available) of a volume, by name and slices (Z, H, W) in [-1, 1], to the true one."""
WORSE: Mapping[Quality, int] = {"ms_ssim": -1, "lpips": 1}
"""Sign of a change for the worse."""


@dataclass(frozen=True)
class Method:
    """A way to draw volumes: Algorithm 1 to the letter, or the fast path."""

    spec: SampleSpec
    literal: bool = False

    @property
    def name(self) -> str:
        """Tells methods of one comparison apart; fit for a file's name."""
        kind = "reference" if self.literal else "ours"
        spec = self.spec
        return f"{kind}-{spec.solver}-{spec.steps}-eta{spec.eta:g}-h{spec.overlap}-{spec.first_window}-x{spec.resample}"

    @property
    def calls_of_window(self) -> int:
        """Network calls that denoise one window: RePaint takes all steps but the last `resample` times."""
        return (self.spec.steps - 1) * self.spec.resample + 1


def reference_method(steps: int = STEPS) -> Method:
    """DDIM, eta 0, overlap 1, the first window at the start slice, fp32 [paper]."""
    spec = SampleSpec(solver="ddim", steps=steps, overlap=1, first_window="at_start", batch=1, precision="fp32")
    return Method(spec, literal=True)


@dataclass(frozen=True)
class Measured:
    """One volume. What it took is counted from when the one before was finished: volumes share batches, sums hold."""

    seconds: float
    windows: int
    network_calls: int
    peak_bytes: int
    ms_ssim: float
    lpips: float | None


@dataclass
class _Tally:
    windows: int = 0
    network_calls: int = 0


def measure(
    model: VolumeModel, method: Method, recipes: Callable[[], Iterable[Recipe]], score: Score
) -> Iterator[tuple[str, Measured]]:
    """Draw volumes, from reading their recipes to their slices, and say what each took and how good it is.

    A first pass of one step over as many volumes as share a batch sets the machine up and is not counted. Scoring is
    not counted either.
    """
    first = islice(recipes(), method.spec.batch)
    for _ in _draw(model, replace(method, spec=replace(method.spec, steps=1)), first, _Tally()):
        pass

    tally = _Tally()
    drawing = _draw(model, method, recipes(), tally)
    while True:
        before = replace(tally)
        drawn, effort = watched(partial(next, drawing, None), model.device)
        if drawn is None:
            return
        name, slices = drawn
        windows, calls = tally.windows - before.windows, tally.network_calls - before.network_calls
        yield name, Measured(effort.seconds, windows, calls, effort.peak_bytes, *score(name, slices.numpy()))


def _draw(model: VolumeModel, method: Method, recipes: Iterable[Recipe], tally: _Tally) -> Iterator[tuple[str, Tensor]]:
    """Names and slices of volumes as they are finished; windows and calls so far stand in the tally."""
    spec = method.spec
    if method.literal:
        algorithm = Algorithm1(model.network, model.schedule, model.device, spec.overlap, spec.steps, spec.eta)
        for recipe in recipes:
            slices = draw_reference(model, recipe, algorithm)
            tally.network_calls = algorithm.network_calls
            tally.windows = algorithm.network_calls // spec.steps
            yield recipe.name, slices
        return

    def count(windows: int) -> None:
        tally.windows += windows
        tally.network_calls += method.calls_of_window

    for drawn in draw_volumes(model, recipes, spec, count):
        yield drawn.name, drawn.slices


Results = Mapping[tuple[str, int], Measured]
"""Of one method, by case and seed."""


@dataclass(frozen=True)
class Row:
    """One method over all volumes and seeds.

    network_calls: of a volume, whose windows may share calls with those of others. flops_per_second: operations of the
    network; their share is of the machine's float32 matrix product.
    speedup: seconds of the reference over these. Losses: paired relative losses of quality against the reference,
    positive where this method is worse; a volume's mean over its seeds, with the 95% bootstrap interval over volumes.
    """

    solver: str
    steps: int
    eta: float
    overlap: int
    first_window: str
    batch: int
    precision: str
    seconds_per_volume: float
    network_calls: float
    peak_memory_gib: float
    ms_ssim: float
    lpips: float | None
    flops_per_second: float
    share_of_matrix_product: float
    speedup: float
    ms_ssim_loss: Interval | None
    lpips_loss: Interval | None


@dataclass(frozen=True)
class Speed:
    """Operations of one call of the network for one window, and of the machine's matrix product in a second."""

    window_flops: float
    matrix_flops: float


def summarise(method: Method, results: Results, reference: Results, speed: Speed) -> Row:
    """A method's row; both results are of the same cases and seeds."""
    spec, measured = method.spec, list(results.values())
    seconds = sum(m.seconds for m in measured)
    flops = sum(m.windows for m in measured) * method.calls_of_window * speed.window_flops / seconds
    return Row(
        solver=spec.solver,
        steps=spec.steps,
        eta=spec.eta,
        overlap=spec.overlap,
        first_window=spec.first_window,
        batch=spec.batch,
        precision=spec.precision,
        seconds_per_volume=seconds / len(measured),
        network_calls=sum(m.network_calls for m in measured) / len(measured),
        peak_memory_gib=max(m.peak_bytes for m in measured) / 2**30,
        ms_ssim=sum(m.ms_ssim for m in measured) / len(measured),
        lpips=_mean([m.lpips for m in measured]),
        flops_per_second=flops,
        share_of_matrix_product=flops / speed.matrix_flops,
        speedup=sum(m.seconds for m in reference.values()) / seconds,
        ms_ssim_loss=_loss(results, reference, "ms_ssim"),
        lpips_loss=_loss(results, reference, "lpips"),
    )


def _mean(values: list[float | None]) -> float | None:
    """None where one value is not available."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _loss(results: Results, reference: Results, quality: Quality) -> Interval | None:
    losses: dict[str, list[float]] = {}
    for (case, seed), measured in results.items():
        ours, theirs = getattr(measured, quality), getattr(reference[case, seed], quality)
        if ours is None or theirs is None:
            return None
        losses.setdefault(case, []).append(WORSE[quality] * (ours / theirs - 1))
    return mean_interval([sum(values) / len(values) for values in losses.values()])


@dataclass(frozen=True)
class Comparison:
    """What `gem3d bench sampling` tells. speedup is that of `ours`, the model's own sampler settings."""

    speedup: float
    reference: Row
    ours: Row
    others: tuple[Row, ...]
    """The fast path with other settings."""
    model: str
    volumes: int
    seeds: tuple[int, ...]
    device: str
    threads: int
    matrix_flops: float
    missing: Mapping[str, str]
    """What could not be measured, and why."""


def comparison_table(compared: Comparison) -> Table:
    """Quality and cost of every method on the same noise."""
    rows = [_cells("Algorithm 1: ", compared.reference)]
    rows += [_cells("", row) for row in dict.fromkeys((compared.ours, *compared.others))]
    absent = "".join(f" {name} is not available: {reason}." for name, reason in compared.missing.items())
    return Table(
        title=f"Re-sampling on {compared.device}, {compared.threads} threads",
        caption=(
            "Algorithm 1 draws one window of one volume at a time in float32, the first from the start slice on; the "
            "others lay it around the start slice, where the fewest windows follow. A slice begins with the same noise "
            "in all rows. Seconds count from reading a mask to the decoded slices. Losses are paired by volume and "
            "noise against Algorithm 1, positive where worse, with 95% bootstrap intervals over volumes. MS-SSIM (five "
            "scales) and LPIPS (AlexNet) to the true volume, on axial slices resized bilinearly to 256 on the shorter "
            "side. Memory: on a GPU all that is allocated, on a CPU above what the loaded model holds. Speed: "
            "operations of the network, and their share of this machine's float32 matrix product, "
            f"{compared.matrix_flops / 1e9:.0f} GFLOP/s.{absent}"
        ),
        n=f"{compared.volumes} test volumes, each drawn {len(compared.seeds)} times"
        if len(compared.seeds) > 1
        else f"{compared.volumes} test volumes",
        columns=(
            Column("sampler"),
            Column("calls", "per volume", digits=1),
            Column("time", "s per volume", "lower", 2),
            Column("times as fast", better="higher", digits=1),
            Column("MS-SSIM", better="higher", digits=4),
            Column("its loss", "%", "lower", 2),
            Column("LPIPS", better="lower", digits=4),
            Column("its loss", "%", "lower", 2),
            Column("memory", "MiB", "lower", 0),
            Column("speed", "GFLOP/s", "higher", 1),
            Column("share", "%", "higher", 0),
        ),
        rows=tuple(rows),
    )


def _cells(prefix: str, row: Row) -> tuple[Cell, ...]:
    eta = f", eta {row.eta:g}" if row.solver == "ddim" else ""
    cells = (
        f"{prefix}{row.solver}, {row.steps} steps{eta}, overlap {row.overlap}, batch {row.batch}, {row.precision}",
        row.network_calls,
        row.seconds_per_volume,
        row.speedup,
        row.ms_ssim,
        _percent(row.ms_ssim_loss),
        row.lpips,
        _percent(row.lpips_loss),
        row.peak_memory_gib * 2**10,
        row.flops_per_second / 1e9,
        100 * row.share_of_matrix_product,
    )
    absent = Missing("see above")
    return tuple(absent if cell is None else cell for cell in cells)


def _percent(share: Interval | None) -> Interval | None:
    if share is None:
        return None
    low, high = (None if bound is None else 100 * bound for bound in (share.low, share.high))
    return Interval(100 * share.mean, low, high, share.n)
