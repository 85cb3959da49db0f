"""How much each way of going on conditions, on a Gaussian with its exact denoiser: docs/results/continuation.{md,json}.

Example: python benchmarks/continuation.py
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from provenance import ROOT, keep

TESTS = "tests/core/test_ar1.py"
EXPLAINED = (
    "Neighbouring slices of the Gaussian correlate by 0.9; windows have 16 slots, the true posterior mean stands for "
    "the network, 12000 samples. A sampler that conditions as it should gives 0.9 across the border of known and new "
    "slices. `known`: the posterior mean is told of the known slots, as a network with `condition.known=true` is "
    "trained to be; else it is not, and they are only overwritten with their slices at each step (RePaint), as in the "
    "paper. ddim-20-eta1-x10: solver, steps, eta, and how often each step is taken (`resample.resample`). What the "
    "profiles draw with is one pass with an overlap of 2."
)


def main() -> None:
    """Run the tests that measure it, and keep what they found."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "--quiet", TESTS, f"--junitxml={report}"]
        done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        found = dict(_found(report))
    rows = [f"| {what} | {value} |" for what, value in found.items()]
    table = "\n".join(["| what | correlation |", "| --- | ---: |", *rows])
    sections = ["# Correlation across a border", EXPLAINED, table]
    keep("continuation", "python benchmarks/continuation.py", sections, {"correlation": found})


def _found(report: Path) -> Iterator[tuple[str, str]]:
    """What the tests recorded."""
    for recorded in ET.parse(report).iter("property"):
        yield recorded.attrib["name"].removeprefix("correlation "), recorded.attrib["value"]


if __name__ == "__main__":
    main()
