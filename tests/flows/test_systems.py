"""Every system of the paper, ours, and all additions at once, through the whole DAG, on phantoms, in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_catalog import Catalog
from gem3d_core.scans.phantoms import write_cohort
from tasks.artifacts.files import read_rows

pytestmark = pytest.mark.slow

SYSTEMS: dict[str, dict[str, object]] = {
    "paper": {"system": "paper", "resample.steps": 2, "informed.sample.steps": 2, "informed.mode": "generated"},
    "make-a-volume": {"system": "make-a-volume"},
    # of clean latents, networks that were trained for fewer steps predict zeros
    "ldm-3d": {"system": "ldm-3d", "tune_volume.steps": 15},
    "pix2pix-3d": {"system": "pix2pix-3d", "tune_volume.steps": 15, "evaluate.downstream": True},
    "no volumetric tuning, cross-attention": {"generator": "slice", "condition.injection": "cross_attention"},
    "no overlapped inpainting, cross-attention": {
        "condition.injection": "cross_attention",
        "resample.continuation": "informed",
    },
    "ours": {"system": "ours"},
    "all additions at once": {
        "condition.injection": "controlnet",
        "condition.known": True,
        "condition.strides": [1, 3],
        "condition.drop_mask": 0.1,
        "condition.drop_informed": 0.1,
        "resample.continuation": "known",
        "resample.plan": "keyframes",
        "resample.mask_guidance": 1.5,
        "resample.informed_guidance": 2.0,
        "informed.donor": "outline",
    },
}
WITHOUT = {
    "make-a-volume": {"train-informed"},
    "ldm-3d": {"train-slices", "train-informed"},
    "pix2pix-3d": {"train-slices", "train-informed"},
    "no volumetric tuning, cross-attention": {"tune-volume"},
}
RUN_ALL = """
import json, sys
from flows.session.server import own_server

dataset, catalog, systems = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with own_server() as wait:
    from flows.enhance import enhance_dataset
    from flows.session.parameters import EnhanceParameters

    wait()
    for name, settings in systems.items():
        parameters = EnhanceParameters(dataset=dataset, catalog=catalog, profile="smoke", overrides=settings)
        print("DONE", json.dumps([name, enhance_dataset(parameters).model_dump()]), flush=True)
"""
QUICK = {"evaluate.downstream": False, "masks.use": "true", "tune_volume.steps": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("systems")
    dataset, catalog = write_cohort(folder, cases=4, size=32, seed=3), folder / "catalog"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "GEM3D_"))}
    systems = json.dumps({name: QUICK | settings for name, settings in SYSTEMS.items()})
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(dataset), str(catalog), systems],
        env=kept | {"PREFECT_HOME": str(folder / "prefect")},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.removeprefix("DONE ") for line in done.stdout.splitlines() if line.startswith("DONE ")]
    return Catalog.open(catalog), dict(map(json.loads, lines))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_goes_through_all_its_stages_to_a_dataset(runs: tuple[Catalog, dict[str, Any]], name: str) -> None:
    catalog, summaries = runs
    stages = [stage["name"] for stage in summaries[name]["stages"]]
    everything = [stage["name"] for stage in summaries["paper"]["stages"]]
    assert len(everything) == 11
    assert stages == [stage for stage in everything if stage not in WITHOUT.get(name, set())]
    (dataset,) = summaries[name]["datasets"]
    images = sorted(Path(dataset["path"], "imagesTr").glob("*.nii.gz"))
    (volumes,) = [ref for ref in summaries[name]["artifacts"] if ref.startswith("volumes/")]
    rows = read_rows(catalog.path(catalog.get(volumes), "volumes.parquet"))
    assert len(images) == len(rows) > 1
    assert all(row["accepted"] for row in rows)
    from_a_donor = name not in {"paper", "make-a-volume", "ldm-3d", "pix2pix-3d"}  # `paper` generates its slices here
    assert all((row["donor"] is not None) is from_a_donor for row in rows)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_scored(runs: tuple[Catalog, dict[str, Any]], name: str) -> None:
    catalog, summaries = runs
    (measured,) = [ref for ref in summaries[name]["artifacts"] if "-fidelity@" in ref]
    means = catalog.get(measured).meta["means"]
    assert 0 < means["MS-SSIM (test, paired)"] < 1
    assert means["(b) axial over real (synthetic)"] > 0


def test_a_segmenter_learns_from_volumes_that_were_drawn_whole(runs: tuple[Catalog, dict[str, Any]]) -> None:
    catalog, summaries = runs
    arms = [catalog.get(ref) for ref in summaries["pix2pix-3d"]["artifacts"] if "-arm-" in ref]
    assert {arm.name.rsplit("-", 1)[1] for arm in arms} == {"true", "1x"}
    assert all(0 <= arm.meta["dice"] <= 1 for arm in arms)


def test_what_systems_share_is_made_once(runs: tuple[Catalog, dict[str, Any]]) -> None:
    catalog, summaries = runs
    cached = {name: {s["name"] for s in summary["stages"] if s["cached"]} for name, summary in summaries.items()}
    for name in SYSTEMS:
        if name != "paper":
            assert {"ingest", "preprocess"} <= cached[name]
    assert "encode" in cached["ldm-3d"], "Make-A-Volume has the same latents"
    drawn = {ref for summary in summaries.values() for ref in summary["artifacts"] if ref.startswith("volumes/")}
    assert len(drawn) == len(SYSTEMS), "no two systems draw the same"
    kinds = {a.meta["network"] for a in catalog.ls("model")}
    assert kinds == {"slice", "volume", "whole", "position"}
