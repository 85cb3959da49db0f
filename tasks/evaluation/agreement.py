"""Stage 11, mask agreement: does nnU-Net, trained on the true data, find in a drawn volume the mask behind it?"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_catalog import Artifact, Catalog
from gem3d_core.machine.reading import read_ahead
from gem3d_core.metrics.overlap import CaseOverlap
from gem3d_core.nnunet.arms import RawCase, predict_arm, read_prediction, write_images
from gem3d_core.prepare.split import evenly
from gem3d_core.scans.volumes import read_label, read_volume
from tasks.artifacts.files import CASES
from tasks.artifacts.lineage import DatasetRefs
from tasks.artifacts.prepared import open_prepared
from tasks.artifacts.source import Source, open_source
from tasks.artifacts.volumes import Row, accepted
from tasks.evaluation.downstream import MEAN, arm_identity, score, trained_model
from tasks.frame.policy import accelerator, stage_task
from tasks.frame.stage import Product, Run, Stage, StageResult, Work, run_stage


@stage_task("mask-agreement")
def agreement(run: Run, data: DatasetRefs, judge: str, volumes: str) -> StageResult:
    """`metrics` NAME-agreement: Dice and HD95 between the masks of `volumes` and what nnU-Net finds in their images.

    `judge`: the metrics of the arm that was trained on the true data, which hold its nnU-Net.
    """
    config = run.config
    settings = {"arm": arm_identity(config.evaluate.arm), "volumes": config.evaluate.fid_volumes}
    settings["masks"] = config.masks.count
    stage = Stage(
        "mask-agreement",
        __name__,
        "metrics",
        f"{run.name}-agreement",
        settings,
        (judge, volumes),
        files=((data.source, CASES), (data.prepared, CASES)),
    )

    def make(work: Work) -> Product:
        source, drawn = open_source(work.catalog, data.source), work.catalog.get(volumes)
        train = open_prepared(work.catalog, data.prepared).train
        masks = set(evenly(evenly(train, config.masks.count), config.evaluate.fid_volumes))  # those of FID
        rows = [row for row in accepted(work.catalog, drawn) if row["mask_case"] in masks]
        work.progress.total(len(rows), "drawn volumes segmented by nnU-Net")
        with accelerator(config) as device:
            spec = replace(config.evaluate.arm, device="cuda" if device == "cuda" else "cpu")
            model = trained_model(work.catalog, judge)
            threads = config.runtime.threads
            images = write_images(work.folder / "images", _images(work.catalog, drawn, rows, threads), source.channel)
            predicted = predict_arm(work.folder, model, images, work.folder / "predicted", spec, threads=threads)
        return _product(work, source, drawn, rows, predicted, threads)

    return run_stage(run, stage, make)


def _images(catalog: Catalog, volumes: Artifact, rows: list[Row], threads: int) -> Iterator[RawCase]:
    def read(row: Row) -> RawCase:
        image = read_volume(catalog.path(volumes, f"volumes/{row['volume']}/image.nii.gz"))
        return RawCase(str(row["volume"]), image.array, image.affine)

    return read_ahead(read, rows, threads)


def _product(
    work: Work, source: Source, drawn: Artifact, rows: list[Row], predicted: dict[str, Path], threads: int
) -> Product:
    import pandas as pd

    def scored(row: Row) -> tuple[Row, CaseOverlap]:
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
