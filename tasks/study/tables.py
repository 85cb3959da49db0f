"""The tables of the paper from what was measured of each system: `tables.md`, `tables.json` and pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from configs import Config, TableRow
from data_catalog import Artifact
from gem3d_core.report.pictures import PictureRow, across_border, comparison, shared_border
from gem3d_core.sampling.volumes import Drawn
from gem3d_core.study.record import Document, page, plain_system, with_claims
from gem3d_core.study.rows import System, in_table
from gem3d_core.study.tables import MADE_HERE
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.artifacts.source import Source, open_source
from tasks.frame.policy import stage_task
from tasks.frame.stage import Product, Run, Stage, StageResult, Work, run_stage
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
"""Of pictures, and the table whose systems they show."""


@stage_task("tables")
def tables(
    run: Run,
    source: str,
    prepared: str,
    rows: list[TableRow],
    made: dict[str, RowRefs],
    failed: dict[str, str],
    judge: str | None,
    overrides: dict[str, str],
) -> StageResult:
    """`report` NAME-tables of the rows that were made, by name.

    failed: why others were not. judge: the nnU-Net of mask agreement. overrides: what was set by hand, for the record.
    """
    refs = [ref for name in made for ref in _all(made[name])]
    settings = {
        "rows": [row.model_dump() for row in rows if row.name in made],
        "features": run.config.evaluate.features,
        "failed": failed,
        "overrides": overrides,
        "profile": run.config.profile,
    }
    inputs = tuple(dict.fromkeys([source, prepared, *refs, *([judge] if judge else [])]))
    stage = Stage("tables", __name__, "report", f"{run.name}-tables", settings, inputs, run.seed)

    def make(work: Work) -> Product:
        opened, data = open_source(work.catalog, source), open_prepared(work.catalog, prepared)
        systems = [read_system(work.catalog, row, made[row.name]) for row in rows if row.name in made]
        real = read_held_out(work.catalog, next(iter(made.values())).fidelity, judge)
        told = [plain_system(one) | {"artifacts": made[one.name].model_dump()} for one in systems]
        document = tables_document(
            run.config.model_copy(update={"seed": run.seed}), opened, data, told, real, MADE_HERE, overrides, failed
        )
        pictures = _pictures(work, opened, data, systems, made)
        (work.folder / MARKDOWN).write_text(page(document, list(pictures)))
        (work.folder / NUMBERS).write_text(json.dumps(document, indent=1) + "\n")
        files = {name: work.folder / name for name in (MARKDOWN, NUMBERS)} | pictures
        return Product(files, {"rows": [system.name for system in systems]})

    return run_stage(run, stage, make)


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


def _all(refs: RowRefs) -> list[str]:
    return [*refs.models, refs.volumes, refs.fidelity, *([refs.agreement] if refs.agreement else [])]


def _pictures(
    work: Work, source: Source, prepared: Prepared, systems: list[System], made: Mapping[str, RowRefs]
) -> dict[str, Path]:
    """Of every test volume that all systems kept what they drew for, as in Figures 2, 5 and 6."""
    pictures = []
    for kind, table in KINDS.items():
        shown = [(system, work.catalog.get(made[system.name].fidelity)) for system in in_table(systems, table)]
        for case in _cases_of_all([measured for _, measured in shown]):
            drawn = []
            for system, measured in shown:
                stored = load_file(work.catalog.path(measured, f"paired/{case}.safetensors"))
                borders = tuple(stored["borders"].tolist())
                drawn.append((system.titled(table), Drawn(case, stored["image"].float(), borders)))
            pictures += picture_systems(work.folder, kind, source, prepared, case, drawn)
    return {f"pictures/{path.name}": path for path in pictures}


def picture_systems(
    folder: Path, kind: str, source: Source, prepared: Prepared, case: str, drawn: list[tuple[str, Drawn]]
) -> list[Path]:
    """A test volume above what several systems, with their titles, draw for it, and, of ablations, where windows meet.

    Nothing where there are no two to set side by side. `kind`: one of `KINDS`.
    """
    if len(drawn) < 2:
        return []
    names = {ids: name for name, ids in source.labels.items() if isinstance(ids, int) and ids}
    x, y, z = prepared.cases[case].geometry.grid_spacing
    mask = prepared.mask(case)
    rows = [PictureRow(f"real {case}", prepared.image(case), mask, (z, y, x))]
    rows += [PictureRow(title, one.slices.numpy(), mask, (z, y, x)) for title, one in drawn]
    pictures = [comparison(rows, folder / f"{kind}-{case}.png", names)]
    border = shared_border([list(one.borders) for _, one in drawn], len(mask))
    if kind == "ablations" and border is not None:
        pictures.append(across_border(rows, border, folder / f"borders-{case}.png"))
    return pictures


def _cases_of_all(measured: list[Artifact]) -> list[str]:
    """Test cases of which every one of them kept a drawn volume."""
    cases = [{Path(name).stem for name in one.files if name.startswith("paired/")} for one in measured]
    return sorted(set.intersection(*cases)) if cases else []
