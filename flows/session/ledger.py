"""What a run did, stage by stage, and how it is told to a person, to a script and to Prefect."""

from collections.abc import Sequence
from typing import cast

from pydantic import BaseModel

from data_catalog import Artifact, Catalog
from flows.dag import Outcome
from tasks.artifacts.lineage import dataset_path
from tasks.artifacts.metrics import AGREEMENT, FIDELITY, arms_among, measured_by
from tasks.frame.stage import Run, StageResult


class StageLine(BaseModel):
    """One stage of the summary; the repeats of a stage are one line."""

    name: str
    seconds: float = 0.0
    cached: bool = False
    note: str = ""
    """Why it was not run, and what would need it."""


class DatasetLine(BaseModel):
    """A published dataset and where it lies, ready for nnU-Net."""

    ref: str
    factor: int
    path: str


class Summary(BaseModel):
    """What `enhance` and `resample` print as JSON."""

    run_id: str
    catalog: str
    stages: list[StageLine] = []
    artifacts: list[str] = []
    datasets: list[DatasetLine] = []
    metrics: dict[str, float | None] = {}
    report: str | None = None
    note: str = ""
    """What there is to say where nothing was done."""


class Ledger:
    """Takes down every step's outcome."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.results: list[StageResult] = []
        self.lines: dict[str, StageLine] = {}

    def enter(self, outcome: Outcome, beside: str = "") -> None:
        """Take down what became of a step; `beside`: the system or row that it was done for, beside the run's own."""
        name = f"{outcome.step.name} ({beside})" if beside else outcome.step.name
        if outcome.needless:
            self.lines[name] = StageLine(name=name, note=f"not needed: {outcome.needless}")
        self.add(name, outcome.results or [])

    def add(self, name: str, results: Sequence[StageResult]) -> None:
        """Take down results under a name."""
        self.results += results
        for result in results:
            before = self.lines.get(name, StageLine(name=name, cached=True))
            seconds, cached = before.seconds + result.seconds, before.cached and result.cached
            self.lines[name] = StageLine(name=name, seconds=seconds, cached=cached)

    def summary(self) -> Summary:
        """The results so far."""
        catalog = Catalog.open(self.run.catalog)
        artifacts = [catalog.get(result.ref) for result in self.results]
        datasets = [
            DatasetLine(ref=a.ref.full, factor=int(str(a.meta["factor"])), path=str(dataset_path(catalog, a)))
            for a in artifacts
            if a.kind == "dataset" and a.name == f"{self.run.name}-{a.meta['factor']}x"  # not another system's
        ]
        reports = [a for a in artifacts if a.kind == "report"]
        return Summary(
            run_id=self.run.run_id,
            catalog=self.run.catalog,
            stages=list(self.lines.values()),
            artifacts=[result.ref for result in self.results],
            datasets=datasets,
            metrics=_metrics(artifacts),
            report=str(catalog.view(reports[-1])) if reports else None,
        )


def _metrics(artifacts: Sequence[Artifact]) -> dict[str, float | None]:
    """The headline numbers: means of the fidelity scores, of the arms, of mask agreement."""
    metrics: dict[str, float | None] = {}
    for measured in measured_by(FIDELITY, artifacts):
        metrics |= cast("dict[str, float | None]", measured.meta["means"])
        metrics |= dict.fromkeys(cast("dict[str, str]", measured.meta["missing"]))
    for arm, scores in arms_among(artifacts).items():
        metrics |= {f"{name} trained on {arm}": cast("float", scores.meta[name]) for name in ("dice", "hd95")}
    for judged in measured_by(AGREEMENT, artifacts):
        metrics["mask agreement"] = cast("float", judged.meta["agreement"])
    return metrics
