"""Where the first informed slice of a volume comes from: its position and, for cross-sampling, another patient.

Everything is drawn by seeds of its own, so that it does not depend on what else is drawn (section 3.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import Gem3dError
from gem3d_core.sampling.windows import start_slice
from gem3d_core.seeds import derive_seed, uniform
from gem3d_core.spec.method import InformedSpec

CANDIDATES = 8
"""Donors that are drawn where the best outline is looked for."""
COARSE = 64
"""Pixels a side that outlines are compared on, at least where slices have as many."""

Outline = Callable[[str], NDArray[np.bool_]]
"""The outline (Z, H, W) of a case, by its name."""


@dataclass(frozen=True)
class Donor:
    """A training case that may give its slices. depth: its number Z of axial slices."""

    patient: str
    depth: int


@dataclass(frozen=True)
class InformedSource:
    """Where the informed slice of one volume comes from; together with the models it can be made again."""

    case: str
    """The mask's case."""
    variant: str
    """true or augmented mask."""
    mode: str
    """cross, generated or none."""
    p: float
    donor: str | None
    donor_slice: int | None
    seed: int


def choose_sources(
    wanted: Sequence[tuple[str, str]],
    donors: Mapping[str, Donor],
    spec: InformedSpec,
    seed: int,
    repeat: int,
    mode: str,
    outline: Outline,
) -> list[InformedSource]:
    """Position and, where `mode` is cross, donor of every mask.

    wanted: case and variant of each mask. Raises Gem3dError where no other patient can be a donor.
    """
    sources = []
    for case, variant in wanted:
        own = derive_seed(seed, "informed", repeat, case, variant)
        p = uniform(*spec.start, own, "p")
        donor = _donor(donors, case, own) if mode == "cross" else None
        index = None if donor is None else start_slice(p, donors[donor].depth)
        sources.append(InformedSource(case, variant, mode, p, donor, index, own))
    return _matched(sources, donors, outline) if mode == "cross" and spec.donor == "outline" else sources


def _matched(sources: Sequence[InformedSource], donors: Mapping[str, Donor], outline: Outline) -> list[InformedSource]:
    """Each with the one, of several donors, whose outline covers the mask's best (after Appendix F.2)."""
    candidates = [
        [_donor(donors, source.case, derive_seed(source.seed, "candidate", k)) for k in range(CANDIDATES)]
        for source in sources
    ]
    pairs = zip(sources, candidates, strict=True)
    wanted = [(case, source.p) for source, names in pairs for case in (source.case, *names)]
    outlines = _outlines(wanted, outline)
    matched = []
    for source, names in zip(sources, candidates, strict=True):
        own = outlines[source.case, source.p]
        best = max(names, key=lambda name: _overlap(own, outlines[name, source.p]))
        matched.append(replace(source, donor=best, donor_slice=start_slice(source.p, donors[best].depth)))
    return matched


def _outlines(wanted: Sequence[tuple[str, float]], outline: Outline) -> dict[tuple[str, float], NDArray[np.bool_]]:
    """Outlines of cases at normalised positions, coarse; every case is read once."""
    found = {}
    for case in sorted({case for case, _ in wanted}):
        volume = outline(case)
        step = max(1, max(volume.shape[1:]) // COARSE)
        for p in {p for name, p in wanted if name == case}:
            found[case, p] = volume[start_slice(p, len(volume)), ::step, ::step].copy()
    return found


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union; 0 for two empty slices."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def _donor(donors: Mapping[str, Donor], case: str, seed: int) -> str:
    """A training case of another patient, every patient with the same probability."""
    own = donors[case].patient
    by_patient: dict[str, list[str]] = {}
    for name in sorted(donors):
        by_patient.setdefault(donors[name].patient, []).append(name)
    others = sorted(patient for patient in by_patient if patient != own)
    if not others:
        raise Gem3dError(f"no donor for {case}: no training case of another patient than {own}")
    cases = by_patient[others[int(uniform(0, len(others), seed, "patient"))]]
    return cases[int(uniform(0, len(cases), seed, "case"))]
