"""What benchmarks keep of a run's tables: rows of several runs, each with where it comes from, and pictures."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gem3d_core.errors import BadInput
from gem3d_core.study.record import plain_system, with_claims
from gem3d_core.study.rows import System

ROOT = Path(__file__).resolve().parents[3]
KEPT = sorted((ROOT / "docs" / "results").glob("*/tables.json"))
Keep = Callable[..., None]


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """`keep_tables` into tmp_path / "p", where a report's picture lies already."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import provenance

    monkeypatch.setattr(provenance, "RESULTS", tmp_path)
    report = tmp_path / "p" / "pictures"
    report.mkdir(parents=True)
    (report / "01-training.png").write_bytes(b"of the report")
    kept: Keep = runpy.run_path(str(ROOT / "benchmarks" / "recorded.py"))["keep_tables"]
    return kept


@pytest.mark.parametrize("numbers", KEPT, ids=lambda path: path.parent.name)
def test_the_pages_are_what_their_numbers_give_today(
    numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import provenance

    monkeypatch.setattr(provenance, "RESULTS", tmp_path)
    copied = tmp_path / "again"
    (copied / "table-pictures").mkdir(parents=True)
    (copied / numbers.name).write_text(numbers.read_text())
    for picture in (numbers.parent / "table-pictures").iterdir():
        (copied / "table-pictures" / picture.name).touch()
    runpy.run_path(str(ROOT / "benchmarks" / "recorded.py"))["lay_out"]("again")
    again, kept = ((folder / "tables.md").read_text() for folder in (copied, numbers.parent))
    assert again == kept, f"give `python benchmarks/recorded.py {numbers.parent.name}`"


def document(*names: str, seed: int = 0) -> dict[str, Any]:
    rows = [
        plain_system(System(name, name.upper(), ("2",), {}, {}, {}, {"a": 0.5}, {"a": 0.2}, {}, {}, {}, scored=1))
        for name in names
    ]
    facts = {"profile": "p", "dataset": "d", "reported": "BraTS", "features": "f", "train": 16, "test": 8}
    made = {"overrides": {}, "failed": {}, "seconds": "Here.", "held_out": None}
    return with_claims(facts | made | {"shared": {"seed": seed}, "rows": rows})


def facts(commit: str) -> dict[str, str]:
    return {"command": "gem3d tables X", "commit": commit, "machine": "two cores", "date": "2026-01-01"}


def test_rows_of_earlier_runs_stay_with_their_origin(keep: Keep, tmp_path: Path) -> None:
    first, again = tmp_path / "systems-a.png", tmp_path / "systems-b.png"
    first.write_bytes(b"picture")
    again.write_bytes(b"another")
    keep(document("ours", "paper"), facts("abc"), [first])
    keep(document("make-a-volume", "paper"), facts("def"), [again])

    kept = json.loads((tmp_path / "p" / "tables.json").read_text())
    origins = {row["name"]: row["made"]["commit"] for row in kept["rows"]}
    assert list(origins.items()) == [("make-a-volume", "def"), ("paper", "def"), ("ours", "abc")]
    page = (tmp_path / "p" / "tables.md").read_text()
    assert "\nmake-a-volume, paper: `gem3d tables X`, commit def, two cores, 2026-01-01.\n" in page
    assert page.endswith("\nours: `gem3d tables X`, commit abc, two cores, 2026-01-01.\n")
    assert all(f"(table-pictures/{name})" in page for name in ("systems-a.png", "systems-b.png"))
    assert "01-training" not in page
    assert (tmp_path / "p" / "table-pictures" / "systems-a.png").read_bytes() == b"picture"


def test_rows_of_other_settings_change_nothing(keep: Keep, tmp_path: Path) -> None:
    keep(document("paper"), facts("abc"))
    before = (tmp_path / "p" / "tables.json").read_bytes()
    with pytest.raises(BadInput, match=r"tables\.json: rows with seed 0 and 1 do not stand in one table; move it away"):
        keep(document("ours", seed=1), facts("def"))
    assert (tmp_path / "p" / "tables.json").read_bytes() == before
