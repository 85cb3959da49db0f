"""Re-sampling beside Algorithm 1: the same weights, masks, informed slices and noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gem3d_core.bench.sampling import Method, Results
from gem3d_core.diffusion.denoise import window_calls
from gem3d_core.metrics.intervals import Interval, mean_interval
from gem3d_core.report.document import Cell, Column, Missing, Table

Quality = Literal["ms_ssim", "lpips"]
WORSE: Mapping[Quality, int] = {"ms_ssim": -1, "lpips": 1}
"""Sign of a change for the worse."""


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
    border: float | None = None
    """Difference of neighbouring slices at borders of windows over that inside; none: no border, or not measured."""
    smoothness: float | None = None
    """Difference of neighbouring slices over that of the true volumes; none: not measured."""
    compiled: bool = False


@dataclass(frozen=True)
class Yardstick:
    """Algorithm 1: its seconds of a volume, and the quality of its volumes."""

    seconds_per_volume: float
    quality: Results


def yardstick(literal: Results, by_the_fast_path: Results) -> Yardstick:
    """The yardstick: volumes sampled to the letter and, where these are not all, the others by the fast path."""
    seconds = sum(m.seconds for m in literal.values()) / len(literal)
    return Yardstick(seconds, {**by_the_fast_path, **literal})


def largest_difference(one: Results, other: Results) -> float:
    """In MS-SSIM or LPIPS, over the volumes that were drawn both ways."""
    both = [(one[key], other[key]) for key in one.keys() & other.keys()]
    scores = [(a.scores, b.scores) for a, b in both]
    pairs = [(a.ms_ssim, b.ms_ssim) for a, b in scores] + [(a.lpips or 0.0, b.lpips or 0.0) for a, b in scores]
    return max(abs(a - b) for a, b in pairs)


@dataclass(frozen=True)
class Speed:
    """Operations of one call of the network for one window, and of the machine's matrix product in a second."""

    window_flops: float
    matrix_flops: float
    informed: bool
    """Whether the network sees an informed slice."""


def summarise(method: Method, timed: Results, reference: Yardstick, speed: Speed, drawn: Results | None = None) -> Row:
    """A method's row. drawn: whose quality counts, of the cases and seeds of the reference; else what was timed."""
    spec, measured = method.spec, list(timed.values())
    results = drawn or timed
    scores = [one.scores for one in results.values()]
    seconds = sum(m.seconds for m in measured)
    calls = sum(m.windows for m in measured) * window_calls(spec, informed=speed.informed)
    flops = calls * speed.window_flops / seconds
    return Row(
        solver=spec.solver,
        steps=spec.steps,
        eta=spec.eta,
        overlap=spec.overlap,
        first_window=spec.first_window,
        batch=spec.batch,
        precision=spec.precision,
        compiled=method.compiled,
        seconds_per_volume=seconds / len(measured),
        network_calls=sum(m.network_calls for m in measured) / len(measured),
        peak_memory_gib=max(m.peak_bytes for m in measured) / 2**30,
        ms_ssim=sum(s.ms_ssim for s in scores) / len(scores),
        lpips=_mean([s.lpips for s in scores]),
        border=_mean([s.border for s in scores if s.border is not None] or [None]),
        smoothness=sum(s.smoothness for s in scores) / len(scores),
        flops_per_second=flops,
        share_of_matrix_product=flops / speed.matrix_flops,
        speedup=reference.seconds_per_volume * len(measured) / seconds,
        ms_ssim_loss=_loss(results, reference.quality, "ms_ssim"),
        lpips_loss=_loss(results, reference.quality, "lpips"),
    )


def _mean(values: list[float | None]) -> float | None:
    """None where one value is not available."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _loss(results: Results, reference: Results, quality: Quality) -> Interval | None:
    losses: dict[str, list[float]] = {}
    for (case, seed), measured in results.items():
        ours, theirs = getattr(measured.scores, quality), getattr(reference[case, seed].scores, quality)
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
    literal_volumes: int
    """Drawn by Algorithm 1 to the letter, and timed; the fast path drew the others at its settings."""
    difference: float | None
    """The largest in MS-SSIM or LPIPS between both ways of drawing a volume of Algorithm 1; none: all are literal."""


def comparison_table(compared: Comparison) -> Table:
    """Quality and cost of every method on the same noise."""
    rows = [_cells("Algorithm 1: ", compared.reference)]
    rows += [_cells("", row) for row in dict.fromkeys((compared.ours, *compared.others))]
    absent = "".join(f" {name} is not available: {reason}." for name, reason in compared.missing.items())
    literal = (
        ""
        if compared.difference is None
        else (
            f" Algorithm 1 was drawn to the letter, and timed, for {compared.literal_volumes} volumes; the others are "
            "those of the fast path at its settings, whose MS-SSIM and LPIPS differ by at most "
            f"{compared.difference:.1e} where both were drawn."
        )
    )
    return Table(
        title=f"Re-sampling on {compared.device}, {compared.threads} threads",
        caption=(
            "Algorithm 1 draws one window of one volume at a time in float32, the first from the start slice on; where "
            "a row says nothing it lies around the start slice, where the fewest windows follow. A slice begins with "
            "the same noise in all rows. Seconds count from reading a mask to the decoded slices. Losses are paired by "
            "volume and noise against Algorithm 1, positive where worse, with 95% bootstrap intervals over volumes. "
            "MS-SSIM (five scales, in [0, 1]) and LPIPS (AlexNet) to the true volume, on axial slices resized "
            "bilinearly to 256 on the shorter side. "
            "Border: difference of neighbouring slices where windows meet over that inside them; "
            "roughness: that of all neighbours, in three planes, over the true volume's; both are 1 at their best. "
            "Memory: on a GPU all that is allocated, on a CPU above what the loaded model holds. "
            "Speed: operations of the network, and their share of this machine's float32 matrix product, "
            f"{compared.matrix_flops / 1e9:.0f} GFLOP/s.{literal}{absent}"
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
            Column("border", digits=2),
            Column("roughness", digits=2),
            Column("memory", "MiB", "lower", 0),
            Column("speed", "GFLOP/s", "higher", 1),
            Column("share", "%", "higher", 0),
        ),
        rows=tuple(rows),
    )


def _cells(prefix: str, row: Row) -> tuple[Cell, ...]:
    eta = f", eta {row.eta:g}" if row.solver == "ddim" else ""
    windows = f"overlap {row.overlap}{', from the start slice on' if row.first_window == 'at_start' else ''}"
    arithmetic = f"{row.precision}, compiled" if row.compiled else row.precision
    cells = (
        f"{prefix}{row.solver}, {row.steps} steps{eta}, {windows}, batch {row.batch}, {arithmetic}",
        row.network_calls,
        row.seconds_per_volume,
        row.speedup,
        row.ms_ssim,
        _percent(row.ms_ssim_loss),
        row.lpips,
        _percent(row.lpips_loss),
        Missing("not measured") if row.border is None else row.border,
        Missing("not measured") if row.smoothness is None else row.smoothness,
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
