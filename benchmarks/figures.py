"""Write the numbers of README and docs from docs/results: whatever stands in a marked place is replaced.

A place is `<!-- figure: NAME -->anything<!-- /figure -->`. NAME is a few words, which `FIGURES` below reads, such as
`dice hippocampus-cpu 1x` or `score hippocampus-cpu ours ms-ssim`. After a new measurement:

    python benchmarks/figures.py            fill every place anew
    python benchmarks/figures.py --check    exit code 1 where a place is out of date; nothing is written
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from figure_tables import table
from figure_values import (
    made,
    margin_of,
    minutes,
    of_claims,
    of_gpu,
    of_report,
    of_run,
    of_sampling,
    peak,
    printed,
    privacy,
    score_of,
    training_speedup,
)
from provenance import ROOT

PLACE = re.compile(r"<!-- figure: ([^>]+?) -->(.*?)<!-- /figure -->", re.DOTALL)
GENERATED = {"report.md", "tables.md"}
"""Pages that other scripts write whole."""


FIGURES: dict[str, Callable[..., str]] = {
    "made": made,
    "dice": lambda folder, arm: of_report(folder, arm, "dice"),
    "hd95": lambda folder, arm: of_report(folder, arm, "hd95"),
    "minutes": minutes,
    "peak": peak,
    "run": of_run,
    "score": lambda folder, row, measure: printed(score_of(folder, row, measure), measure),
    "mean": lambda folder, row, measure: printed(score_of(folder, row, measure), measure, interval=False),
    "better": lambda folder, row, measure: printed(margin_of(folder, row, measure), measure, unit=""),
    "claims": of_claims,
    "distance": privacy,
    "sampling": of_sampling,
    "gpu": of_gpu,
    "training-speedup": training_speedup,
    "table": lambda *words: f"\n\n{table(words)}\n\n",
}
"""What prints a figure, by the first word of its name; it gets the others."""


def figure(name: str) -> str:
    """The text of a figure. Raises KeyError for a name or a row that is not there, TypeError for words too many."""
    what, *words = name.split()
    return FIGURES[what](*words)


def filled(text: str, where: str) -> str:
    """The text with every place filled. Raises SystemExit naming the document and the figure that is not there."""

    def place(found: re.Match[str]) -> str:
        name = found.group(1)
        try:
            return f"<!-- figure: {name} -->{figure(name)}<!-- /figure -->"
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            sys.exit(f"{where}: figure {name!r}: {error!r}")

    return PLACE.sub(place, text)


def documents() -> list[Path]:
    """README and the pages that people write."""
    pages = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in GENERATED)
    return [ROOT / "README.md", *pages]


def main() -> None:
    """Fill the places, or say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where something would change")
    check: bool = parser.parse_args().check
    stale = []
    for page in documents():
        before = page.read_text()
        after = filled(before, str(page.relative_to(ROOT)))
        if before != after:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(after)
    told = "out of date, run `python benchmarks/figures.py`" if check else "filled anew"
    sys.stdout.writelines(f"{page}: {told}\n" for page in stale)
    sys.exit(bool(stale) and check)


if __name__ == "__main__":
    main()
