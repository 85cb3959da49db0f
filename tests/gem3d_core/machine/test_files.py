"""Files and folders that are there whole or not at all, and on the disk before they have their name."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from gem3d_core.machine.checkpoints import load_checkpoint, read_metadata, read_tensors, save_checkpoint, save_tensors
from gem3d_core.machine.files import atomic, read_json, write_bytes, write_json, write_text

TORN = {"empty": lambda _: b"", "half": lambda data: data[: len(data) // 2], "zeros": lambda data: bytes(len(data))}


def fail_half_way(path: Path) -> None:
    with atomic(path) as building:
        building.write_text("half")
        raise KeyError


def fill_half_way(folder: Path) -> None:
    with atomic(folder) as building:
        building.mkdir()
        (building / "codec.json").write_text("{}")
        raise KeyError


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text("old")
    with pytest.raises(KeyError):
        fail_half_way(path)
    assert path.read_text() == "old"
    with atomic(path) as building:
        building.write_text("new")
        assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["facts.json"]
    assert path.read_text() == "new"


def test_a_folder_takes_the_place_of_a_torn_one_and_goes_where_the_block_fails(tmp_path: Path) -> None:
    torn = tmp_path / "codec"
    torn.mkdir()
    (torn / "codec.json").write_text("")
    with pytest.raises(KeyError):
        fill_half_way(torn)
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]
    with atomic(torn) as building:
        building.mkdir()
        (building / "codec.json").write_text("{}")
    assert (torn / "codec.json").read_text() == "{}"


def test_two_who_write_the_same_file_do_not_write_into_each_other(tmp_path: Path) -> None:
    both = Barrier(2, timeout=10)

    def write(letter: str) -> None:
        with atomic(tmp_path / "deep" / "file") as building, building.open("w") as stream:
            for _ in range(100):
                stream.write(letter)
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, letter) for letter in "ab"]:
            done.result()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").read_text() in ("a" * 100, "b" * 100)


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was forced to the disk or renamed, in order; the temporary name reads `building`."""
    told: list[str] = []
    fsync, replace = os.fsync, os.replace

    def name(path: Path) -> str:
        parts = path.relative_to(tmp_path).parts
        return "/".join("building" if part.startswith(".") else part for part in parts) or "folder"

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        told.append(f"sync {name(Path(f'/proc/self/fd/{descriptor}').readlink())}")

    def replaced(source: Path, target: Path) -> None:
        replace(source, target)
        told.append(f"{name(source)} -> {name(target)}")

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.replace", replaced)
    return told


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, order: list[str]) -> None:
    path = tmp_path / "f" / "x"
    writers = (
        lambda: write_bytes(path, b"x"),
        lambda: write_text(path, "x"),
        lambda: write_json(path, "x"),
        lambda: save_tensors(path, {"w": torch.ones(2)}),
    )
    for write in writers:
        order.clear()
        write()
        assert order == ["sync f/building", "f/building -> f/x", "sync f"]
    order.clear()
    write_text(path, "1.5", durable=False)
    assert order == ["f/building -> f/x"]


def test_a_folder_is_on_the_disk_with_all_files_before_it_has_its_name(tmp_path: Path, order: list[str]) -> None:
    with atomic(tmp_path / "codec") as building:
        (building / "inner").mkdir(parents=True)
        (building / "codec.json").write_text("{}")
        (building / "inner" / "weights").write_text("w")
    inside = ("", "/codec.json", "/inner", "/inner/weights")
    assert sorted(order[:4]) == [f"sync building{path}" for path in inside]
    assert order[4:] == ["building -> codec", "sync folder"]


@pytest.mark.parametrize("harm", TORN)
def test_a_torn_file_reads_as_one_that_is_missing(harm: str, tmp_path: Path) -> None:
    facts, tensors = tmp_path / "facts.json", tmp_path / "w.safetensors"
    assert (read_json(facts), read_tensors(tensors), read_metadata(tensors)) == (None, None, None)
    write_json(facts, {"depth": 3})
    save_tensors(tensors, {"w": torch.arange(100.0)}, {"psnr": "40"})
    assert read_json(facts) == {"depth": 3}
    assert read_metadata(tensors) == {"psnr": "40"}
    assert (read_tensors(tensors) or {})["w"].tolist() == list(range(100))
    for file in (facts, tensors):
        file.write_bytes(TORN[harm](file.read_bytes()))
    assert (read_json(facts), read_tensors(tensors), read_metadata(tensors)) == (None, None, None)


def checkpoint(folder: Path, step: int) -> None:
    save_checkpoint(folder, step, {"raw": {"w": torch.full((9,), float(step))}, "ema": {}}, {"steps": 20})


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_goes(
    tmp_path: Path, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path, 3)
    order.clear()
    monkeypatch.setattr("shutil.rmtree", lambda path: order.append(f"remove {path.name}"))
    checkpoint(tmp_path, 6)
    inside = ("", "/ema.safetensors", "/facts.json", "/raw.safetensors")
    assert sorted(order[:4]) == [f"sync building{path}" for path in inside]
    assert order[4:] == ["building -> step-00000006", "sync folder", "remove step-00000003"]


@pytest.mark.parametrize("harm", TORN)
@pytest.mark.parametrize("file", ["facts.json", "raw.safetensors"])
def test_a_torn_checkpoint_is_skipped_and_does_not_outlive_the_next(file: str, harm: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    torn = tmp_path / "step-00000009" / file
    torn.write_bytes(TORN[harm](torn.read_bytes()))
    assert load_checkpoint(tmp_path) is None
    torn.parent.rename(tmp_path / "aside")
    checkpoint(tmp_path, 3)
    (tmp_path / "aside").rename(torn.parent)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found[0], found[1]["raw"]["w"].tolist()) == (3, [3.0] * 9)
    checkpoint(tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]
