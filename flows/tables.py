"""reproduce-tables: every system of the paper and each of our changes, trained, drawn from and scored alike."""

import sys
import traceback
from pathlib import Path
from uuid import uuid4

from prefect import flow
from prefect.runtime import flow_run

from configs import table_rows
from data_catalog import Catalog
from flows.session.ledger import Ledger, Summary
from flows.session.parameters import TablesParameters, dataset_folder, dataset_name, open_run, row_settings
from flows.session.showing import show_tables
from flows.stages import encode_flow, ingest_flow, preprocess_flow
from flows.system import draw_volumes, train_models
from gem3d_core.errors import Gem3dError
from gem3d_core.machine.processes import Interrupted
from tasks.artifacts.latents import require_encoder
from tasks.artifacts.lineage import DatasetRefs
from tasks.evaluation.agreement import agreement
from tasks.evaluation.downstream import arms_of, downstream
from tasks.evaluation.fidelity import fidelity
from tasks.evaluation.real_features import real_features
from tasks.evaluation.weights import without_weights
from tasks.stages.informed import needs_position_model
from tasks.study.rows import RowRefs
from tasks.study.tables import MARKDOWN, NUMBERS, tables


class TablesSummary(Summary):
    """What `tables` prints as JSON: what was made, and where the tables lie."""

    tables: str
    """Markdown, with pictures beside it."""
    numbers: str
    """JSON."""
    failed: dict[str, str]
    """Rows that could not be made, and why."""


@flow(name="reproduce-tables")
def reproduce_tables(params: TablesParameters = TablesParameters()) -> TablesSummary:  # noqa: B008 - frozen
    """Tables 1 to 3 and the ablations on a dataset. What the catalog holds already is not made again."""
    folder, rows = dataset_folder(params), table_rows(params.rows)
    name, run_id = params.name or dataset_name(folder), params.run_id or flow_run.id or uuid4().hex
    settings = params.model_copy(update={"dataset": folder, "name": name, "run_id": run_id})
    of_rows = {row.name: row_settings(settings, row) for row in rows}
    for own in of_rows.values():
        require_encoder(open_run(own).config.condition)  # refuses what does not fit before anything is trained
    plain_first = sorted(rows, key=lambda row: len(row.settings))  # whose configuration stands for a shared model

    ledger = Ledger(open_run(settings))
    for measure, reason in without_weights(ledger.run).items():  # said now, not after hours
        sys.stderr.write(f"no row will have {measure}: {reason}\n")
    source = ledger.enter("ingest", ingest_flow(settings, settings.skip_bad)).ref
    prepared = ledger.enter("preprocess", preprocess_flow(settings, source)).ref
    latents = {row: _encode(of_rows[row], settings, ledger, prepared) for row in of_rows}
    data = {row: DatasetRefs(source=source, prepared=prepared, latents=ref) for row, ref in latents.items()}
    shared = data[rows[0].name]
    features = ledger.enter("evaluate", real_features(ledger.run, shared)).ref
    judges = arms_of(ledger.run, prepared, [])
    judge = ledger.enter("evaluate", downstream(ledger.run, shared, "true", None)).ref if judges else None

    made: dict[str, RowRefs] = {}
    failed: dict[str, str] = {}
    for row in (row.name for row in plain_first):
        try:
            made[row] = _row(row, of_rows[row], data[row], features, judge, ledger)
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - of this row: the others are made all the same
            failed[row] = _told(error)
    if not made:
        raise Gem3dError("; ".join(f"row {row} could not be made: {reason}" for row, reason in failed.items()))
    overrides = {key: str(value) for key, value in params.overrides.items() if not key.startswith("runtime.")}
    ledger.enter("tables", tables(ledger.run, source, prepared, list(rows), made, failed, judge, overrides))
    summary = _summary(ledger, failed)
    show_tables(Path(summary.tables))
    return summary


def _encode(row: TablesParameters, settings: TablesParameters, ledger: Ledger, prepared: str) -> str:
    """Latents under the dataset's own name, as `enhance` makes them."""
    return ledger.enter("encode", encode_flow(row.model_copy(update={"name": settings.name}), prepared)).ref


def _row(
    name: str, settings: TablesParameters, data: DatasetRefs, features: str, judge: str | None, ledger: Ledger
) -> RowRefs:
    """Stages 4 to 9 and the scores of one row."""
    run = open_run(settings)
    own = Ledger(run)
    models = train_models(settings, own, data.latents, position=needs_position_model(run, data.prepared))
    (volumes,) = draw_volumes(settings, own, data, models)
    scores = own.enter("evaluate", fidelity(run, data, features, models.drawing, [volumes])).ref
    judged = own.enter("evaluate", agreement(run, data, judge, volumes)).ref if judge else None
    ledger.results += [result.model_copy(update={"stage": f"{result.stage} ({name})"}) for result in own.results]
    return RowRefs(
        models=models.all,
        drawing=models.drawing,
        volumes=volumes,
        fidelity=scores,
        agreement=judged,
        sampler=f"{run.config.resample.solver}, {run.config.resample.steps} steps",
    )


def _told(error: Exception) -> str:
    """Why a row was not made; of what nobody foresaw also where it happened, on stderr."""
    if isinstance(error, Gem3dError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def _summary(ledger: Ledger, failed: dict[str, str]) -> TablesSummary:
    catalog = Catalog.open(ledger.run.catalog)
    page = catalog.view(catalog.get(ledger.results[-1].ref))
    told = ledger.summary().model_dump() | {"metrics": {}, "report": None}
    return TablesSummary(**told, tables=str(page / MARKDOWN), numbers=str(page / NUMBERS), failed=failed)
