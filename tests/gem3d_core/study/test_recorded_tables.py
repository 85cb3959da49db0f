"""What is recorded of the tables: rows come back from JSON, and rows of two runs stand in one table."""

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from gem3d_core.errors import BadInput
from gem3d_core.metrics.frechet import Fid
from gem3d_core.metrics.intervals import Interval
from gem3d_core.spec.terms import PLANES
from gem3d_core.study.record import merged, page, plain_system, system_from, with_claims
from gem3d_core.study.rows import Cost, Reported, System

CASES = [f"case{k}" for k in range(8)]
ORDER = ["make-a-volume", "paper", "ours"]


def system(name: str, score: float) -> System:
    noise = np.random.default_rng(0).normal(0, 0.01, len(CASES))
    return System(
        name=name,
        title=name.upper(),
        tables=("1", "2", "ours"),
        fid={plane: Fid(10 * score, 100, 90, Interval(10 * score, 1.0, 20.0, 8)) for plane in PLANES},
        replicates=dict.fromkeys(PLANES, 10 * score + noise),
        neighbours={f"{m} {p}": Interval(0.5, None, None, 1) for m in ("KID", "precision", "recall") for p in PLANES},
        ms_ssim=dict(zip(CASES, score + noise, strict=True)),
        lpips=dict(zip(CASES, 1 - score + noise, strict=True)),
        border=dict.fromkeys(CASES, 1.1),
        smoothness={plane: dict.fromkeys(CASES, 1.05) for plane in PLANES},
        agreement={},
        scored=8,
        cost=Cost(5_800_000, "1000 + 450", 1200.0, 4.5, volumes=8, rejected=0, sampler="dpm++, 20 steps"),
        missing={"mask agreement": "nobody judged"},
        paper={"BraTS": Reported((1.0, 2.0, 3.0), (score, 0.2)), "AbdomenCT-1K": Reported(paired=(score, 0.3))},
        titles={"ours": f"+ {name}"},
        beside="paper" if name == "ours" else None,
    )


def document(run: str = "a", **scores: float) -> dict[str, Any]:
    """As it comes back from a file, of systems with their MS-SSIM."""
    rows = [plain_system(system(name.replace("_", "-"), score)) | {"made": run} for name, score in scores.items()]
    facts = {"profile": "p", "dataset": "d", "reported": "BraTS", "features": "f", "train": 16, "test": 8}
    facts |= {"shared": {"seed": 0}}
    held_out = plain_system(System(**{**vars(system("held-out", 0.9)), "cost": None, "tables": ()}))
    made = facts | {"overrides": {}, "failed": {}, "seconds": "Made here.", "held_out": held_out, "rows": rows}
    found: dict[str, Any] = json.loads(json.dumps(with_claims(made)))
    return found


def test_a_row_comes_back_as_it_was() -> None:
    made = system("paper", 0.6)
    again = system_from(json.loads(json.dumps(plain_system(made))))
    for field in fields(System):
        ours, theirs = getattr(again, field.name), getattr(made, field.name)
        if field.name == "replicates":
            for plane in PLANES:
                np.testing.assert_allclose(ours[plane], theirs[plane], rtol=0, atol=5e-5)
        else:
            assert ours == theirs, field.name


def test_settings_of_two_runs_are_the_same_but_for_what_the_earlier_record_does_not_know() -> None:
    earlier, later = document(paper=0.5), document(ours=0.6)
    earlier["shared"]["tables"] = {"train_slices": 5, "whole": None}
    later["shared"] |= {"tables": {"train_slices": 5, "whole": None, "batch": {}}, "condition": {"window": 16}}
    both = merged(earlier, later, ORDER)
    assert [row["name"] for row in both["rows"]] == ["paper", "ours"]
    assert both["shared"] == later["shared"]
    again = document(make_a_volume=0.3)
    for changed in ({"batch": {"train_slices": 8}}, {"whole": 7}, {"train_slices": 6}):
        again["shared"] = later["shared"] | {"tables": later["shared"]["tables"] | changed}
        with pytest.raises(BadInput, match=r"rows with tables .* do not stand in one table"):
            merged(both, again, ORDER)
    again["shared"] = later["shared"] | {"tables": later["shared"]["tables"] | {"slower": {"controlnet": 1.2}}}
    assert len(merged(both, again, ORDER)["rows"]) == 3, "fewer steps of one row are that row's own"
    again["shared"] = later["shared"] | {"condition": {"window": 8}}
    with pytest.raises(BadInput, match=r"rows with condition .*16.*8.* do not stand in one table"):
        merged(both, again, ORDER)


def test_the_page_tells_batches_that_are_not_the_profiles() -> None:
    made = document(paper=0.5)
    assert "a batch of" not in page(made)
    made["shared"] = {"tables": {"batch": {"train_slices": 8}, "learning_rate": {"train_slices": 1.5e-3}}}
    assert "train-slices a batch of 8 and a learning rate of 0.0015." in page(made)


def test_a_note_is_told_once_for_all_rows_that_have_it() -> None:
    told = document(make_a_volume=0.3, paper=0.5, ours=0.6)
    first, second, third = told["rows"]
    first["note"] = third["note"] = "drawn beside others."
    second["note"] = "of another day."
    lines = page(told).split("\n\n")
    assert "MAKE-A-VOLUME; OURS: drawn beside others." in lines
    assert "PAPER: of another day." in lines


def test_rows_of_two_runs_stand_in_one_table() -> None:
    earlier, later = document("first", ours=0.8, paper=0.5), document("second", make_a_volume=0.3, paper=0.6)
    later["failed"] = {"known": "why"}
    earlier["failed"] = {"known": "an older why", "paper": "made since", "dropout": "not tried again"}
    both = merged(earlier, later, ORDER)
    assert [row["name"] for row in both["rows"]] == ORDER
    assert [np.mean(list(row["ms_ssim"].values())) for row in both["rows"]] == pytest.approx([0.3, 0.6, 0.8], abs=0.02)
    assert both["failed"] == {"known": "why", "dropout": "not tried again"}
    assert [row["made"] for row in both["rows"]] == ["second", "second", "first"], "what else stands in a row stays"
    ours = [c for c in both["claims"] if c["source"] == "our aim" and c["measure"] == "MS-SSIM"]
    assert [(c["better"], c["worse"], c["verdict"]) for c in ours] == [("OURS", "PAPER", "as expected")]

    told = page(both, ["pictures/systems-case1.png"])
    assert "| MAKE-A-VOLUME |" in told
    assert "| OURS |" in told
    assert told.count("Rows of several runs stand here") == 1
    assert "Made here." not in told
    assert "Not made: known: why" in told
    assert "![A test volume in three planes" in told


def test_a_run_of_all_rows_owes_nothing_to_an_earlier_one() -> None:
    earlier, later = document(paper=0.5), document(make_a_volume=0.3, paper=0.6)
    assert merged(earlier, later, ORDER) == later
    earlier["failed"] = {"dropout": "not tried again"}
    assert merged(earlier, later, ORDER) == later | {"failed": earlier["failed"]}


def test_a_row_stays_that_a_later_run_could_not_make() -> None:
    failed = document(paper=0.6) | {"failed": {"ours": "no memory"}}
    both = merged(document(ours=0.8), failed, ORDER)
    assert [row["name"] for row in both["rows"]] == ["paper", "ours"]
    assert both["failed"] == {}


def test_a_yardstick_that_was_judged_stays() -> None:
    judged, later = document(ours=0.8), document(paper=0.6)
    judged["held_out"]["agreement"] = {"case0": 0.9}
    assert merged(judged, later, ORDER)["held_out"] == judged["held_out"]
    assert merged(later, judged, ORDER)["held_out"] == judged["held_out"]


def test_rows_whose_volumes_are_named_otherwise_are_refused() -> None:
    other = document(paper=0.5)
    for row in other["rows"]:
        row["border"] = {f"gem0_{name}": value for name, value in row["border"].items()}
        row["smoothness"] = {}
    with pytest.raises(BadInput, match="volumes are named like case0 and like gem0_case0 cannot be paired"):
        merged(document(ours=0.8), other, ORDER)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("dataset", "another", "dataset 'another' and 'd'"),
        ("shared", {"seed": 3}, "seed 3 and 0"),
        ("train", 4, "train 4 and 16"),
    ],
)
def test_rows_of_other_settings_are_refused(key: str, value: object, told: str) -> None:
    with pytest.raises(BadInput, match=f"rows with {told} do not stand in one table"):
        merged(document(paper=0.5) | {key: value}, document(ours=0.8), ORDER)
