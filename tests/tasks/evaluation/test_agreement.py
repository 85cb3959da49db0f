"""Mask agreement: a drawn volume's own mask, every accepted row's, beside what was found in its image."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_catalog import Catalog
from gem3d_core.scans.volumes import write_nifti
from tasks.artifacts.seen import SeenFiles
from tasks.artifacts.source import Source
from tasks.artifacts.volumes import VolumeRow
from tasks.evaluation.agreement import _product
from tasks.frame.progress import Nothing
from tasks.frame.stage import Work

AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])
NAMES: dict[str, Any] = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": "k"}


def boxes(front: int, back: int) -> np.ndarray:
    """Two labels, each a box 4 voxels long that begins at the given index of the first axis."""
    labels = np.zeros((12, 8, 6), np.uint8)
    labels[front : front + 4, 1:4, 1:4] = 1
    labels[back : back + 4, 4:7, 1:4] = 2
    return labels


def written(path: Path, labels: np.ndarray) -> Path:
    write_nifti(path, labels, AFFINE)
    return path


def test_every_volume_is_scored_against_the_mask_that_it_was_drawn_for(tmp_path: Path) -> None:
    catalog = Catalog.open(str(tmp_path / "catalog"))
    meta = {"labels": [["background", 0], ["front", 1], ["back", 2]], "label_ids": [1, 2]}
    source = Source(catalog.put("source", "N", files={}, meta=meta, **NAMES), {}, None, SeenFiles.beside(catalog))
    masks, found = {"v0": boxes(2, 2), "v1": boxes(4, 4)}, {"v0": boxes(2, 2), "v1": boxes(5, 7)}
    files, predicted = {}, {}
    for name, labels in masks.items():
        files[f"volumes/{name}/label.nii.gz"] = written(tmp_path / f"{name}.nii.gz", labels)
        predicted[name] = written(tmp_path / f"{name}-found.nii.gz", found[name])
    drawn = catalog.put("volumes", "N-r0", files=files, meta={}, **NAMES)
    rows: list[VolumeRow] = [{"volume": "v0", "variant": "true"}, {"volume": "v1", "variant": "augmented"}]

    product = _product(Work(catalog, tmp_path, Nothing()), source, drawn, rows, predicted, 1)

    scores = pd.read_parquet(product.files["agreement.parquet"]).set_index(["volume", "label"])
    assert scores["dice"].to_dict() == {
        ("v0", "front"): 1.0,
        ("v0", "back"): 1.0,
        ("v0", "mean"): 1.0,
        ("v1", "front"): 0.75,  # one voxel of four away
        ("v1", "back"): 0.25,
        ("v1", "mean"): 0.5,
    }
    assert scores.loc[("v1", "front"), "hd95"] == pytest.approx(2.0)  # mm: a voxel along the first axis
    assert scores["variant"].to_dict()["v1", "mean"] == "augmented"
    assert product.meta == {"agreement": 0.75, "volumes": 2}
    assert list(product.tables["metrics"]["case"]) == ["v0"] * 3 + ["v1"] * 3
