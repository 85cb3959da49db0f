"""Write the numbers of README and docs from docs/results: whatever stands in a marked place is replaced.

A place is `<!-- figure: NAME -->anything<!-- /figure -->`. NAME is a few words, which `figure` below reads, such as
`dice hippocampus-cpu 1x` or `score hippocampus-cpu ours ms-ssim`. After a new measurement:

    python benchmarks/figures.py            fill every place anew
    python benchmarks/figures.py --check    exit code 1 where a place is out of date; nothing is written
"""

import argparse
import re
import sys
from pathlib import Path

from figure_tables import table
from figure_values import (
    made,
    margin_of,
    measured,
    mega,
    minutes,
    of_claims,
    of_gpu,
    of_report,
    of_sampling,
    paper_hours,
    printed,
    privacy,
    score_of,
)
from provenance import ROOT

PLACE = re.compile(r"<!-- figure: ([^>]+?) -->(.*?)<!-- /figure -->", re.DOTALL)
GENERATED = {"report.md", "tables.md"}
"""Pages that other scripts write whole."""


def figure(name: str) -> str:
    """The text of a figure. Raises ValueError for a name that means nothing, KeyError for a row that is not there."""
    match name.split():
        case ["made", folder]:
            return made(folder)
        case ["dice" | "hd95" as what, folder, arm]:
            return of_report(folder, arm, what)
        case ["minutes", folder]:
            return minutes(folder)
        case ["run", *words]:
            return f"{measured('hippocampus-cpu')['metrics'][' '.join(words)]:.1f}"
        case ["peak", folder]:
            return f"{measured(folder)['peak_memory_gib']:.1f} GiB"
        case ["score", folder, row, measure]:
            return printed(score_of(folder, row, measure), measure)
        case ["mean", folder, row, measure]:
            return printed(score_of(folder, row, measure), measure, interval=False)
        case ["better", folder, row, measure]:
            return printed(margin_of(folder, row, measure), measure)
        case ["claims", folder, "aims" | "findings" as which, *verdict]:
            return of_claims(folder, which, " ".join(verdict))
        case ["distance", volumes, "mean" | "smallest" as which]:
            return privacy(volumes, which)
        case ["sampling", run, *words]:
            return of_sampling(run, words)
        case ["gpu", "hours", "stage-1"]:
            return paper_hours(1, 150_000, 8)
        case ["gpu", "hours", "stage-2"]:
            return paper_hours(2, 50_000, 8)
        case ["gpu", *words]:
            return of_gpu(words)
        case ["training", "speedup"]:
            return f"{measured('training')['speedup']:.0f}"
        case ["parameters", folder, row]:
            return mega(folder, row)
        case ["table", *words]:
            return f"\n\n{table(words)}\n\n"
    raise ValueError(f"no figure {name!r}: see benchmarks/figures.py")


def filled(text: str, where: str) -> str:
    """The text with every place filled. Raises SystemExit naming the document and the figure that is not there."""

    def place(found: re.Match[str]) -> str:
        name = found.group(1)
        try:
            return f"<!-- figure: {name} -->{figure(name)}<!-- /figure -->"
        except (KeyError, ValueError, StopIteration) as error:
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
