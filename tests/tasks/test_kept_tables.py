"""What `benchmarks/tables.py` keeps of a run: page and numbers, each with where they come from, and the pictures."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_tables_are_kept_with_their_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    keep = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))["_keep"]
    made, kept = tmp_path / "made", tmp_path / "kept"
    (made / "pictures").mkdir(parents=True)
    (made / "tables.md").write_text("# Tables\n\n![systems](pictures/systems-a.png)\n")
    (made / "tables.json").write_text(json.dumps({"rows": [{"name": "paper"}]}))
    (made / "pictures" / "systems-a.png").write_bytes(b"picture")

    facts = {"command": "gem3d tables X", "commit": "abc", "machine": "two cores", "date": "2026-01-01"}
    told = {"tables": str(made / "tables.md"), "numbers": str(made / "tables.json")}
    for _ in range(2):  # given again, as after a row that failed
        keep(told, facts, kept)

    page = (kept / "tables.md").read_text()
    assert page.startswith("# Tables")
    assert page.endswith("\n`gem3d tables X`, commit abc, two cores, 2026-01-01.\n")
    assert json.loads((kept / "tables.json").read_text()) == facts | {"rows": [{"name": "paper"}]}
    assert (kept / "pictures" / "systems-a.png").read_bytes() == b"picture"
