"""What a flow is started with: a form in Prefect's interface, options on the command line."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from configs import TableRow, load, row_overrides, system_settings, table_rows
from data_catalog import Ref
from data_catalog.refs import check_name
from flows.dag import Step, named, steps_of
from gem3d_core.errors import BadInput
from gem3d_core.spec.kinds import trainings
from tasks.frame.stage import Run

S = TypeVar("S", bound=BaseModel)
DEFAULT_PROFILE = "hippocampus-cpu"


class Settings(BaseModel):
    """What all stages of a run share; every field can be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str | None = Field(None, description="Dataset folder (MSD or nnU-Net raw); else GEM3D_DATASET")
    catalog: str | None = Field(None, description="Catalog folder or s3:// address; else GEM3D_CATALOG, else ./catalog")
    profile: str | None = Field(None, description="Profile; else GEM3D_PROFILE, else hippocampus-cpu")
    overrides: dict[str, JsonValue] = Field(default_factory=dict, description='Such as {"resample.steps": 10}')
    factor: int | None = Field(None, ge=1, description="Datasets at 1x ... factor x; else the profile's")
    seed: int | None = Field(None, ge=0, description="Of all draws after training; else the configuration's seed")
    name: str | None = Field(None, description="Name in the catalog; else the dataset folder's, without its number")
    use_cache: bool = Field(True, description="Take from the catalog what is there already")
    skip_bad: bool = Field(False, description="Go on without faulty cases; they are listed in the report")

    @field_validator("name")
    @classmethod
    def _fits_a_reference(cls, name: str | None) -> str | None:
        return None if name is None else check_name(name, "name")


def _known(stage: str) -> str:
    try:
        return named(stage).name
    except BadInput as error:
        raise ValueError(str(error)) from error  # as which pydantic tells it, with the parameter's name


class EnhanceParameters(Settings):
    """Parameters of enhance-dataset."""

    until: str | None = Field(None, description="Stop after this stage")
    with_stages: list[str] = Field(default_factory=list, description="Stages to run although nothing needs them")

    @field_validator("until")
    @classmethod
    def _is_a_stage(cls, until: str | None) -> str | None:
        return None if until is None else _known(until)

    @field_validator("with_stages")
    @classmethod
    def _are_stages(cls, stages: list[str]) -> list[str]:
        return [_known(stage) for stage in stages]


class TablesParameters(Settings):
    """Parameters of reproduce-tables; overrides hold for every row, and what makes a row is not among them."""

    rows: list[str] | None = Field(None, description="Rows by name, such as paper, ours; else all")

    @field_validator("factor")
    @classmethod
    def _drawn_once(cls, factor: int | None) -> int | None:
        if factor not in {None, 1}:
            raise ValueError("every row is drawn once")
        return factor


def dataset_folder(named: str | None) -> str | None:
    """The dataset's folder: as named, else GEM3D_DATASET; made absolute."""
    folder = named or os.environ.get("GEM3D_DATASET")
    return None if not folder else str(Path(folder).expanduser().absolute())


def catalog_address(named: str | None) -> str:
    """The catalog: as named, else GEM3D_CATALOG, else ./catalog; folders are made absolute."""
    address = named or os.environ.get("GEM3D_CATALOG") or "catalog"
    return address if "://" in address else str(Path(address).expanduser().absolute())


def open_run(settings: Settings, ref: str | None = None, *, name: str | None = None) -> Run:
    """The run that settings describe, its configuration resolved; its name may come from what it reads, `ref`.

    Raises BadInput where neither names it, and for settings that do not fit together.
    """
    profile = settings.profile or os.environ.get("GEM3D_PROFILE") or DEFAULT_PROFILE
    overrides = dict(settings.overrides) | ({"factor": settings.factor} if settings.factor else {})
    folder = dataset_folder(settings.dataset)
    if folder is None and ref is None:
        raise BadInput("no dataset: name a folder (parameter `dataset`) or set GEM3D_DATASET")
    config = load(profile, overrides)
    return Run(
        catalog=catalog_address(settings.catalog),
        run_id=new_run_id(),
        name=name or settings.name or (Ref.parse(ref).name if ref else dataset_name(str(folder))),
        config=config,
        seed=config.seed if settings.seed is None else settings.seed,
        use_cache=settings.use_cache,
        dataset=folder,
        skip_bad=settings.skip_bad,
    )


def new_run_id() -> str:
    """That of the Prefect run where there is one."""
    return flow_run.id or uuid4().hex


@dataclass(frozen=True)
class EnhanceJob:
    """What `enhance` is to do, all of it resolved."""

    run: Run
    until: Step | None = None
    asked: frozenset[str] = frozenset()
    """Stages that are run although nothing needs them."""
    baseline: Run | None = None
    """Another system on the same data, whose dataset is one more arm of the evaluation."""


def open_job(params: EnhanceParameters) -> EnhanceJob:
    """The job that parameters describe. Raises BadInput, before anything is done, where they do not fit together."""
    run = open_run(params)
    until = None if params.until is None else named(params.until)
    steps_of(run.config, until=until)  # refuses a stage that the system does without
    asked = frozenset([*params.with_stages, *([until.name] if until else [])])
    return EnhanceJob(run, until, asked, baseline_of(params, run))


@dataclass(frozen=True)
class TablesJob:
    """What `tables` is to do, all of it resolved: the profile's own run, and each row's with what is told of it.

    Rows share a name in the catalog, so that what two of them have in common is made once.
    """

    run: Run
    rows: Mapping[str, Run]
    told: Mapping[str, TableRow]
    overrides: Mapping[str, str]
    """What was set by hand for all rows, for the record."""


def open_tables(params: TablesParameters) -> TablesJob:
    """The job that parameters describe. Raises BadInput, before anything is done, where a row does not fit."""
    run, told = open_run(params), {row.name: row for row in table_rows(params.rows)}
    overrides = {key: str(value) for key, value in params.overrides.items() if not key.startswith("runtime.")}
    return TablesJob(run, {name: _row_run(params, run, row) for name, row in told.items()}, told, overrides)


def _row_run(params: TablesParameters, run: Run, row: TableRow) -> Run:
    overrides = row_overrides(row, run.config.profile, params.overrides)
    changed = params.model_copy(update={"overrides": overrides, "profile": run.config.profile, "factor": None})
    opened = open_run(changed, name=f"{run.name}-tables")
    return opened.model_copy(update={"run_id": f"{run.run_id}-{row.name}"})


def baseline_of(settings: EnhanceParameters, run: Run) -> Run | None:
    """The run of the system that `evaluate.baseline` names, on the same data and budget; none where it names none.

    Raises BadInput, before anything is trained, where that system does not fit what else is set.
    """
    system, config = run.config.evaluate.baseline, run.config
    if system is None:
        return None
    laid = system_settings(system)
    if not config.evaluate.downstream:
        return None
    beside = config.publish.first_id + config.factor  # its number is not one of the others
    changes: dict[str, JsonValue] = {
        "factor": 1,
        "evaluate.factors": None,
        "evaluate.baseline": None,
        "publish.first_id": beside if beside <= 997 else config.publish.first_id - 1,
    }
    own = system_settings(config.system)
    without_slice = own.get("condition.informed") is True and laid.get("condition.informed") is False
    shared = own if without_slice else {}  # our conditions and process, or the paper's; other systems say all of theirs
    overrides = {**shared, **settings.overrides, **laid, **changes, "system": system}
    if "train_slices" not in trainings(str(overrides.get("generator", "volume"))):
        overrides["tune_volume.steps"] = config.train_slices.steps + config.tune_volume.steps
    baseline = settings.model_copy(update={"overrides": overrides, "factor": None})
    return open_run(baseline, name=f"{run.name}-{system}").model_copy(update={"run_id": f"{run.run_id}-{system}"})


def checked(kind: type[S], values: Mapping[str, object]) -> S:
    """Parameters from what a command line was given. Raises BadInput naming the option."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        listed = "; ".join(
            f"--{e['loc'][0]} {e['input']!r}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        )
        raise BadInput(listed) from error


def dataset_name(folder: str) -> str:
    """Name of a dataset folder without Task04_ or Dataset113_, as the catalog writes names."""
    bare = re.sub(r"^(Task|Dataset)\d+_", "", Path(folder).name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", bare).strip("-.") or "dataset"
