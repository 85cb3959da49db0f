"""The report of a run: what was made of what, how good it is, and what could not be said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from data_catalog import Artifact, Catalog
from gem3d_core.metrics.overlap import CaseOverlap
from gem3d_core.report.document import Cell, Missing, Report, StageTime, write_report
from gem3d_core.report.pictures import loss_curve
from gem3d_core.report.tables import agreement_table, downstream_table
from gem3d_core.scans.check import Fault
from tasks.artifacts.configuration import as_yaml, without_machine
from tasks.artifacts.files import CASES, read_rows
from tasks.artifacts.lineage import DatasetRefs, seconds_of
from tasks.artifacts.metrics import AGREEMENT, FIDELITY, arms_among, measured_by
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.artifacts.source import FAULTS, Source, open_source
from tasks.evaluation.downstream import overlaps_by
from tasks.evaluation.scores import SETS
from tasks.evaluation.tables import fidelity_tables
from tasks.frame.stage import Identity, Product, Run, Stage, Work

LOSSLESS_DB = 100.0
"""PSNR from which on a codec loses nothing but float32's last digits."""

CAPTIONS = {
    "training.png": "Real training volumes and, beneath each, a new volume for its mask",
    "paired.png": "Real test volumes and, beneath each, the volume drawn from its mask and its own middle slice",
    "augmented.png": "Real training volumes and, beneath each, a new volume for its edited mask",
    "distances.png": "Distance to the nearest training volume: synthetic volumes beside held-out real ones",
}


@dataclass(frozen=True)
class WriteReport(Stage):
    """`report` NAME: report.md and report.html of everything that a run made."""

    name: ClassVar[str] = "report"
    kind: ClassVar[str] = "report"

    data: DatasetRefs
    models: tuple[str, ...]
    volumes: tuple[str, ...]
    datasets: tuple[str, ...]
    metrics: tuple[str, ...]

    def identity(self) -> Identity:
        """All that it tells of."""
        settings = {"config": self.run.config.model_dump(exclude={"runtime"})}
        return Identity(self.run.name, settings, self._inputs, seed=self.run.seed)

    def make(self, work: Work) -> Product:
        """Write it, with its pictures."""
        opened = open_prepared(work.catalog, work.get(self.data.prepared))
        source = open_source(work.catalog, work.get(self.data.source))
        drawn_from = [parent for ref in self.volumes for parent in work.get(ref).parents if parent not in self._inputs]
        artifacts = [work.get(ref) for ref in (*self._inputs, *drawn_from)]
        behind = _behind(work.catalog, [work.get(ref) for ref in self.datasets], artifacts)
        written = write_report(_report(work, self.run, source, opened, artifacts, behind), work.folder / "out")
        _distances_csv(work, artifacts)
        files = {str(path.relative_to(work.folder / "out")): path for path in _files(work.folder / "out")}
        return Product(files, {"pages": [path.name for path in written]})

    @property
    def _inputs(self) -> tuple[str, ...]:
        data = (self.data.source, self.data.prepared, self.data.latents)
        return (*data, *self.models, *self.volumes, *self.datasets, *self.metrics)


def _behind(catalog: Catalog, datasets: list[Artifact], told: list[Artifact]) -> list[Artifact]:
    """What else the datasets come from, such as volumes and trainings of another system whose dataset is an arm."""
    found = {a.version: a for dataset in datasets for _, a in catalog.lineage(dataset) if isinstance(a, Artifact)}
    known = {artifact.version for artifact in told}
    return [artifact for version, artifact in found.items() if version not in known]


def _distances_csv(work: Work, artifacts: list[Artifact]) -> None:
    """The distance of every volume to its nearest training volume, beside the report."""
    import pandas as pd

    for artifact in (a for a in artifacts if "distances.parquet" in a.files):
        distances = pd.read_parquet(work.catalog.path(artifact, "distances.parquet"))
        distances.to_csv(work.folder / "out" / "distances.csv", index=False, float_format="%.5f")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _report(
    work: Work, run: Run, source: Source, prepared: Prepared, artifacts: list[Artifact], behind: list[Artifact]
) -> Report:
    """behind: what the run did not make for itself, told among stages and trainings only."""
    catalog = work.catalog
    metrics = [a for a in artifacts if a.kind == "metrics"]
    measured = next(iter(measured_by(FIDELITY, metrics)), None)
    arms = {arm: _overlaps(catalog, found) for arm, found in arms_among(metrics).items()}
    judged = next(iter(measured_by(AGREEMENT, metrics)), None)
    return Report(
        title=f"{run.name}: re-sampled with GEM-3D",
        verdict=_verdict(arms, [f"{a.meta['factor']}x" for a in artifacts if a.kind == "dataset"]),
        summary=_summary(artifacts, prepared),
        dataset=_dataset_facts(source, prepared),
        split=_split_facts(prepared),
        quarantined=_faults(catalog, source),
        not_evaluated=_not_evaluated(run, prepared, measured),
        notes=_stage_notes(artifacts),
        stages=tuple(_stage(catalog, a) for a in sorted([*artifacts, *behind], key=lambda a: a.created)),
        tables=(
            *fidelity_tables(catalog, run.config, prepared, measured),
            *([downstream_table(arms)] if arms else []),
            *([agreement_table(agreements(catalog, judged, arms["true"]))] if judged else []),
        ),
        pictures=tuple(_pictures(work, artifacts, [*artifacts, *behind])),
        configuration=as_yaml(without_machine(run.config)),
        provenance={
            a.ref.full: f"made by code {a.code_version[:12]}, configuration {a.config_hash[:12]}"
            for a in (*artifacts, *behind)
        },
    )


def _verdict(arms: Mapping[str, list[CaseOverlap]], published: Sequence[str]) -> str:
    """One sentence: did the synthetic data do what the true data do? published: the run's own datasets, as arms."""
    dice = {arm: sum(case.mean.dice for case in cases) / len(cases) for arm, cases in arms.items()}
    ours = [arm for arm in dice if arm in published]
    if "true" not in dice or not ours:
        return "Whether the synthetic data help a segmentation network was not measured in this run."
    best = max(ours, key=lambda arm: dice[arm])
    return (
        f"nnU-Net trained on synthetic data alone ({best}) reaches a mean Dice of {100 * dice[best]:.1f}% on the true "
        f"test cases; trained on the true data, equally long, {100 * dice['true']:.1f}%."
    )


def agreements(catalog: Catalog, judged: Artifact, real: list[CaseOverlap]) -> dict[str, list[CaseOverlap]]:
    """Mask agreement of sampled volumes by the kind of their masks, and of real test volumes, by one nnU-Net."""
    rows = read_rows(catalog.path(judged, "agreement.parquet"))
    sets = {of: overlaps_by([row for row in rows if row["variant"] == kind], "volume") for kind, of in SETS.items()}
    return {of: cases for of, cases in sets.items() if cases} | {"real test": real}


def _overlaps(catalog: Catalog, arm: Artifact) -> list[CaseOverlap]:
    """An arm's scores, case by case."""
    return overlaps_by(read_rows(catalog.path(arm, "scores.parquet")), "case")


def _summary(artifacts: list[Artifact], prepared: Prepared) -> dict[str, Cell]:
    drawn = sum(cast("int", a.meta["volumes"]) for a in artifacts if a.kind == "volumes")
    rejected = sum(cast("int", a.meta["rejected"]) for a in artifacts if a.kind == "volumes")
    published = {f"dataset {a.name}": f"{a.meta['volumes']} volumes" for a in artifacts if a.kind == "dataset"}
    return {
        "training masks": len(prepared.train),
        "volumes drawn": drawn,
        "volumes rejected": rejected,
        **_ceiling(artifacts),
        **published,
        "outlines": ", ".join(f"{kind}: {n}" for kind, n in _counts(prepared).items()),
    }


def _ceiling(artifacts: list[Artifact]) -> dict[str, Cell]:
    """What the codec loses cannot come back."""
    (psnr,) = (cast("float", a.meta["psnr_db"]) for a in artifacts if a.kind == "latents")
    exact = psnr >= LOSSLESS_DB
    return {"codec's reconstruction, the ceiling of quality": "exact" if exact else f"{psnr:.1f} dB PSNR"}


def _counts(prepared: Prepared) -> dict[str, int]:
    return cast("dict[str, int]", prepared.artifact.meta["outlines"])


def _dataset_facts(source: Source, prepared: Prepared) -> dict[str, Cell]:
    x, y, z = prepared.target_spacing
    return {
        "dataset": source.artifact.name,
        "channel": f"{source.channel} ({source.modality.upper()})",
        "labels": ", ".join(f"{name} {ids}" for name, ids in source.labels.items()),
        "cases": len(source.cases),
        **_left_out(source),
        "spacing that nnU-Net chose (x, y, z)": f"{x:g} x {y:g} x {z:g} mm",
        "licence": source.licence or Missing("dataset.json states none"),
        **_notes(prepared),
    }


def _left_out(source: Source) -> dict[str, Cell]:
    cases = len(cast("list[str]", source.artifact.meta["left_out"]))
    return {"sound cases left out by data.max_cases": cases} if cases else {}


def _notes(prepared: Prepared) -> dict[str, Cell]:
    """What preparation had to say, and of how many cases; what differs from case to case stays in the catalog."""
    rows = read_rows(prepared.catalog.path(prepared.artifact, CASES))
    counts = Counter(note.partition(":")[0] for row in rows for note in str(row["notes"]).split("; ") if note)
    notes: dict[str, Cell] = {note: f"{n} case(s)" for note, n in counts.most_common()}
    return notes | ({"plan": str(prepared.artifact.meta["plan_note"])} if prepared.artifact.meta["plan_note"] else {})


def _split_facts(prepared: Prepared) -> dict[str, Cell]:
    note = str(prepared.artifact.meta["split_note"])
    facts: dict[str, Cell] = {"training cases": len(prepared.train), "test cases": len(prepared.test)}
    return {**facts, "note": note} if note else facts


def _faults(catalog: Catalog, source: Source) -> tuple[str, ...]:
    rows = read_rows(catalog.path(source.artifact, FAULTS))
    return tuple(
        str(Fault(*(str(row[name]) for name in ("case", "file", "fault", "found", "expected", "remedy"))))
        for row in rows
    )


def _not_evaluated(run: Run, prepared: Prepared, measured: Artifact | None) -> dict[str, str]:
    reasons = dict(cast("dict[str, str]", measured.meta["missing"])) if measured else {}
    if not run.config.evaluate.fidelity:
        reasons["fidelity"] = "switched off by evaluate.fidelity=false"
    if not run.config.evaluate.downstream:
        reasons["downstream nnU-Net"] = "switched off by evaluate.downstream=false"
    elif not prepared.test:
        reasons["downstream nnU-Net"] = "there is no test split to test on"
    return reasons


def _stage_notes(artifacts: list[Artifact]) -> tuple[str, ...]:
    notes = []
    for artifact in artifacts:
        if artifact.meta.get("note"):
            notes.append(f"{artifact.kind}/{artifact.name}: {artifact.meta['note']}")
        given_up = cast("list[str]", artifact.meta.get("given_up") or []) if artifact.kind == "volumes" else []
        if given_up:
            cases = ", ".join(line.partition(":")[0] for line in given_up)
            notes.append(
                f"{artifact.kind}/{artifact.name}: no edit of the mask of {cases} kept all labels inside the outline, "
                "so there is no volume for it; the table `draws` of the catalog says what was drawn"
            )
    return tuple(notes)


def _stage(catalog: Catalog, artifact: Artifact) -> StageTime:
    return StageTime(str(artifact.meta["stage"]), seconds_of(catalog, artifact) / 60, str(artifact.ref))


def _pictures(work: Work, artifacts: list[Artifact], trained: list[Artifact]) -> list[tuple[str, Path]]:
    """Volumes first, in the order of the captions, then the losses of every model among `trained`."""
    pictures = []
    for name, caption in CAPTIONS.items():
        pictures += [(caption, work.catalog.view(a) / name) for a in artifacts if name in a.files]
    for model in (a for a in trained if a.kind == "model"):
        rows = read_rows(work.catalog.path(model, "losses.parquet"))
        steps, losses = (np.array([row[column] for row in rows]) for column in ("step", "loss"))
        path = loss_curve({str(model.meta["stage"]): (steps, losses)}, work.folder / f"{model.name}.png")
        pictures.append((f"Training loss of {model.name}, {model.meta['steps']} steps", path))
    return pictures
