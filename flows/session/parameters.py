"""What a flow is started with: a form in Prefect's interface, options on the command line."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from configs import TableRow, load, row_overrides, system_settings
from data_catalog import Ref
from data_catalog.refs import check_name
from gem3d_core.errors import BadInput
from gem3d_core.spec.kinds import trainings
from tasks.frame.stage import Run, StageName

S = TypeVar("S", bound=BaseModel)


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
    run_id: str | None = Field(None, description="Set by the flow")

    @field_validator("name")
    @classmethod
    def _fits_a_reference(cls, name: str | None) -> str | None:
        return None if name is None else check_name(name, "name")


class EnhanceParameters(Settings):
    """Parameters of enhance-dataset."""

    skip_bad: bool = Field(False, description="Go on without faulty cases; they are listed in the report")
    until: StageName | None = Field(None, description="Stop after this stage")


class TablesParameters(Settings):
    """Parameters of reproduce-tables; overrides hold for every row, and what makes a row is not among them."""

    rows: list[str] | None = Field(None, description="Rows by name, such as paper, ours; else all")
    skip_bad: bool = Field(False, description="Go on without faulty cases")

    @field_validator("factor")
    @classmethod
    def _drawn_once(cls, factor: int | None) -> int | None:
        if factor not in {None, 1}:
            raise ValueError("every row is drawn once")
        return factor


def dataset_folder(settings: Settings) -> str:
    """The dataset that a run is about. Raises BadInput when none is named."""
    folder = settings.dataset or os.environ.get("GEM3D_DATASET")
    if not folder:
        raise BadInput("no dataset: name a folder (parameter `dataset`) or set GEM3D_DATASET")
    return str(Path(folder).expanduser().absolute())


def catalog_address(named: str | None) -> str:
    """The catalog: as named, else GEM3D_CATALOG, else ./catalog; folders are made absolute."""
    address = named or os.environ.get("GEM3D_CATALOG") or "catalog"
    return address if "://" in address else str(Path(address).expanduser().absolute())


def open_run(settings: Settings, ref: str | None = None) -> Run:
    """The run that settings describe, its configuration resolved; its name may come from what it reads, `ref`."""
    profile = settings.profile or os.environ.get("GEM3D_PROFILE") or "hippocampus-cpu"
    overrides = dict(settings.overrides) | ({"factor": settings.factor} if settings.factor else {})
    config = load(profile, overrides)
    return Run(
        catalog=catalog_address(settings.catalog),
        run_id=settings.run_id or flow_run.id or uuid4().hex,
        name=settings.name or (name_of(ref) if ref else dataset_name(dataset_folder(settings))),
        config=config,
        seed=config.seed if settings.seed is None else settings.seed,
        use_cache=settings.use_cache,
    )


def row_settings(settings: TablesParameters, row: TableRow) -> TablesParameters:
    """A row's own: rows share a name in the catalog, so that what two of them have in common is made once."""
    profile = open_run(settings).config.profile
    overrides = row_overrides(row, profile, settings.overrides)
    named = {"name": f"{settings.name}-tables", "run_id": f"{settings.run_id}-{row.name}"}
    return settings.model_copy(update={"overrides": overrides, "profile": profile, "factor": None, **named})


def baseline_of(settings: EnhanceParameters, run: Run) -> EnhanceParameters | None:
    """Settings of the system that `evaluate.baseline` names, on the same data and budget; none where it names none.

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
    name, run_id = f"{run.name}-{system}", f"{run.run_id}-{system}"
    baseline = settings.model_copy(update={"overrides": overrides, "factor": None, "name": name, "run_id": run_id})
    open_run(baseline)
    return baseline


def checked(kind: type[S], values: Mapping[str, object]) -> S:
    """Parameters from what a command line was given. Raises BadInput naming the option."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        listed = "; ".join(
            f"--{e['loc'][0]} {e['input']!r}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        )
        raise BadInput(listed) from error


def name_of(ref: str) -> str:
    """Name of the dataset that an artifact belongs to: `volumes/Hippocampus-r0@3f2a` -> `Hippocampus`."""
    return re.sub(r"-r\d+$", "", Ref.parse(ref).name)


def dataset_name(folder: str) -> str:
    """Name of a dataset folder without Task04_ or Dataset113_, as the catalog writes names."""
    bare = re.sub(r"^(Task|Dataset)\d+_", "", Path(folder).name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", bare).strip("-.") or "dataset"
