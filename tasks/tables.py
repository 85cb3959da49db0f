"""The tables of the paper from what was measured of each system: `tables.md`, `tables.json` and pictures."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from configs import TableRow
from data_catalog import Artifact
from gem3d_core.bench.markdown import markdown
from gem3d_core.orderings import Claim, changes_table, claims, claims_table
from gem3d_core.pictures import PictureRow, across_border, comparison, shared_border
from gem3d_core.report import Table
from gem3d_core.system_tables import (
    MADE_HERE,
    System,
    budget_table,
    continuity_table,
    fid_table,
    in_table,
    paired_table,
    unbiased_table,
    whole_table,
)
from tasks.inputs import Prepared, Source, open_prepared, open_source
from tasks.policy import stage_task
from tasks.stage import Product, Run, Stage, StageResult, Work, run_stage
from tasks.system_scores import RowRefs, read_held_out, read_system

MARKDOWN, NUMBERS = "tables.md", "tables.json"
PAPERS_DATA = {"mri": "BraTS", "ct": "AbdomenCT-1K"}
"""The dataset of the paper that has the modality."""
PICTURED = {
    "systems": "A test volume in three planes, and what each system of Table 2 draws for its mask",
    "ablations": "A test volume, and what the method and less than the whole method draw for its mask",
    "borders": "Consecutive axial slices of the same volumes, where the draws of two windows meet",
}

LEFT_OUT = "Parts of the method left out; without volumetric tuning nothing is trained in its place (see Budget)."
CHANGES = (
    "Each row with + adds to the row above it, from the paper's configuration to our default; each row with but "
    "changes one thing of the default (key frames: all that they need). How sure the differences are stands under "
    "What each change is worth. Dropped conditions: both in a tenth of the windows, the informed slice alone in "
    "another; guided rows are drawn by the same model. All are drawn with as many steps, also where the profile's own "
    "draws take fewer, but for the rows that name theirs. A donor's outline is compared where masks have one; where "
    "it is the whole grid, that of the most similar size is taken. Paired volumes, whose slice is their own, know no "
    "donor."
)


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
        dataset = PAPERS_DATA[opened.modality]
        found, pictures = claims(systems, dataset), _pictures(work, opened, data, systems, made)
        real = read_held_out(work.catalog, next(iter(made.values())).fidelity, judge)
        told = tables_of(systems, found, run.config.evaluate.features, dataset, real)
        (work.folder / MARKDOWN).write_text(
            _page(_head(run, opened, data, failed, overrides, found), told, list(pictures))
        )
        document: dict[str, object] = {
            "profile": run.config.profile,
            "dataset": opened.artifact.name,
            "overrides": overrides,
            "failed": failed,
        }
        document |= {"rows": [_plain(system, made[system.name]) for system in systems]}
        document |= {"claims": [{**asdict(claim), "verdict": claim.verdict} for claim in found]}
        (work.folder / NUMBERS).write_text(json.dumps(document, indent=1) + "\n")
        files = {name: work.folder / name for name in (MARKDOWN, NUMBERS)} | pictures
        return Product(files, {"rows": [system.name for system in systems]})

    return run_stage(run, stage, make)


def _all(refs: RowRefs) -> list[str]:
    return [*refs.models, refs.volumes, refs.fidelity, *([refs.agreement] if refs.agreement else [])]


def tables_of(
    systems: list[System],
    found: list[Claim],
    extractor: str,
    dataset: str,
    real: System | None = None,
    made: str = MADE_HERE,
) -> list[Table]:
    """In the paper's order; a table none of whose rows was made is left out.

    real: held-out volumes, the yardstick. made: where the systems were trained and drawn.
    """
    told = [
        ("1", fid_table(systems, extractor, real)),
        ("2", paired_table(systems, "2", "Table 2: paired test volumes")),
        ("3", paired_table(systems, "3", "Table 3: how conditions are injected")),
        (
            "ablations",
            whole_table(systems, "ablations", "Ablations (Figures 5 and 6)", LEFT_OUT),
        ),
        ("ours", whole_table(systems, "ours", "What each of our changes brings", CHANGES)),
    ]
    kept = [table for name, table in told if in_table(systems, name)]
    changes = changes_table(systems)
    last = [*([changes] if changes.rows else []), unbiased_table(systems, real), continuity_table(systems)]
    last += [budget_table(systems, made)]
    return [*kept, *last, *([claims_table(found, dataset)] if found else [])]


def _head(
    run: Run,
    source: Source,
    prepared: Prepared,
    failed: Mapping[str, str],
    overrides: Mapping[str, str],
    found: list[Claim],
) -> str:
    """Of what the tables are, what is not in them, and how many claims hold."""
    split = f"{len(prepared.train)} training and {len(prepared.test)} test cases"
    by_hand = f" Set by hand for all rows: {', '.join(f'{k}={v}' for k, v in overrides.items())}." if overrides else ""
    lines = [f"# Tables of the paper on {source.artifact.name}", f"Profile {run.config.profile}, {split}.{by_hand}"]
    counts = Counter(claim.verdict for claim in found)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    lines += [f"Of {len(found)} claims (the last table): {told}."] if found else []
    return "\n\n".join([*lines, *(f"Not made: {row}: {reason}" for row, reason in failed.items())])


def _page(head: str, told: list[Table], pictures: list[str]) -> str:
    shown = [f"![{_caption(name)}]({name})\n\n*{_caption(name)}*" for name in pictures]
    return "\n\n".join([head, *map(markdown, told), *(["## Pictures", *shown] if shown else [])]) + "\n"


def _caption(picture: str) -> str:
    return PICTURED[Path(picture).stem.partition("-")[0]]


def _pictures(
    work: Work, source: Source, prepared: Prepared, systems: list[System], made: Mapping[str, RowRefs]
) -> dict[str, Path]:
    """A test volume above what several systems draw for it, as in Figures 2 and 6, and where windows meet (5)."""
    names = {ids: name for name, ids in source.labels.items() if isinstance(ids, int) and ids}
    pictures = []
    for kind, table in (("systems", "2"), ("ablations", "ablations")):
        shown = [(system, work.catalog.get(made[system.name].fidelity)) for system in in_table(systems, table)]
        if len(shown) < 2:  # nothing to set side by side
            continue
        for case in _cases_of_all([measured for _, measured in shown]):
            x, y, z = prepared.cases[case].geometry.grid_spacing
            mask = prepared.mask(case)
            rows, borders = [PictureRow(f"real {case}", prepared.image(case), mask, (z, y, x))], []
            for system, measured in shown:
                drawn = load_file(work.catalog.path(measured, f"paired/{case}.safetensors"))
                rows.append(PictureRow(system.titled(table), drawn["image"].float().numpy(), mask, (z, y, x)))
                borders.append(drawn["borders"].tolist())
            pictures.append(comparison(rows, work.folder / f"{kind}-{case}.png", names))
            border = shared_border(borders, len(mask))
            if kind == "ablations" and border is not None:
                pictures.append(across_border(rows, border, work.folder / f"borders-{case}.png"))
    return {f"pictures/{path.name}": path for path in pictures}


def _cases_of_all(measured: list[Artifact]) -> list[str]:
    """Test cases of which every one of them kept a drawn volume."""
    cases = [{Path(name).stem for name in one.files if name.startswith("paired/")} for one in measured]
    return sorted(set.intersection(*cases)) if cases else []


def _plain(system: System, refs: RowRefs) -> dict[str, object]:
    """A row for JSON, with what it was made of."""
    plain = asdict(system)
    plain["replicates"] = {plane: np.round(values, 4).tolist() for plane, values in system.replicates.items()}
    return plain | {"artifacts": refs.model_dump()}
