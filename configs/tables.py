"""Rows of `gem3d tables` (`tables.yaml`): the paper's systems and ours as settings over one profile."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from configs.resolve import load, nearest, system_settings
from configs.schema import Config
from gem3d_core.errors import BadInput

TableName = Literal["1", "2", "3", "ablations", "ours"]
Settings = dict[str, JsonValue]


class Reported(BaseModel):
    """What the paper reports of a system on one dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fid: tuple[float, float, float] | None = None
    """Axial, coronal, sagittal."""
    paired: tuple[float, float] | None = None
    """MS-SSIM, LPIPS."""


class TableRow(BaseModel):
    """One system of the tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    titles: dict[TableName, str] = Field(default_factory=dict)
    """Another title in a table of its own point of view."""
    tables: tuple[TableName, ...]
    systems: tuple[str, ...] = ()
    """Laid over the profile in this order."""
    settings: Settings = Field(default_factory=dict)
    """What makes the row; nothing changes them."""
    paper: dict[str, Reported] = Field(default_factory=dict)
    """By dataset."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    common: Settings
    rows: tuple[TableRow, ...]


def table_rows(names: Iterable[str] | None = None) -> tuple[TableRow, ...]:
    """All rows in their order, or those that are named. Raises BadInput for a name that is none."""
    rows = _document().rows
    if names is None:
        return rows
    wanted, known = list(names), [row.name for row in rows]
    for name in wanted:
        if name not in known:
            raise BadInput(f"no row {name!r}{nearest(name, known)}")
    return tuple(row for row in rows if row.name in wanted)


def row_overrides(row: TableRow, profile: str, given: Mapping[str, JsonValue]) -> Settings:
    """All that a row sets over a profile; `given` is set by hand for every row, below what makes the row."""
    budget = load(profile, given).tables
    steps = {
        "train_slices.steps": budget.train_slices,
        "tune_volume.steps": budget.tune_volume,
        "train_informed.steps": budget.train_informed,
        "masks.count": budget.masks,
    }
    overrides: Settings = {}
    for system in row.systems:
        overrides |= system_settings(system)
    overrides |= _document().common | {key: value for key, value in steps.items() if value is not None}
    if overrides.get("generator") == "whole" and budget.whole is not None:
        overrides["tune_volume.steps"] = budget.whole
    named: Settings = {"system": row.systems[-1]} if row.systems else {}
    return {**overrides, **given, **row.settings, **named}


def row_config(row: TableRow, profile: str, given: Mapping[str, JsonValue]) -> Config:
    """The configuration of a row. Raises BadInput where its settings do not fit the profile."""
    return load(profile, row_overrides(row, profile, given))


def _document() -> _Document:
    return _Document.model_validate(yaml.safe_load((files("configs") / "tables.yaml").read_text()))
