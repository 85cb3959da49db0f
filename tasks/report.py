"""The report of a run: what was made of what, how good it is, and what could not be said."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from data_catalog import Artifact, Catalog
from gem3d_core.metrics.intervals import Interval, mean_interval
from gem3d_core.report import Cell, Column, Missing, Report, Stage, Table, write_report
from tasks.configuration import as_yaml
from tasks.downstream import MEAN
from tasks.inputs import Prepared, Source, open_prepared, open_source, parent_of, read_rows
from tasks.policy import stage_task
from tasks.stage import Product, Run, StageResult, Work, run_stage
from tasks.stage import Stage as StageIdentity

CAPTIONS = {
    "training.png": "Real training volumes and, beneath each, a new volume for the same mask by another patient's slice",
    "paired.png": "Real test volumes and, beneath each, the volume drawn from its mask and its own middle slice",
    "augmented.png": "Real training volumes and, beneath each, a new volume for its edited mask",
    "distances.png": "Distance to the nearest training volume: synthetic volumes beside held-out real ones",
}
FIDELITY_COLUMNS: Mapping[str, tuple[str, str]] = {
    "FID": (
        "Fidelity",
        "Frechet distance to the training volumes on 2D features; slices outside the outline are left out. Held-out real "
        "volumes are the yardstick. Small samples bias FID upwards: compare only rows with like numbers of slices.",
    ),
    "paired": (
        "Paired scores",
        "Test masks with the test volume's own middle slice as informed slice, against the true volume; axial slices "
        "resized bilinearly to 256 on the shorter side; mean and bootstrap 95% interval over volumes.",
    ),
    "continuity": (
        "Continuity",
        "(a) slice-to-slice difference at window borders over that inside windows; (b) mean slice-to-slice difference "
        "over the real volume's at the same indices. 1 is best: above it seams or stripes, below it blur.",
    ),
}


@stage_task("report")
def report(
    run: Run,
    prepared: str,
    latents: str,
    models: list[str],
    volumes: list[str],
    datasets: list[str],
    metrics: list[str],
) -> StageResult:
    """`report` NAME: report.md and report.html of everything that a run made."""
    inputs = (prepared, latents, *models, *volumes, *datasets, *metrics)
    settings = {"config": run.config.model_dump(exclude={"runtime"})}
    stage = StageIdentity("report", __name__, "report", run.name, settings, inputs, run.seed)

    def make(work: Work) -> Product:
        opened = open_prepared(work.catalog, prepared)
        source = open_source(work.catalog, parent_of(work.catalog, prepared, "source"))
        artifacts = [work.catalog.get(ref) for ref in (source.artifact.ref.full, *inputs)]
        written = write_report(_report(work, run, source, opened, artifacts), work.folder / "out")
        files = {str(path.relative_to(work.folder / "out")): path for path in _files(work.folder / "out")}
        return Product(files, {"pages": [path.name for path in written]})

    return run_stage(run, stage, make)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _report(work: Work, run: Run, source: Source, prepared: Prepared, artifacts: list[Artifact]) -> Report:
    catalog = work.catalog
    metrics = [a for a in artifacts if a.kind == "metrics"]
    scores = [row for a in metrics if "arm" not in a.meta for row in read_rows(catalog.path(a, "scores.parquet"))]
    arms = {str(a.meta["arm"]): read_rows(catalog.path(a, "scores.parquet")) for a in metrics if "arm" in a.meta}
    return Report(
        title=f"{run.name}: re-sampled with GEM-3D",
        verdict=_verdict(arms),
        summary=_summary(artifacts, prepared),
        dataset=_dataset_facts(source, prepared),
        split=_split_facts(prepared),
        quarantined=_faults(catalog, source),
        not_evaluated=_not_evaluated(run, prepared, scores, artifacts),
        stages=tuple(_stage(catalog, a) for a in artifacts),
        tables=(*_score_tables(scores), *_downstream_table(arms), *_privacy_table(catalog, metrics)),
        pictures=tuple(_pictures(catalog, artifacts)),
        configuration=as_yaml(run.config),
        provenance={
            a.ref.full: f"made by code {a.code_version[:12]}, configuration {a.config_hash[:12]}" for a in artifacts
        },
    )


def _verdict(arms: Mapping[str, list[dict[str, object]]]) -> str:
    """One sentence: did the synthetic data do what the true data do?"""
    dice = {arm: _mean_dice(rows) for arm, rows in arms.items()}
    if "true" not in dice or len(dice) < 2:
        return "Whether the synthetic data help a segmentation network was not measured in this run."
    best = max((arm for arm in dice if arm != "true"), key=lambda arm: dice[arm])
    return (
        f"nnU-Net trained on synthetic data alone ({best}) reaches a mean Dice of {dice[best]:.3f} on the true test cases; "
        f"trained on the true data, equally long, {dice['true']:.3f}."
    )


def _mean_dice(rows: list[dict[str, object]]) -> float:
    values = [float(cast("float", row["dice"])) for row in rows if row["label"] == MEAN]
    return sum(values) / len(values)


def _summary(artifacts: list[Artifact], prepared: Prepared) -> dict[str, Cell]:
    drawn = sum(cast("int", a.meta["volumes"]) for a in artifacts if a.kind == "volumes")
    rejected = sum(cast("int", a.meta["rejected"]) for a in artifacts if a.kind == "volumes")
    published = {
        f"dataset {a.meta['factor']}x": f"{a.meta['volumes']} volumes" for a in artifacts if a.kind == "dataset"
    }
    return {
        "training masks": len(prepared.train),
        "volumes drawn": drawn,
        "volumes rejected": rejected,
        **published,
        "outlines": ", ".join(f"{kind}: {n}" for kind, n in _counts(prepared).items()),
    }


def _counts(prepared: Prepared) -> dict[str, int]:
    return cast("dict[str, int]", prepared.artifact.meta["outlines"])


def _dataset_facts(source: Source, prepared: Prepared) -> dict[str, Cell]:
    x, y, z = prepared.target_spacing
    return {
        "folder": str(source.artifact.meta["root"]),
        "channel": f"{source.channel} ({source.modality.upper()})",
        "labels": ", ".join(f"{name} {ids}" for name, ids in source.labels.items()),
        "cases": len(source.cases),
        "spacing that nnU-Net chose (x, y, z)": f"{x:g} x {y:g} x {z:g} mm",
        "licence": str(source.artifact.meta["licence"]) or Missing("dataset.json states none"),
    }


def _split_facts(prepared: Prepared) -> dict[str, Cell]:
    note = str(prepared.artifact.meta["split_note"])
    facts: dict[str, Cell] = {"training cases": len(prepared.train), "test cases": len(prepared.test)}
    return {**facts, "note": note} if note else facts


def _faults(catalog: Catalog, source: Source) -> tuple[str, ...]:
    rows = read_rows(catalog.path(source.artifact, "faults.parquet"))
    return tuple(
        f"{row['case']}: {row['fault']} ({row['file']}): found {row['found']}, expected {row['expected']}; {row['remedy']}"
        for row in rows
    )


def _not_evaluated(
    run: Run, prepared: Prepared, scores: list[dict[str, object]], artifacts: list[Artifact]
) -> dict[str, str]:
    reasons = {f"{row['metric']} ({row['of']})": str(row["reason"]) for row in scores if row["reason"]}
    if not run.config.evaluate.fidelity:
        reasons["fidelity"] = "switched off by evaluate.fidelity=false"
    if not run.config.evaluate.downstream:
        reasons["downstream nnU-Net"] = "switched off by evaluate.downstream=false"
    elif not prepared.test:
        reasons["downstream nnU-Net"] = "there is no test split to test on"
    for artifact in artifacts:
        if artifact.meta.get("note"):
            reasons[f"{artifact.kind}/{artifact.name}"] = str(artifact.meta["note"])
        given_up = cast("list[str]", artifact.meta.get("given_up") or []) if artifact.kind == "volumes" else []
        reasons |= {f"edited mask of {line.partition(':')[0]}": line.partition(": ")[2] for line in given_up}
    return reasons


def _stage(catalog: Catalog, artifact: Artifact) -> Stage:
    rows = catalog.table("metrics", artifact)
    seconds = rows.loc[rows["metric"] == "seconds", "value"] if "metric" in rows else []
    return Stage(str(artifact.meta["stage"]), float(sum(seconds)) / 60, False, str(artifact.ref))


def _score_tables(scores: list[dict[str, object]]) -> list[Table]:
    tables = []
    for group, (title, caption) in FIDELITY_COLUMNS.items():
        rows = [row for row in scores if row["group"] == group]
        if rows:
            columns = (Column("measure"), Column("volumes"), Column("value"), Column("n", digits=0))
            cells = tuple((str(row["metric"]), str(row["of"]), _cell(row), int(cast("int", row["n"]))) for row in rows)
            tables.append(Table(title, caption, "n of each row", columns, cells))
    return tables


def _cell(row: Mapping[str, object]) -> Cell:
    value, low, high = (cast("float | None", row[name]) for name in ("value", "low", "high"))
    if value is None or math.isnan(value):
        return Missing(str(row["reason"]))
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return float(value)
    return Interval(value, low, high, int(cast("int", row["n"])))


def _downstream_table(arms: Mapping[str, list[dict[str, object]]]) -> list[Table]:
    if not arms:
        return []
    labels = list(dict.fromkeys(str(row["label"]) for rows in arms.values() for row in rows))
    columns = [Column("trained on")]
    for label in labels:
        columns += [Column(f"Dice {label}", "", "higher"), Column(f"HD95 {label}", "mm", "lower", 2)]
    cells = []
    for arm, rows in arms.items():
        line: list[Cell] = [arm]
        for label in labels:
            of_label = [row for row in rows if row["label"] == label]
            line += [mean_interval([float(cast("float", row[k])) for row in of_label]) for k in ("dice", "hd95")]
        cells.append(tuple(line))
    n = len({str(row["case"]) for rows in arms.values() for row in rows})
    caption = (
        "nnU-Net trained on each dataset for the same number of steps, by the plan made on the true data, and tested on the "
        "true test cases. Empty masks as in BraTS: both empty Dice 1 and HD95 0; one empty Dice 0 and HD95 373.13 mm."
    )
    return [Table("Downstream segmentation", caption, f"{n} test cases", tuple(columns), tuple(cells))]


def _privacy_table(catalog: Catalog, metrics: list[Artifact]) -> list[Table]:
    tables = []
    for artifact in (a for a in metrics if "distances.parquet" in a.files):
        rows = read_rows(catalog.path(artifact, "distances.parquet"))
        cells: list[tuple[Cell, ...]] = []
        for of in dict.fromkeys(str(row["of"]) for row in rows):
            distances = [float(cast("float", row["distance"])) for row in rows if row["of"] == of]
            cells.append((of, mean_interval(distances), min(distances), len(distances)))
        columns = (Column("volumes"), Column("mean distance"), Column("smallest"), Column("n"))
        caption = (
            "Root mean squared difference, in [-1, 1] units, to the nearest training volume, after averaging onto a common "
            "grid. Synthetic volumes much nearer than held-out real ones would point to memorised patients. The distance "
            "of every volume is in distances.parquet of the metrics artifact."
        )
        tables.append(Table("Distance to the nearest training volume", caption, "n of each row", columns, tuple(cells)))
    return tables


def _pictures(catalog: Catalog, artifacts: list[Artifact]) -> list[tuple[str, Path]]:
    pictures = []
    for artifact in reversed(artifacts):
        for name in sorted(name for name in artifact.files if name.endswith(".png")):
            caption = CAPTIONS.get(name, f"Training loss of {artifact.name}, {artifact.meta.get('steps')} steps")
            pictures.append((caption, catalog.view(artifact) / name))
    return pictures
