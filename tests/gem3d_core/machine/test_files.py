"""A file that is written whole or not at all."""

from pathlib import Path

import pytest

from gem3d_core.machine.files import atomic


def fail_half_way(path: Path) -> None:
    with atomic(path) as building:
        building.write_text("half")
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
