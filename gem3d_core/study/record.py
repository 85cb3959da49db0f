"""`tables.json`: what was measured of every system; the page that tells it; rows of several runs in one.

profile, dataset        what the rows were made with and of
reported                dataset of the paper whose figures stand beside
features                network of FID
train, test             numbers of cases
overrides, failed       what was set by hand for all rows; rows that could not be made, and why
seconds                 where rows were made, and what their seconds hold
rows, held_out, claims  `System`s as plain values (a row may have more beside), and what they say of each other
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from gem3d_core.errors import BadInput
from gem3d_core.metrics.frechet import Fid
from gem3d_core.metrics.intervals import Interval
from gem3d_core.report.document import Table
from gem3d_core.report.markdown import markdown
from gem3d_core.study.claims import AIM, Claim, changes_table, claims, claims_tables
from gem3d_core.study.rows import Cost, Reported, System, in_table
from gem3d_core.study.tables import budget_table, continuity_table, fid_table, paired_table, unbiased_table, whole_table

Document = dict[str, Any]
Plain = Mapping[str, Any]

SAME = ("profile", "dataset", "reported", "features", "train", "test", "overrides")
"""What rows of one document have in common, beside the settings under `shared`."""
OF_SINGLE_ROWS = "slower"
"""Setting of the tables that may be another one for each row: the steps that it makes stand in the row."""
SEVERAL = "Rows of several runs stand here, told at the end: seconds of different runs can be of different machines."
NOTE = "note"
"""Key of a row that says why its numbers need care; told above the tables, once for rows with the same note."""
PICTURED = {
    "systems": "A test volume in three planes, and what systems of Table 2 draw for its mask",
    "ablations": "A test volume, and what the method and less than the whole method draw for its mask",
    "borders": "Consecutive axial slices of the same volumes, where the draws of two windows meet",
}
"""Kinds of pictures, after which their files are named."""
LEFT_OUT = "Parts of the method left out; without volumetric tuning nothing is trained in its place (see Budget)."
CHANGES = (
    "Each row with + adds to the row above it, from the paper's configuration to our default (to a row that was not "
    "measured where it says so: what is above differs in more); each row with but "
    "changes one thing of the default (key frames, Make-A-Volume: all that they need). How sure the differences are "
    "stands under What each change is worth. Dropped conditions: both in a tenth of the windows, the informed slice "
    "alone in another; guided rows are drawn by the same model. All are drawn with as many steps, also where the "
    "profile's own draws take fewer, but for the rows that name theirs. A donor's outline is compared where masks "
    "have one; where it is the whole grid, that of the most similar size is taken. Paired volumes, whose slice is "
    "their own, know no donor."
)


def plain_system(system: System) -> dict[str, Any]:
    """A row for JSON; replicates to four digits."""
    replicates = {plane: np.round(values, 4).tolist() for plane, values in system.replicates.items()}
    return asdict(system) | {"replicates": replicates}


def system_from(plain: Plain) -> System:
    """The inverse of `plain_system`; what else stands in the row is left."""
    values = {field.name: plain[field.name] for field in fields(System)}
    values["tables"] = tuple(values["tables"])
    values["fid"] = {p: Fid(**{**fid, "interval": _interval(fid["interval"])}) for p, fid in values["fid"].items()}
    values["replicates"] = {plane: np.array(found) for plane, found in values["replicates"].items()}
    values["neighbours"] = {name: _interval(found) for name, found in values["neighbours"].items()}
    values["cost"] = None if values["cost"] is None else Cost(**values["cost"])
    values["paper"] = {name: _reported(**found) for name, found in values["paper"].items()}
    return System(**values)


def _interval(plain: Plain | None) -> Interval | None:
    return None if plain is None else Interval(**plain)


def _reported(fid: list[float] | None, paired: list[float] | None) -> Reported:
    return Reported(
        fid=None if fid is None else (fid[0], fid[1], fid[2]), paired=None if paired is None else (paired[0], paired[1])
    )


def with_claims(document: Document) -> Document:
    """The document with what its rows say of each other."""
    return document | {"claims": [{**asdict(claim), "verdict": claim.verdict} for claim in _claims(document)]}


def _claims(document: Plain) -> list[Claim]:
    return claims([system_from(row) for row in document["rows"]], document["reported"])


def merged(earlier: Plain, later: Document, order: Sequence[str]) -> Document:
    """The later run's document with those rows of an earlier one that it did not make, in the given order.

    A row that the later run tried in vain stays as it was. Raises BadInput where the two do not belong together.
    """
    for key in SAME:
        if earlier.get(key) != later[key]:
            raise BadInput(f"rows with {key} {earlier.get(key)!r} and {later[key]!r} do not stand in one table")
    for key, before in earlier["shared"].items():
        now = later["shared"].get(key)
        if _plain(before) != _plain(now):
            raise BadInput(f"rows with {key} {before!r} and {now!r} do not stand in one table")
    volumes, others = _volumes(earlier["rows"]), _volumes(later["rows"])
    if volumes and others and not volumes & others:
        raise BadInput(f"rows whose volumes are named like {min(volumes)} and like {min(others)} cannot be paired")
    made = {row["name"] for row in later["rows"]}
    kept = [row for row in earlier["rows"] if row["name"] not in made]
    place = {name: number for number, name in enumerate(order)}
    rows = sorted([*kept, *later["rows"]], key=lambda row: place.get(row["name"], len(place)))
    names = {row["name"] for row in rows}
    failed = {name: why for name, why in {**earlier["failed"], **later["failed"]}.items() if name not in names}
    return with_claims(
        later
        | {"rows": rows, "failed": failed, "seconds": SEVERAL if kept else later["seconds"]}
        | {"held_out": _judged(earlier["held_out"], later["held_out"])}
    )


def _volumes(rows: Sequence[Plain]) -> set[str]:
    """Names of the volumes for training masks, by which scores of two rows are paired."""
    return {name for row in rows for values in (row["border"], *row["smoothness"].values()) for name in values}


def _plain(setting: object) -> object:
    """Without what is empty inside it: what newer settings are where an earlier record does not know of them."""
    if not isinstance(setting, Mapping):
        return setting
    given = {key: value for key, value in setting.items() if key != OF_SINGLE_ROWS}
    return {key: _plain(value) for key, value in given.items() if value is not None and value != {}}


def _judged(earlier: Plain | None, later: Plain | None) -> Plain | None:
    """The later yardstick, but one that nobody judged does not replace one that was."""
    return earlier if earlier and earlier["agreement"] and not (later and later["agreement"]) else later


def page(document: Plain, pictures: Sequence[str] = ()) -> str:
    """Markdown; `pictures`: beside it, named KIND-CASE."""
    systems, reported = [system_from(row) for row in document["rows"]], document["reported"]
    held_out = None if document["held_out"] is None else system_from(document["held_out"])
    found = _claims(document)
    told = _tables(systems, found, document["features"], reported, held_out, document["seconds"])
    shown = [f"![{_caption(name)}]({name})\n\n*{_caption(name)}*" for name in pictures]
    return (
        "\n\n".join([_head(document, found), *map(markdown, told), *(["## Pictures", *shown] if shown else [])]) + "\n"
    )


def _tables(
    systems: list[System], found: list[Claim], extractor: str, dataset: str, real: System | None, seconds: str
) -> list[Table]:
    """In the paper's order; a table none of whose rows was made is left out."""
    told = [
        ("1", fid_table(systems, extractor, real)),
        ("2", paired_table(systems, "2", "Table 2: paired test volumes")),
        ("3", paired_table(systems, "3", "Table 3: how conditions are injected")),
        ("ablations", whole_table(systems, "ablations", "Ablations (Figures 5 and 6)", LEFT_OUT)),
        ("ours", whole_table(systems, "ours", "What each of our changes brings", CHANGES)),
    ]
    kept = [table for name, table in told if in_table(systems, name)]
    changes = changes_table(systems)
    last = [*([changes] if changes.rows else []), unbiased_table(systems, real), continuity_table(systems)]
    last += [budget_table(systems, seconds)]
    return [*kept, *last, *claims_tables(found, dataset)]


def _head(document: Plain, found: list[Claim]) -> str:
    """The head of the page: what the tables are and lack, and how many of the paper's findings and of our aims hold."""
    overrides, split = document["overrides"], f"{document['train']} training and {document['test']} test cases"
    by_hand = f" Set by hand for all rows: {', '.join(f'{k}={v}' for k, v in overrides.items())}." if overrides else ""
    lines = [f"# Tables of the paper on {document['dataset']}", f"Profile {document['profile']}, {split}.{by_hand}"]
    of_paper, ours = ([c for c in found if (c.source == AIM) == aims] for aims in (False, True))
    lines += [f"Of {len(of_paper)} findings of the paper, told below, {_counted(of_paper)}."] if of_paper else []
    lines += [f"Of {len(ours)} aims of ours, {_counted(ours)}."] if ours else []
    lines += _batches(document["shared"].get("tables", {}))
    lines += [f"Not made: {row}: {reason}" for row, reason in document["failed"].items()]
    lines += _notes(document["rows"])
    return "\n\n".join(lines)


def _notes(rows: Sequence[Plain]) -> list[str]:
    titles: dict[str, list[str]] = {}
    for row in rows:
        if NOTE in row:
            titles.setdefault(row[NOTE], []).append(row["title"])
    return [f"{'; '.join(those)}: {note}" for note, those in titles.items()]


def _counted(found: list[Claim]) -> str:
    counts = Counter(claim.verdict for claim in found)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def _batches(budget: Plain) -> list[str]:
    """Batches and learning rates that are not the profile's own."""
    told: dict[str, list[str]] = {}
    for key, text in (("batch", "a batch of {:g}"), ("learning_rate", "a learning rate of {:g}")):
        for stage, value in budget.get(key, {}).items():
            told.setdefault(stage.replace("_", "-"), []).append(text.format(value))
    each = "; ".join(f"{stage} {' and '.join(parts)}" for stage, parts in sorted(told.items()))
    return [f"Other than in the profile, and unless a system sets its own: {each}."] if each else []


def _caption(picture: str) -> str:
    return PICTURED[Path(picture).stem.partition("-")[0]]
