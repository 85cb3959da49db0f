"""reproduce-tables: every system of the paper and each of our changes, trained, drawn from and scored alike."""

import sys
import traceback
from pathlib import Path

from prefect import flow

from data_catalog import Catalog
from flows.dag import ENCODE, EVALUATE, INGEST, PREPROCESS, PUBLISH, RESAMPLE, Made, steps_of
from flows.enhance import go_through
from flows.session.ledger import Ledger, Summary
from flows.session.parameters import TablesJob, TablesParameters, open_tables
from flows.session.showing import show_tables
from gem3d_core.errors import Gem3dError
from gem3d_core.machine.processes import Interrupted
from tasks.artifacts.others import require_encoder
from tasks.artifacts.prepared import split_sizes
from tasks.evaluation.agreement import MaskAgreement
from tasks.evaluation.downstream import Downstream, arms_of
from tasks.evaluation.fidelity import Fidelity
from tasks.evaluation.real_features import RealFeatures
from tasks.evaluation.weights import without_weights
from tasks.frame.policy import perform_as_task
from tasks.frame.stage import Run, Stage
from tasks.study.rows import RowRefs
from tasks.study.tables import MARKDOWN, NUMBERS, WriteTables


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
    return tables(open_tables(params))


def tables(job: TablesJob) -> TablesSummary:
    """The same of a job that was resolved before."""
    for run in job.rows.values():
        require_encoder(run.config.condition)  # refuses what cannot be had before anything is trained
    ledger, made = Ledger(job.run), Made()
    for measure, reason in without_weights(job.run.config).items():  # said now, not after hours
        sys.stderr.write(f"no row will have {measure}: {reason}\n")
    go_through(job.run, [INGEST, PREPROCESS], made, ledger)
    encoded = {name: _encoded(run, job.run.name, made, ledger) for name, run in job.rows.items()}
    data = next(iter(encoded.values())).data
    features = _enter(ledger, RealFeatures(job.run, data.prepared))
    test = split_sizes(Catalog.open(job.run.catalog), data.prepared).test
    arms = arms_of(job.run.config, test=test, datasets=[])
    judge = _enter(ledger, Downstream(job.run, data.source, data.prepared, "true", None)) if arms else None

    rows: dict[str, RowRefs] = {}
    failed: dict[str, str] = {}
    for name in sorted(job.rows, key=lambda name: len(job.told[name].settings)):  # plain ones train what others share
        try:
            rows[name] = _row(name, job.rows[name], encoded[name], features, judge, ledger)
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - of this row: the others are made all the same
            failed[name] = _told(error)
    if not rows:
        raise Gem3dError("; ".join(f"row {row} could not be made: {reason}" for row, reason in failed.items()))
    told = tuple(job.told.values())
    stage = WriteTables(job.run, data.source, data.prepared, told, rows, failed, judge, dict(job.overrides))
    _enter(ledger, stage, stage.name)
    summary = _summary(ledger, failed)
    show_tables(Path(summary.tables))
    return summary


def _enter(ledger: Ledger, stage: Stage, name: str = EVALUATE.name) -> str:
    """Perform a stage that is no step of its own, and take it down."""
    result = perform_as_task(stage)
    ledger.add(name, [result])
    return result.ref


def _encoded(run: Run, name: str, made: Made, ledger: Ledger) -> Made:
    """Latents of a row, under the dataset's own name as `enhance` makes them."""
    own = made.copy()
    go_through(run.under(name), [ENCODE], own, ledger)
    return own


def _row(name: str, run: Run, made: Made, features: str, judge: str | None, ledger: Ledger) -> RowRefs:
    """The steps from training to re-sampling, and the scores, of one row."""
    own = Ledger(run)
    steps = steps_of(run.config, after=ENCODE, until=PUBLISH)
    go_through(run, [step for step in steps if step is not PUBLISH], made, own)
    model, (volumes,), data = made.generator(run.config), made.all(RESAMPLE), made.data
    fidelity = Fidelity(run, data.source, data.prepared, data.latents, features, model, (volumes,))
    scores = _enter(own, fidelity)
    judged = _enter(own, MaskAgreement(run, data.source, data.prepared, judge, volumes)) if judge else None
    for result in own.results:
        ledger.add(f"{result.stage} ({name})", [result])
    return RowRefs(
        models=made.models,
        drawing=model,
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
