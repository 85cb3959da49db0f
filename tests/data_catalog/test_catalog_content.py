"""What is put comes back, under a version that its content alone decides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_catalog import Ambiguous, Artifact, Catalog, CatalogError, Corrupt, Invalid, NotFound, Ref

Put = Callable[..., Artifact]

LOGICAL = st.lists(st.from_regex(r"[a-z0-9_]{1,4}", fullmatch=True), min_size=1, max_size=3).map("/".join)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


def no_nesting(files: dict[str, bytes]) -> bool:
    return not any(other.startswith(f"{name}/") for name in files for other in files)


@settings(max_examples=8, deadline=None)
@example(files={}, meta={"\x85\u2028\n": "\x00"}, seed=0)  # what else than a newline can end a line of a log
@given(
    files=st.dictionaries(LOGICAL, st.binary(max_size=40), max_size=4).filter(no_nesting),
    meta=st.dictionaries(st.text(), JSON, max_size=3),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_put_then_get_is_identity(files: dict[str, bytes], meta: dict[str, object], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sources = {logical: Path(folder) / str(place) for place, logical in enumerate(files)}
        for logical, path in sources.items():
            path.write_bytes(files[logical])
        catalog = Catalog.open(Path(folder) / "catalog")
        put = catalog.put(
            "source", "d", files=sources, meta=meta, run_id="r", code_version="c", config_hash="h", seed=seed, key="k"
        )
        got = Catalog.open(Path(folder) / "catalog").get("source/d")
        assert got == put
        assert (got.meta, got.seed) == (meta, seed)
        assert {name: path.read_bytes() for name, path in catalog.paths(got).items()} == files


def test_an_artifact_comes_back_whole_on_every_storage(catalog: Catalog, put: Put) -> None:
    before = datetime.now(UTC)
    artifact = put(
        catalog, "volumes/hip", {"a/x.nii.gz": b"voxels", "y": b""}, meta={"shape": (1, 2)}, run_id="run7", seed=7
    )
    assert before <= artifact.created <= datetime.now(UTC)
    assert artifact.created.tzinfo is UTC
    assert artifact.meta == {"shape": [1, 2]}
    assert artifact.size == 6
    assert catalog.get(artifact.ref) == catalog.find("key") == artifact
    assert catalog.path(artifact, "a/x.nii.gz").read_bytes() == b"voxels"
    assert list(catalog.paths(artifact, "a/")) == ["a/x.nii.gz"]
    assert catalog.verify().ok


def test_the_same_content_is_the_same_version_and_one_record(catalog: Catalog, put: Put) -> None:
    rows = pd.DataFrame({"case": ["c1", "c2"]})
    first = put(catalog, "model/m", {"w": b"1"}, tables={"volumes": rows}, run_id="monday")
    again = put(catalog, "model/m", {"w": b"1"}, tables={"volumes": rows}, run_id="tuesday")
    assert again == first
    assert len(catalog.table("artifacts")) == 1
    assert list(catalog.table("volumes")["case"]) == ["c1", "c2"]


def test_the_same_content_under_another_key_is_found_under_both(catalog: Catalog, put: Put) -> None:
    first = put(catalog, "model/m", {"w": b"1"}, key="one")
    second = put(catalog, "model/m", {"w": b"1"}, key="two", seed=5)
    assert first.version == second.version
    assert catalog.find("one") == first
    assert catalog.find("two") == second
    assert catalog.find("three") is None
    assert [artifact.version for artifact in catalog.ls()] == [first.version]


@pytest.mark.parametrize("change", [{"place": "model/n"}, {"contents": {"w": b"2"}}, {"meta": {"a": 1}}])
def test_other_content_is_another_version(local: Catalog, put: Put, change: dict[str, object]) -> None:
    usual: dict[str, object] = {"place": "model/m", "contents": {"w": b"1"}}
    assert put(local, **usual).version != put(local, **(usual | change)).version


def test_the_newest_version_a_prefix_and_an_ambiguous_one(local: Catalog, put: Put) -> None:
    made = [put(local, "model/m", meta={"step": step}, key=f"k{step}") for step in range(18)]
    assert local.get("model/m") == made[-1]
    assert local.get(f"model/m@{made[3].version[:20]}") == made[3]
    assert local.ls("model", "m") == made[::-1]
    firsts = [artifact.version[0] for artifact in made]
    shared = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(Ambiguous, match="give more digits"):
        local.get(f"model/m@{shared}")


def test_what_is_not_there_names_the_nearest(local: Catalog, put: Put) -> None:
    with pytest.raises(NotFound, match="holds nothing yet"):
        local.get("model/slice")
    held = put(local, "model/slice", {"weights.safetensors": b"1"})
    with pytest.raises(NotFound, match="nearest: model/slice"):
        local.get("model/slcie")
    with pytest.raises(NotFound, match=f"it has {held.ref}"):
        local.get(f"model/slice@{'0' * 12}")
    with pytest.raises(NotFound, match=r"nearest: weights\.safetensors"):
        local.path(held, "weight.safetensors")
    with pytest.raises(NotFound, match="no table 'volume'"):
        local.table("volume")


@pytest.mark.parametrize("text", ["model", "model/", "/m", "model/m@", "model/m@XYZ", "a/b/c", "model/m@" + "0" * 65])
def test_a_reference_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="reference"):
        Ref.parse(text)


def test_references_are_short_for_people_and_full_for_records(local: Catalog, put: Put) -> None:
    ref = put(local, "model/m").ref
    assert Ref.parse(ref.full) == ref
    assert str(ref) == f"model/m@{ref.full.split('@')[1][:12]}"
    assert str(Ref("model", "m")) == "model/m"


@pytest.mark.parametrize(
    "given",
    [
        {"place": "mo del/m"},
        {"contents": {"../x": b""}},
        {"contents": {"/x": b""}},
        {"contents": {"manifest.json": b""}},
        {"contents": {"a": b"", "a/b": b""}},
        {"meta": {"score": float("nan")}},
        {"meta": {"where": Path("x")}},
        {"meta": {"deep": [{"bad": {1, 2}}]}},
        {"tables": {"artifacts": pd.DataFrame({"a": [1]})}},
        {"tables": {"volumes": pd.DataFrame({"version": [1]})}},
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(
    local: Catalog, put: Put, tmp_path: Path, given: dict[str, object]
) -> None:
    with pytest.raises(Invalid):
        put(local, **({"place": "model/m", "contents": {"w": b"1"}} | given))
    assert not (tmp_path / "catalog").exists()


def test_a_source_that_is_no_file_is_named(local: Catalog, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="nothing-here is not a file"):
        local.put(
            "model",
            "m",
            files={"w": tmp_path / "nothing-here"},
            meta={},
            run_id="r",
            code_version="c",
            config_hash="h",
            seed=0,
            key="k",
        )
    assert local.ls() == []


def test_lineage_goes_up_and_down_and_names_what_is_missing(catalog: Catalog, put: Put) -> None:
    elsewhere = Ref("source", "gone", "f" * 64)
    source = put(catalog, "source/hip")
    prepared = put(catalog, "prepared/hip", parents=["source/hip", elsewhere])
    model = put(catalog, "model/hip", parents=[prepared.ref])
    volumes = put(catalog, "volumes/hip", parents=[model.ref, prepared.ref])
    assert volumes.parents == (model.ref.full, prepared.ref.full)
    assert catalog.lineage("volumes/hip") == [(0, volumes), (1, model), (2, prepared), (3, source), (3, elsewhere)]
    assert catalog.children(prepared) == [volumes, model]
    assert catalog.children(volumes.ref) == []
    with pytest.raises(NotFound):
        catalog.lineage(elsewhere)


def test_a_long_chain_of_parents_is_walked(local: Catalog, put: Put) -> None:
    chain = [put(local, "model/m", meta={"step": 0})]
    for step in range(1, 5):
        chain.append(put(local, "model/m", meta={"step": step}, parents=[chain[-1].ref]))
    assert local.lineage(chain[-1]) == list(enumerate(reversed(chain)))


def test_an_address_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CatalogError, match="is not a folder"):
        Catalog.open(tmp_path / "file")


def test_reading_an_empty_catalog_creates_nothing(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "new")
    assert catalog.ls() == []
    assert catalog.find("k") is None
    assert catalog.table("volumes").empty
    assert catalog.verify() == type(catalog.verify())(objects=0, corrupt=[], missing=[])
    assert not (tmp_path / "new").exists()


def test_scratch_lasts_until_it_is_cleared(local: Catalog) -> None:
    key = "ab" * 32
    with local.work.hold(key) as folder:
        (folder / "step").write_text("12")
    with local.work.hold(key) as folder:
        assert (folder / "step").read_text() == "12"
        assert folder.name == key[:32]
        local.work.clear(key)
    local.work.clear(key)
    assert not folder.exists()
    with pytest.raises(Invalid, match="stage key"), local.work.hold("../x"):
        pass


def test_damage_is_found_by_verify_by_reading_and_mended_by_putting_again(local: Catalog, put: Put) -> None:
    artifact = put(local, "volumes/v", {"a": b"aaaa", "b": b"bbbb", "c": b"cccc"})
    fresh = Catalog.open(local.address)
    spoilt, lost = local.path(artifact, "a"), local.path(artifact, "b")
    spoilt.chmod(0o644)
    spoilt.write_bytes(b"aaaX")
    lost.unlink()
    report = fresh.verify()
    assert report.objects == 3
    assert not report.ok
    assert [spoilt.name in line and "volumes/v" in line for line in report.corrupt] == [True]
    assert [lost.name in line for line in report.missing] == [True]
    for logical in "ab":
        with pytest.raises(Corrupt, match=f"{artifact.ref} {logical}: .*without its cache"):
            fresh.path(artifact, logical)
    assert fresh.find("key") is None
    put(local, "volumes/v", {"a": b"aaaa", "b": b"bbbb", "c": b"cccc"})
    assert fresh.verify().ok
    assert fresh.find("key") == artifact


def test_a_forged_record_and_lost_rows_are_found(local: Catalog, put: Put) -> None:
    put(local, "volumes/v", {"a": b"a"}, tables={"volumes": pd.DataFrame({"case": ["c"]})})
    from deltalake import DeltaTable

    DeltaTable(f"{local.address}/tables/volumes").delete()
    DeltaTable(f"{local.address}/tables/artifacts").update(new_values={"meta": '{"forged":1}'})
    report = local.verify()
    assert "does not have the content of its version" in report.corrupt[0]
    assert "0 of 1 rows" in report.missing[0]


@pytest.mark.parametrize("table", ["artifacts", "metrics"])
def test_a_damaged_table_is_named_by_verify_and_by_reading(local: Catalog, put: Put, table: str) -> None:
    put(local, "model/m", {"w": b"1"}, tables={"metrics": pd.DataFrame({"metric": ["seconds"], "value": [1.0]})})
    part = next((Path(local.address) / "tables" / table).glob("*.parquet"))
    part.unlink()
    (line,) = local.verify().corrupt
    assert f"tables/{table} of {local.address} cannot be read" in line
    assert "restore its folder from a backup" in line
    with pytest.raises(Corrupt, match=f"tables/{table} of"):
        local.table(table)


def test_a_folder_that_a_delta_table_cannot_lie_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="% in its name"):
        Catalog.open(tmp_path / "100%")


def test_content_that_was_made_twice_has_the_parents_of_the_record_at_hand(local: Catalog, put: Put) -> None:
    here, there = (put(local, "source/s", {"cases": place}, key=f"{place!r}") for place in (b"/here", b"/there"))
    first, second = (
        put(local, "prepared/p", {"x": b"same"}, key=f"p{source.version}", parents=[source.ref.full])
        for source in (here, there)
    )
    assert first.version == second.version
    assert [step.ref for _, step in local.lineage(first) if isinstance(step, Artifact)][1] == here.ref
    assert [step.ref for _, step in local.lineage(first.ref) if isinstance(step, Artifact)][1] == there.ref
