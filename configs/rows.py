"""Rows of `gem3d tables` (`rows.yaml`): the paper's systems and ours as settings over one profile."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from configs.resolve import load, nearest, system_settings
from configs.rules import check_for_all_rows
from configs.schema import Config
from gem3d_core.errors import BadInput
from gem3d_core.spec.method import TrainSpec

TableName = Literal["1", "2", "3", "ablations", "ours"]
Overrides = dict[str, JsonValue]


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
    beside: str | None = None
    """The row that this one changes one thing of."""
    systems: tuple[str, ...] = ()
    """Laid over the profile in this order."""
    settings: Overrides = Field(default_factory=dict)
    """What makes the row; nothing changes them."""
    paper: dict[str, Reported] = Field(default_factory=dict)
    """By dataset."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    common: Overrides
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


def row_overrides(row: TableRow, profile: str, given: Mapping[str, JsonValue]) -> Overrides:
    """All that a row sets over a profile; `given` is set by hand for every row.

    Raises BadInput where that would unmake the row.
    """
    of_systems: Overrides = {}
    for system in row.systems:
        of_systems |= system_settings(system)
    check_for_all_rows(given, row.name, of_systems.keys() | row.settings.keys())
    config = load(profile, {**given, **of_systems, **row.settings})
    if not config.condition.attends:
        given = {key: value for key, value in given.items() if key != "condition.image_encoder"}  # attends to no tokens
    budget, slices, volume = config.tables, config.train_slices.steps, config.tune_volume.steps
    slices, volume = budget.train_slices or slices, budget.tune_volume or volume
    if "train_slices" not in config.trained:
        volume = budget.whole or slices + volume
    known = [other.name for other in _document().rows]
    for name in budget.slower:
        if name not in known:
            raise BadInput(f"tables.slower: no row {name!r}{nearest(name, known)}")
    slower = budget.slower.get(row.name, 1.0)
    trained = (
        _training("train_slices", config.train_slices, slices / slower)
        | _training("tune_volume", config.tune_volume, volume / slower)
        | _training("train_informed", config.train_informed, budget.train_informed or config.train_informed.steps)
    )
    passes: Overrides = {f"{stage}.batch": count for stage, count in budget.batch.items()}
    passes |= {f"{stage}.learning_rate": rate for stage, rate in budget.learning_rate.items()}
    masks: Overrides = {"masks.count": budget.masks} if budget.masks else {}
    named: Overrides = {"system": row.systems[-1]} if row.systems else {}
    return {**passes, **of_systems, **_document().common, **given, **trained, **masks, **row.settings, **named}


def _training(stage: str, spec: TrainSpec, steps: float) -> Overrides:
    """So many steps, of which no larger a part warms up than of the profile's own."""
    made = max(1, round(steps))
    warm = max(1, min(spec.warmup, round(spec.warmup * made / spec.steps)))
    return {f"{stage}.steps": made, f"{stage}.warmup": warm}


def row_config(row: TableRow, profile: str, given: Mapping[str, JsonValue]) -> Config:
    """The configuration of a row. Raises BadInput where its settings do not fit the profile."""
    return load(profile, row_overrides(row, profile, given))


def _document() -> _Document:
    return _Document.model_validate(yaml.safe_load((files("configs") / "rows.yaml").read_text()))
