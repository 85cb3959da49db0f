"""`--dry-run`: which stages would run, how much they hold, and about how long they take. Writes nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from gem3d_core.scans.dataset import open_dataset
from tasks.artifacts.lineage import DatasetRefs
from tasks.evaluation.agreement import agreement
from tasks.evaluation.downstream import arms_of, downstream
from tasks.evaluation.fidelity import fidelity
from tasks.evaluation.real_features import real_features
from tasks.evaluation.report import report
from tasks.frame.stage import Run, StageName, WouldRun, stages_of
from tasks.planning.estimates import estimate
from tasks.planning.workload import Load, measure_load
from tasks.stages.encode import encode
from tasks.stages.informed import informed
from tasks.stages.ingest import ingest
from tasks.stages.masks import masks
from tasks.stages.preprocess import preprocess
from tasks.stages.publish import publish
from tasks.stages.resample import resample
from tasks.stages.train import train_informed, train_slices, tune_volume


class StageForecast(BaseModel):
    """One stage: whether the catalog has it, what it would do, and an estimate where there is a basis for one."""

    name: str
    cached: bool
    work: str
    network_calls: int = 0
    seconds: float | None = None
    memory_gib: float | None = None


class Forecast(BaseModel):
    """The whole run."""

    dataset: str
    profile: str
    cases: int
    slices: int
    unreadable: list[str]
    """Faults that show in the headers: cases that are left out here, and at which `enhance` stops or skips them."""
    stages: list[StageForecast]

    def text(self) -> str:
        """A table for a person."""
        lines = [f"{self.dataset}: {self.cases} cases, about {self.slices} slices; profile {self.profile}"]
        lines += [f"faulty: {line}" for line in self.unreadable]
        if self.unreadable:
            lines.append("`gem3d check` lists all faults; enhance stops at them, or leaves them out with --skip-bad.")
        lines.append("")
        lines.append(f"{'stage':<26}{'state':>8}{'calls':>10}{'about':>10}{'memory':>10}  work")
        for s in self.stages:
            seconds = "-" if s.seconds is None else f"{s.seconds / 60:.1f} min"
            memory = "-" if s.memory_gib is None else f"{s.memory_gib:.1f} GiB"
            state = "cached" if s.cached else "to do"
            lines.append(f"{s.name:<26}{state:>8}{s.network_calls or '-':>10}{seconds:>10}{memory:>10}  {s.work}")
        to_do = [s for s in self.stages if not s.cached]
        waiting = sum(s.seconds or 0.0 for s in to_do)
        if any(s.seconds is None for s in to_do):
            lines += ["", "How long networks take on a GPU can be told only where there is one."]
            return "\n".join(lines)
        lines += [
            "",
            f"About {waiting / 60:.0f} min in all: networks by operations counted over this machine's measured speed,",
            "the rest by seconds a voxel measured on two cores; right within a factor of two or three.",
        ]
        return "\n".join(lines)


def forecast(
    run: Run, folder: str, *, baseline: Run | None = None, until: StageName | None = None, skip_bad: bool
) -> Forecast:
    """What `enhance` would do, up to a stage; `baseline`: another system that is an arm of the evaluation.

    Reads headers only; raises BadInput as `enhance` does for configuration and layout.
    """
    data = run.config.data
    dataset = open_dataset(Path(folder), channel=data.channel, patient_pattern=data.patient_pattern)
    load = measure_load(dataset, run.config)
    found, other = _found(run, folder, skip_bad=skip_bad), {}
    stages = [_line(name, load, found) for name in stages_of(run.config, until)]
    if baseline is not None and stages[-1].name == "evaluate":
        other, load_of_other = _found_beside(baseline, run, found), measure_load(dataset, baseline.config)
        shared = {"ingest", "preprocess", *(["encode"] if _same_latents(run, baseline) else [])}
        names = [name for name in stages_of(baseline.config, "publish") if name not in shared]
        added = [_line(name, load_of_other, other) for name in names]
        named = [line.model_copy(update={"name": f"{line.name} ({baseline.config.system})"}) for line in added]
        stages = [*stages[:-1], *named, stages[-1]]
    if stages[-1].name == "evaluate" and "publish" in found and (baseline is None or "publish" in other):
        compared = {baseline.config.system: other["publish"][0]} if baseline else {}
        with suppress(WouldRun):
            _evaluated(_dry(run), found, compared)
            stages[-1] = stages[-1].model_copy(update={"cached": True})
    return Forecast(
        dataset=folder,
        profile=run.config.profile,
        cases=len(load.depths),
        slices=load.slices,
        unreadable=list(load.unreadable),
        stages=stages,
    )


def _line(name: StageName, load: Load, found: dict[str, list[str]]) -> StageForecast:
    return StageForecast(name=name, cached=name in found, **asdict(estimate(name, load)))


def _same_latents(run: Run, other: Run) -> bool:
    a, b = run.config, other.config
    return (a.codec, a.condition.mask) == (b.codec, b.condition.mask)


def _dry(run: Run) -> Run:
    return run.model_copy(update={"dry": True})


def _found_beside(baseline: Run, run: Run, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """What the catalog holds of a baseline, which has the run's dataset and latents under the run's name."""
    shared: dict[str, list[str]] = {stage: refs for stage, refs in found.items() if stage in {"ingest", "preprocess"}}
    if "preprocess" in shared:
        with suppress(WouldRun):
            named = _dry(baseline).model_copy(update={"name": run.name})
            shared["encode"] = [encode.fn(named, shared["preprocess"][0]).ref]
    return _drawn(baseline, shared)


def _found(run: Run, folder: str, *, skip_bad: bool) -> dict[str, list[str]]:
    """What the catalog holds of the stages up to publish, found as the stages themselves find it."""
    dry, found = _dry(run), dict[str, list[str]]()
    with suppress(WouldRun):
        found["ingest"] = [ingest.fn(dry, folder, skip_bad=skip_bad).ref]
        found["preprocess"] = [preprocess.fn(dry, found["ingest"][0]).ref]
        found["encode"] = [encode.fn(dry, found["preprocess"][0]).ref]
    return _drawn(run, found)


def _drawn(run: Run, prepared: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same with the stages from training to publishing."""
    run, taken, found = _dry(run), stages_of(run.config), dict(prepared)

    def look(stage: StageName, needs: tuple[StageName, ...], make: Callable[[], list[str]]) -> None:
        if stage in taken and all(need in found for need in needs if need in taken):
            with suppress(WouldRun):
                found[stage] = make()

    def made(stage: StageName) -> str | None:
        return found[stage][0] if stage in found else None

    def data() -> DatasetRefs:
        return _data(found)

    repeats = range(run.config.factor)
    look("train-slices", ("encode",), lambda: [train_slices.fn(run, found["encode"][0]).ref])
    look(
        "tune-volume",
        ("encode", "train-slices"),
        lambda: [tune_volume.fn(run, found["encode"][0], made("train-slices")).ref],
    )
    look("train-informed", ("encode",), lambda: [train_informed.fn(run, found["encode"][0]).ref])
    look(
        "generate-informed-slices",
        ("encode", "train-informed"),
        lambda: [informed.fn(run, data(), made("train-informed"), r).ref for r in repeats],
    )
    look("augment-masks", ("encode",), lambda: [masks.fn(run, data(), r).ref for r in repeats])
    look(
        "resample",
        ("tune-volume", "train-slices", "encode", "generate-informed-slices", "augment-masks"),
        lambda: [
            resample.fn(
                run, data(), _drawing(run, found), found["generate-informed-slices"][r], found["augment-masks"][r], r
            ).ref
            for r in repeats
        ],
    )
    look(
        "publish",
        ("resample",),
        lambda: [publish.fn(run, data(), found["resample"][: k + 1], k + 1).ref for k in repeats],
    )
    return found


def _data(found: dict[str, list[str]]) -> DatasetRefs:
    return DatasetRefs(source=found["ingest"][0], prepared=found["preprocess"][0], latents=found["encode"][0])


def _drawing(run: Run, found: dict[str, list[str]]) -> str:
    return found["train-slices" if run.config.trained == ("train_slices",) else "tune-volume"][0]


def _evaluated(run: Run, found: dict[str, list[str]], baselines: dict[str, str]) -> None:
    """The metrics and the report, of which all stages before are there. Raises WouldRun where one of them is not."""
    data, volumes = _data(found), found["resample"]
    models = [found[stage][0] for stage in ("train-slices", "tune-volume", "train-informed") if stage in found]
    made = []
    if run.config.evaluate.fidelity:
        made.append(real_features.fn(run, data).ref)
        made.append(fidelity.fn(run, data, made[0], _drawing(run, found), volumes).ref)
    arms = arms_of(run, data.prepared, found["publish"], baselines)
    trained = {arm: downstream.fn(run, data, arm, dataset).ref for arm, dataset in arms.items()}
    made += trained.values()
    if "true" in trained:
        made.append(agreement.fn(run, data, trained["true"], volumes[0]).ref)
    report.fn(run, data, models, volumes, [*found["publish"], *baselines.values()], made)
