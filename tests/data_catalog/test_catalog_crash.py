"""Killed writers, many writers, and a process that only wants to look."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from data_catalog import Artifact, Catalog

Put = Callable[..., Artifact]

ROOT = Path(__file__).resolve().parents[2]

PUT = """
import os, signal, sys
from pathlib import Path
import pandas as pd
from data_catalog import Catalog, store, tables

def put(address, name, source, rows=3):
    return Catalog.open(address).put(
        "volumes", name, files={"weights.bin": Path(source)}, meta={}, run_id=str(os.getpid()), code_version="c",
        config_hash="h", seed=0, key="k" + name, tables={"volumes": pd.DataFrame({"row": range(rows)})})
"""

# Each kills its own process at the named call of a step of a put.
KILL = """
count = 0
def deadly(function, call):
    def act(*args, **given):
        global count
        count += 1
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **given)
    return act
"""
MOMENTS = {
    "copied, not yet renamed": "store.settle = deadly(store.settle, 1)",
    "renamed, no row yet": "store.settle = deadly(store.settle, 2)",
    "before the rows of the volumes": "tables.Tables._commit = deadly(tables.Tables._commit, 1)",
    "between the rows and the record": "tables.Tables._commit = deadly(tables.Tables._commit, 2)",
    "after the record": "tables.Tables._tidy = deadly(tables.Tables._tidy, 2)",
}


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights" * 1000)
    return path


def test_a_put_that_is_killed_leaves_a_sound_catalog_and_can_be_repeated(
    tmp_path: Path, source: Path, put: Put
) -> None:
    running = {}
    for place, (moment, patch) in enumerate(MOMENTS.items()):
        address = tmp_path / str(place)
        put(Catalog.open(address), "source/before", {"x": b"1"})
        running[moment] = address, start(f"{PUT}{KILL}{patch}\nput(sys.argv[1], 'a', sys.argv[2])", address, source)
    for moment, (address, process) in running.items():
        assert process.wait(60) == -9, f"{moment}: {process.stderr and process.stderr.read().decode()}"
        catalog = Catalog.open(address)
        assert catalog.verify().ok, moment
        assert len(catalog.ls()) == (2 if moment == "after the record" else 1), moment
        assert len(catalog.table("volumes")) in (0, 3), moment
        rows = pd.DataFrame({"row": range(3)})
        put(catalog, "volumes/a", {"weights.bin": source.read_bytes()}, key="ka", tables={"volumes": rows})
        assert catalog.table("volumes")["row"].to_list() == [0, 1, 2], moment
        assert [artifact.name for artifact in catalog.ls()] == ["a", "before"], moment
        assert catalog.verify().ok, moment


def test_four_processes_lose_nothing_and_double_nothing(tmp_path: Path, source: Path) -> None:
    address = tmp_path / "catalog"
    work = "for step in range(4): put(sys.argv[1], f'own{sys.argv[3]}-{step}', sys.argv[2])"
    code = f"{PUT}put(sys.argv[1], 'shared', sys.argv[2])\n{work}\nput(sys.argv[1], 'shared2', sys.argv[2])"
    processes = [start(code, address, source, number) for number in range(4)]
    for process in processes:
        assert process.wait(120) == 0, process.stderr and process.stderr.read().decode()
    catalog = Catalog.open(address)
    expected = {f"own{number}-{step}" for number in range(4) for step in range(4)} | {"shared", "shared2"}
    assert {artifact.name for artifact in catalog.ls()} == expected
    assert len(catalog.table("artifacts")) == len(expected)
    assert catalog.table("volumes").groupby("name").size().to_dict() == dict.fromkeys(expected, 3)
    assert catalog.verify().objects == 1
    assert catalog.verify().ok


def test_what_killed_writers_left_is_swept_after_a_day(local: Catalog, put: Put) -> None:

    put(local, "model/m", {"w": b"1"})
    old, new = Path(local.address) / "tmp" / "old", Path(local.address) / "tmp" / "new"
    for path, age in ((old, 25 * 3600), (new, 60)):
        path.write_bytes(b"half")
        moment = path.stat().st_mtime - age
        os.utime(path, (moment, moment))
    put(Catalog.open(local.address), "model/m", {"w": b"2"})
    assert (old.exists(), new.exists()) == (False, True)


def test_opening_a_catalog_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "prefect", "pandas", "pyarrow", "deltalake", "pydantic", "numpy", "gem3d_core", "configs")
    code = (
        "import sys; from data_catalog import Catalog; c = Catalog.open(sys.argv[1]); c.work.hold('k').__enter__();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
