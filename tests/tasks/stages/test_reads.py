"""Stages read a volume's file once, although they go over the cases twice."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from configs import load
from data_catalog import Catalog
from gem3d_core.nnunet.arms import Plans
from gem3d_core.scans.formats import decode_nifti
from gem3d_core.scans.phantoms import write_cohort
from tasks.artifacts.prepared import open_prepared
from tasks.artifacts.source import open_source
from tasks.frame.stage import Run, Stage, perform
from tasks.stages.encode import Encode
from tasks.stages.ingest import Ingest
from tasks.stages.preprocess import Preprocess

CASES = 6
PLANS = Plans("3d_fullres", (4.0, 4.0, 4.0), "", "")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every volume that is read from its file, by whatever function, in order."""
    read = list[Path]()

    def counted(path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        read.append(path)
        return decode_nifti(path, data)

    monkeypatch.setattr("gem3d_core.scans.volumes.decode_nifti", counted)
    return read


def test_preparing_and_encoding_read_each_file_once(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # nnU-Net's planning is a process of its own that takes ten seconds and reads copies
    monkeypatch.setattr("tasks.stages.preprocess.plan", lambda *_: PLANS)
    dataset = write_cohort(tmp_path, cases=CASES, size=24)
    values = {"catalog": str(tmp_path / "catalog"), "run_id": "test", "name": "N", "seed": 0, "dataset": str(dataset)}
    run = Run.model_validate({**values, "config": load("smoke")})

    def during(stage: Stage) -> tuple[str, Counter[Path]]:
        reads.clear()
        return perform(stage).ref, Counter(reads)

    source, _ = during(Ingest(run))
    prepared, of_source = during(Preprocess(run, source))
    _, of_prepared = during(Encode(run, prepared))

    catalog = Catalog.open(run.catalog)
    cases = open_source(catalog, catalog.get(source)).cases.values()
    assert of_source == Counter(dataset / path for case in cases for path in (case.image, case.label))
    opened = open_prepared(catalog, catalog.get(prepared))
    assert opened.train
    assert opened.test
    assert of_prepared == Counter(
        catalog.path(opened.artifact, f"cases/{case}/{name}.nii.gz")
        for case in opened.cases
        for name in ("image", "mask", "outline")
    )
