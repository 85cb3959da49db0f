"""`--dry-run`: which stages would run, how much they hold, and about how long they take. Writes nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from gem3d_core.dataset import open_dataset
from tasks.downstream import arms_of, downstream
from tasks.encode import encode
from tasks.estimates import estimate
from tasks.fidelity import fidelity
from tasks.informed import informed
from tasks.ingest import ingest
from tasks.inputs import DatasetRefs
from tasks.masks import masks
from tasks.preprocess import preprocess
from tasks.publish import publish
from tasks.report import report
from tasks.resample import resample
from tasks.stage import Run, StageName, WouldRun, stages_of
from tasks.train import train_informed, train_slices, tune_volume
from tasks.workload import measure_load


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


def forecast(run: Run, folder: str, *, until: StageName | None = None, skip_bad: bool) -> Forecast:
    """What `enhance` would do, up to a stage. Reads headers only; raises BadInput as it does for configuration and
    layout."""
    data = run.config.data
    dataset = open_dataset(Path(folder), channel=data.channel, patient_pattern=data.patient_pattern)
    load = measure_load(dataset, run.config)
    cached = _cached(run.model_copy(update={"dry": True}), folder, skip_bad=skip_bad)
    wanted = stages_of(run.config, until)
    stages = [StageForecast(name=name, cached=name in cached, **asdict(estimate(name, load))) for name in wanted]
    return Forecast(
        dataset=folder,
        profile=run.config.profile,
        cases=len(load.depths),
        slices=load.slices,
        unreadable=list(load.unreadable),
        stages=stages,
    )


def _cached(run: Run, folder: str, *, skip_bad: bool) -> set[str]:
    """Stages that the catalog holds, found as the stages themselves find them."""
    found: dict[str, list[str]] = {}

    taken = stages_of(run.config)

    def look(stage: StageName, needs: tuple[StageName, ...], make: Callable[[], list[str]]) -> None:
        if stage in taken and all(need in found for need in needs if need in taken):
            with suppress(WouldRun):
                found[stage] = make()

    def made(stage: StageName) -> str | None:
        return found[stage][0] if stage in found else None

    def drawing() -> str:
        return found["train-slices" if run.config.generator == "slice" else "tune-volume"][0]

    def data() -> DatasetRefs:
        return DatasetRefs(source=found["ingest"][0], prepared=found["preprocess"][0], latents=found["encode"][0])

    repeats = range(run.config.factor)
    look("ingest", (), lambda: [ingest.fn(run, folder, skip_bad=skip_bad).ref])
    look("preprocess", ("ingest",), lambda: [preprocess.fn(run, found["ingest"][0]).ref])
    look("encode", ("preprocess",), lambda: [encode.fn(run, found["preprocess"][0]).ref])
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
            resample.fn(run, data(), drawing(), found["generate-informed-slices"][r], found["augment-masks"][r], r).ref
            for r in repeats
        ],
    )
    look(
        "publish",
        ("resample",),
        lambda: [publish.fn(run, data(), found["resample"][: k + 1], k + 1).ref for k in repeats],
    )
    look("evaluate", ("publish",), lambda: _evaluated(run, data(), found, drawing()))
    return set(found)


def _evaluated(run: Run, data: DatasetRefs, found: dict[str, list[str]], drawing: str) -> list[str]:
    """The metrics and the report, of which all stages before are there."""
    models = [found[stage][0] for stage in ("train-slices", "tune-volume", "train-informed") if stage in found]
    made = [fidelity.fn(run, data, drawing, found["resample"]).ref] if run.config.evaluate.fidelity else []
    arms = arms_of(run, data.prepared, found["publish"])
    made += [downstream.fn(run, data, arm, dataset).ref for arm, dataset in arms.items()]
    written = report.fn(run, data, models, found["resample"], found["publish"], made)
    return [*made, written.ref]
