"""Tables 1 to 3 and the ablations as the paper lays them out, with its own figures beside what was measured here.

A row is a system; every row was trained on the same data within the same budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gem3d_core.metrics.intervals import mean_interval
from gem3d_core.report.document import Cell, Column, Missing, Table
from gem3d_core.spec.terms import PLANES
from gem3d_core.study.rows import ByCase, Cost, System, in_table

NO_PAPER = "-"
IN_TABLE_3 = "BraTS"
"""The one dataset of the paper's Table 3."""
CONTINUITY = (
    Column("border", better="near 1", digits=2),
    *(Column(f"smoothness {plane}", better="near 1", digits=2) for plane in PLANES),
)


MADE_HERE = (
    "All systems were trained and drawn on the same machine. Seconds a volume: of drawing for the training masks, "
    "restoring and writing included."
)


def budget_table(systems: Sequence[System], told: str = MADE_HERE) -> Table:
    """What each system cost. told: where it was made, and what its seconds hold."""
    return Table(
        title="Budget",
        caption=(
            "All systems learn from the same training cases. Steps are as many for all, but fewer where the profile "
            "says that a system's take longer (tables.slower; 3D networks: tables.whole), so that all learn for about "
            "as long (the minutes say how nearly); without volumetric tuning there is the slice model alone. They are "
            "those of the slice model and its tuning, or of the 3D network; last, on top, where slices are generated, "
            "of the position-conditioned model. The paper draws by DDIM in 200 steps; its systems are drawn faster "
            "here but for one row, whose model is that of the row as in the paper. A model that several rows share was "
            "trained once and its minutes stand in each. Parameters: of the network that draws volumes, without codec, "
            "image encoder and position-conditioned model. Volumes that were rejected, or whose edit was given up, are "
            f"in no score. {told}"
        ),
        n="one training each",
        columns=(
            Column("system"),
            Column("parameters", "M", digits=2),
            Column("training steps"),
            Column("training", "min", digits=1),
            Column("drawn with"),
            Column("drawing", "s a volume", "lower", 2),
            Column("volumes asked for, left out"),
        ),
        rows=tuple((system.title, *_budget_cells(system.cost)) for system in systems if system.cost),
    )


def _budget_cells(cost: Cost) -> tuple[Cell, ...]:
    minutes, volumes = cost.training_seconds / 60, f"{cost.volumes + cost.rejected}, {cost.rejected}"
    return cost.parameters / 1e6, cost.steps, minutes, cost.sampler, cost.seconds_per_volume, volumes


def fid_table(systems: Sequence[System], extractor: str, real: System | None = None) -> Table:
    """Table 1: FID of volumes for training masks; last `real`, the held-out volumes as a yardstick."""
    rows = in_table(systems, "1")
    datasets = _datasets(rows)
    behind = sorted({s.fid["axial"].n_real for s in rows if "axial" in s.fid})
    real_slices = f"{' or '.join(map(str, behind))} axial slices of them" if behind else "no slices"
    yardstick = [] if real is None else [(real.title, *_fid_cells(real), *[NO_PAPER] * len(datasets))]
    return Table(
        title="Table 1: FID on training masks",
        caption=(
            f"Frechet distance of drawn to real training volumes in three planes, on features of {extractor} (the "
            "paper: RadImageNet's ResNet-50, and far more slices, so that numbers compare within a column only); "
            f"1.96 standard deviations over {_resamples(rows)} of the drawn volumes, the real ones as they are, on "
            f"either side (of at most 4000 slices a plane). The real ones: {real_slices}; the fewer, the larger "
            "every FID. They are training cases, as the drawn masks are; the held-out volumes' masks are others. IG, "
            "IC: informed slice generated, or another patient's; MA: augmented masks. Right: the paper's own figures, "
            "axial / coronal / sagittal."
        ),
        n=_counts(rows, lambda s: s.scored, "volumes"),
        columns=(
            Column("system"),
            *(Column(f"FID {plane}", better="lower", digits=2) for plane in PLANES),
            *(Column(f"paper, {name}", better="lower") for name in datasets),
        ),
        rows=(
            *((s.titled("1"), *_fid_cells(s), *(_paper_fid(s, name) for name in datasets)) for s in rows),
            *yardstick,
        ),
    )


def unbiased_table(systems: Sequence[System], real: System | None = None) -> Table:
    """What stands beside FID because few slices bias it: KID, precision and recall; and mask agreement.

    real: the held-out volumes, as a yardstick.
    """
    return Table(
        title="KID, precision, recall and mask agreement",
        caption=(
            "On the features and slices of Table 1: kernel distance times 1000, share of drawn slices among the real "
            "ones (precision), of real among the drawn ones (recall), with 1.96 standard deviations over weights of "
            "the drawn volumes (of recall: the real ones) on either side. Mask agreement: "
            "Dice in % between the mask that a volume was drawn for and what nnU-Net, trained on the true data, "
            "finds in it, with 95% bootstrap intervals over volumes. It was trained on the same masks, with their real "
            "images, and the held-out volumes' masks are new to it: values above theirs do not mean better than real. "
            "Where cross-attention's image encoder is an EfficientNet-Lite0 and these features are too, it is judged "
            "by what it was shown."
        ),
        n=_counts(systems, lambda s: s.scored, "volumes"),
        columns=(
            Column("system"),
            *(Column(f"KID {plane}, times 1000", better="lower", digits=1) for plane in PLANES),
            *(
                Column(f"{name} {plane}", better="higher", digits=2)
                for name in ("precision", "recall")
                for plane in PLANES
            ),
            Column("mask agreement", "%", "higher", 1),
        ),
        rows=tuple((s.title, *_neighbours(s), _percent(s)) for s in (*systems, *([real] if real else []))),
    )


def continuity_table(systems: Sequence[System]) -> Table:
    """Whether slices follow on each other, of every system: the two continuity measures."""
    return Table(
        title="Continuity",
        caption=(
            "Border: difference of axial neighbours that different windows drew, over that of neighbours inside one "
            "window (above 1: jumps); of a real volume, at so few places, it is near 1 and not 1. Smoothness: "
            "slice-to-slice difference over the real volume's (above 1: stripes or noise, below 1: blur). Both of the "
            "volumes for training masks, with 95% bootstrap intervals over volumes."
        ),
        n=_counts(systems, lambda s: max((len(s.border), *map(len, s.smoothness.values()))), "volumes"),
        columns=(Column("system"), *CONTINUITY),
        rows=tuple((system.title, _border(system), *_smoothness(system)) for system in systems),
    )


def paired_table(systems: Sequence[System], table: str, title: str) -> Table:
    """Table 2 or 3: MS-SSIM and LPIPS of volumes for test masks."""
    rows = in_table(systems, table)
    datasets = [name for name in _datasets(rows) if table != "3" or name == IN_TABLE_3]
    return Table(
        title=title,
        caption=(
            "Each test volume against the one drawn for its own mask and, where the system has an informed slice, "
            "its own middle slice. MS-SSIM (five scales, in [0, 1]) and LPIPS (AlexNet) on axial slices resized "
            "bilinearly to 256 on the shorter side; 95% bootstrap intervals over test cases. "
            "Right: the paper's own figures, "
            "MS-SSIM / LPIPS."
        ),
        n=_counts(rows, _paired_cases, "test volumes"),
        columns=(
            Column("system"),
            Column("MS-SSIM", better="higher"),
            Column("LPIPS", better="lower"),
            *(Column(f"paper, {name}") for name in datasets),
        ),
        rows=tuple((s.titled(table), *_paired_cells(s), *(_paper_paired(s, name) for name in datasets)) for s in rows),
    )


def whole_table(systems: Sequence[System], table: str, title: str, told: str) -> Table:
    """All measures of the rows of one table: the ablations, or what each of our changes brings.

    A row that stands beside one that is not among them says so: it differs from the row above it in more.
    """
    rows = in_table(systems, table)
    names = {None, *(system.name for system in rows)}

    def title_of(system: System) -> str:
        alone = "" if system.beside in names else f" (on top of {system.beside}, which was not measured)"
        return f"{system.titled(table)}{alone}"

    return Table(
        title=title,
        caption=f"{told} FID, MS-SSIM and LPIPS as in Tables 1 and 2, border and smoothness as under Continuity.",
        n=f"{_counts(rows, lambda s: s.scored, 'volumes')} for FID, {_counts(rows, _paired_cases, 'test volumes')}",
        columns=(
            Column("system"),
            *(Column(f"FID {plane}", better="lower", digits=1) for plane in PLANES),
            Column("MS-SSIM", better="higher"),
            Column("LPIPS", better="lower"),
            *CONTINUITY,
        ),
        rows=tuple((title_of(s), *_fid_cells(s), *_paired_cells(s), _border(s), *_smoothness(s)) for s in rows),
    )


def _resamples(systems: Sequence[System]) -> str:
    """How many weightings FID's intervals come from."""
    numbers = sorted({len(values) for system in systems for values in system.replicates.values()})
    return f"{' or '.join(map(str, numbers))} random weightings" if numbers else "random weightings"


def _paired_cases(system: System) -> int:
    return len(system.ms_ssim)


def _datasets(systems: Sequence[System]) -> list[str]:
    """Those that the paper reports for any of the rows."""
    return list(dict.fromkeys(name for system in systems for name in system.paper))


def _fid_cells(system: System) -> list[Cell]:
    without = _missing(system, "FID")
    return [
        without if plane not in system.fid else system.fid[plane].interval or system.fid[plane].value
        for plane in PLANES
    ]


def _paired_cells(system: System) -> list[Cell]:
    return [_mean(system.ms_ssim, _missing(system, "MS-SSIM")), _mean(system.lpips, _missing(system, "LPIPS"))]


def _percent(system: System) -> Cell:
    percent = {name: 100 * value for name, value in system.agreement.items()}
    return _mean(percent, _missing(system, "mask agreement"))


def _border(system: System) -> Cell:
    return _mean(system.border, Missing("every volume was drawn in one window"))


def _smoothness(system: System) -> list[Cell]:
    """In three planes; an edited mask has no real volume."""
    without = Missing("no real volume has the same mask, or it does not change along this axis")
    return [_mean(system.smoothness.get(plane, {}), without) for plane in PLANES]


def _neighbours(system: System) -> list[Cell]:
    cells: list[Cell] = []
    for metric, factor in (("KID", 1000), ("precision", 1), ("recall", 1)):
        for plane in PLANES:
            found = system.neighbours.get(f"{metric} {plane}")
            cells.append(found.times(factor) if found else _missing(system, "FID"))
    return cells


def _paper_fid(system: System, dataset: str) -> Cell:
    reported = system.paper.get(dataset)
    return " / ".join(f"{value:.2f}" for value in reported.fid) if reported and reported.fid else NO_PAPER


def _paper_paired(system: System, dataset: str) -> Cell:
    reported = system.paper.get(dataset)
    return " / ".join(f"{value:.3f}" for value in reported.paired) if reported and reported.paired else NO_PAPER


def _mean(values: ByCase, without: Missing) -> Cell:
    return mean_interval(list(values.values())) if values else without


def _missing(system: System, measure: str) -> Missing:
    return Missing(system.missing.get(measure, "too few slices or volumes"))


def _counts(systems: Sequence[System], count: Callable[[System], int], of: str) -> str:
    numbers = sorted({count(system) for system in systems})
    return f"{' or '.join(map(str, numbers))} {of} of each system" if numbers else "no system"
