"""What a catalog does not do, however much it holds: import much, read a file twice, lay out what nobody asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_catalog import Artifact, Catalog, Corrupt, digest, store

Put = Callable[..., Artifact]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of files whose bytes are read again to hash them."""
    names: list[str] = []

    def sha256_of(path: Path, of: Callable[[Path], str] = digest.sha256_of) -> str:
        names.append(path.name)
        return of(path)

    monkeypatch.setattr(digest, "sha256_of", sha256_of)
    return names


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Streams that are copied into the store."""
    streams: list[object] = []

    def copy_hashed(source: object, target: object, of: Callable[..., object] = digest.copy_hashed) -> object:
        streams.append(source)
        return of(source, target)

    monkeypatch.setattr(store, "copy_hashed", copy_hashed)
    return streams


def test_a_catalog_is_read_without_the_libraries_that_are_slow_to_import(local: Catalog, put: Put) -> None:
    put(local, "model/m", {"weights": b"w"})
    reading = (
        "import sys; from data_catalog import Catalog; catalog = Catalog.open(sys.argv[1]);"
        "catalog.get('model/m'); catalog.ls(); catalog.lineage('model/m'); catalog.find('key');"
        "print(sorted({'pyarrow', 'pandas', 'numpy'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", reading, local.address], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_what_this_process_put_is_not_hashed_again(local: Catalog, put: Put, hashed: list[str]) -> None:
    artifact = put(local, "volumes/v", {"a/image": b"image", "a/label": b"label"})
    assert local.path(artifact, "a/image").read_bytes() == b"image"
    assert (local.view(artifact) / "a" / "label").read_bytes() == b"label"
    assert hashed == []


def test_what_changed_after_the_put_is_noticed(local: Catalog, put: Put) -> None:
    artifact = put(local, "volumes/v", {"image": b"image"})
    path = local.path(artifact, "image")
    path.chmod(0o644)
    path.write_bytes(b"imaGe")
    with pytest.raises(Corrupt, match="other bytes"):
        local.path(artifact, "image")


def test_a_file_that_another_artifact_holds_is_taken_over_without_a_copy(
    local: Catalog, put: Put, copied: list[object]
) -> None:
    volumes = put(local, "volumes/v", {"image": b"image"})
    copied.clear()
    usual = {"run_id": "run", "code_version": "code", "config_hash": "conf", "seed": 0, "key": "other"}
    dataset = local.put("dataset", "d", files={"imagesTr/v": local.path(volumes, "image")}, meta={}, **usual)
    assert dataset.files["imagesTr/v"] == volumes.files["image"]
    assert copied == []


def test_a_damaged_file_of_the_store_is_not_taken_over(local: Catalog, put: Put) -> None:
    volumes = put(local, "volumes/v", {"image": b"image"})
    path = local.path(volumes, "image")
    path.chmod(0o644)
    path.write_bytes(b"other")
    usual = {"run_id": "run", "code_version": "code", "config_hash": "conf", "seed": 0, "key": "other"}
    dataset = local.put("dataset", "d", files={"v": path}, meta={}, **usual)
    assert local.path(dataset, "v").read_bytes() == b"other"
    assert dataset.files["v"] != volumes.files["image"]


def test_a_part_of_an_artifact_is_laid_out_alone(catalog: Catalog, put: Put) -> None:
    artifact = put(catalog, "latents/l", {"codec/facts": b"c", "latents/1": b"1", "codec-other": b"o"})
    part = catalog.view(artifact, part="codec")
    assert [str(path.relative_to(part)) for path in part.rglob("*") if path.is_file()] == ["codec/facts"]
    assert (catalog.view(artifact) / "latents" / "1").read_bytes() == b"1"
    assert catalog.view(artifact, part="codec") == part
