"""Make the paper's tables on a dataset and keep them, with their pictures, in docs/results/PROFILE.

Example:
    python benchmarks/tables.py ../shared/data/Task04_Hippocampus --profile hippocampus-cpu --catalog catalog

About five to eight hours on two cores. Given again it goes on where it was stopped, where the catalog was kept in
between. Rows that are in docs/results already and not among those of a run stay there, with the run they come from.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from provenance import ROOT, provenance
from recorded import keep_tables

from gem3d_core.errors import BadInput
from gem3d_core.machine.processes import end_with_parent


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
    made = [sys.executable, "-m", "flows.cli.main", *command, "--catalog", given.catalog]
    done = subprocess.run(made, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=end_with_parent, check=False)
    summary = json.loads(done.stdout or "{}")
    if "tables" in summary:  # also where some row could not be made
        document = json.loads(Path(summary["numbers"]).read_text())
        try:
            keep_tables(document, facts, sorted(Path(summary["tables"]).parent.glob("pictures/*")))
        except BadInput as error:
            sys.exit(f"{error}. The tables of this run lie in {summary['tables']}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
