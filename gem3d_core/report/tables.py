"""The report's tables from what the metrics return: names, units, directions and captions stand here once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gem3d_core.metrics.intervals import Interval, mean_interval
from gem3d_core.report.document import Cell, Column, Missing, Table

if TYPE_CHECKING:
    from gem3d_core.metrics.frechet import Fid
    from gem3d_core.metrics.overlap import CaseOverlap, Overlap
    from gem3d_core.spec.terms import Plane


MEAN = "mean of labels"
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
EMPTY_MASKS = "Empty masks by the BraTS rules: both empty Dice 100, HD95 0; one empty Dice 0, HD95 373.13 mm."
OVERLAP_COLUMNS = (Column("label"), Column("Dice", "%", "higher", 2), Column("HD95", "mm", "lower", 2))


def fid_table(arms: Mapping[str, Mapping[Plane, Fid] | Missing], *, extractor: str) -> Table:
    """FID in three planes by arm (set of synthetic volumes) against the real volumes."""
    rows: list[tuple[Cell, ...]] = []
    for name, fids in arms.items():
        if isinstance(fids, Missing):
            rows.append((name, fids, fids, fids, fids))
        else:
            counts = ", ".join(f"{fids[plane].n_synthetic} / {fids[plane].n_real}" for plane in PLANES)
            rows.append((name, *(fids[plane].interval or fids[plane].value for plane in PLANES), counts))
    measured = [name for name, fids in arms.items() if not isinstance(fids, Missing)]
    return Table(
        title="Fidelity: FID",
        caption=(
            f"Frechet distance to the real volumes on features of {extractor}, in three planes, without slices wholly "
            "outside the outline: slices of each set against those of training volumes. It depends on the extractor "
            "and on the number of slices, so compare only within a column; held-out real volumes are the yardstick. "
            "Intervals: 1.96 standard deviations over random weights of the volumes, from at most 4000 slices a "
            "plane."
        ),
        n=f"slices of each plane in the last column, of volumes evenly spaced over each set: {_listed(measured)}",
        columns=(
            Column("volumes"),
            *(Column(f"FID {plane}", better="lower", digits=2) for plane in PLANES),
            Column("slices, of the set / of training volumes"),
        ),
        rows=tuple(rows),
    )


def neighbours_table(arms: Mapping[str, Mapping[str, Interval]], *, extractor: str) -> Table:
    """KID, precision and recall by arm and plane; values by metric and plane ("KID axial")."""
    rows = []
    for name, values in arms.items():
        for plane in PLANES:
            scores = [values.get(f"{metric} {plane}") for metric in ("KID", "precision", "recall")]
            if scores[0] is not None:
                scores[0] = scores[0].times(1000)
            rows.append((name, plane, *(Missing("too few slices") if score is None else score for score in scores)))
    return Table(
        title="Fidelity: KID, precision and recall",
        caption=(
            f"On the same features of {extractor}, in three planes: kernel distance times 1000 (cubic kernel), which "
            "few slices do not bias as they do FID; share of the set's slices that lie among the training slices "
            "(precision), and of training slices that lie among the set's (recall), by the distance to the third "
            "neighbour. 1.96 standard deviations over weights of the volumes on either side; of recall, of the "
            "training volumes."
        ),
        n="slices as for FID, at most 4000 a plane",
        columns=(
            Column("volumes"),
            Column("plane"),
            Column("KID, times 1000", better="lower", digits=2),
            Column("precision", better="higher", digits=2),
            Column("recall", better="higher", digits=2),
        ),
        rows=tuple(rows),
    )


def paired_table(
    arms: Mapping[str, tuple[Sequence[float] | Missing, Sequence[float] | Missing]], *, seed: int = 0
) -> Table:
    """MS-SSIM and LPIPS by arm, one value a test volume, of volumes generated for true test masks."""
    counts = [f"{name}: {len(ms)}" for name, (ms, _) in arms.items() if not isinstance(ms, Missing)]
    return Table(
        title="Fidelity: paired test volumes",
        caption=(
            "Each test volume against the volume generated from its own mask and, where the system has an informed "
            "slice, its own slice. MS-SSIM (five scales, in [0, 1]) and LPIPS (AlexNet) on axial slices resized "
            "bilinearly to 256 on the shorter side, mean over slices per volume, "
            "then over volumes with 95% bootstrap intervals."
        ),
        n=f"volumes; {_listed(counts)}",
        columns=(Column("volumes"), Column("MS-SSIM", better="higher"), Column("LPIPS", better="lower")),
        rows=tuple((name, _mean(ms, seed), _mean(lpips, seed)) for name, (ms, lpips) in arms.items()),
    )


def continuity_table(
    arms: Mapping[str, tuple[Sequence[float | None], Mapping[Plane, Sequence[float | None]]]], *, seed: int = 0
) -> Table:
    """By arm: border ratios and smoothness ratios in each plane, one value a volume (None: it has none)."""
    one_window = Missing("every volume was generated in one window")
    constant = Missing("the real volumes do not change along this axis")
    unpaired = Missing("no real volume has the same mask")
    rows = [
        (
            name,
            _mean(_known(borders), seed, one_window),
            *(_mean(_known(smoothness[plane]), seed, constant if smoothness[plane] else unpaired) for plane in PLANES),
        )
        for name, (borders, smoothness) in arms.items()
    ]
    volumes = [
        f"{name}: {max(map(len, [borders, *smoothness.values()]))}" for name, (borders, smoothness) in arms.items()
    ]
    return Table(
        title="Continuity",
        caption=(
            "Border: mean absolute difference of axial neighbours that different windows generated, over that of "
            "neighbours inside one window. Smoothness: mean slice-to-slice difference over the real volume's at "
            "the same indices (above 1: stripes or noise, below 1: blur). Means over the volumes of the first repeat "
            "with 95% bootstrap intervals."
        ),
        n=f"volumes; {_listed(volumes)}",
        columns=(
            Column("volumes"),
            Column("border", better="near 1"),
            *(Column(f"smoothness {plane}", better="near 1") for plane in PLANES),
        ),
        rows=tuple(rows),
    )


def downstream_table(arms: Mapping[str, Sequence[CaseOverlap] | Missing], *, seed: int = 0) -> Table:
    """nnU-Net trained on each arm and scored on the same true test cases: per label, and their mean."""
    return Table(
        title="Downstream segmentation",
        caption=(
            "nnU-Net with one plan for all arms, tested on the true test split; means over cases with 95% bootstrap "
            f"intervals. {EMPTY_MASKS}"
        ),
        n=f"test cases; {_overlap_counts(arms)}",
        columns=(Column("trained on"), *OVERLAP_COLUMNS),
        rows=_overlap_rows(arms, seed),
    )


def agreement_table(sets: Mapping[str, Sequence[CaseOverlap] | Missing], *, seed: int = 0) -> Table:
    """nnU-Net trained on the true data and scored on each set of volumes against the masks that these belong to."""
    return Table(
        title="Mask agreement",
        caption=(
            "nnU-Net trained on the true data segments drawn volumes; between what it finds and the mask that a volume "
            "was drawn for: means over volumes with 95% bootstrap intervals. Real test volumes, against their own "
            "masks, are the yardstick; those masks are new to it, while it was trained on the ones that volumes are "
            f"drawn for: values above the yardstick do not mean better than real. {EMPTY_MASKS}"
        ),
        n=f"volumes; {_overlap_counts(sets)}",
        columns=(Column("volumes"), *OVERLAP_COLUMNS),
        rows=_overlap_rows(sets, seed),
    )


def _overlap_rows(arms: Mapping[str, Sequence[CaseOverlap] | Missing], seed: int) -> tuple[tuple[Cell, ...], ...]:
    """A row for each label of each arm, and for their mean."""
    measured = [case for cases in arms.values() if not isinstance(cases, Missing) for case in cases]
    labels = list(dict.fromkeys(label for case in measured for label in case.labels))
    rows: list[tuple[Cell, ...]] = []
    for name, cases in arms.items():
        for label in [*labels, MEAN]:
            if isinstance(cases, Missing):
                rows.append((name, label, cases, cases))
                continue
            scores = [_label_score(case, label) for case in cases]
            dice = _mean([100 * score.dice for score in scores], seed)
            rows.append((name, label, dice, _mean([score.hd95 for score in scores], seed)))
    return tuple(rows)


def _overlap_counts(arms: Mapping[str, Sequence[CaseOverlap] | Missing]) -> str:
    return _listed([f"{name}: {len(cases)}" for name, cases in arms.items() if not isinstance(cases, Missing)])


def privacy_table(
    synthetic: Sequence[float] | Missing, held_out: Sequence[float] | Missing, *, training: int, seed: int = 0
) -> Table:
    """Distances to the nearest of `training` volumes: of synthetic volumes and of held-out real ones."""
    groups = {"synthetic": synthetic, "held-out real": held_out}
    counts = [f"{name}: {len(values)}" for name, values in groups.items() if not isinstance(values, Missing)]
    rows: list[tuple[Cell, ...]] = []
    for name, values in groups.items():
        mean = _mean(values, seed)
        known = values if isinstance(mean, Interval) and not isinstance(values, Missing) else None
        nearest: Cell = float(min(known)) if known else Missing("see the mean")
        rows.append((name, mean, nearest))
    return Table(
        title="Privacy",
        caption=(
            "Root mean squared difference of a volume to its nearest training volume, on a common grid and images "
            "in [-1, 1]; mean with a 95% bootstrap interval, and the smallest. Synthetic volumes much nearer than "
            "held-out real ones would point to memorised patients. All repeats."
        ),
        n=f"volumes; {_listed(counts)}; training volumes: {training}",
        columns=(Column("volumes"), Column("mean distance", "RMSE"), Column("smallest distance", "RMSE")),
        rows=tuple(rows),
    )


def _mean(values: Sequence[float] | Missing, seed: int, without: Missing | None = None) -> Cell:
    if isinstance(values, Missing):
        return values
    if not len(values):
        return without or Missing("no case was measured")
    broken = sum(not math.isfinite(value) for value in values)
    return Missing(f"{broken} of {len(values)} values are not finite") if broken else mean_interval(values, seed=seed)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _label_score(case: CaseOverlap, label: str) -> Overlap:
    return case.mean if label == MEAN else case.labels[label]


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items) if items else "none"
