"""What every stage does around its one call of the core: look in the catalog, work in a scratch folder, put.

A stage is identified by its name, the versions of its inputs, the part of the configuration that it reads, its seed
and its code version. What is already in the catalog under that key is not made again.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.errors import BadInput
from gem3d_core.machine.files import atomic
from tasks.frame.code_version import code_version
from tasks.frame.progress import Nothing, Progress, open_progress

if TYPE_CHECKING:
    import pandas as pd


SECONDS = "seconds.txt"
"""File in a stage's scratch folder that holds the seconds spent on it so far."""
HEARTBEAT = 5.0
"""Seconds between two writings of that file."""
StageName = Literal[
    "ingest",
    "preprocess",
    "encode",
    "train-slices",
    "tune-volume",
    "train-informed",
    "generate-informed-slices",
    "augment-masks",
    "resample",
    "publish",
    "evaluate",
]
"""The stages of enhance-dataset, in their order; each is a flow and a deployment of the same name."""


def stages_of(config: Config, until: StageName | None = None) -> tuple[StageName, ...]:
    """The stages of a run, up to one that is named: a system may do without one that trains.

    Raises BadInput where that one is named.
    """
    without: set[StageName] = set() if "train_slices" in config.trained else {"train-slices"}
    without |= set() if "tune_volume" in config.trained else {"tune-volume"}
    without |= set() if config.condition.informed else {"train-informed"}
    if until in without:
        raise BadInput(f"--until {until}: not a stage of system={config.system}, which does without it")
    names = [name for name in get_args(StageName) if name not in without]
    return tuple(names[: names.index(until) + 1] if until else names)


class Run(BaseModel):
    """What all stages of one run share. Small and plain: it crosses task boundaries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalog: str
    """Address of the catalog."""
    run_id: str
    name: str
    """Name of the dataset, without its number."""
    config: Config
    seed: int
    """Of all draws after training; the configuration's own seed unless a re-sampling names another."""
    use_cache: bool = True
    dry: bool = False
    """Look in the catalog only: a stage that is not there raises WouldRun."""


class WouldRun(Exception):  # noqa: N818 - an answer, not an error
    """The stage is not in the catalog, and the run is dry."""


class StageResult(BaseModel):
    """The reference to what a stage made, or found."""

    model_config = ConfigDict(frozen=True)

    stage: str
    ref: str
    seconds: float
    cached: bool


@dataclass(frozen=True)
class Product:
    """What a stage made: files by logical name, small facts, and rows for the catalog's tables."""

    files: Mapping[str, Path]
    meta: Mapping[str, object]
    tables: Mapping[str, "pd.DataFrame"] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a stage works with: the catalog to read from, a scratch folder that outlives a kill, and progress."""

    catalog: Catalog
    folder: Path
    progress: Progress


@dataclass(frozen=True)
class Stage:
    """One stage of one run: its identity."""

    name: str
    """As in the list of stages."""
    module: str
    """`__name__` of the task's module, whose code counts."""
    kind: str
    """Kind of the artifact."""
    artifact: str
    """Name of the artifact."""
    settings: Mapping[str, object]
    """All that the result depends on, besides inputs and code: sections of the configuration, plain values."""
    inputs: tuple[str, ...] = ()
    """References to what it reads."""
    seed: int = 0
    files: tuple[tuple[str, str], ...] = ()
    """References of which it reads one file only, with the file: the rest of them may change."""


def run_stage(run: Run, stage: Stage, make: Callable[[Work], Product]) -> StageResult:
    """The artifact of a stage: found in the catalog, or made and put there."""
    began = time.monotonic()
    catalog = Catalog.open(run.catalog)
    whole, parts = [catalog.get(ref) for ref in stage.inputs], [(catalog.get(ref), file) for ref, file in stage.files]
    parents = whole + [part for part, _ in parts]
    settings = canonical(stage.settings)
    key = _key(stage, settings, [*(a.version for a in whole), *(a.files[file].sha256 for a, file in parts)])

    found = catalog.find(key) if run.use_cache else None
    if found is not None:
        return StageResult(stage=stage.name, ref=found.ref.full, seconds=time.monotonic() - began, cached=True)

    if run.dry:
        raise WouldRun(stage.name)

    # an uncached run takes nothing over from a cached one, but goes on where one like it was killed
    scratch = key if run.use_cache else hashlib.sha256(f"{key} anew".encode()).hexdigest()
    with catalog.work.hold(scratch) as folder:
        # another process may have made it while this one waited for the folder
        found = catalog.find(key) if run.use_cache else None
        made = found or _make(run, stage, make, Work(catalog, folder, Nothing()), key, settings, parents)
        catalog.work.clear(scratch)
    seconds = time.monotonic() - began
    return StageResult(stage=stage.name, ref=made.ref.full, seconds=seconds, cached=found is not None)


def _make(
    run: Run,
    stage: Stage,
    make: Callable[[Work], Product],
    work: Work,
    key: str,
    settings: str,
    parents: list[Artifact],
) -> Artifact:
    with open_progress(stage.name) as progress, _timed(work.folder / SECONDS):
        product = make(replace(work, progress=progress))
    return work.catalog.put(
        stage.kind,
        stage.artifact,
        files=product.files,
        meta={**product.meta, "stage": stage.name},
        tables=_with_seconds(product.tables, work.folder / SECONDS),
        parents=[parent.ref for parent in parents],
        run_id=run.run_id,
        code_version=code_version(stage.module),
        config_hash=hashlib.sha256(settings.encode()).hexdigest(),
        seed=stage.seed,
        key=key,
    )


@contextmanager
def _timed(file: Path) -> Iterator[None]:
    """Count the seconds of the block in a file, so that a stage that was stopped and went on counts all parts.

    Written every HEARTBEAT seconds: what a kill costs of the count is at most that.
    """
    began = time.monotonic()
    before = float(file.read_text()) if file.exists() else 0.0
    ended = threading.Event()

    def write() -> None:
        with atomic(file) as building:
            building.write_text(str(before + time.monotonic() - began))

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            write()

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        write()


def _with_seconds(tables: Mapping[str, "pd.DataFrame"], file: Path) -> dict[str, "pd.DataFrame"]:
    import pandas as pd

    row = pd.DataFrame([{"group": "stage", "metric": "seconds", "value": float(file.read_text())}])
    metrics = pd.concat([tables["metrics"], row], ignore_index=True) if "metrics" in tables else row
    return {**tables, "metrics": metrics}


def canonical(settings: Mapping[str, object]) -> str:
    """Settings as JSON with sorted keys; pydantic models and dataclasses are written out."""
    plain = {name: TypeAdapter(type(value)).dump_python(value, mode="json") for name, value in settings.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _key(stage: Stage, settings: str, inputs: list[str]) -> str:
    identity = {
        "stage": stage.name,
        "kind": stage.kind,
        "artifact": stage.artifact,
        "settings": settings,
        "inputs": inputs,
        "seed": stage.seed,
        "code": code_version(stage.module),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
