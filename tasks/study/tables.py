"""The tables of the paper from what was measured of each system: `tables.md`, `tables.json` and pictures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.torch import load_file

from configs import Config, TableRow
from data_catalog import Artifact
from gem3d_core.report.pictures import PictureRow, across_border, comparison, shared_border
from gem3d_core.study.record import Document, page, plain_system, with_claims
from gem3d_core.study.rows import System, in_table
from gem3d_core.study.tables import MADE_HERE
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.artifacts.source import Source, open_source
from tasks.frame.stage import Identity, Product, Stage, Work
from tasks.study.rows import RowRefs, read_held_out, read_system

MARKDOWN, NUMBERS = "tables.md", "tables.json"
PAPERS_DATA = {"mri": "BraTS", "ct": "AbdomenCT-1K"}
"""The dataset of the paper that has the modality."""
SHARED: dict[str, Any] = {
    **dict.fromkeys(("seed", "prepare", "codec", "unet", "position_unet", "tables"), True),
    **dict.fromkeys(("train_slices", "tune_volume", "train_informed"), True),
    "condition": {"window"},
    "masks": {"augment"},
}
"""Settings of the profile that all rows of a document have in common."""
SCORED: dict[str, Any] = {
    **dict.fromkeys(("fid_volumes", "fid_resamples", "paired_cases"), True),
    "arm": {"iterations", "epochs", "batch_size", "first_features", "max_features", "max_patch", "mirroring"},
}
"""And of its evaluation."""
KINDS = {"systems": "2", "ablations": "ablations"}
"""Kinds of pictures, and the table whose systems they show."""


@dataclass(frozen=True)
class WriteTables(Stage):
    """`report` NAME-tables of the rows that were made, by name.

    failed: why others were not. judge: the nnU-Net of mask agreement. overrides: what was set by hand, for the record.
    """

    name: ClassVar[str] = "tables"
    kind: ClassVar[str] = "report"

    source: str
    prepared: str
    rows: tuple[TableRow, ...]
    made: dict[str, RowRefs]
    failed: dict[str, str]
    judge: str | None
    overrides: dict[str, str]

    def identity(self) -> Identity:
        """What was measured of every row, and how rows are told."""
        config = self.run.config
        settings = {
            "rows": [row.model_dump() for row in self._told],
            "features": config.evaluate.features,
            "failed": self.failed,
            "overrides": self.overrides,
            "profile": config.profile,
        }
        refs = [ref for made in self.made.values() for ref in _all(made)]
        inputs = dict.fromkeys([self.source, self.prepared, *refs, *([self.judge] if self.judge else [])])
        return Identity(f"{self.run.name}-tables", settings, tuple(inputs), seed=self.run.seed)

    def make(self, work: Work) -> Product:
        """The page, the numbers, the pictures."""
        opened = open_source(work.catalog, work.get(self.source))
        data = open_prepared(work.catalog, work.get(self.prepared))
        systems = [read_system(work.catalog, row, self.made[row.name]) for row in self._told]
        real = read_held_out(work.catalog, next(iter(self.made.values())).fidelity, self.judge)
        told = [plain_system(one) | {"artifacts": self.made[one.name].model_dump()} for one in systems]
        config = self.run.config.model_copy(update={"seed": self.run.seed})
        document = tables_document(config, opened, data, told, real, MADE_HERE, self.overrides, self.failed)
        pictures = _pictures(work, opened, data, systems, self.made)
        (work.folder / MARKDOWN).write_text(page(document, list(pictures)))
        (work.folder / NUMBERS).write_text(json.dumps(document, indent=1) + "\n")
        files = {name: work.folder / name for name in (MARKDOWN, NUMBERS)} | pictures
        return Product(files, {"rows": [system.name for system in systems]})

    @property
    def _told(self) -> list[TableRow]:
        return [row for row in self.rows if row.name in self.made]


def tables_document(
    config: Config,
    source: Source,
    prepared: Prepared,
    rows: list[dict[str, Any]],
    real: System | None,
    seconds: str,
    overrides: Mapping[str, str],
    failed: Mapping[str, str],
) -> Document:
    """What is recorded of rows (see `gem3d_core.study.record`); `config`: the profile's, before rows change it."""
    scored = config.evaluate.model_dump(include=SCORED, mode="json")
    made = config.model_dump(include=SHARED, mode="json")
    document = {
        "profile": config.profile,
        "dataset": source.artifact.name,
        "reported": PAPERS_DATA[source.modality],
        "features": config.evaluate.features,
        "train": len(prepared.train),
        "test": len(prepared.test),
        "shared": made | scored,
        "overrides": dict(overrides),
        "failed": dict(failed),
        "seconds": seconds,
        "held_out": None if real is None else plain_system(real),
        "rows": rows,
    }
    return with_claims(document)


@dataclass(frozen=True)
class Shown:
    """What a system samples for a test volume: its title, slices (Z, H, W) in [-1, 1], window borders."""

    title: str
    slices: np.ndarray
    borders: tuple[int, ...]


def _all(refs: RowRefs) -> list[str]:
    return [*refs.models, refs.volumes, refs.fidelity, *([refs.agreement] if refs.agreement else [])]


def _pictures(
    work: Work, source: Source, prepared: Prepared, systems: list[System], made: Mapping[str, RowRefs]
) -> dict[str, Path]:
    """Pictures of every test volume that all systems kept what they drew for, as in Figures 2, 5 and 6."""
    pictures = []
    for kind, table in KINDS.items():
        shown = [(system, work.get(made[system.name].fidelity)) for system in in_table(systems, table)]
        for case in _cases_of_all([measured for _, measured in shown]):
            drawn = []
            for system, measured in shown:
                stored = load_file(work.catalog.path(measured, f"paired/{case}.safetensors"))
                borders = tuple(stored["borders"].tolist())
                drawn.append(Shown(system.titled(table), stored["image"].float().numpy(), borders))
            pictures += picture_systems(work.folder, kind, source, prepared, case, drawn)
    return {f"pictures/{path.name}": path for path in pictures}


def picture_systems(
    folder: Path, kind: str, source: Source, prepared: Prepared, case: str, drawn: list[Shown]
) -> list[Path]:
    """A test volume above what several systems, with their titles, draw for it, and, of ablations, where windows meet.

    Nothing where there are no two to set side by side. `kind`: one of `KINDS`.
    """
    if len(drawn) < 2:
        return []
    x, y, z = prepared.cases[case].geometry.grid_spacing
    mask = prepared.mask(case)
    rows = [PictureRow(f"real {case}", prepared.image(case), mask, (z, y, x))]
    rows += [PictureRow(one.title, one.slices, mask, (z, y, x)) for one in drawn]
    pictures = [comparison(rows, folder / f"{kind}-{case}.png", source.label_names)]
    border = shared_border([list(one.borders) for one in drawn], len(mask))
    if kind == "ablations" and border is not None:
        pictures.append(across_border(rows, border, folder / f"borders-{case}.png"))
    return pictures


def _cases_of_all(measured: list[Artifact]) -> list[str]:
    """Test cases of which every one of them kept a drawn volume."""
    cases = [{Path(name).stem for name in one.files if name.startswith("paired/")} for one in measured]
    return sorted(set.intersection(*cases)) if cases else []
