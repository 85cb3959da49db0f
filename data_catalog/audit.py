"""Checking a whole catalog: every object is hashed again, every record is compared with what it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_catalog.refs import Artifact, FileEntry, version_of
from data_catalog.store import ObjectStore


@dataclass(frozen=True)
class Verification:
    """The outcome of an audit; `corrupt` and `missing` have one line a fault, both empty in a sound catalog."""

    objects: int
    corrupt: list[str]
    missing: list[str]

    @property
    def ok(self) -> bool:
        return not self.corrupt and not self.missing


def audit(
    artifacts: Iterable[Artifact],
    store: ObjectStore,
    rows: Mapping[str, Mapping[str, int]],
    unreadable: Iterable[str] = (),
) -> Verification:
    """Hash every stored object and look for every recorded one.

    Args:
        artifacts: one of each version and key; records of one version may name other bytes of the same rows.
        rows: of each Delta table that can be read, the number of rows of each version.
        unreadable: a line for each table that cannot.
    """
    known = list(artifacts)
    stored = store.stored()
    users = _users(known)
    wanted = {entry.sha256: entry for artifact in known for entry in artifact.files.values()}
    absent = [entry for sha256, entry in wanted.items() if sha256 not in stored]
    damaged = _damaged(store, stored, wanted)
    return Verification(
        objects=len(stored.keys() | wanted.keys()),
        corrupt=[*unreadable, *(_line(sha256, users) for sha256 in damaged), *dict.fromkeys(_false_records(known))],
        missing=[*(_line(entry.sha256, users) for entry in absent), *dict.fromkeys(_lost_rows(known, rows))],
    )


def _damaged(store: ObjectStore, stored: Mapping[str, int], wanted: Mapping[str, FileEntry]) -> list[str]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        digests = dict(zip(stored, pool.map(store.digest, stored), strict=True))
    sizes = {sha256: entry.size for sha256, entry in wanted.items()}
    return sorted(
        sha256
        for sha256, digest in digests.items()
        if digest != sha256 or sizes.get(sha256, stored[sha256]) != stored[sha256]
    )


def _users(artifacts: Iterable[Artifact]) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {}
    for artifact in artifacts:
        for logical, entry in artifact.files.items():
            users.setdefault(entry.sha256, []).append(f"{artifact.ref} {logical}")
    return users


def _line(sha256: str, users: Mapping[str, list[str]]) -> str:
    places = list(dict.fromkeys(users.get(sha256, ["no artifact"])))
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"objects/{sha256[:2]}/{sha256}: {', '.join(places[:3])}{more}"


def _false_records(artifacts: Iterable[Artifact]) -> list[str]:
    """Records whose version is not the one of the content that they list."""
    return [
        f"tables/artifacts: the record of {each.ref} does not have the content of its version"
        for each in artifacts
        if version_of(each.kind, each.name, each.files, each.meta) != each.version
    ]


def _lost_rows(artifacts: Iterable[Artifact], rows: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [
        f"tables/{table}: {rows[table].get(each.version, 0)} of {count} rows of {each.ref}"
        for each in artifacts
        for table, count in each.tables.items()
        if table in rows and rows[table].get(each.version, 0) < count
    ]
