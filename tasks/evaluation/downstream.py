"""Stage 11, downstream: nnU-Net trained on one dataset and tested on the true test split (Table 4)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.errors import Gem3dError
from gem3d_core.machine.reading import read_ahead
from gem3d_core.metrics.overlap import CaseOverlap, Overlap, score_case
from gem3d_core.nnunet.arms import (
    Plans,
    RawCase,
    model_files,
    predict_arm,
    read_prediction,
    train_arm,
    write_images,
    write_raw,
)
from gem3d_core.prepare.geometry import voxel_sizes
from gem3d_core.scans.dataset import plain_labels
from gem3d_core.scans.volumes import Volume, read_label, read_volume
from gem3d_core.spec.nnunet import ArmSpec
from gem3d_core.spec.terms import LabelIds
from tasks.artifacts.lineage import dataset_path
from tasks.artifacts.metrics import ARM
from tasks.artifacts.prepared import PLANS, open_prepared
from tasks.artifacts.raw import raw_cases
from tasks.artifacts.source import Source, open_source
from tasks.frame.policy import accelerator
from tasks.frame.stage import Identity, Product, Stage, Work

ARM_ID = 1
"""Number of the dataset in the arm's private workspace."""
MEAN = "mean"
"""Name of the row that averages over the labels."""


@dataclass(frozen=True)
class Downstream(Stage):
    """`metrics` NAME-arm-{arm}: Dice and HD95 of nnU-Net trained on a published dataset, or on the true training cases.

    All arms use the plan that was made on the true data. The nnU-Net of the true one is kept, to judge drawn volumes.
    dataset: none for the true data.
    """

    name: ClassVar[str] = ARM
    kind: ClassVar[str] = "metrics"

    source: str
    prepared: str
    arm: str
    dataset: str | None

    def identity(self) -> Identity:
        """The training data, the test cases, and how nnU-Net is trained."""
        settings = {"arm": arm_identity(self.run.config.evaluate.arm)}
        inputs = tuple(ref for ref in (self.source, self.prepared, self.dataset) if ref)
        return Identity(f"{self.run.name}-arm-{self.arm}", settings, inputs)

    def make(self, work: Work) -> Product:
        """Train, predict the test cases, score."""
        config, threads = self.run.config, self.run.config.runtime.threads
        source = open_source(work.catalog, work.get(self.source), self.run.dataset)
        opened = open_prepared(work.catalog, work.get(self.prepared))
        plans = Plans.from_dict(json.loads(work.catalog.path(opened.artifact, PLANS).read_text()))
        write_raw(
            work.folder / "raw",
            ARM_ID,
            "Arm",
            self._cases(work, source, opened.train, threads),
            labels=plain_labels(source.labels),
            channel_name=source.channel,
            regions_class_order=source.regions_class_order,
        )
        with accelerator(config) as device:
            spec = replace(config.evaluate.arm, device="cuda" if device == "cuda" else "cpu")
            work.progress.total(spec.epochs, f"epochs of nnU-Net on {self.arm}")
            model = train_arm(
                work.folder, ARM_ID, plans, spec, on_epoch=lambda done, _: work.progress.at(done), threads=threads
            )
            images = write_images(work.folder / "test", _images(source, opened.test, threads), source.channel)
            predicted = predict_arm(work.folder, model, images, work.folder / "predicted", spec, threads=threads)
        kept = model_files(model) if self.dataset is None else {}
        return _product(work, source, predicted, self.arm, kept, threads)

    def _cases(self, work: Work, source: Source, train: list[str], threads: int) -> Iterator[RawCase]:
        if self.dataset is None:
            return raw_cases(source, train, threads)
        return _published(dataset_path(work.catalog, work.get(self.dataset)), threads)


def arm_identity(arm: ArmSpec) -> dict[str, object]:
    """What an arm's scores depend on: not where it runs or how often it saves."""
    return {name: value for name, value in arm.to_dict().items() if name not in {"device", "workers", "save_every"}}


def arms_of(
    config: Config, *, test: int, datasets: Sequence[str], baselines: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """Every arm's dataset, none for the true data; no arms where no case is left to test on."""
    evaluate = config.evaluate
    if not evaluate.downstream or not test:
        return {}
    factors = evaluate.factors or range(1, len(datasets) + 1)
    published = {f"{factor}x": datasets[factor - 1] for factor in factors if factor <= len(datasets)}
    return {"true": None, **(baselines or {}), **published}


def _images(source: Source, names: list[str], threads: int) -> Iterator[RawCase]:
    def read(name: str) -> RawCase:
        image = source.image(name)
        return RawCase(name, image.array, image.affine)

    return read_ahead(read, names, threads)


def _published(folder: Path, threads: int) -> Iterator[RawCase]:
    def read(image_path: Path) -> RawCase:
        name = image_path.name.removesuffix("_0000.nii.gz")
        image, label = read_volume(image_path), read_label(folder / "labelsTr" / f"{name}.nii.gz")
        return RawCase(name, image.array, image.affine, label.array)

    return read_ahead(read, sorted((folder / "imagesTr").glob("*_0000.nii.gz")), threads)


def _scored(source: Source) -> tuple[dict[str, LabelIds], list[int]]:
    """The labels to score, and the ids of nnU-Net's `ignore` label, which is none of them."""
    ids = source.labels.get("ignore", ())
    scored = {name: i for name, i in source.labels.items() if name != "ignore"}
    return scored, list(ids) if isinstance(ids, tuple) else [ids]


def score(source: Source, prediction: np.ndarray, truth: Volume) -> CaseOverlap:
    """A predicted label map (X, Y, Z) beside the right one; nobody says what is right where that says `ignore`."""
    labels, ignored = _scored(source)
    known = ~np.isin(truth.array, ignored)
    return score_case(prediction * known, truth.array * known, labels, voxel_sizes(truth.affine))


def _product(
    work: Work, source: Source, predicted: dict[str, Path], arm: str, model: dict[str, Path], threads: int
) -> Product:
    """Scores of every test case against the source's own label map."""
    import pandas as pd

    def scored(item: tuple[str, Path]) -> tuple[str, CaseOverlap]:
        case, path = item
        truth = source.label(case)
        return case, score(source, read_prediction(path, truth.affine).astype(np.int16), truth)

    rows = []
    for case, found in read_ahead(scored, predicted.items(), threads):
        for label, overlap in {**found.labels, MEAN: found.mean}.items():
            rows.append({"arm": arm, "case": case, "label": label, "dice": overlap.dice, "hd95": overlap.hd95})
    table = pd.DataFrame(rows)
    table.to_parquet(work.folder / "scores.parquet")
    means = table[table["label"] == MEAN]
    meta = {"arm": arm, "dice": float(means["dice"].mean()), "hd95": float(means["hd95"].mean()), "cases": len(means)}
    files = {"scores.parquet": work.folder / "scores.parquet"} | {f"model/{name}": file for name, file in model.items()}
    return Product(files, meta, {"metrics": table.assign(group="downstream")})


def overlaps_by(rows: Iterable[Mapping[str, object]], key: str) -> list[CaseOverlap]:
    """Rows of scores, one for each label of a case or volume (`key`), put together again."""
    cases: dict[str, dict[str, Overlap]] = {}
    for row in rows:
        overlap = Overlap(cast("float", row["dice"]), cast("float", row["hd95"]))
        cases.setdefault(str(row[key]), {})[str(row["label"])] = overlap
    return [CaseOverlap({k: v for k, v in o.items() if k != MEAN}, o[MEAN]) for o in cases.values()]


def trained_model(catalog: Catalog, arm: Artifact) -> Path:
    """The folder of the nnU-Net that an arm kept. Raises Gem3dError where it kept none."""
    folder = catalog.view(arm) / "model"
    if not folder.is_dir():
        raise Gem3dError(f"{arm.ref} holds no nnU-Net: only the arm that is trained on the true data keeps it")
    return folder
