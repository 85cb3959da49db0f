"""Tables of systems in docs/results/PROFILE: those of this run, and the rows of earlier ones that it did not make.

`python benchmarks/recorded.py PROFILE...` lays out tables.md anew from tables.json, with today's captions and claims.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from provenance import RESULTS

from configs import table_rows
from gem3d_core.errors import BadInput
from gem3d_core.study.record import Document, merged, page, with_claims

PAGE, NUMBERS, PICTURES = "tables.md", "tables.json", "table-pictures"
MADE = "made"
"""Of a row: where it comes from."""


def keep_tables(document: Document, facts: dict[str, str], pictures: Iterable[Path] = ()) -> None:
    """Write tables.md and tables.json, and pictures beside them; print where.

    Pictures of before stay until the same are made anew. Raises BadInput where the rows that were kept before are of
    another dataset or other settings.
    """
    folder = RESULTS / document["profile"]
    numbers = folder / NUMBERS
    document = document | {"rows": [row | {MADE: facts} for row in document["rows"]]}
    if numbers.exists():
        try:
            document = merged(json.loads(numbers.read_text()), document, [row.name for row in table_rows()])
        except BadInput as error:
            raise BadInput(f"{numbers}: {error}; move it away to begin tables of these settings") from error
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / PICTURES / picture.name).write_bytes(picture.read_bytes())
    _write(folder, document)


def lay_out(profile: str) -> None:
    """The page and the claims of the numbers that are kept."""
    folder = RESULTS / profile
    _write(folder, with_claims(json.loads((folder / NUMBERS).read_text())))


def _write(folder: Path, document: Document) -> None:
    (folder / NUMBERS).write_text(json.dumps(document, indent=1) + "\n")
    shown = [f"{PICTURES}/{path.name}" for path in sorted((folder / PICTURES).iterdir())]
    (folder / PAGE).write_text("\n\n".join([page(document, shown).rstrip(), *_runs(document)]) + "\n")
    sys.stdout.write(f"{folder / PAGE}\n")


def _runs(document: Document) -> list[str]:
    """Which rows come from which run."""
    rows_of: dict[str, list[str]] = {}
    for row in document["rows"]:
        made = row[MADE]
        told = f"`{made['command']}`, commit {made['commit']}, {made['machine']}, {made['date']}."
        rows_of.setdefault(told, []).append(row["name"])
    return [f"{', '.join(names)}: {told}" for told, names in rows_of.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept = sorted(path.parent.name for path in RESULTS.glob(f"*/{NUMBERS}"))
    parser.add_argument("profiles", nargs="+", choices=kept, metavar="PROFILE", help=f"one of {', '.join(kept)}")
    for name in parser.parse_args().profiles:
        lay_out(name)
