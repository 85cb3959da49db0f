"""Rows come back with their values, in columns that grow, and never change a digit on the way."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_catalog import Artifact, Catalog, CatalogError, FileEntry, Invalid, NotFound, records
from data_catalog.catalog import TABLES
from data_catalog.tables import Tables

Put = Callable[..., Artifact]


def test_rows_come_back_stamped_with_their_artifact(catalog: Catalog, put: Put) -> None:
    frame = pd.DataFrame({"case": ["c1", "c2"], "z": [3, 4], "score": [0.5, float("nan")], "ok": [True, False]})
    one = put(catalog, "volumes/a", tables={"volumes": frame}, run_id="r1", meta={"n": 1})
    two = put(catalog, "volumes/b", tables={"volumes": frame, "draws": frame}, run_id="r2", meta={"n": 2})
    got = catalog.table("volumes", one)
    assert list(got.columns[:4]) == ["kind", "name", "version", "run_id"]
    assert got[["case", "z", "ok"]].equals(frame[["case", "z", "ok"]])
    assert got["score"][0] == 0.5
    assert math.isnan(got["score"][1])
    assert set(got["version"]) == {one.version}
    assert sorted(set(catalog.table("volumes")["run_id"])) == ["r1", "r2"]
    assert len(catalog.table("draws", "volumes/b")) == 2
    assert two.tables == {"volumes": 2, "draws": 2}


def test_columns_may_be_added_later(local: Catalog, put: Put) -> None:
    put(local, "metrics/a", meta={"n": 1}, tables={"metrics": pd.DataFrame({"dice": [0.9], "hd95": [None]})})
    put(local, "metrics/a", meta={"n": 2}, tables={"metrics": pd.DataFrame({"hd95": [3]})})
    got = local.table("metrics").sort_values("dice")
    assert got["dice"].to_list()[0] == 0.9
    assert got["hd95"].isna().to_list() == [True, False]


def test_nested_cells_are_json_and_narrow_types_are_widened(local: Catalog, put: Put) -> None:
    frame = pd.DataFrame(
        {
            "axis": [[1, 2], (3,)],
            "by_label": [{"a": 1}, None],
            "label": np.array([1, 2], dtype=np.uint8),
            "value": np.array([0.5, 1.5], dtype=np.float32),
            "when": pd.to_datetime(["2026-01-01", "2026-01-02"]),
            "arm": pd.Categorical(["true", "1x"]),
        }
    )
    put(local, "metrics/a", tables={"metrics": frame})
    got = local.table("metrics")
    assert got["axis"].to_list() == ["[1,2]", "[3]"]
    assert got["by_label"][0] == '{"a":1}'
    assert got["value"].to_list() == [0.5, 1.5]
    assert got["label"].dtype == np.int64
    assert got["arm"].to_list() == ["true", "1x"]
    assert got["when"][0] == pd.Timestamp("2026-01-01", tz="UTC")


@pytest.mark.parametrize(
    ("stored", "given"), [([1], [0.5]), (["x"], [1]), ([1], ["x"]), ([2.0], ["2"]), ([True], ["x"])]
)
def test_a_value_that_would_change_is_refused(
    local: Catalog, put: Put, stored: list[object], given: list[object]
) -> None:
    put(local, "metrics/a", tables={"metrics": pd.DataFrame({"value": stored})})
    with pytest.raises(Invalid, match=r"column metrics.value: stored as"):
        put(local, "metrics/b", {"f": b"1"}, tables={"metrics": pd.DataFrame({"value": given})})
    assert [artifact.name for artifact in local.ls()] == ["a"]
    assert local.verify().objects == 0


@pytest.mark.parametrize(("stored", "given"), [([1], [2.0]), ([0.5], [2]), ([1], [None, 3])])
def test_a_number_that_fits_the_column_is_taken(
    local: Catalog, put: Put, stored: list[float], given: list[float | None]
) -> None:
    put(local, "metrics/a", tables={"metrics": pd.DataFrame({"value": stored})})
    put(local, "metrics/b", tables={"metrics": pd.DataFrame({"value": given})})
    assert set(local.table("metrics", "metrics/b")["value"].dropna()) == {value for value in given if value is not None}


@pytest.mark.parametrize("cells", [[1, "a"], [1j, 2j], [object(), None]])
def test_cells_without_a_column_type_are_refused(local: Catalog, put: Put, cells: list[object]) -> None:
    with pytest.raises(Invalid, match=r"column metrics.bad"):
        put(local, "metrics/a", tables={"metrics": pd.DataFrame({"bad": cells})})


def test_rows_of_a_put_that_never_finished_are_not_shown(local: Catalog, put: Put) -> None:
    import pyarrow as pa

    put(local, "volumes/a", tables={"volumes": pd.DataFrame({"case": ["kept"]})})
    orphan = {"kind": "volumes", "name": "b", "version": "f" * 64, "run_id": "r", "case": "orphan"}
    Tables(local.address).append("volumes", pa.Table.from_pylist([orphan]), {"version": "f" * 64})
    assert local.table("volumes")["case"].to_list() == ["kept"]


def test_an_empty_table_has_its_columns_and_an_unknown_artifact_is_named(local: Catalog, put: Put) -> None:
    put(local, "metrics/a", tables={"metrics": pd.DataFrame({"value": []})})
    for table in TABLES[1:]:
        assert list(local.table(table).columns) == ["kind", "name", "version", "run_id"]
    with pytest.raises(NotFound, match="nearest: metrics/a"):
        local.table("metrics", "metrics/b")


def test_many_appends_are_merged_into_few_files(local: Catalog, put: Put) -> None:
    made = [put(local, "metrics/a", meta={"step": step}, key=f"k{step}") for step in range(40)]
    from deltalake import DeltaTable

    assert len(DeltaTable(f"{local.address}/tables/artifacts").file_uris()) < 33
    assert local.ls() == made[::-1]


def test_listing_and_lineage_of_thousands_stay_quick(local: Catalog) -> None:
    import pyarrow as pa

    count, made = 3000, list[Artifact]()
    for place in range(count):
        version = f"{place:064x}"
        parents = tuple(artifact.ref.full for artifact in made[-2:])
        when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=place)
        files = {f"c{number}.nii.gz": FileEntry(f"{number:064x}", 1000) for number in range(3)}
        made.append(
            Artifact(
                "volumes", f"v{place % 9}", version, when, "r", "c", "h", 0, version, parents, {"case": "c"}, files
            )
        )
    Tables(local.address).append(
        "artifacts", pa.concat_tables([records.to_row(each) for each in made]), {"version": "x"}
    )
    start = time.perf_counter()
    assert len(local.ls()) == count
    assert local.get(made[7].ref) == made[7]
    assert len(local.lineage(made[-1].ref)) == count
    assert time.perf_counter() - start < 3.0, "10,000 artifacts must be listed within a second each way"


def test_the_tables_are_plain_delta_tables(local: Catalog, put: Put) -> None:
    put(local, "metrics/a", tables={"metrics": pd.DataFrame({"dice": [0.75]})})
    from deltalake import DeltaTable

    assert DeltaTable(Path(local.address) / "tables" / "metrics").to_pandas()["dice"].to_list() == [0.75]


@pytest.mark.parametrize("conflicts", [3, 100])
def test_an_append_that_others_overtake_is_tried_again(
    local: Catalog, put: Put, monkeypatch: pytest.MonkeyPatch, conflicts: int
) -> None:
    from deltalake.exceptions import CommitFailedError

    put(local, "metrics/a")
    commit, calls = Tables._commit, [0]

    def overtaken(self: Tables, *given: object) -> None:
        calls[0] += 1
        if calls[0] <= conflicts:
            raise CommitFailedError("another writer")
        commit(self, *given)

    monkeypatch.setattr(Tables, "_commit", overtaken)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    if conflicts == 3:
        assert put(local, "metrics/b").name == "b"
        assert calls[0] == 4
        return
    with pytest.raises(CatalogError, match="gave up after 12 attempts"):
        put(local, "metrics/b")
    assert calls[0] == 12


def test_writers_that_also_create_widen_and_compact_double_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setattr("data_catalog.tables._COMPACT_ABOVE", 4)
    together = threading.Barrier(5)

    def work(number: int) -> list[int]:
        tables = Tables(str(tmp_path))
        together.wait()
        columns = [{"version": f"v{step}", f"column{step % 3}": number} for step in range(5)]
        return [tables.append("t", pa.Table.from_pylist([row]), {"version": row["version"]}) for row in columns]

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(work, range(5))) == [[1] * 5] * 5
    rows = Tables(str(tmp_path)).read("t")
    assert rows is not None
    assert sorted(rows["version"].to_pylist()) == [f"v{step}" for step in range(5)]
