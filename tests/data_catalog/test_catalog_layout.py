"""Views to work from and exports to give away."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_catalog import Artifact, Catalog, Corrupt, Invalid

Put = Callable[..., Artifact]

FILES = {"imagesTr/c_0000.nii.gz": b"image", "labelsTr/c.nii.gz": b"label", "dataset.json": b"{}"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def dataset(local: Catalog, put: Put) -> Artifact:
    return put(local, "dataset/hip", FILES, parents=["source/hip@" + "a" * 64], meta={"factor": 2})


def test_a_view_shows_the_files_under_their_names_on_every_storage(catalog: Catalog, put: Put) -> None:
    artifact = put(catalog, "dataset/hip", FILES)
    view = catalog.view(artifact)
    assert contents(view) == FILES
    assert view.name == f"hip@{artifact.version[:12]}"
    assert catalog.view(artifact) == view


def test_a_view_is_made_of_read_only_hard_links(local: Catalog, dataset: Artifact) -> None:
    view = local.view(dataset)
    for logical, stored in local.paths(dataset).items():
        assert (view / logical).samefile(stored)
        assert stored.stat().st_mode & 0o777 == 0o444


def test_a_view_is_made_once(local: Catalog, dataset: Artifact) -> None:
    before = local.view(dataset).stat()
    after = local.view(dataset).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_view_that_lost_a_file_is_built_anew(local: Catalog, dataset: Artifact, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / "view"
    (local.view(dataset, place) / "dataset.json").unlink()
    assert contents(local.view(dataset, place)) == FILES
    assert [path.name for path in place.parent.iterdir()] == ["view"]


def test_a_view_is_copied_where_links_cannot_be(
    local: Catalog, dataset: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr("os.link", refuse)
    view = local.view(dataset)
    assert contents(view) == FILES
    assert not (view / "dataset.json").samefile(local.path(dataset, "dataset.json"))
    assert (view / "dataset.json").stat().st_mode & 0o777 == 0o444
    assert local.view(dataset).stat().st_ino == view.stat().st_ino


def test_no_half_of_a_view_is_left_when_an_object_is_damaged(local: Catalog, dataset: Artifact) -> None:
    local.path(dataset, "labelsTr/c.nii.gz").unlink()
    with pytest.raises(Corrupt):
        local.view(dataset)
    assert list((Path(local.address) / "views" / "dataset").iterdir()) == []


def test_a_view_does_not_replace_a_file(local: Catalog, dataset: Artifact, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(Invalid, match="is not a folder"):
        local.view(dataset, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_export_can_be_put_again_as_the_same_version(local: Catalog, dataset: Artifact, tmp_path: Path) -> None:
    folder = local.export("dataset/hip", tmp_path / "out" / "hip")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name: data for name, data in contents(folder).items() if name != "manifest.json"} == FILES
    assert manifest["ref"] == dataset.ref.full
    assert manifest["parents"] == list(dataset.parents)
    other = Catalog.open(tmp_path / "other")
    back = other.put(
        manifest["kind"],
        manifest["name"],
        files={logical: folder / logical for logical in manifest["files"]},
        meta=manifest["meta"],
        run_id="r",
        code_version="c",
        config_hash="h",
        seed=1,
        key="k",
    )
    assert back.version == dataset.version


def test_an_export_is_the_readers_own_copy(local: Catalog, dataset: Artifact, tmp_path: Path) -> None:
    folder = local.export(dataset, tmp_path / "out")
    (folder / "dataset.json").write_text("changed")
    assert local.path(dataset, "dataset.json").read_bytes() == b"{}"
    assert local.verify().ok


def test_an_export_overwrites_nothing(local: Catalog, dataset: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(Invalid, match="not an empty folder"):
        local.export(dataset, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"x"}


def test_working_folders_go_when_nothing_was_written_for_long(local: Catalog) -> None:
    folders = {}
    for key in ("a", "b", "c"):
        with local.work.hold(key * 40) as folder:
            folders[key] = folder
    old, going_on, held = folders.values()
    month_ago = time.time() - 31 * 86400
    for path in (going_on, old / "checkpoint", held / "checkpoint"):
        path.touch()
        os.utime(path, (month_ago, month_ago))
    (going_on / "checkpoint").write_text("new")
    with local.work.hold("c" * 40):
        assert local.work.clear_abandoned(days=30) == [old]
    assert not old.exists()
    assert (going_on / "checkpoint").exists()
    assert local.work.clear_abandoned(days=30) == [held]


def test_who_waits_for_a_folder_that_its_holder_removes_gets_a_new_one(local: Catalog) -> None:
    held, order = threading.Event(), []

    def first() -> None:
        with local.work.hold("k") as folder:
            (folder / "half").touch()
            held.set()
            time.sleep(0.2)
            local.work.clear("k")
            order.append("first")

    def second() -> None:
        assert held.wait(10)
        with local.work.hold("k") as folder:
            order.append("second")
            assert [path.name for path in folder.iterdir()] == ["lock"]

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert order == ["first", "second"]
