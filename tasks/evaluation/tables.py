"""The fidelity part of a report: tables from what stage 11 measured."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.metrics.frechet import Fid
from gem3d_core.metrics.intervals import Interval
from gem3d_core.metrics.uncertainty import spread_interval
from gem3d_core.report.document import Missing, Table
from gem3d_core.report.tables import continuity_table, fid_table, neighbours_table, paired_table, privacy_table
from gem3d_core.spec.terms import PLANES, Plane
from tasks.artifacts.files import read_rows
from tasks.artifacts.prepared import Prepared
from tasks.evaluation.scores import BORDER, PAIRED, SYNTHETIC, Value
from tasks.evaluation.volumes import HELD_OUT

Replicates = Mapping[tuple[str, str], tuple[int, NDArray[np.float64]]]
"""Scores of resampled volumes by set and metric ("FID axial"), with the number of volumes."""

RANGES = {"KID": (-math.inf, math.inf), "precision": (0.0, 1.0), "recall": (0.0, 1.0)}
"""Where these scores can be."""


def fidelity_tables(catalog: Catalog, config: Config, prepared: Prepared, measured: Artifact | None) -> list[Table]:
    """FID, KID, paired scores, continuity and nearest volumes; none where nothing was measured."""
    if measured is None:
        return []
    missing = {name: Missing("see Not evaluated") for name in cast("dict[str, str]", measured.meta["missing"])}
    values = read_values(catalog, measured)
    distances = read_rows(catalog.path(measured, "distances.parquet"))
    near = {
        of: [cast("float", row["distance"]) for row in distances if row["of"] == of] for of in (SYNTHETIC, HELD_OUT)
    }
    replicates, no_test = read_replicates(catalog, measured), Missing("there is no test split")
    fids, near_sets = fids_of(values, replicates), neighbours_of(values, replicates)
    return [
        fid_table(fids or {SYNTHETIC: missing.get("FID", no_test)}, extractor=config.evaluate.features),
        *([neighbours_table(near_sets, extractor=config.evaluate.features)] if near_sets else []),
        paired_table({PAIRED: tuple(missing.get(m) or _known(values, m, PAIRED) for m in ("MS-SSIM", "LPIPS"))}),  # type: ignore[dict-item]  # two of them
        continuity_table(
            {
                of: (_of(values, BORDER, of), {plane: _of(values, f"(b) {plane} over real", of) for plane in PLANES})
                for of in dict.fromkeys(value.of for value in values if value.metric == BORDER)
            }
        ),
        privacy_table(near[SYNTHETIC], near[HELD_OUT] or no_test, training=len(prepared.train)),
    ]


def read_values(catalog: Catalog, measured: Artifact) -> list[Value]:
    """All that was measured."""
    rows = read_rows(catalog.path(measured, "values.parquet"))
    return [Value(**row) for row in rows]  # type: ignore[arg-type]  # Parquet's own types


def replicates_of(rows: Iterable[Mapping[str, object]]) -> Replicates:
    """Rows of replicates, put together."""
    found: dict[tuple[str, str], tuple[int, list[float]]] = {}
    for row in rows:
        _, values = found.setdefault((str(row["of"]), str(row["metric"])), (cast("int", row["volumes"]), []))
        values.append(cast("float", row["value"]))
    return {key: (volumes, np.array(values)) for key, (volumes, values) in found.items()}


def read_replicates(catalog: Catalog, measured: Artifact) -> Replicates:
    """Scores of resampled volumes."""
    return replicates_of(read_rows(catalog.path(measured, "replicates.parquet")))


def fids_of(values: list[Value], replicates: Replicates) -> dict[str, dict[Plane, Fid]]:
    """FID by set and plane, with its interval where volumes were resampled."""
    fids: dict[str, dict[Plane, Fid]] = {}
    for value in values:
        if value.metric.startswith("FID ") and value.value is not None:
            plane = cast("Plane", value.metric.removeprefix("FID "))
            interval = _interval(value, replicates, (0.0, math.inf))
            fids.setdefault(value.of, {})[plane] = Fid(value.value, value.n_real, value.n_synthetic, interval)
    return fids


def neighbours_of(values: list[Value], replicates: Replicates) -> dict[str, dict[str, Interval]]:
    """KID, precision and recall ("KID axial") by set, without bounds where no volumes were resampled."""
    found: dict[str, dict[str, Interval]] = {}
    for value in values:
        kind = value.metric.split(" ")[0]
        if kind in RANGES and value.value is not None:
            interval = _interval(value, replicates, RANGES[kind]) or Interval(value.value, None, None, 0)
            found.setdefault(value.of, {})[value.metric] = interval
    return found


def _interval(value: Value, replicates: Replicates, within: tuple[float, float]) -> Interval | None:
    """The interval of a set's score, cut where no such score can be."""
    volumes, again = replicates.get((value.of, value.metric), (0, np.array([])))
    if value.value is None or len(again) < 2:
        return None
    interval = spread_interval(value.value, again, volumes)
    low, high = np.clip(cast("tuple[float, float]", (interval.low, interval.high)), *within)
    return replace(interval, low=float(low), high=float(high))


def _of(values: list[Value], metric: str, of: str) -> list[float | None]:
    """One value a volume, None where the measure is not defined."""
    return [
        None if value.value is None or math.isnan(value.value) else value.value
        for value in values
        if (value.metric, value.of) == (metric, of)
    ]


def _known(values: list[Value], metric: str, of: str) -> list[float]:
    return [value for value in _of(values, metric, of) if value is not None]
