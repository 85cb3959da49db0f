"""What a run did, stage by stage, and how it is told to a person, to a script and to Prefect."""

from collections.abc import Sequence
from typing import TypeVar, cast

from pydantic import BaseModel

from data_catalog import Catalog
from tasks.artifacts.lineage import dataset_path
from tasks.frame.stage import Run, StageResult

R = TypeVar("R", StageResult, list[StageResult])


class StageLine(BaseModel):
    """One stage of the summary; the repeats of a stage are one line."""

    name: str
    seconds: float
    cached: bool


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


class Reached(Exception):  # noqa: N818 - not an error
    """The stage that `until` names is done."""


class Ledger:
    """Takes down every stage's result; ends the flow after the stage that `until` names."""

    def __init__(self, run: Run, until: str | None = None) -> None:
        self.run = run
        self.until = until
        self.results: list[StageResult] = []

    def enter(self, stage: str, results: R) -> R:
        """Take down what a stage returned, under the stage's name. Raises Reached after the last one wanted."""
        listed = results if isinstance(results, list) else [results]
        self.results += [result.model_copy(update={"stage": stage}) for result in listed]
        if stage == self.until:
            raise Reached(stage)
        return results

    def summary(self) -> Summary:
        """The results so far."""
        catalog = Catalog.open(self.run.catalog)
        artifacts = [catalog.get(result.ref) for result in self.results]
        datasets = [
            DatasetLine(ref=a.ref.full, factor=int(str(a.meta["factor"])), path=str(dataset_path(catalog, a.ref.full)))
            for a in artifacts
            if a.kind == "dataset" and a.name == f"{self.run.name}-{a.meta['factor']}x"  # not another system's
        ]
        reports = [a for a in artifacts if a.kind == "report"]
        return Summary(
            run_id=self.run.run_id,
            catalog=self.run.catalog,
            stages=_lines(self.results),
            artifacts=[result.ref for result in self.results],
            datasets=datasets,
            metrics=_metrics(catalog, self.results),
            report=str(catalog.view(reports[-1])) if reports else None,
        )


def _lines(results: Sequence[StageResult]) -> list[StageLine]:
    lines: dict[str, StageLine] = {}
    for result in results:
        before = lines.get(result.stage, StageLine(name=result.stage, seconds=0.0, cached=True))
        lines[result.stage] = StageLine(
            name=result.stage, seconds=before.seconds + result.seconds, cached=before.cached and result.cached
        )
    return list(lines.values())


def _metrics(catalog: Catalog, results: Sequence[StageResult]) -> dict[str, float | None]:
    """The headline numbers of the metrics artifacts: means of the fidelity scores, of the arms, of mask agreement."""
    metrics: dict[str, float | None] = {}
    for artifact in (catalog.get(result.ref) for result in results):
        if artifact.kind == "metrics" and "arm" in artifact.meta:
            arm = artifact.meta["arm"]
            metrics |= {f"{name} trained on {arm}": cast("float", artifact.meta[name]) for name in ("dice", "hd95")}
        elif artifact.kind == "metrics" and "agreement" in artifact.meta:
            metrics["mask agreement"] = cast("float", artifact.meta["agreement"])
        elif artifact.kind == "metrics" and "means" in artifact.meta:
            metrics |= cast("dict[str, float | None]", artifact.meta["means"])
            metrics |= dict.fromkeys(cast("dict[str, str]", artifact.meta["missing"]))
    return metrics
