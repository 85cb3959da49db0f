"""The report of a run: `report.md` and one self-contained `report.html`, from plain data. Free of torch.

A value that could not be had is a `Missing` with its reason and is printed as such, never blank and never zero.
"""

from __future__ import annotations

import base64
import math
import mimetypes
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gem3d_core.errors import BadInput
from gem3d_core.metrics.intervals import Interval

if TYPE_CHECKING:
    from jinja2 import Environment


Better = Literal["higher", "lower", "near 1", ""]
ARROWS: Mapping[Better, str] = {"higher": "↑", "lower": "↓", "near 1": "→ 1", "": ""}


@dataclass(frozen=True)
class Missing:
    """A value that is not there, and why."""

    reason: str


Cell = str | int | float | Interval | Missing


@dataclass(frozen=True)
class Column:
    """A column's name, unit, direction in which it is better, and the digits its numbers are printed with."""

    name: str
    unit: str = ""
    better: Better = ""
    digits: int = 3

    @property
    def heading(self) -> str:
        """Name, unit and arrow as printed."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.name}{unit} {ARROWS[self.better]}".rstrip()


@dataclass(frozen=True)
class Table:
    """A table with its caption (which says how it was measured) and how many cases are behind it.

    Raises BadInput for a row of another length than the columns.
    """

    title: str
    caption: str
    n: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                expected = f"expected {len(self.columns)} ({', '.join(column.name for column in self.columns)})"
                raise BadInput(f"table {self.title!r}: a row of {len(row)} cells {row}, {expected}")

    @property
    def textual(self) -> list[bool]:
        """Whether a column holds words only and is printed flush left."""
        return [all(isinstance(cell, str) for cell in column) for column in zip(*self.rows, strict=True)] or [
            True
        ] * len(self.columns)

    @property
    def printed(self) -> list[list[str]]:
        """The rows as text."""
        return [
            [print_cell(cell, column.digits) for cell, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]


@dataclass(frozen=True)
class StageTime:
    """One stage: its name, the minutes it took when it was made, what it made."""

    name: str
    minutes: float
    ref: str


@dataclass(frozen=True)
class Report:
    """Everything a report prints. Facts are name to value; pictures are (caption, PNG or JPEG file)."""

    title: str
    verdict: str
    summary: Mapping[str, Cell]
    dataset: Mapping[str, Cell]
    split: Mapping[str, Cell]
    quarantined: tuple[str, ...]
    not_evaluated: Mapping[str, str]
    stages: tuple[StageTime, ...]
    tables: tuple[Table, ...]
    pictures: tuple[tuple[str, Path], ...]
    configuration: str
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a stage had to say of what it made."""


def print_cell(cell: Cell, digits: int = 3) -> str:
    """A value as it is printed: numbers with `digits`, intervals as "mean [low, high]", reasons in words."""
    if isinstance(cell, Missing):
        return f"not available: {cell.reason}"
    if isinstance(cell, Interval):
        return _print_interval(cell, digits)
    if isinstance(cell, float):
        return f"{cell:.{digits}f}" if math.isfinite(cell) else f"not available: the value is {cell}"
    return str(cell) or "not available: no value was recorded"


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `report.md` (pictures beside it) and `report.html` (everything inside one file) into `folder`.

    Raises BadInput where a picture is missing or is no PNG or JPEG.
    """
    for caption, path in report.pictures:
        if not path.is_file() or mimetypes.guess_type(path.name)[0] not in {"image/png", "image/jpeg"}:
            raise BadInput(f"report picture {path} ({caption}): expected an existing PNG or JPEG file")
    beside = folder / "pictures"
    beside.mkdir(parents=True, exist_ok=True)
    files = [f"{index:02d}-{path.name}" for index, (_, path) in enumerate(report.pictures, 1)]
    for (_, path), name in zip(report.pictures, files, strict=True):
        shutil.copyfile(path, beside / name)
    captions = [caption for caption, _ in report.pictures]
    linked = list(zip(captions, [f"pictures/{name}" for name in files], strict=True))
    inlined = list(zip(captions, [_data_address(path) for _, path in report.pictures], strict=True))
    written = folder / "report.md", folder / "report.html"
    for path, pictures in zip(written, (linked, inlined), strict=True):
        template = _environment().get_template(f"{path.name}.j2")
        text = template.render(report=report, pictures=pictures)
        path.write_text(text, encoding="utf-8")
    return written


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("gem3d_core.report", "templates"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": print_cell, "markdown": _escape_markdown}
    return environment


def _escape_markdown(text: object) -> str:
    """Text that stays in its table cell and is not taken for markup."""
    plain = str(text).replace("\\", "\\\\").replace("\n", " ").replace("<", "&lt;")
    for mark in "|*_`[]":
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def _data_address(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _print_interval(interval: Interval, digits: int) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}f} ({'one case: ' if interval.n == 1 else ''}no interval)"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
