"""Artifacts as rows of the table `artifacts`: one row for each stage key under which a version was put."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict, cast

from data_catalog.refs import Artifact, FileEntry, Ref, canonical

if TYPE_CHECKING:
    import arro3.core
    import pyarrow as pa

TABLE = "artifacts"


class Row(TypedDict):
    """A row as read back; `parents`, `meta`, `files` and `tables` are JSON text. Projections lack some keys."""

    kind: str
    name: str
    version: str
    created: datetime
    run_id: str
    code_version: str
    config_hash: str
    seed: int
    key: str
    parents: str
    meta: str
    files: str
    tables: str


def to_row(artifact: Artifact) -> pa.Table:
    """One row; nested values as JSON text, the time in UTC at microseconds."""
    import pyarrow as pa

    plain = ("kind", "name", "version", "run_id", "code_version", "config_hash", "key")
    text = {field: str(getattr(artifact, field)) for field in plain}
    text["parents"] = canonical(list(artifact.parents))
    text["meta"] = canonical(artifact.meta)
    text["files"] = canonical({name: _listed(entry) for name, entry in artifact.files.items()})
    text["tables"] = canonical(artifact.tables)
    columns: dict[str, pa.Array] = {name: pa.array([value], pa.string()) for name, value in text.items()}
    columns["created"] = pa.array([artifact.created], pa.timestamp("us", tz="UTC"))
    columns["seed"] = pa.array([artifact.seed], pa.int64())
    return pa.table(columns)


def _listed(entry: FileEntry) -> list[object]:
    """Records that are older than digests of rows have the first two only, and their versions are made of these."""
    return [entry.sha256, entry.size, *([entry.rows] if entry.rows else [])]


def from_rows(rows: Iterable[Row]) -> list[Artifact]:
    """The artifacts that whole rows record, in the order of the rows."""
    listed = list(rows)
    columns = (_loads(row[name] for row in listed) for name in ("parents", "meta", "files", "tables"))
    return [_artifact(row, *nested) for row, *nested in zip(listed, *columns, strict=True)]


def _loads(texts: Iterable[str]) -> list[Any]:
    """Many JSON texts by one call of the parser, which is what makes a listing of 10,000 rows quick."""
    loaded: list[Any] = json.loads(f"[{','.join(texts)}]")
    return loaded


def _artifact(
    row: Row,
    parents: list[str],
    meta: dict[str, object],
    files: dict[str, tuple[str, int] | tuple[str, int, str]],
    tables: dict[str, int],
) -> Artifact:
    return Artifact(
        kind=row["kind"],
        name=row["name"],
        version=row["version"],
        created=row["created"].astimezone(UTC),
        run_id=row["run_id"],
        code_version=row["code_version"],
        config_hash=row["config_hash"],
        seed=row["seed"],
        key=row["key"],
        parents=tuple(parents),
        meta=meta,
        files={name: FileEntry(*entry) for name, entry in files.items()},
        tables=tables,
    )


def to_list(rows: arro3.core.Table | None) -> list[Row]:
    """Rows as mappings, the latest first; rows of one instant in the order of their versions."""
    found = [] if rows is None else cast("list[Row]", _mappings(rows))
    return sorted(found, key=lambda row: (row["created"], row["version"]), reverse=True)


def _mappings(rows: arro3.core.Table) -> list[dict[str, object]]:
    columns = (column.to_pylist() for column in rows.combine_chunks().columns)  # by column: a cell at a time is slow
    return [dict(zip(rows.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def latest(rows: Iterable[Row]) -> dict[str, Row]:
    """Version to its first row in the order given, so of rows that come latest first its latest."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["version"], row)
    return first


def ref_of(row: Row) -> Ref:
    return Ref(row["kind"], row["name"], row["version"])
