"""The fidelity part of a report: tables from what stage 11 measured."""

import math
from typing import cast

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.metrics.fidelity import PLANES, Fid, Plane
from gem3d_core.report import Missing, Table
from gem3d_core.report_tables import continuity_table, fid_table, neighbours_table, paired_table, privacy_table
from tasks.fidelity import BORDER, PAIRED, SYNTHETIC, Value
from tasks.fidelity_volumes import HELD_OUT
from tasks.inputs import Prepared, read_rows


def fidelity_tables(catalog: Catalog, config: Config, prepared: Prepared, measured: Artifact | None) -> list[Table]:
    """FID, KID, paired scores, continuity and nearest volumes; none where nothing was measured."""
    if measured is None:
        return []
    missing = {name: Missing("see Not evaluated") for name in cast("dict[str, str]", measured.meta["missing"])}
    values = [Value(**row) for row in read_rows(catalog.path(measured, "values.parquet"))]  # type: ignore[arg-type]  # Parquet's own types
    distances = read_rows(catalog.path(measured, "distances.parquet"))
    near = {
        of: [cast("float", row["distance"]) for row in distances if row["of"] == of] for of in (SYNTHETIC, HELD_OUT)
    }
    no_test = Missing("there is no test split")
    return [
        fid_table(_fids(values) or {SYNTHETIC: missing["FID"]}, extractor=config.evaluate.features),
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


def _fids(values: list[Value]) -> dict[str, dict[Plane, Fid]]:
    fids: dict[str, dict[Plane, Fid]] = {}
    for value in values:
        if value.metric.startswith("FID ") and value.value is not None:
            plane = cast("Plane", value.metric.removeprefix("FID "))
            fids.setdefault(value.of, {})[plane] = Fid(value.value, value.n_real, value.n_synthetic)
    return fids


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
