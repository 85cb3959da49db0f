"""Rows that another machine trains and draws: packed here, worked on by gem3d_core alone, scored here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gem3d_core.scans.phantoms import write_cohort

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
SCRIPT = """
import runpy, sys
from pathlib import Path

script, results, *words = sys.argv[1:]
sys.path.insert(0, str(Path(script).parent))
import provenance

provenance.RESULTS = Path(results)
sys.argv = [script, *words]
runpy.run_path(script, run_name="__main__")
"""

pytestmark = pytest.mark.slow


def test_rows_are_packed_drawn_elsewhere_and_scored(tmp_path: Path) -> None:
    dataset, rows = write_cohort(tmp_path, cases=6, size=32, seed=3), tmp_path / "rows"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "GEM3D_"))}
    kept |= {"PREFECT_HOME": str(tmp_path / "prefect"), "GEM3D_WEIGHTS": str(SHARED / "weights")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    script = ["-c", SCRIPT, str(ROOT / "benchmarks" / "rows_in_pieces.py"), str(tmp_path)]
    asked = [str(dataset), "--profile", "smoke", "--rows", "paper,no-tuning,ours,ours-10"]
    asked += ["--catalog", str(tmp_path / "catalog"), "--to", str(rows)]
    asked += ["--set", "tables.train_slices=12", "--set", "tables.tune_volume=3"]
    commands = run(*script, "pack", *asked).splitlines()
    together = [["paper", "no-tuning"], ["ours", "ours-10"]]
    assert commands == [
        f"python -m benchmarks.pieces {' '.join(str(rows / name) for name in names)}" for names in together
    ]
    for command in commands:
        run(*command.split()[1:], "--seconds", "500")
    run(*script, "score", *asked)

    document = json.loads((tmp_path / "smoke" / "tables.json").read_text())
    assert [row["name"] for row in document["rows"]] == ["paper", "no-tuning", "ours", "ours-10"]
    assert [row["cost"]["steps"] for row in document["rows"]] == ["12 + 3", "12", "12 + 3", "12 + 3"]
    for row in document["rows"]:
        assert min(row["border"]) == "gem0_0000", "as gem3d tables names its volumes"
        assert sorted(row["fid"]) == ["axial", "coronal", "sagittal"]
        assert len(row["ms_ssim"]) >= 1
        assert row["cost"]["training_seconds"] > 0
        assert row["missing"]["mask agreement"] == "not measured in pieces"
    page = (tmp_path / "smoke" / "tables.md").read_text()
    assert "Trained and drawn in pieces on another machine" in page
    assert "| GEM-3D + IC |" in page
    assert "paper, no-tuning, ours, ours-10: `" in page
    assert "cpu; scored on" in page
    pictures = {path.name.partition("-")[0] for path in (tmp_path / "smoke" / "table-pictures").iterdir()}
    assert {"systems", "ablations"} <= pictures
    assert all(f"(table-pictures/{path.name})" in page for path in (tmp_path / "smoke" / "table-pictures").iterdir())
