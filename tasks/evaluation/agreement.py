"""Stage 11, mask agreement: does nnU-Net, trained on the true data, find in a drawn volume the mask behind it?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_catalog import Artifact, Catalog
from gem3d_core.machine.reading import read_ahead
from gem3d_core.metrics.overlap import CaseOverlap
from gem3d_core.nnunet.arms import RawCase, predict_arm, read_prediction, write_images
from gem3d_core.prepare.split import evenly
from gem3d_core.scans.volumes import read_label, read_volume
from tasks.artifacts.files import CASES
from tasks.artifacts.metrics import AGREEMENT
from tasks.artifacts.prepared import open_prepared
from tasks.artifacts.source import Source, open_source
from tasks.artifacts.volumes import VolumeRow, accepted
from tasks.evaluation.downstream import MEAN, arm_identity, score, trained_model
from tasks.frame.policy import accelerator
from tasks.frame.stage import Identity, Product, Stage, Work


@dataclass(frozen=True)
class MaskAgreement(Stage):
    """`metrics` NAME-agreement: Dice and HD95 between the masks of `volumes` and what nnU-Net finds in their images.

    judge: the metrics of the arm that was trained on the true data, which hold its nnU-Net.
    """

    name: ClassVar[str] = AGREEMENT
    kind: ClassVar[str] = "metrics"

    source: str
    prepared: str
    judge: str
    volumes: str

    def identity(self) -> Identity:
        """The judge and the volumes, and which of them are looked at."""
        evaluate = self.run.config.evaluate
        settings = {"arm": arm_identity(evaluate.arm), "volumes": evaluate.fid_volumes}
        settings["masks"] = self.run.config.masks.count
        files = ((self.source, CASES), (self.prepared, CASES))
        return Identity(f"{self.run.name}-agreement", settings, (self.judge, self.volumes), files)

    def make(self, work: Work) -> Product:
        """Segment the volumes whose features FID compares, and score them."""
        config, threads = self.run.config, self.run.config.runtime.threads
        source, drawn = open_source(work.catalog, work.get(self.source)), work.get(self.volumes)
        train = open_prepared(work.catalog, work.get(self.prepared)).train
        masks = set(evenly(evenly(train, config.masks.count), config.evaluate.fid_volumes))  # those of FID
        rows = [row for row in accepted(work.catalog, drawn) if row["mask_case"] in masks]
        work.progress.total(len(rows), "sampled volumes segmented by nnU-Net")
        with accelerator(config) as device:
            spec = replace(config.evaluate.arm, device="cuda" if device == "cuda" else "cpu")
            model = trained_model(work.catalog, work.get(self.judge))
            images = write_images(work.folder / "images", _images(work.catalog, drawn, rows, threads), source.channel)
            predicted = predict_arm(work.folder, model, images, work.folder / "predicted", spec, threads=threads)
        return _product(work, source, drawn, rows, predicted, threads)


def _images(catalog: Catalog, volumes: Artifact, rows: list[VolumeRow], threads: int) -> Iterator[RawCase]:
    def read(row: VolumeRow) -> RawCase:
        image = read_volume(catalog.path(volumes, f"volumes/{row['volume']}/image.nii.gz"))
        return RawCase(str(row["volume"]), image.array, image.affine)

    return read_ahead(read, rows, threads)


def _product(
    work: Work, source: Source, drawn: Artifact, rows: list[VolumeRow], predicted: dict[str, Path], threads: int
) -> Product:
    import pandas as pd

    def scored(row: VolumeRow) -> tuple[VolumeRow, CaseOverlap]:
        name = str(row["volume"])
        truth = read_label(work.catalog.path(drawn, f"volumes/{name}/label.nii.gz"))
        return row, score(source, read_prediction(predicted[name], truth.affine).astype(np.int16), truth)

    scores = []
    for done, (row, found) in enumerate(read_ahead(scored, rows, threads), start=1):
        for label, overlap in {**found.labels, MEAN: found.mean}.items():
            told = {"dice": overlap.dice, "hd95": overlap.hd95}
            scores.append({"volume": row["volume"], "variant": row["variant"], "label": label, **told})
        work.progress.at(done)
    table = pd.DataFrame(scores)
    table.to_parquet(work.folder / "agreement.parquet")
    means = table[table["label"] == MEAN]
    meta = {"agreement": float(means["dice"].mean()), "volumes": len(means)}
    of_catalog = table.assign(group="mask agreement").rename(columns={"volume": "case"})
    return Product({"agreement.parquet": work.folder / "agreement.parquet"}, meta, {"metrics": of_catalog})
