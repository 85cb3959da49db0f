"""The one script that measures the paper's size on a GPU, tried with a tiny network on whatever is here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_it_runs_alone_and_writes_every_row(tmp_path: Path) -> None:
    asked = [sys.executable, str(SCRIPT), "--tiny", "--out", str(tmp_path), "--commit", "abc"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "gpu.json").read_text())
    rows = [row["what"].split(",")[0].split(":")[0] for row in told["results"]]
    assert rows == ["training", "training", "Algorithm 1", "ours", "ours", "ours", "ours"]
    assert all(row["seconds"] > 0 and row["utilisation"] > 0 for row in told["results"])
    assert "times as fast as Algorithm 1" in told["results"][-1]["note"]
    page = (tmp_path / "gpu.md").read_text()
    assert "commit abc" in page
    assert page.count("| ours: DPM-Solver++") == 4
