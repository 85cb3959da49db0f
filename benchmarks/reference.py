"""Measure re-sampling beside Algorithm 1 and keep the tables in docs/results/sampling.md and sampling.json.

Examples:
    python benchmarks/reference.py short --catalog catalog    # eight volumes: a quarter of an hour on two cores
    python benchmarks/reference.py steps --catalog catalog    # eight volumes, 5 to 200 steps
    python benchmarks/reference.py full --catalog catalog     # all test volumes, three seeds: hours
    python benchmarks/reference.py --catalog catalog          # all three

A measurement can be stopped and started again; each replaces only its own part of the results.
"""

import argparse
import json
import subprocess
import sys

from provenance import RESULTS, ROOT, provenance
from pydantic import TypeAdapter

from gem3d_core.bench.comparison import Comparison, comparison_table
from gem3d_core.report.markdown import markdown

RUNS: dict[str, list[str]] = {"short": [], "full": ["--full"], "steps": ["--steps", "5,8,10,15,20,25,50,200"]}


def main() -> None:
    """Measure what is asked for, then write all that was measured so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", choices=RUNS, help="all when left out")
    parser.add_argument("--model", help="volume model; the newest when left out")
    parser.add_argument("--catalog", default="catalog")
    parser.add_argument("--set", action="append", default=[], help="as for gem3d: resample.overlap=2")
    given = parser.parse_args()

    numbers = RESULTS / "sampling.json"
    document = json.loads(numbers.read_text()) if numbers.exists() else {}
    for run in [given.run] if given.run else RUNS:
        settings = [word for setting in given.set for word in ("--set", setting)]
        command = ["bench", "sampling", *([given.model] if given.model else []), *RUNS[run], *settings, "--json"]
        document[run] = _measured([*command, "--catalog", given.catalog]) | provenance(command)
        numbers.write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "sampling.md").write_text("\n\n".join(["# Re-sampling", *map(_section, document.values())]) + "\n")
    sys.stdout.write(f"{RESULTS / 'sampling.md'}\n")


def _measured(command: list[str]) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *command], cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def _section(measured: dict[str, object]) -> str:
    compared = TypeAdapter(Comparison).validate_python(measured)
    told = f"`{measured['command']}`, commit {measured['commit']}, {measured['machine']}, {measured['date']}."
    return f"{markdown(comparison_table(compared))}\n\n{told}"


if __name__ == "__main__":
    main()
