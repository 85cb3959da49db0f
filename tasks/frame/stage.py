"""What every stage does around its one call of the core: look in the catalog, work in a scratch folder, put.

A stage is two functions: `identity`, what it is and depends on, and `make`, its work. What the catalog holds under the
same identity is not made again; the dry run asks for identities only.
"""

import hashlib
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.machine.files import write_text
from gem3d_core.machine.processes import Interrupted
from tasks.frame.code_version import code_version
from tasks.frame.progress import Progress, open_progress

if TYPE_CHECKING:
    import pandas as pd


SECONDS = "seconds.txt"
"""File in a stage's scratch folder that holds the seconds spent on it so far."""
HEARTBEAT = 5.0
"""Seconds between two writings of that file."""
under_way: list[str] = []
"""Names of the stages that this process is in; of those that an interruption ended, too."""


class Run(BaseModel):
    """What all stages of one run share, its configuration resolved. Small and plain: it crosses task boundaries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalog: str
    """Address of the catalog."""
    run_id: str
    name: str
    """Name of the dataset, without its number."""
    config: Config
    seed: int
    """The seed of all draws after training; the configuration's own seed unless a re-sampling names another."""
    use_cache: bool = True
    dataset: str | None = None
    """Folder in which the dataset lies now; no identity depends on it."""
    skip_bad: bool = False
    """Whether faulty cases are left out."""

    def under(self, name: str) -> "Run":
        """The same run under another name in the catalog."""
        return self.model_copy(update={"name": name})


class StageResult(BaseModel):
    """The reference to what a stage made, or found."""

    model_config = ConfigDict(frozen=True)

    stage: str
    ref: str
    seconds: float
    cached: bool


@dataclass(frozen=True)
class Identity:
    """What the product of a stage depends on, besides the stage's code."""

    artifact: str
    """Name of the artifact."""
    settings: Mapping[str, object]
    """Sections of the configuration that count, and plain values."""
    inputs: tuple[str, ...] = ()
    """References to what is read."""
    files: tuple[tuple[str, str], ...] = ()
    """References of which one file only is read, with the file: the rest of them may change."""
    seed: int = 0


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
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    """Those that the identity names, by reference."""

    def get(self, ref: str) -> Artifact:
        """The artifact of a reference; those of the identity are looked up once."""
        return self.artifacts.get(ref) or self.catalog.get(ref)


class NotAtHand(Exception):  # noqa: N818 - an answer, not an error
    """An identity cannot be told without reading or fetching something large, so the catalog cannot hold it."""


@dataclass(frozen=True)
class Stage(ABC):
    """One stage of one run, with the references that it is given. Subclasses say what it is and do its work."""

    name: ClassVar[str]
    kind: ClassVar[str]
    """The kind of its artifact."""

    run: Run

    def ready(self) -> None:  # noqa: B027 - most stages need nothing
        """Bring to hand what the identity depends on: weights to fetch, files to hash. A dry run does not call it."""

    @abstractmethod
    def identity(self) -> Identity:
        """What it depends on; nothing large is opened. Raises NotAtHand where `ready` would have to come first."""

    @abstractmethod
    def make(self, work: Work) -> Product:
        """The work itself."""


@dataclass(frozen=True)
class _Resolved:
    """An identity with its inputs looked up in the catalog."""

    identity: Identity
    artifacts: Mapping[str, Artifact]
    settings: str
    key: str


def look(stage: Stage) -> StageResult | None:
    """The product of a stage where the catalog holds it; nothing is written or fetched."""
    began, catalog = time.monotonic(), Catalog.open(stage.run.catalog)
    try:
        found = _found(stage, catalog, _resolve(stage, catalog))
    except NotAtHand:
        return None
    return None if found is None else _result(stage, found, began, cached=True)


def perform(stage: Stage) -> StageResult:
    """The product of a stage: found in the catalog, or made and put there.

    Raises what its work raises. An interruption, which is no Exception, leaves its name in `under_way`.
    """
    began, catalog = time.monotonic(), Catalog.open(stage.run.catalog)
    under_way.append(stage.name)
    try:
        stage.ready()
        resolved = _resolve(stage, catalog)
        found = _found(stage, catalog, resolved)
        made, cached = (found, True) if found is not None else _make_alone(stage, catalog, resolved)
    except Interrupted as error:
        raise Interrupted(f"stage {stage.name}: {error}") from error
    except Exception:
        under_way.remove(stage.name)
        raise
    under_way.remove(stage.name)
    return _result(stage, made, began, cached=cached)


def _resolve(stage: Stage, catalog: Catalog) -> _Resolved:
    identity = stage.identity()
    named = [*identity.inputs, *(ref for ref, _ in identity.files)]
    artifacts = {ref: catalog.get(ref) for ref in dict.fromkeys(named)}
    inputs = [artifacts[ref].version for ref in identity.inputs]
    inputs += [artifacts[ref].files[file].content for ref, file in identity.files]
    settings = canonical(identity.settings)
    parts = {
        "stage": stage.name,
        "kind": stage.kind,
        "artifact": identity.artifact,
        "settings": settings,
        "inputs": inputs,
        "seed": identity.seed,
        "code": code_version(type(stage).__module__),
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return _Resolved(identity, artifacts, settings, key)


def _found(stage: Stage, catalog: Catalog, resolved: _Resolved) -> Artifact | None:
    return catalog.find(resolved.key) if stage.run.use_cache else None


def _result(stage: Stage, artifact: Artifact, began: float, *, cached: bool) -> StageResult:
    return StageResult(stage=stage.name, ref=artifact.ref.full, seconds=time.monotonic() - began, cached=cached)


def _make_alone(stage: Stage, catalog: Catalog, resolved: _Resolved) -> tuple[Artifact, bool]:
    """Made in a folder that no other process works in meanwhile; and whether another had made it before."""
    # an uncached run takes nothing over from a cached one, but goes on where one like it was killed
    key = resolved.key
    scratch = key if stage.run.use_cache else hashlib.sha256(f"{key} anew".encode()).hexdigest()
    with catalog.work.hold(scratch) as folder:
        found = _found(stage, catalog, resolved)  # another process may have made it while this one waited
        made = found or _make(stage, catalog, folder, resolved)
        catalog.work.clear(scratch)
    return made, found is not None


def _make(stage: Stage, catalog: Catalog, folder: Path, resolved: _Resolved) -> Artifact:
    identity = resolved.identity
    with open_progress(stage.name) as progress, _timed(folder / SECONDS):
        product = stage.make(Work(catalog, folder, progress, resolved.artifacts))
    return catalog.put(
        stage.kind,
        identity.artifact,
        files=product.files,
        meta={**product.meta, "stage": stage.name},
        tables=_with_seconds(product.tables, folder / SECONDS),
        parents=[artifact.ref for artifact in resolved.artifacts.values()],
        run_id=stage.run.run_id,
        code_version=code_version(type(stage).__module__),
        config_hash=hashlib.sha256(resolved.settings.encode()).hexdigest(),
        seed=identity.seed,
        key=resolved.key,
    )


@contextmanager
def _timed(file: Path) -> Iterator[None]:
    """Count the seconds of the block in a file, so that a stage that was stopped and went on counts all parts.

    Written every HEARTBEAT seconds: what a kill costs of the count is at most that.
    """
    began, before, ended = time.monotonic(), _seconds(file), threading.Event()

    def write() -> None:
        write_text(file, str(before + time.monotonic() - began), durable=False)

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


def _seconds(file: Path) -> float:
    """Those counted so far; 0 where there is no whole count."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0


def _with_seconds(tables: Mapping[str, "pd.DataFrame"], file: Path) -> dict[str, "pd.DataFrame"]:
    import pandas as pd

    row = pd.DataFrame([{"group": "stage", "metric": "seconds", "value": _seconds(file)}])
    metrics = pd.concat([tables["metrics"], row], ignore_index=True) if "metrics" in tables else row
    return {**tables, "metrics": metrics}


def canonical(settings: Mapping[str, object]) -> str:
    """Settings as JSON with sorted keys; pydantic models and dataclasses are written out."""
    plain = {name: TypeAdapter(type(value)).dump_python(value, mode="json") for name, value in settings.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


Act = Callable[[Stage], StageResult | None]
"""What is done with a stage: performed, or looked for."""
