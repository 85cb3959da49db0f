"""enhance-dataset: a segmentation dataset in, an enhanced one out."""

from functools import partial

from prefect import flow

from data_catalog import Catalog
from flows.dag import ENCODE, EVALUATE, PREPROCESS, PUBLISH, Made, Step, steps_of, walk
from flows.session.ledger import Ledger, Summary
from flows.session.parameters import EnhanceJob, EnhanceParameters, open_job
from flows.session.showing import show_summary
from flows.stages import perform_step
from tasks.artifacts.configuration import store_configuration
from tasks.artifacts.others import require_encoder
from tasks.artifacts.prepared import split_sizes
from tasks.frame.stage import Run, StageResult


@flow(name="enhance-dataset")
def enhance_dataset(params: EnhanceParameters = EnhanceParameters()) -> Summary:  # noqa: B008 - frozen
    """All eleven stages; what the catalog holds already is not made again."""
    return enhance(open_job(params))


def enhance(job: EnhanceJob) -> Summary:
    """The same of a job that was resolved before."""
    require_encoder(job.run.config.condition)
    store_configuration(job.run)
    ledger, made = Ledger(job.run), Made()
    steps = steps_of(job.run.config, until=job.until)
    go_through(job.run, [step for step in steps if step is not EVALUATE], made, ledger, asked=job.asked)
    if EVALUATE in steps:
        if job.baseline is not None and split_sizes(Catalog.open(job.run.catalog), made.one(PREPROCESS)).test:
            made.compared = _baseline(job.baseline, job.run, made, ledger)
        go_through(job.run, [EVALUATE], made, ledger)
    summary = ledger.summary()
    show_summary(summary.model_dump())
    return summary


def go_through(
    run: Run, steps: list[Step], made: Made, ledger: Ledger, *, asked: frozenset[str] = frozenset(), beside: str = ""
) -> None:
    """Perform steps, add what they make to `made`, and take it down."""

    def perform(step: Step) -> list[StageResult]:
        return perform_step(run, step, made)

    def patients() -> int:
        prepared = made.refs.get(PREPROCESS.name)
        return split_sizes(Catalog.open(run.catalog), prepared[0]).patients if prepared else 0

    for outcome in walk(run, steps, made, perform, asked=asked, patients=patients):
        ledger.enter(outcome, beside)


def _baseline(baseline: Run, run: Run, made: Made, ledger: Ledger) -> dict[str, str]:
    """Another system's dataset at 1x, on which nnU-Net is trained beside the others, by the system's name."""
    own, system = made.copy(), baseline.config.system
    go_on = partial(go_through, made=own, ledger=ledger, beside=system)
    go_on(baseline.under(run.name), [ENCODE])  # two systems may have the same latents
    go_on(baseline, steps_of(baseline.config, after=ENCODE, until=PUBLISH))
    return {system: own.one(PUBLISH)}
