"""`--dry-run`: the steps of a run, looked for in the catalog. Writes nothing."""

from pathlib import Path

from flows.dag import ENCODE, EVALUATE, PUBLISH, Made, Step, follow, steps_of, walk
from flows.session.parameters import EnhanceJob
from gem3d_core.scans.dataset import open_dataset
from tasks.frame.stage import Run, look
from tasks.planning.forecast import Forecast, StageForecast, forecast_of, line
from tasks.planning.workload import Load, measure_load


def dry_run(job: EnhanceJob) -> Forecast:
    """What `enhance` would do. Reads headers only; raises BadInput as `enhance` does for configuration and layout."""
    load, made = _load(job.run), Made()
    steps = steps_of(job.run.config, until=job.until)
    stages = _looked(job, job.run, load, [step for step in steps if step is not EVALUATE], made)
    if EVALUATE in steps:
        stages += [*_beside(job, made), *_looked(job, job.run, load, [EVALUATE], made)]
    return forecast_of(job.run, load, stages)


def _load(run: Run) -> Load:
    data = run.config.data
    opened = open_dataset(Path(str(run.dataset)), channel=data.channel, patient_pattern=data.patient_pattern)
    return measure_load(opened, run.config)


def _looked(job: EnhanceJob, run: Run, load: Load, steps: list[Step], made: Made) -> list[StageForecast]:
    outcomes = walk(
        run,
        steps,
        made,
        lambda step: follow(step, run, made, look),
        asked=job.asked,
        patients=lambda: load.patients,
    )
    return [
        line(o.step.name, o.step.estimate(load), cached=o.results is not None, needless=o.needless) for o in outcomes
    ]


def _beside(job: EnhanceJob, made: Made) -> list[StageForecast]:
    """The steps of another system whose dataset is an arm; it has the run's dataset, and perhaps its latents."""
    if job.baseline is None:
        return []
    load, own = _load(job.baseline), made.copy()
    system = job.baseline.config.system
    encoded = _looked(job, job.baseline.under(job.run.name), load, [ENCODE], own)
    same = (job.run.config.codec, job.run.config.condition.mask) == (
        job.baseline.config.codec,
        job.baseline.config.condition.mask,
    )
    others = _looked(job, job.baseline, load, steps_of(job.baseline.config, after=ENCODE, until=PUBLISH), own)
    if PUBLISH.name in own.refs:
        made.compared[system] = own.one(PUBLISH)
    else:
        made.refs.pop(PUBLISH.name, None)  # an arm is lacking, so the evaluation cannot be there
    return [s.model_copy(update={"name": f"{s.name} ({system})"}) for s in [*([] if same else encoded), *others]]
