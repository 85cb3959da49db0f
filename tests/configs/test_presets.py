"""The memory presets that stand in the profiles are those that `--memory` makes."""

import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRESET = re.compile(
    r"^# (\d+)GiB +(\d+) +(\d+)( r)?, +(\d+)( r)? +([\d.]+), +([\d.]+), +([\d.]+)(?: +measured ([\d.]+))?$",
    re.MULTILINE,
)


def recorded() -> dict[str, list[dict[str, object]]]:
    rows: dict[str, list[dict[str, object]]] = {}
    for row in json.loads((ROOT / "docs" / "results" / "memory.json").read_text())["rows"]:
        rows.setdefault(row["profile"], []).append(row)
    return rows


@pytest.mark.parametrize("profile", ["hippocampus-cpu", "hippocampus-gpu", "brats-paper"])
def test_a_profile_tells_what_was_recorded(profile: str) -> None:
    told = PRESET.findall((ROOT / "configs" / "profiles" / f"{profile}.yaml").read_text())
    expected = [_line(row) for row in recorded()[profile]]
    assert told == expected
    assert {int(line[0]) for line in told} == ({4} if profile.endswith("cpu") else {8, 16, 24, 80})


def test_what_was_recorded_is_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the profile that is cheapest to count, on the meta device; measured peaks stand as they are."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    computed = asdict(importlib.import_module("memory").computed("hippocampus-cpu", 4))
    (kept,) = recorded()["hippocampus-cpu"]
    peaks = {name: value for name, value in computed.items() if name.endswith("_peak") and value is not None}
    assert peaks == pytest.approx({name: kept[name] for name in peaks}, rel=1e-3)
    assert len(peaks) == 3
    for choice in ("windows", "slices", "volume"):
        assert computed[choice] == kept[choice]


def _line(row: dict[str, object]) -> tuple[str, ...]:
    def gib(name: str) -> str:
        return "" if row[name] is None else f"{float(row[name]) / 2**30:.1f}"  # type: ignore[arg-type]  # JSON

    def pieces(name: str) -> tuple[str, str]:
        plan = row[name]
        return str(plan["pieces"]), " r" if plan["recompute"] else ""  # type: ignore[index]  # JSON

    peaks = (gib("sampling_peak"), gib("slices_peak"), gib("volume_peak"))
    counts = (str(row["budget"]), str(row["windows"]), *pieces("slices"), *pieces("volume"))
    return (*counts, *peaks, gib("measured_peak"))
