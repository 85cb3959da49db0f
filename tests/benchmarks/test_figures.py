"""Numbers in README and docs are those of docs/results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "figures.py"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPENED = re.compile(r"<!-- figure: ([^>]+) -->")


def test_every_place_is_filled_with_what_was_measured() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_places_are_closed_and_do_not_begin_a_line(page: Path) -> None:
    """A comment at the beginning of a line makes a block of raw HTML of the line, but for a table's."""
    text = page.read_text()
    names = OPENED.findall(text)
    assert len(names) == text.count("<!-- /figure -->")
    beginning = re.findall(r"^(?:[-*] |\d+\. )?<!-- figure: ([^>]+) -->", text, re.MULTILINE)
    assert all(name.startswith("table ") for name in beginning)
