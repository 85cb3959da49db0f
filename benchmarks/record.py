"""Run `gem3d enhance` and keep its report in docs/results with all that says where the numbers come from.

Examples:
    python benchmarks/record.py ../data/Task04_Hippocampus --profile hippocampus-cpu --factor 3
    python benchmarks/record.py ../data/Dataset113_BraTS2013 --profile smoke --name smoke-brats --numbers-only

The run can be stopped and started again; what is finished stays in the catalog.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
from provenance import ROOT, provenance
from recorded import NUMBERS, PAGE, PICTURES


def main() -> None:
    """Run, then copy report, pictures and the JSON summary into docs/results/PROFILE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--factor", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="as for gem3d: train_slices.steps=5000")
    parser.add_argument("--catalog", default="catalog")
    parser.add_argument("--name", help="folder in docs/results; the profile when left out")
    parser.add_argument("--numbers-only", action="store_true", help="no report: for a profile that learns nothing")
    given = parser.parse_args()

    target = ROOT / "docs" / "results" / (given.name or given.profile)
    command = ["enhance", given.dataset, "--profile", given.profile, "--factor", str(given.factor)]
    command += [part for setting in given.set for part in ("--set", setting)] + ["--json"]
    facts = provenance(command)  # before anything is written
    output, peak = _watched([sys.executable, "-m", "flows.cli.main", *command, "--catalog", given.catalog])
    summary = json.loads(output)
    _clear(target)
    if not given.numbers_only:
        shutil.copytree(summary["report"], target, ignore=shutil.ignore_patterns("report.html"), dirs_exist_ok=True)
    facts = _portable(summary) | facts | {"peak_memory_gib": round(peak / 2**30, 2)}
    (target / "summary.json").write_text(json.dumps(facts, indent=1) + "\n")
    sys.stdout.write(f"{target}\n")


def _clear(folder: Path) -> None:
    """Make the folder, or take away what an earlier report left there; tables that stand in it stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name in {PAGE, NUMBERS, PICTURES}:
            continue
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()


def _watched(command: list[str]) -> tuple[str, int]:
    """Run a command; its standard output, and the peak of the memory (bytes) that its processes held together."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        peak, ended = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(1):
                peak = max(peak, _memory(process.pid))

        watching = threading.Thread(target=watch)
        watching.start()
        output, _ = process.communicate()
        ended.set()
        watching.join()
    if process.returncode:
        sys.exit(process.returncode)
    return output, peak


def _memory(pid: int) -> int:
    """Resident bytes of a process and all its descendants; those that end meanwhile count nothing."""
    total = 0
    with suppress(psutil.Error):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _portable(summary: dict[str, object]) -> dict[str, object]:
    """The summary without this machine's paths."""
    kept = {name: value for name, value in summary.items() if name not in {"catalog", "report", "datasets"}}
    datasets = [{"ref": d["ref"], "factor": d["factor"]} for d in summary["datasets"]]
    return {**kept, "datasets": datasets}


if __name__ == "__main__":
    main()
