"""Training and test cases: by rule, by seed or by file, and never one patient on both sides."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, TypeVar

import numpy as np

from gem3d_core.errors import BadInput
from gem3d_core.spec.prepare import SplitSpec

EVERY = 5


T = TypeVar("T")


def evenly(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` items, evenly spaced over all of them; none: all."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[k * len(items) // limit] for k in range(limit)]


@dataclass(frozen=True)
class Split:
    """Sorted case names of both sides; the note says why there is no test side."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    note: str = ""


def split_cases(
    cases: Sequence[str],
    spec: SplitSpec,
    patients: Mapping[str, str] | None = None,
    *,
    quarantined: Collection[str] = (),
) -> Split:
    """Divide `cases`; `patients` maps a case to its patient (a case without entry is a patient of its own).

    quarantined: cases that a split file may name although they are not among `cases`.
    Under two patients all cases train. Raises BadInput for repeated names and for a file that does not fit.
    """
    if len(set(cases)) != len(cases):
        raise BadInput(f"cases named twice: {sorted({c for c in cases if list(cases).count(c) > 1})}")
    patient_of = {case: (patients or {}).get(case, case) for case in cases}
    if spec.kind == "file":
        return _from_file(cases, spec, patient_of, quarantined)
    groups = _groups(cases, patient_of)
    if len(groups) < 2:
        return Split(tuple(sorted(cases)), (), _no_test(len(cases), len(groups)))
    chosen = _every_fifth(len(groups)) if spec.kind == "fifth" else _drawn(len(groups), spec)
    test = {case for i in chosen for case in groups[i]}
    return Split(tuple(sorted(set(cases) - test)), tuple(sorted(test)))


def _groups(cases: Sequence[str], patient_of: Mapping[str, str]) -> list[list[str]]:
    """Cases by patient, in the order of each patient's first case."""
    grouped: dict[str, list[str]] = {}
    for case in sorted(cases):
        grouped.setdefault(patient_of[case], []).append(case)
    return list(grouped.values())


def _every_fifth(count: int) -> range:
    return range(0, count, EVERY)


def _drawn(count: int, spec: SplitSpec) -> list[int]:
    wanted = min(count - 1, max(1, round(count * spec.fraction)))
    return [int(i) for i in np.random.default_rng(spec.seed).permutation(count)[:wanted]]


def _no_test(cases: int, patients: int) -> str:
    return f"{cases} case(s) of {patients} patient(s): all train, there is no test split"


def _from_file(
    cases: Sequence[str], spec: SplitSpec, patient_of: Mapping[str, str], quarantined: Collection[str]
) -> Split:
    train, test = (set(side) - set(quarantined) for side in _read(Path(spec.file or ""), spec.fold))
    _refuse(spec, train & test, "on both sides")
    _refuse(spec, (train | test) - set(cases), "not in the dataset")
    _refuse(spec, set(cases) - train - test, "of the dataset, on neither side")
    shared = {patient_of[case] for case in train} & {patient_of[case] for case in test}
    _refuse(spec, {case for case in cases if patient_of[case] in shared}, "of patients that are on both sides")
    if not train:
        raise BadInput(f"{spec.file}: no training case is left; name at least one under train")
    note = "" if test else f"{spec.file} names no test case: there is no test split"
    return Split(tuple(sorted(train)), tuple(sorted(test)), note)


def _read(path: Path, fold: int) -> tuple[list[str], list[str]]:
    """(train, test) of {train, test}, or (train, val) of one fold of nnU-Net's list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a split ({error}); expected JSON") from error
    if isinstance(content, list):
        if not 0 <= fold < len(content):
            raise BadInput(f"{path}: fold {fold} asked for, the file has {len(content)}; choose 0..{len(content) - 1}")
        content = content[fold]
    keyed = content if isinstance(content, dict) else {}
    train, test = keyed.get("train"), keyed.get("test", keyed.get("val"))
    if not (_is_names(train) and _is_names(test)):
        raise BadInput(f"{path}: expected JSON with lists of case names under train and test (or val)")
    return train, test


def _is_names(side: object) -> TypeGuard[list[str]]:
    return isinstance(side, list) and all(isinstance(case, str) for case in side)


def _refuse(spec: SplitSpec, cases: Collection[str], fault: str) -> None:
    if cases:
        named = ", ".join(sorted(cases)[:5]) + (", ..." if len(cases) > 5 else "")
        raise BadInput(f"{spec.file}: {len(cases)} case(s) {fault}: {named}; mend the split file")
