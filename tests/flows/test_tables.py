"""`reproduce-tables` and a baseline arm on phantoms: rows share what they have in common; what is told of them.

One process for all, on a server of its own; the command line around it is tested by its help and its usage errors.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_catalog import Catalog
from gem3d_core.scans.phantoms import write_cohort

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
ROWS = ["make-a-volume", "gem3d-ig-ma", "paper", "gem3d-ic-ma", "ours"]
QUICK = {
    "tables.tune_volume": 3,
    "tables.train_slices": 12,
    "tables.whole": 3,
    "tables.train_informed": 8,
    "evaluate.paired_cases": 1,
}
RUN_ALL = """
import json, sys
from flows.session.server import own_server

dataset, catalog, rows, quick = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
with own_server() as wait:
    from flows.enhance import enhance_dataset
    from flows.session.parameters import EnhanceParameters, TablesParameters
    from flows import tables
    from flows.tables import reproduce_tables

    wait()
    made = tables._row

    def interrupted(name, *others):
        if name == "known":
            raise ValueError("nobody foresaw this")
        return made(name, *others)

    tables._row = interrupted
    shared = dict(dataset=dataset, catalog=catalog, profile="smoke")
    some = TablesParameters(**shared, rows=["make-a-volume", "paper"], overrides=quick)
    whole = some.model_copy(update={"rows": [*rows, "known", "pix2pix-3d"]})  # which learns nothing in three steps
    baseline = {"evaluate.baseline": "make-a-volume", "masks.use": "true"}
    enhance = EnhanceParameters(**shared, overrides=quick | baseline)
    for run, parameters in ((reproduce_tables, some), (reproduce_tables, whole), (enhance_dataset, enhance)):
        print("DONE", json.dumps(run(parameters).model_dump()), flush=True)
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Runs:
    """What each of the three runs printed as JSON."""

    dataset: Path
    catalog: Catalog
    some: dict[str, Any]
    whole: dict[str, Any]
    enhanced: dict[str, Any]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("tables")
    dataset, catalog = write_cohort(folder, cases=6, size=32, seed=3), folder / "catalog"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "GEM3D_"))}
    kept |= {"PREFECT_HOME": str(folder / "prefect"), "GEM3D_WEIGHTS": str(SHARED / "weights")}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(dataset), str(catalog), json.dumps(ROWS), json.dumps(QUICK)],
        env=kept,
        capture_output=True,
        text=True,
        timeout=2400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line.removeprefix("DONE ") for line in done.stdout.splitlines() if line.startswith("DONE ")]
    return Runs(dataset, Catalog.open(catalog), *map(json.loads, lines), environment=kept)


def test_the_tables_hold_the_rows_that_were_asked_for(runs: Runs) -> None:
    for told, rows in ((runs.some, ["make-a-volume", "paper"]), (runs.whole, ROWS)):
        document = json.loads(Path(told["numbers"]).read_text())
        assert [row["name"] for row in document["rows"]] == rows
    page = Path(runs.whole["tables"]).read_text()
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert [title.partition(":")[0] for title in titles[:5]] == [
        "Table 1",
        "Table 2",
        "Table 3",
        "Ablations (Figures 5 and 6)",
        "What each of our changes brings",
    ]
    assert "| GEM-3D + IC + MA |" in page
    assert "| GEM-3D + IG + MA |" in page
    assert "12.96 / 62.63 / 62.04" in page
    assert "| concatenation |" in page
    assert "| held-out real volumes |" in page
    assert "tables.train_slices=12" in page


def test_every_row_was_measured_and_its_numbers_are_those_of_its_artifacts(runs: Runs) -> None:
    rows = {row["name"]: row for row in json.loads(Path(runs.whole["numbers"]).read_text())["rows"]}
    for name, row in rows.items():
        assert sorted(row["fid"]) == ["axial", "coronal", "sagittal"], name
        assert len(row["ms_ssim"]) == 1, name
        assert len(row["agreement"]) == min(row["cost"]["volumes"], 2), name  # as many as FID compares
        assert row["cost"]["training_seconds"] > 0
        values = pd.read_parquet(runs.catalog.path(runs.catalog.get(row["artifacts"]["fidelity"]), "values.parquet"))
        of = "synthetic for edited masks" if name.endswith("-ma") else "synthetic"
        fid = values[(values["metric"] == "FID axial") & (values["of"] == of)]["value"].item()
        assert row["fid"]["axial"]["value"] == fid
        interval = row["fid"]["axial"]["interval"]
        reach = 1.959964 * np.std(row["replicates"]["axial"], ddof=1)
        assert reach > 0
        assert (interval["low"], interval["high"]) == pytest.approx((max(0, fid - reach), fid + reach), rel=1e-3)
    costs = {name: row["cost"] for name, row in rows.items()}
    assert costs["paper"]["steps"] == "12 + 3"
    assert costs["gem3d-ig-ma"]["steps"] == "12 + 3 + 8", "and the model that generates slices"
    assert costs["make-a-volume"]["parameters"] < costs["paper"]["parameters"], "no channels for an informed slice"


def test_what_rows_have_in_common_is_made_once(runs: Runs) -> None:
    rows = {row["name"]: row["artifacts"] for row in json.loads(Path(runs.whole["numbers"]).read_text())["rows"]}
    assert rows["paper"]["models"] == rows["gem3d-ic-ma"]["models"]
    assert set(rows["paper"]["models"]) < set(rows["gem3d-ig-ma"]["models"])
    assert rows["paper"]["drawing"] == rows["gem3d-ig-ma"]["drawing"]
    assert rows["paper"]["models"] != rows["ours"]["models"]
    assert len({row["volumes"] for row in rows.values()}) == len(ROWS)
    cached = {stage["name"]: stage["cached"] for stage in runs.whole["stages"]}
    first = [name for name in cached if name.endswith(("(make-a-volume)", "(paper)"))]
    assert len(first) > 8
    assert all(cached[name] for name in first), "the first run made them"
    assert not cached["resample (ours)"]


def test_the_papers_orderings_are_judged(runs: Runs) -> None:
    claims = json.loads(Path(runs.whole["numbers"]).read_text())["claims"]
    assert {"Table 1", "Table 2", "our aim"} <= {claim["source"] for claim in claims}
    assert {claim["verdict"] for claim in claims} == {"not decided"}, "one test case and two volumes decide nothing"
    table_1 = [c for c in claims if c["source"] == "Table 1" and c["measure"] == "FID coronal"]
    assert (table_1[0]["better"], table_1[0]["paper"]) == ("GEM-3D + IC", "6.14, 11.76")


def test_a_row_that_cannot_be_made_is_listed_and_costs_no_other(runs: Runs) -> None:
    assert runs.some["failed"] == {}
    assert sorted(runs.whole["failed"]) == ["known", "pix2pix-3d"]
    assert runs.whole["failed"]["known"] == "ValueError: nobody foresaw this"
    assert "train longer" in runs.whole["failed"]["pix2pix-3d"]
    assert "Not made: pix2pix-3d: none of" in Path(runs.whole["tables"]).read_text()


def test_systems_are_pictured_side_by_side(runs: Runs) -> None:
    pictures = sorted(path.name for path in (Path(runs.whole["tables"]).parent / "pictures").iterdir())
    assert {name.partition("-")[0] for name in pictures} == {"systems"}, "one ablation row has none beside it"
    page = Path(runs.whole["tables"]).read_text()
    assert all(f"(pictures/{name})" in page for name in pictures)


def test_another_system_is_an_arm_of_the_evaluation(runs: Runs) -> None:
    arms = {name.removeprefix("dice trained on ") for name in runs.enhanced["metrics"] if name.startswith("dice")}
    assert arms == {"true", "make-a-volume", "1x"}
    assert [d["ref"].partition("@")[0] for d in runs.enhanced["datasets"]] == ["dataset/Phantoms-1x"]
    beside = runs.catalog.get("dataset/Phantoms-make-a-volume-1x")
    assert beside.meta["folder"] == "Dataset501_Phantoms-make-a-volume1x"
    assert beside.ref.full in runs.enhanced["artifacts"]
    stages = [stage["name"] for stage in runs.enhanced["stages"]]
    assert stages.index("publish") < stages.index("train-slices (make-a-volume)") < stages.index("evaluate")
    report = (Path(runs.enhanced["report"]) / "report.md").read_text()
    assert "## Mask agreement" in report
    assert "| make-a-volume | mean of labels |" in report
    trained = "model/Phantoms-make-a-volume-volume@"
    assert any(line.startswith("| tune-volume |") and trained in line for line in report.splitlines())
    assert "Training loss of Phantoms-make-a-volume-volume" in report
    assert runs.enhanced["metrics"]["mask agreement"] is not None


def test_the_dry_run_knows_the_baseline(runs: Runs) -> None:
    settings = {**QUICK, "evaluate.baseline": "make-a-volume", "masks.use": "true"}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    asked = ["enhance", str(runs.dataset), "--profile", "smoke", *words, "--catalog", runs.catalog.address]
    told = _gem3d(runs, *asked, "--dry-run", "--json")
    stages = {s["name"]: s["cached"] for s in json.loads(told.stdout)["stages"] if not s["needless"]}
    assert all(stages.values()), stages
    assert "tune-volume (make-a-volume)" in stages


def test_usage_errors_name_the_nearest(runs: Runs, tmp_path: Path) -> None:
    asked = ["tables", str(runs.dataset), "--profile", "smoke", "--catalog", str(tmp_path / "c")]
    encoder = ["--rows", "cross-attention", "--set", f"condition.image_encoder={tmp_path / 'no-clip'}"]
    assert "no CLIP vision model in such a folder" in _gem3d(runs, *asked, *encoder, code=1).stderr
    assert "did you mean 'paper'" in _gem3d(runs, *asked, "--rows", "papers", code=2).stderr
    assert "no system 'make-volume'" in _gem3d(
        runs, "enhance", *asked[1:], "--set", "evaluate.baseline=make-volume", "--dry-run", code=2
    ).stderr  # fmt: skip
    told = _gem3d(runs, *asked, "--set", "masks.use=both", code=2).stderr
    assert "--set masks.use: it is among what makes the row make-a-volume; choose among the rows" in told
    assert "--name 'a/b'" in _gem3d(runs, *asked, "--name", "a/b", code=2).stderr
    assert not (tmp_path / "c").exists()


def test_new_volumes_come_from_the_datasets_own_model(runs: Runs) -> None:
    from tasks.artifacts.model import newest_volume_model

    newest = newest_volume_model(runs.catalog)
    assert newest is not None
    assert newest.name == "Phantoms-volume"
    rows = {row["name"]: row["artifacts"] for row in json.loads(Path(runs.whole["numbers"]).read_text())["rows"]}
    told = _gem3d(runs, "resample", rows["ours"]["drawing"], "--catalog", runs.catalog.address, "--json")
    assert [d["ref"].partition("@")[0] for d in json.loads(told.stdout)["datasets"]] == ["dataset/Phantoms-tables-1x"]


def _gem3d(runs: Runs, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    done = subprocess.run(command, env=runs.environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr[-4000:]
    return done
