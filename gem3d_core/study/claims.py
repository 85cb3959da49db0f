"""Does what the paper found hold here? Pairs of systems, measure by measure: its order, ours, and how sure ours is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from gem3d_core.metrics.intervals import Interval, mean_interval
from gem3d_core.metrics.uncertainty import spread_interval
from gem3d_core.report.document import Cell, Column, Missing, Table
from gem3d_core.spec.terms import PLANES, Plane
from gem3d_core.study.rows import ByCase, System, in_table

REFERENCE = "paper"
"""The row that the others are compared with: GEM-3D as the paper has it, with another patient's slice."""
AIM = "our aim"
"""Source of what we set out to do; every other source is a table or figure of the paper."""
FEWEST = 6
"""Volumes or cases below which an interval decides nothing."""
Verdict = Literal["as expected", "the other way round", "no clear difference", "not decided", "not measured"]


@dataclass(frozen=True)
class Claim:
    """One system is better than another in one measure.

    source: where the paper says so, or `AIM`. margin: how much better it is here, above 0 where it is, with a 95%
    interval over the same volumes or cases of both.
    """

    source: str
    measure: str
    better: str
    worse: str
    paper: str
    """The paper's two figures, the better one first; empty where it shows a picture or says nothing."""
    margin: Interval | None
    """None where one of them was not measured."""

    @property
    def verdict(self) -> Verdict:
        """By whether the interval holds 0; without one, or with few cases, there is none."""
        margin = self.margin
        if margin is None:
            return "not measured"
        if margin.low is None or margin.high is None or margin.n < FEWEST:
            return "not decided"
        if margin.low > 0:
            return "as expected"
        return "the other way round" if margin.high < 0 else "no clear difference"


@dataclass(frozen=True)
class Measure:
    """How a measure of two systems is compared: `margin` is above 0 where the first is better."""

    name: str
    margin: Callable[[System, System], Interval | None]
    reported: Callable[[System, str], float | None]
    lower_is_better: bool


def claims(systems: Sequence[System], dataset: str) -> list[Claim]:
    """What the paper reports on `dataset`, what its ablations show, and what our default is to be better in."""
    found: list[Claim] = []
    for table, measures in (("1", FID), ("2", PAIRED), ("3", PAIRED)):
        for measure in measures:
            found += _ranked(in_table(systems, table), table, measure, dataset)
    by_name = {system.name: system for system in systems}
    for source, better, worse, measures in EXPECTED:
        if better in by_name and worse in by_name:
            pair = by_name[better], by_name[worse]
            found += [_claim(source, measure, *pair) for measure in measures]
    return found


def claims_tables(found: Sequence[Claim], dataset: str) -> list[Table]:
    """Every claim with what was measured here: the paper's findings, then our aims. `dataset`: the paper's."""
    of_paper, ours = ([c for c in found if (c.source == AIM) == aims] for aims in (False, True))
    here = (Column("better"), Column("worse"))
    verdict = (Column("here, better by"), Column("verdict"))
    tables = []
    if of_paper:
        told = Table(
            title="What the paper found, and what was found here",
            caption=f"{SURE} Every two systems that its figures tell apart stand in a line; rows that were not "
            f"made, in none. Paper: its figures on {dataset}; its ablations are pictures.",
            n=f"{len(of_paper)} findings",
            columns=(Column("source"), Column("measure"), *here, Column("paper"), *verdict),
            rows=tuple((c.source, c.measure, c.better, c.worse, c.paper or "-", *_found(c)) for c in of_paper),
        )
        tables.append(told)
    if ours:
        told = Table(
            title="What we set out to do, and what was found",
            caption="Read as above. Our default is to beat the paper's configuration: as it is, given our channel "
            "weights, and drawn with its own 200 steps; with ten steps, too; the networks on whole volumes, 3D LDM "
            "also as we train; and itself without informed slice, with windows that continue each other and with "
            "independent ones.",
            n=f"{len(ours)} aims",
            columns=(Column("measure"), *here, *verdict),
            rows=tuple((c.measure, c.better, c.worse, *_found(c)) for c in ours),
        )
        tables.append(told)
    return tables


def _found(claim: Claim) -> tuple[Cell, Cell]:
    return claim.margin or Missing("no value"), claim.verdict


def changes_table(systems: Sequence[System]) -> Table:
    """What every change brings: each system that stands beside another one, with how much better it is than that."""
    by_name = {system.name: system for system in systems}
    pairs = [(s, by_name[s.beside]) for s in in_table(systems, "ours") if s.beside in by_name]
    return Table(
        title="What each change is worth",
        caption=(
            "By how much a system is better than the one beside it, in each measure's own units: above 0 it is better. "
            "95% intervals of the difference over the same cases (FID: over weights of the volumes, the same for "
            "both); one that holds 0 tells nothing. Border and smoothness: how much nearer to 1. One training each: "
            "where the two are of different models, another seed could give another difference."
        ),
        n=f"{len(pairs)} changes",
        columns=(Column("system"), Column("beside"), *(Column(measure.name) for measure in OF_CHANGES)),
        rows=tuple(
            (
                system.titled("ours"),
                base.titled("ours"),
                *(measure.margin(system, base) or Missing("not measured in both") for measure in OF_CHANGES),
            )
            for system, base in pairs
        ),
    )


def _ranked(systems: Sequence[System], table: str, measure: Measure, dataset: str) -> list[Claim]:
    """Every two systems between which the paper's figures tell a difference, in its order."""
    known = [(value, s) for s in systems if (value := measure.reported(s, dataset)) is not None]
    ranking = sorted(known, key=lambda one: one[0], reverse=not measure.lower_is_better)
    return [
        _claim(f"Table {table}", measure, better, worse, f"{first:g}, {second:g}", table)
        for (first, better), (second, worse) in combinations(ranking, 2)
        if first != second
    ]


def _claim(source: str, measure: Measure, better: System, worse: System, paper: str = "", table: str = "") -> Claim:
    """table: whose titles of the systems are told; none: their own."""
    margin = measure.margin(better, worse)
    return Claim(source, measure.name, better.titled(table), worse.titled(table), paper, margin)


def _fid(plane: Plane) -> Measure:
    def margin(better: System, worse: System) -> Interval | None:
        if plane not in better.fid or plane not in worse.fid:
            return None
        value = worse.fid[plane].value - better.fid[plane].value
        a, b = better.replicates.get(plane), worse.replicates.get(plane)
        if a is None or b is None or len(a) != len(b) or len(a) < 2:
            return Interval(value, None, None, min(better.scored, worse.scored))
        return spread_interval(value, b - a, min(better.scored, worse.scored))

    def reported(system: System, dataset: str) -> float | None:
        figures = system.paper.get(dataset)
        return figures.fid[PLANES.index(plane)] if figures and figures.fid else None

    return Measure(f"FID {plane}", margin, reported, lower_is_better=True)


def _by_case(
    name: str,
    values: Callable[[System], ByCase],
    badness: Callable[[float], float],
    reported: Callable[[System, str], float | None],
    *,
    lower_is_better: bool,
) -> Measure:
    def margin(better: System, worse: System) -> Interval | None:
        first, second = values(better), values(worse)
        shared = [case for case in first if case in second]
        if not shared:
            return None
        return mean_interval([badness(second[case]) - badness(first[case]) for case in shared])

    return Measure(name, margin, reported, lower_is_better)


def _reported_paired(index: int) -> Callable[[System, str], float | None]:
    def reported(system: System, dataset: str) -> float | None:
        figures = system.paper.get(dataset)
        return figures.paired[index] if figures and figures.paired else None

    return reported


def _nothing(_system: System, _dataset: str) -> None:
    return None


def _itself(value: float) -> float:
    return value


def _from_one(value: float) -> float:
    return abs(value - 1)


MS_SSIM = _by_case("MS-SSIM", lambda s: s.ms_ssim, lambda v: -v, _reported_paired(0), lower_is_better=False)
LPIPS = _by_case("LPIPS", lambda s: s.lpips, _itself, _reported_paired(1), lower_is_better=True)
BORDER = _by_case("border, distance from 1", lambda s: s.border, _from_one, _nothing, lower_is_better=True)
STRIPES = _by_case(
    "axial smoothness, distance from 1",
    lambda s: s.smoothness.get("axial", {}),
    _from_one,
    _nothing,
    lower_is_better=True,
)
FIDS: Mapping[Plane, Measure] = {plane: _fid(plane) for plane in PLANES}
FID = tuple(FIDS.values())
PAIRED = (MS_SSIM, LPIPS)
AGREEMENT = _by_case("mask agreement, in %", lambda s: s.agreement, lambda v: -100 * v, _nothing, lower_is_better=False)
OF_CHANGES = (*PAIRED, *FID, BORDER, STRIPES, AGREEMENT)

SURE = (
    "Each line: the first system is to be better than the second. Here: by how much it is, in the measure's own "
    "units, above 0 where it is better, with a 95% interval of the difference over the same cases (FID: over weights "
    "of the volumes, the same for both). An interval that holds 0 says that this budget and these cases do not tell. "
    "Intervals are over cases: every system was trained once, and another seed would give other models; of many lines "
    "one in twenty comes out by chance. With augmented masks (MA) noise and slices are drawn anew, too; where windows "
    "know nothing of each other (Make-A-Volume, without overlapped inpainting), noise. Our overlap and steps, and "
    "batches and learning rates that are the tables' own, were chosen by scores of test volumes of MSD Task04: on "
    "these cases they are not blind. All channels of a latent count alike in the paper's loss; on a wavelet, whose "
    "channels hold very unlike parts of an image, its rows pay for that, and the row with weighed channels does not. "
    "3D LDM pays for it, too; Pix2Pix 3D counts grey values in its place."
)
EXPECTED: tuple[tuple[str, str, str, tuple[Measure, ...]], ...] = (
    ("Figure 2", REFERENCE, "make-a-volume", (BORDER,)),
    ("Figure 5", REFERENCE, "no-inpainting", (BORDER,)),
    ("Figure 6", REFERENCE, "no-tuning", (STRIPES, FIDS["coronal"], FIDS["sagittal"])),
    *((AIM, *pair, (*PAIRED, *FID)) for pair in (("ours", REFERENCE), ("ours", "channel-weights"))),
    *((AIM, *pair, (*PAIRED, *FID)) for pair in (("ours-10", REFERENCE), ("ours", "paper-ddim"))),
    *((AIM, "ours", name, (*PAIRED, *FID)) for name in ("ldm-3d", "ldm-3d-ours", "pix2pix-3d")),
    (AIM, "ours", "no-slice", (*FID, *PAIRED)),
    (AIM, "ours", "make-a-volume-ours", (*FID, *PAIRED, BORDER)),
)
"""Source, the better and the worse row, and the measures: what the paper's pictures show, and what we set out to do."""
