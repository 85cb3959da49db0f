"""Make the paper's tables on a dataset and keep them, with their pictures, in docs/results/PROFILE.

Example:
    python benchmarks/tables.py ../shared/data/Task04_Hippocampus --profile hippocampus-cpu --catalog catalog

About eight hours on two cores. Given again it goes on where it was stopped; the catalog has to be kept in between.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from provenance import RESULTS, ROOT, provenance

from gem3d_core.processes import end_with_parent


def main() -> None:
    """Run `gem3d tables` and copy what it made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--profile", default="hippocampus-cpu")
    parser.add_argument("--catalog", default="catalog")
    parser.add_argument("--rows", help="only these; all when left out")
    given = parser.parse_args()

    rows = ["--rows", given.rows] if given.rows else []
    command = ["tables", given.dataset, "--profile", given.profile, *rows, "--json"]
    facts = provenance(command)
    made = [sys.executable, "-m", "flows.cli", *command, "--catalog", given.catalog]
    done = subprocess.run(made, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=end_with_parent, check=False)
    summary = json.loads(done.stdout or "{}")
    if "tables" in summary:  # also where some row could not be made
        _keep(summary, facts, RESULTS / given.profile)
    sys.exit(done.returncode)


def _keep(summary: dict[str, str], facts: dict[str, str], folder: Path) -> None:
    """tables.md and tables.json with where they come from, and the pictures beside them."""
    page, numbers = Path(summary["tables"]), Path(summary["numbers"])
    told = f"`{facts['command']}`, commit {facts['commit']}, {facts['machine']}, {facts['date']}."
    folder.mkdir(parents=True, exist_ok=True)
    (folder / page.name).write_text(f"{page.read_text()}\n{told}\n")
    (folder / numbers.name).write_text(json.dumps(facts | json.loads(numbers.read_text()), indent=1) + "\n")
    for picture in sorted(page.parent.glob("pictures/*")):
        (folder / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(picture, folder / "pictures" / picture.name)
    sys.stdout.write(f"{folder / page.name}\n")


if __name__ == "__main__":
    main()
