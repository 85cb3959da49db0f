"""Rows of the tables, put together from what was measured of each system."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict

from configs import TableRow
from data_catalog import Catalog
from gem3d_core.spec.terms import PLANES
from gem3d_core.study.rows import Cost, Reported, System
from tasks.artifacts.files import read_rows
from tasks.artifacts.lineage import seconds_of
from tasks.evaluation.downstream import MEAN
from tasks.evaluation.scores import BORDER, EDITED, PAIRED, SYNTHETIC, Value
from tasks.evaluation.tables import Replicates, fids_of, neighbours_of, read_replicates, read_values
from tasks.evaluation.volumes import HELD_OUT


class RowRefs(BaseModel):
    """What was made for one row. models: those that its volumes come from, in the order of their training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: list[str]
    drawing: str
    volumes: str
    fidelity: str
    agreement: str | None
    """None where there is no nnU-Net to judge."""
    sampler: str
    """That drew the volumes, such as `dpm++, 20 steps`."""


def scored_system(
    row: TableRow,
    values: list[Value],
    replicates: Replicates,
    agreement: Mapping[str, float],
    missing: Mapping[str, str],
    cost: Cost,
) -> System:
    """A row of the tables from what was measured of it; `agreement`: Dice by volume."""
    of = EDITED if any(value.of == EDITED for value in values) else SYNTHETIC

    def by_case(metric: str, subset: str) -> dict[str, float]:
        return {
            v.case: v.value
            for v in values
            if (v.metric, v.of) == (metric, subset) and v.value is not None and not math.isnan(v.value)
        }

    volumes = [count for (subset, _), (count, _) in replicates.items() if subset == of]
    return System(
        name=row.name,
        title=row.title,
        titles=cast("Mapping[str, str]", row.titles),
        tables=row.tables,
        beside=row.beside,
        fid=fids_of(values, replicates).get(of, {}),
        replicates={p: replicates[of, f"FID {p}"][1] for p in PLANES if (of, f"FID {p}") in replicates},
        neighbours=neighbours_of(values, replicates).get(of, {}),
        ms_ssim=by_case("MS-SSIM", PAIRED),
        lpips=by_case("LPIPS", PAIRED),
        border=by_case(BORDER, of),
        smoothness={plane: by_case(f"(b) {plane} over real", of) for plane in PLANES},
        agreement=agreement,
        scored=max(volumes, default=cost.volumes),
        cost=cost,
        missing=missing,
        paper={name: Reported(reported.fid, reported.paired) for name, reported in row.paper.items()},
    )


def read_system(catalog: Catalog, row: TableRow, refs: RowRefs) -> System:
    """A row's numbers, from its artifacts."""
    models, volumes = [catalog.get(ref) for ref in refs.models], catalog.get(refs.volumes)
    measured, drawn = catalog.get(refs.fidelity), cast("int", volumes.meta["volumes"])
    rejected = cast("int", volumes.meta["rejected"])
    cost = Cost(
        parameters=cast("int", catalog.get(refs.drawing).meta["parameters"]),
        steps=" + ".join(str(model.meta["steps"]) for model in models),
        training_seconds=sum(seconds_of(catalog, model) for model in models),
        seconds_per_volume=seconds_of(catalog, volumes) / drawn,
        volumes=drawn - rejected,
        rejected=rejected + len(cast("list[str]", volumes.meta["given_up"])),
        sampler=refs.sampler,
    )
    missing = cast("dict[str, str]", measured.meta["missing"]) | _without_judge(refs)
    replicates, agreement = read_replicates(catalog, measured), _agreement(catalog, refs.agreement)
    titled = with_encoder(row, cast("dict[str, str]", catalog.get(refs.drawing).meta["condition"]))
    return scored_system(titled, read_values(catalog, measured), replicates, agreement, missing, cost)


def with_encoder(row: TableRow, condition: Mapping[str, str]) -> TableRow:
    """A row whose informed slice goes through an image encoder says which."""
    if condition["injection"] != "cross_attention":
        return row
    return row.model_copy(update={"title": f"{row.title} ({Path(condition['image_encoder']).name})"})


def read_held_out(catalog: Catalog, fidelity: str, judge: str | None) -> System | None:
    """Real test volumes, as a row that nobody trained or drew; none where there are none."""
    measured = catalog.get(fidelity)
    values, replicates = read_values(catalog, measured), read_replicates(catalog, measured)
    fids = fids_of(values, replicates).get(HELD_OUT)
    if fids is None:
        return None
    rows = read_rows(catalog.path(catalog.get(judge), "scores.parquet")) if judge else []
    found = {str(row["case"]): cast("float", row["dice"]) for row in rows if row["label"] == MEAN}
    return System(
        name="held-out",
        title="held-out real volumes",
        tables=(),
        fid=fids,
        replicates={},
        neighbours=neighbours_of(values, replicates).get(HELD_OUT, {}),
        ms_ssim={},
        lpips={},
        border={},
        smoothness={},
        agreement=found,
        scored=len(found),
        missing={} if found else {"mask agreement": "no nnU-Net judged"},
    )


def _without_judge(refs: RowRefs) -> dict[str, str]:
    return {} if refs.agreement else {"mask agreement": "there is no nnU-Net that was trained on the true data"}


def _agreement(catalog: Catalog, ref: str | None) -> dict[str, float]:
    """Dice over all labels by volume."""
    if ref is None:
        return {}
    rows = read_rows(catalog.path(catalog.get(ref), "agreement.parquet"))
    return {str(row["volume"]): cast("float", row["dice"]) for row in rows if row["label"] == MEAN}
