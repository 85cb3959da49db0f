"""What only a remote catalog has: a server, a bucket, and local copies of its objects."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from data_catalog import Artifact, Catalog, CatalogError, Corrupt, Invalid

Put = Callable[..., Artifact]


@pytest.fixture
def elsewhere(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Catalog]:
    """The same catalog as another machine opens it, without any local copy."""

    def open_there() -> Catalog:
        monkeypatch.setenv("GEM3D_SCRATCH", str(tmp_path / "other-machine"))
        return Catalog.open(s3_address)

    return open_there


def overwrite(catalog: Catalog, artifact: Artifact, logical: str, data: bytes | None) -> None:
    store = catalog._store
    place = store.object_path(artifact.files[logical].sha256)
    if data is None:
        store.filesystem.delete_file(place)
        return
    with store.filesystem.open_output_stream(place) as stream:
        stream.write(data)


def test_another_machine_fetches_and_verifies_the_bytes(
    s3_address: str, elsewhere: Callable[[], Catalog], put: Put, tmp_path: Path
) -> None:
    artifact = put(Catalog.open(s3_address), "model/m", {"w/1": b"weights", "w/2": b"more"})
    there = elsewhere()
    path = there.path(there.get("model/m"), "w/1")
    assert path.read_bytes() == b"weights"
    assert path.is_relative_to(tmp_path / "other-machine")
    assert (there.view(artifact) / "w" / "2").read_bytes() == b"more"
    with there.work.hold("key") as folder:
        assert folder.is_relative_to(tmp_path / "other-machine")


def test_remote_damage_is_found_and_mended(s3_address: str, elsewhere: Callable[[], Catalog], put: Put) -> None:
    here = Catalog.open(s3_address)
    contents = {"a": b"aaaa", "b": b"bbbb", "short": b"cccc"}
    artifact = put(here, "model/m", contents)
    for logical, data in (("a", b"aaaX"), ("b", None), ("short", b"c")):
        overwrite(here, artifact, logical, data)
    there = elsewhere()
    for logical, state in (("a", "other bytes"), ("b", "missing"), ("short", "other bytes")):
        with pytest.raises(Corrupt, match=state):
            there.path(artifact, logical)
    report = there.verify()
    assert (report.objects, len(report.corrupt), len(report.missing)) == (3, 2, 1)
    assert there.find("key") is None
    put(here, "model/m", contents)
    assert there.verify().ok
    assert there.path(artifact, "a").read_bytes() == b"aaaa"


def test_writers_at_the_same_time_lose_nothing_and_double_nothing(s3_address: str, put: Put) -> None:
    def work(number: int) -> None:
        catalog = Catalog.open(s3_address)
        for name in ("shared", f"own{number}"):
            put(catalog, f"volumes/{name}", {"x": b"1"}, tables={"volumes": pd.DataFrame({"row": [1, 2]})})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    counts = Catalog.open(s3_address).table("volumes").groupby("name").size().to_dict()
    assert counts == {"shared": 2, "own0": 2, "own1": 2, "own2": 2}
    assert Catalog.open(s3_address).verify().ok


def test_a_bucket_that_is_not_there_is_named(s3_address: str) -> None:
    with pytest.raises(CatalogError, match="no bucket 'nowhere'"):
        Catalog.open("s3://nowhere/catalog")
    assert Catalog.open(s3_address).ls() == []


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(Invalid, match="expected s3://bucket/prefix"):
        Catalog.open("s3://")
