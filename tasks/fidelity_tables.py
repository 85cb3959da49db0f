"""The fidelity part of a report: tables from what stage 11 measured."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.metrics.fidelity import PLANES, Fid, Plane
from gem3d_core.metrics.intervals import Interval
from gem3d_core.metrics.resampled import spread_interval
from gem3d_core.report import Missing, Table
from gem3d_core.report_tables import continuity_table, fid_table, neighbours_table, paired_table, privacy_table
from tasks.fidelity_scores import BORDER, PAIRED, SYNTHETIC, Value
from tasks.fidelity_volumes import HELD_OUT
from tasks.inputs import Prepared, read_rows

Replicates = Mapping[tuple[str, str], tuple[int, NDArray[np.float64]]]
"""FID of resampled volumes by set and plane, with the number of volumes."""


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
    no_test, fids = Missing("there is no test split"), fids_of(values, read_replicates(catalog, measured))
    return [
        fid_table(fids or {SYNTHETIC: missing.get("FID", no_test)}, extractor=config.evaluate.features),
        *_neighbours(values, config.evaluate.features),
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
        _, values = found.setdefault((str(row["of"]), str(row["plane"])), (cast("int", row["volumes"]), []))
        values.append(cast("float", row["value"]))
    return {key: (volumes, np.array(values)) for key, (volumes, values) in found.items()}


def read_replicates(catalog: Catalog, measured: Artifact) -> Replicates:
    """FID of resampled volumes."""
    return replicates_of(read_rows(catalog.path(measured, "replicates.parquet")))


def fids_of(values: list[Value], replicates: Replicates) -> dict[str, dict[Plane, Fid]]:
    """FID by set and plane, with its interval where volumes were resampled."""
    fids: dict[str, dict[Plane, Fid]] = {}
    for value in values:
        if value.metric.startswith("FID ") and value.value is not None:
            plane = cast("Plane", value.metric.removeprefix("FID "))
            volumes, again = replicates.get((value.of, plane), (0, np.array([])))
            interval = _above_zero(spread_interval(value.value, again, volumes)) if len(again) > 1 else None
            fids.setdefault(value.of, {})[plane] = Fid(value.value, value.n_real, value.n_synthetic, interval)
    return fids


def _above_zero(interval: Interval) -> Interval:
    """A distance is not below zero."""
    assert interval.low is not None
    return replace(interval, low=max(0.0, interval.low))


def _neighbours(values: list[Value], extractor: str) -> list[Table]:
    """KID, precision and recall, where there are any."""
    arms: dict[str, dict[str, float]] = {}
    for value in values:
        if value.metric.split(" ")[0] in {"KID", "precision", "recall"} and value.value is not None:
            arms.setdefault(value.of, {})[value.metric] = value.value
    return [neighbours_table(arms, extractor=extractor)] if arms else []


def _of(values: list[Value], metric: str, of: str) -> list[float | None]:
    """One value a volume, None where the measure is not defined."""
    return [
        None if value.value is None or math.isnan(value.value) else value.value
        for value in values
        if (value.metric, value.of) == (metric, of)
    ]


def _known(values: list[Value], metric: str, of: str) -> list[float]:
    return [value for value in _of(values, metric, of) if value is not None]
