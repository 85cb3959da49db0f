"""A Parquet file counts by its rows: whoever wrote it, and however, the same rows are the same version."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog import Artifact, Catalog, FileEntry, records
from data_catalog.content import digest_of_rows

Put = Callable[..., Artifact]

PLACES = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TYPES = {
    "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "real": (pa.float64(), st.floats()),
    "text": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    "truth": (pa.bool_(), st.booleans()),
    "time": (pa.timestamp("us", tz="UTC"), st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))),  # noqa: DTZ001
    "list": (pa.list_(pa.int64()), st.lists(st.integers(0, 9))),
    "mapping": (pa.struct([("a", pa.int64())]), st.fixed_dictionaries({"a": st.none() | st.integers(0, 9)})),
}


@st.composite
def tables(draw: st.DrawFn, least: int = 0) -> pa.Table:
    """A few columns of every type, with gaps."""
    chosen = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4))
    rows = draw(st.integers(least, 5))
    columns = {}
    for place, kind in enumerate(chosen):
        arrow, values = TYPES[kind]
        columns[f"{kind} {place}"] = pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), arrow)
    return pa.table(columns)


def digest(folder: Path, table: pa.Table, **options: Any) -> str:
    pq.write_table(table, folder / "x.parquet", **options)
    found = digest_of_rows(folder / "x.parquet")
    assert found is not None
    return found


def otherwise(field: pa.DataType) -> pa.DataType:
    """Another type that holds the same."""
    if pa.types.is_string(field):
        return pa.large_string()
    if pa.types.is_timestamp(field):
        return pa.timestamp("us", tz="Asia/Tokyo")
    if pa.types.is_list(field):
        return pa.large_list(field.value_type)
    return field


@PLACES
@given(table=tables(), group=st.integers(1, 6), how=st.sampled_from(["none", "snappy", "zstd"]))
def test_how_rows_are_written_does_not_count(table: pa.Table, group: int, how: str, tmp_path: Path) -> None:
    plain = digest(tmp_path, table)
    assert digest(tmp_path, table, row_group_size=group, compression=how, use_dictionary=False) == plain
    assert digest(tmp_path, table, version="1.0", data_page_version="2.0", write_statistics=False) == plain
    assert digest(tmp_path, table.replace_schema_metadata({"pandas": "{}", "creator": "another"})) == plain
    assert digest(tmp_path, table, store_schema=False) == plain
    other = pa.schema([field.with_type(otherwise(field.type)) for field in table.schema])
    assert digest(tmp_path, table.cast(other)) == plain
    texts = [place for place, field in enumerate(table.schema) if pa.types.is_string(field.type)]
    for place in texts:
        encoded = table.set_column(place, table.schema.names[place], table.column(place).dictionary_encode())
        assert digest(tmp_path, encoded) == plain


@PLACES
@given(table=tables(least=1), data=st.data())
def test_a_changed_cell_or_column_or_order_counts(table: pa.Table, data: st.DataObject, tmp_path: Path) -> None:
    plain = digest(tmp_path, table)
    place, row = data.draw(st.integers(0, table.num_columns - 1)), data.draw(st.integers(0, table.num_rows - 1))
    name, values = table.schema.names[place], table.column(place).to_pylist()
    new = data.draw(st.none() | TYPES[name.split()[0]][1])
    changed = pa.array([*values[:row], new, *values[row + 1 :]], table.schema.types[place])
    if repr(changed.to_pylist()) != repr(values):
        assert digest(tmp_path, table.set_column(place, name, changed)) != plain
    assert digest(tmp_path, table.rename_columns([*table.schema.names[:-1], "another"])) != plain
    assert digest(tmp_path, table.slice(1)) != plain
    assert digest(tmp_path, table.append_column("one more", pa.nulls(len(table), pa.int64()))) != plain
    turned = table.take(list(range(len(table)))[::-1])
    assert (digest(tmp_path, turned) == plain) == (repr(turned.to_pylist()) == repr(table.to_pylist()))


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (pa.array([1, 2]), pa.array([1.0, 2.0])),
        (pa.array([1, 2], pa.int64()), pa.array([1, 2], pa.int32())),
        (pa.array([1, 2], pa.int64()), pa.array([1, 2], pa.uint64())),
        (pa.array([0.5], pa.float64()), pa.array([0.5], pa.float32())),
        (pa.array([1, 0]), pa.array([True, False])),
        (pa.array([1]), pa.array(["1"])),
        (pa.array([None], pa.float64()), pa.array([float("nan")])),
        (pa.array([None], pa.float64()), pa.array([None], pa.string())),
        (pa.array([None], pa.string()), pa.array([""])),
        (pa.array([None], pa.string()), pa.array(["null"])),
        (pa.array([0.0]), pa.array([-0.0])),
        (pa.array([0.1]), pa.array([0.1 + 2**-56])),
        (pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", tz="UTC"))),
        (pa.array([0], pa.timestamp("us")), pa.array([1], pa.timestamp("us"))),
        (pa.array([[]], pa.list_(pa.int64())), pa.array([None], pa.list_(pa.int64()))),
    ],
    ids=str,
)
def test_values_that_look_alike_are_kept_apart(one: pa.Array, another: pa.Array, tmp_path: Path) -> None:
    assert digest(tmp_path, pa.table({"x": one})) != digest(tmp_path, pa.table({"x": another}))


def test_a_frame_is_the_same_under_any_kind_of_text_and_unit_of_time(tmp_path: Path) -> None:
    frame = pd.DataFrame({"case": ["a", None, "c"], "n": [1, 2, 3], "score": [0.1, float("nan"), 3.0]})
    frame["at"] = pd.to_datetime(["2026-01-01", "2026-01-02", None])
    found = set()
    for text in ("object", "string", "category"):
        for unit in ("ns", "us"):
            made = frame.astype({"case": text, "at": f"datetime64[{unit}]"})
            made.to_parquet(tmp_path / "x.parquet", compression=None if text == "object" else "zstd")
            found.add(digest_of_rows(tmp_path / "x.parquet"))
    assert len(found) == 1
    frame.astype({"n": "float64"}).to_parquet(tmp_path / "x.parquet")
    assert digest_of_rows(tmp_path / "x.parquet") not in found


def test_the_digest_of_a_table_is_fixed(tmp_path: Path) -> None:
    """It is part of versions that are kept for years: no change of the code or of a library may change it."""
    table = pa.table({"case": ["a", None], "n": pa.array([1, 2], pa.int16()), "score": [0.1, float("nan")]})
    assert digest(tmp_path, table) == "737cb8ec667930e1efe09ed9b713c50338c6194f8e0a5eb5fb8a10136fa955e9"


@pytest.mark.parametrize("column", [pa.array([b"x"]), pa.array([timedelta(1)]), pa.array([{"a": b"x"}])], ids=str)
def test_what_has_no_canonical_form_counts_by_its_bytes(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    assert digest_of_rows(tmp_path / "x.parquet") is None
    (tmp_path / "x.parquet").write_text("no Parquet file")
    assert digest_of_rows(tmp_path / "x.parquet") is None


def parquet(folder: Path, rows: dict[str, list[int]], **options: Any) -> bytes:
    pq.write_table(pa.table(rows), folder / "made.parquet", **options)
    return (folder / "made.parquet").read_bytes()


def test_the_same_rows_in_other_bytes_are_the_same_record(catalog: Catalog, put: Put, tmp_path: Path) -> None:
    plain, packed = (parquet(tmp_path, {"n": [1, 2]}, compression=how) for how in ("none", "gzip"))
    assert plain != packed
    first = put(catalog, "latents/l", {"index.parquet": plain, "x": b"x"})
    again = put(catalog, "latents/l", {"index.parquet": packed, "x": b"x"}, run_id="another library")
    assert again == first
    assert catalog.path(again, "index.parquet").read_bytes() == plain
    elsewhere = put(catalog, "latents/l", {"index.parquet": packed, "x": b"x"}, key="another")
    assert elsewhere.version == first.version
    assert catalog.path(elsewhere, "index.parquet").read_bytes() == packed
    assert catalog.find("key") == first
    assert catalog.verify().ok
    assert put(catalog, "latents/l", {"index.parquet": parquet(tmp_path, {"n": [1, 3]})}).version != first.version


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(bytes(path.stat().st_size))])
def test_damaged_bytes_are_replaced_by_others_of_the_same_rows(
    harm: Callable[[Path], object], local: Catalog, put: Put, tmp_path: Path
) -> None:
    plain, packed = (parquet(tmp_path, {"n": [1, 2]}, compression=how) for how in ("none", "gzip"))
    first = put(local, "latents/l", {"index.parquet": plain})
    spoilt = local.path(first, "index.parquet")
    spoilt.chmod(0o644)
    harm(spoilt)
    mended = put(Catalog.open(local.address), "latents/l", {"index.parquet": packed})
    assert mended.version == first.version
    fresh = Catalog.open(local.address)
    assert fresh.find("key") == fresh.get("latents/l") == mended
    assert fresh.path(mended, "index.parquet").read_bytes() == packed
    assert fresh.verify().missing == []


def test_a_catalog_of_before_is_read_and_verified_as_it_was(
    local: Catalog, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records list [sha256, size] of each file, and its versions are made of the hashes of the bytes."""
    data = parquet(tmp_path, {"n": [1, 2]})
    with monkeypatch.context() as before:
        before.setattr("data_catalog.catalog.digest_of_rows", lambda _: None)
        old = put(local, "latents/l", {"index.parquet": data})
    (stored,) = records.to_list(local._tables.read(records.TABLE))
    entry = old.files["index.parquet"]
    assert json.loads(stored["files"]) == {"index.parquet": [entry.sha256, len(data)]}
    assert entry == FileEntry(entry.sha256, len(data))
    assert entry.content == entry.sha256
    catalog = Catalog.open(local.address)
    assert catalog.find("key") == catalog.get(old.ref) == old
    assert catalog.path(old, "index.parquet").read_bytes() == data
    new = put(catalog, "latents/l", {"index.parquet": data})
    assert new.version != old.version
    assert new.files["index.parquet"].content == digest_of_rows(tmp_path / "made.parquet")
    assert new.files["index.parquet"].sha256 == entry.sha256
    assert catalog.verify().ok
    catalog.path(old, "index.parquet").unlink()
    assert len(catalog.verify().missing) == 1
