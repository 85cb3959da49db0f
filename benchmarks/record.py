"""Run `gem3d enhance` and keep its report in docs/results with all that says where the numbers come from.

Example: python benchmarks/record.py ../shared/data/Task04_Hippocampus --profile hippocampus-cpu --factor 3

The run can be stopped and started again; what is finished stays in the catalog.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run, then copy report, pictures and the JSON summary into docs/results/PROFILE."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--catalog", default="catalog")
    given = parser.parse_args()

    command = ["enhance", given.dataset, "--profile", given.profile, "--factor", str(given.factor), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *command, "--catalog", given.catalog],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    summary = json.loads(done.stdout)
    target = ROOT / "docs" / "results" / given.profile
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(summary["report"], target, ignore=shutil.ignore_patterns("report.html"))
    (target / "summary.json").write_text(json.dumps(_portable(summary, command), indent=1) + "\n")
    sys.stdout.write(f"{target}\n")


def _portable(summary: dict[str, object], command: list[str]) -> dict[str, object]:
    """The summary without this machine's paths, with command, commit, machine and date."""
    kept = {name: value for name, value in summary.items() if name not in {"catalog", "report", "datasets"}}
    datasets = [{"ref": d["ref"], "factor": d["factor"]} for d in summary["datasets"]]
    return {
        **kept,
        "datasets": datasets,
        "command": " ".join(["gem3d", *command]),
        "commit": _git("rev-parse", "HEAD") + (" with changes" if _git("status", "--porcelain") else ""),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
