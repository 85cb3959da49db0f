"""The paper's tables: rows where the paper has them, its figures beside ours, and what is said of its orderings."""

from dataclasses import replace

import numpy as np
import pytest

from gem3d_core.metrics.frechet import Fid
from gem3d_core.metrics.intervals import Interval
from gem3d_core.report.document import Missing
from gem3d_core.spec.terms import PLANES
from gem3d_core.study.claims import changes_table, claims, claims_tables
from gem3d_core.study.rows import Cost, Reported, System
from gem3d_core.study.tables import budget_table, continuity_table, fid_table, paired_table, unbiased_table, whole_table

CASES = [f"case{k}" for k in range(8)]


def system(name: str, *tables: str, fid: float = 10.0, score: float = 0.6, **changes: object) -> System:
    """A system with a FID about `fid` in every plane and MS-SSIM about `score`; LPIPS is 1 less that."""
    rng, shared = np.random.default_rng(sum(map(ord, name))), np.random.default_rng(0)
    noise = shared.normal(0, 0.01, len(CASES))
    values: dict[str, object] = {
        "name": name,
        "title": name.upper(),
        "tables": tables,
        "fid": {plane: Fid(fid, 100, 90, Interval(fid, fid - 1, fid + 1, 8)) for plane in PLANES},
        "replicates": {plane: fid + shared.normal(0, 1, 20) + rng.normal(0, 0.05, 20) for plane in PLANES},
        "neighbours": {
            f"{m} {plane}": Interval(0.5, 0.4, 0.6, 8) for m in ("KID", "precision", "recall") for plane in PLANES
        },
        "ms_ssim": dict(zip(CASES, score + noise, strict=True)),
        "lpips": dict(zip(CASES, 1 - score + noise, strict=True)),
        "border": dict.fromkeys(CASES, 1.1),
        "smoothness": {plane: dict.fromkeys(CASES, 1.05) for plane in PLANES},
        "agreement": dict.fromkeys(CASES, 0.8),
        "scored": 7,
        "cost": Cost(5_800_000, "1900 + 700", 1200.0, 4.5, volumes=8, rejected=1, sampler="dpm++, 20 steps"),
    }
    return System(**(values | changes))  # type: ignore[arg-type]  # of many kinds


def test_a_table_has_its_rows_with_the_papers_figures_beside() -> None:
    reported = {"BraTS": Reported((12.96, 62.63, 62.04), (0.817, 0.234)), "AbdomenCT-1K": Reported((2.66, 6.68, 4.25))}
    rows = [system("a", "1", "2", paper=reported), system("b", "2"), system("c", "3")]
    table = fid_table(rows, "some-network")
    assert [column.name for column in table.columns[-2:]] == ["paper, BraTS", "paper, AbdomenCT-1K"]
    assert table.printed == [["A", *["10.00 [9.00, 11.00]"] * 3, "12.96 / 62.63 / 62.04", "2.66 / 6.68 / 4.25"]]
    assert [c.name for c in paired_table([replace(rows[0], tables=("3",))], "3", "Table 3").columns[3:]] == [
        "paper, BraTS"
    ]
    paired = paired_table(rows, "2", "Table 2").printed
    assert [row[0] for row in paired] == ["A", "B"]
    assert paired[0][3:] == ["0.817 / 0.234", "-"]
    assert paired[1][3:] == ["-", "-"]
    assert paired[0][1].startswith("0.60")


def test_a_row_has_another_title_where_it_stands_for_something_else() -> None:
    row = system("a", "1", "3", titles={"3": "concatenation"})
    assert fid_table([row], "x").printed[0][0] == "A"
    assert paired_table([row], "3", "Table 3").printed[0][0] == "concatenation"


def test_what_is_missing_is_said() -> None:
    nothing: dict[str, dict[str, float]] = {
        key: {} for key in ("fid", "neighbours", "agreement", "lpips", "border", "smoothness")
    }
    reasons = {"FID": "no weights", "LPIPS": "no trunk", "mask agreement": "no judge"}
    row = replace(system("a", "1", "ours"), **nothing, missing=reasons)
    assert fid_table([row], "x").rows[0][1:4] == (Missing("no weights"),) * 3
    assert unbiased_table([row]).rows[0][1:] == (*[Missing("no weights")] * 9, Missing("no judge"))
    told = whole_table([row], "ours", "Ours", "").rows[0]
    assert told[5] == Missing("no trunk")
    assert told[6] == Missing("every volume was drawn in one window")
    assert set(told[7:]) == {Missing("no real volume has the same mask, or it does not change along this axis")}


def test_a_row_on_top_of_one_that_was_not_made_says_so() -> None:
    rows = [system("paper", "ours"), system("second", "ours", beside="paper"), system("last", "ours", beside="third")]
    titles = [row[0] for row in whole_table(rows, "ours", "Ours", "").rows]
    assert titles == ["PAPER", "SECOND", "LAST (on top of third, which was not measured)"]


def test_the_number_of_real_slices_behind_fid_is_told() -> None:
    assert "The real ones: 100 axial slices of them" in fid_table([system("a", "1")], "x").caption


def test_the_budget_is_told() -> None:
    (row,) = budget_table([system("a", "1")]).printed
    assert row == ["A", "5.80", "1900 + 700", "20.0", "dpm++, 20 steps", "4.50", "9, 1"]
    assert budget_table([system("held-out", cost=None)]).printed == [], "nobody trained or drew real volumes"


def test_kid_precision_and_recall_stand_plane_by_plane_and_agreement_in_percent() -> None:
    table = unbiased_table([system("a", "1")])
    assert [c.name for c in table.columns[1:5]] == [*(f"KID {p}, times 1000" for p in PLANES), "precision axial"]
    (row,) = table.printed
    assert row[1:] == [*["500.0 [400.0, 600.0]"] * 3, *["0.50 [0.40, 0.60]"] * 6, "80.0 [80.0, 80.0]"]


def reported(fid: float, paired: float) -> dict[str, Reported]:
    return {"BraTS": Reported((fid, fid, fid), (paired, 1 - paired))}


def test_claims_follow_the_papers_ranking_and_are_judged_by_the_interval() -> None:
    rows = [
        system("paper", "1", "2", fid=5, score=0.8, paper=reported(2, 0.9)),
        system("middle", "1", "2", fid=9, score=0.5, paper=reported(4, 0.8)),
        system("last", "1", "2", fid=7, score=0.7, paper=reported(6, 0.7)),
    ]
    found = [c for c in claims(rows, "BraTS") if c.measure in {"FID axial", "MS-SSIM"}]
    told = [(c.source, c.measure, c.better, c.worse, c.verdict) for c in found]
    assert told == [
        ("Table 1", "FID axial", "PAPER", "MIDDLE", "as expected"),
        ("Table 1", "FID axial", "PAPER", "LAST", "as expected"),
        ("Table 1", "FID axial", "MIDDLE", "LAST", "the other way round"),
        ("Table 2", "MS-SSIM", "PAPER", "MIDDLE", "as expected"),
        ("Table 2", "MS-SSIM", "PAPER", "LAST", "as expected"),
        ("Table 2", "MS-SSIM", "MIDDLE", "LAST", "the other way round"),
    ]
    assert [c.paper for c in found[:3]] == ["2, 4", "2, 6", "4, 6"]
    assert found[0].margin.mean == pytest.approx(4)
    assert found[3].margin.mean == pytest.approx(0.3)


def test_every_two_systems_that_the_paper_tells_apart_are_a_claim() -> None:
    figures = {"a": 2.0, "b": 4.0, "c": 4.0, "d": 6.0}
    rows = [system(name, "1", paper=reported(fid, 0.5)) for name, fid in figures.items()]
    found = [c.better + c.worse for c in claims(rows, "BraTS") if c.measure == "FID axial"]
    assert found == ["AB", "AC", "AD", "BD", "CD"], "b and c are the same to it"


def test_a_difference_within_its_interval_is_no_difference() -> None:
    rows = [system("paper", "2", paper=reported(2, 0.9)), system("other", "2", paper=reported(4, 0.8))]
    rng = np.random.default_rng(1)
    noisy = dict(zip(CASES, 0.6 + rng.normal(0, 0.05, len(CASES)), strict=True))
    rows[1] = replace(rows[1], ms_ssim=noisy)
    (claim,) = [c for c in claims(rows, "BraTS") if c.measure == "MS-SSIM"]
    assert claim.verdict == "no clear difference"


def test_ablations_and_our_default_are_claims_of_their_own() -> None:
    jumps = system("no-inpainting", "ablations", border=dict.fromkeys(CASES, 1.6))
    stripes = system("no-tuning", "ablations", fid=30, smoothness={"axial": dict.fromkeys(CASES, 1.8)})
    rows = [system("paper", "ablations"), jumps, stripes, system("ours", "ours", fid=8, score=0.7)]
    told = {(c.source, c.measure): c.verdict for c in claims(rows, "BraTS")}
    assert told == {
        ("Figure 5", "border, distance from 1"): "as expected",
        ("Figure 6", "axial smoothness, distance from 1"): "as expected",
        ("Figure 6", "FID coronal"): "as expected",
        ("Figure 6", "FID sagittal"): "as expected",
        ("our aim", "MS-SSIM"): "as expected",
        ("our aim", "LPIPS"): "as expected",
        ("our aim", "FID axial"): "as expected",
        ("our aim", "FID coronal"): "as expected",
        ("our aim", "FID sagittal"): "as expected",
    }
    of_paper, aims = claims_tables(claims(rows, "BraTS"), "BraTS")
    assert (of_paper.n, aims.n) == ("4 findings", "5 aims"), "told apart"
    assert of_paper.printed[0][4] == "-"
    assert [row[0] for row in aims.printed] == ["MS-SSIM", "LPIPS", "FID axial", "FID coronal", "FID sagittal"]


def test_a_change_stands_beside_what_it_changes() -> None:
    rows = [
        system("paper", "ours", titles={"ours": "as in the paper"}),
        system(
            "better",
            "ours",
            score=0.65,
            fid=7,
            beside="paper",
            border=dict.fromkeys(CASES, 0.97),
            agreement=dict.fromkeys(CASES, 0.82),
        ),
        system("alone", "ours", beside="not made"),
        system("blind", "ours", beside="better", lpips={}),
    ]
    table = changes_table(rows)
    assert [c.name for c in table.columns[2:5]] == ["MS-SSIM", "LPIPS", "FID axial"]
    assert [row[:2] for row in table.rows] == [("BETTER", "as in the paper"), ("BLIND", "BETTER")]
    ms_ssim, lpips, axial, *_, border, _, agreement = table.rows[0][2:]
    for margin, expected in ((ms_ssim, 0.05), (lpips, 0.05), (axial, 3.0), (border, 0.07), (agreement, 2.0)):
        assert isinstance(margin, Interval)
        assert margin.mean == pytest.approx(expected)
        assert margin.low is not None
        assert margin.low > 0
    assert table.rows[1][3] == Missing("not measured in both")


def test_every_system_shows_whether_its_slices_follow_on_each_other() -> None:
    table = continuity_table([system("a", "2"), system("whole", "2", border={})])
    assert table.n == "8 volumes of each system"
    assert table.printed[0] == ["A", "1.10 [1.10, 1.10]", *["1.05 [1.05, 1.05]"] * 3]
    assert table.rows[1][1] == Missing("every volume was drawn in one window")


def test_independent_windows_are_to_jump_more_than_continued_ones() -> None:
    jumps = system("make-a-volume", "2", border=dict.fromkeys(CASES, 1.5))
    told = {(c.source, c.better, c.worse): c.verdict for c in claims([system("paper", "2"), jumps], "BraTS")}
    assert told == {("Figure 2", "PAPER", "MAKE-A-VOLUME"): "as expected"}


def test_systems_that_were_not_measured_claim_nothing() -> None:
    assert claims([system("ours", "ours")], "BraTS") == []
    rows = [system("paper", "1", paper=reported(2, 0.9)), system("b", "1", paper=reported(4, 0.8))]
    rows = [replace(row, fid={}) for row in rows]
    assert {c.verdict for c in claims(rows, "BraTS")} == {"not measured"}
    assert claims_tables(claims(rows, "BraTS"), "BraTS")[0].rows[0][5] == Missing("no value")


def test_fid_is_compared_replicate_by_replicate() -> None:
    """Both spread by 1, together: their difference of 0.5 is sure all the same, and would not be were they apart."""
    rows = [
        system("paper", "1", fid=5.0, paper=reported(2, 0.9)),
        system("other", "1", fid=5.5, paper=reported(4, 0.8)),
    ]
    (axial,) = [c for c in claims(rows, "BraTS") if c.measure == "FID axial"]
    assert axial.margin is not None
    assert axial.margin.low == pytest.approx(0.5 - 1.96 * 0.05 * 2**0.5, abs=0.06)
    assert axial.verdict == "as expected"
    apart = {plane: values[::-1] for plane, values in rows[1].replicates.items()}
    (axial,) = [c for c in claims([rows[0], replace(rows[1], replicates=apart)], "BraTS") if c.measure == "FID axial"]
    assert axial.verdict == "no clear difference"


def test_few_cases_and_no_interval_decide_nothing() -> None:
    rows = [system("paper", "1", "2", paper=reported(2, 0.9)), system("b", "1", "2", fid=20, paper=reported(4, 0.8))]
    few = [replace(row, scored=5, ms_ssim=dict(list(row.ms_ssim.items())[:5])) for row in rows]
    assert {c.verdict for c in claims(few, "BraTS") if c.measure in {"FID axial", "MS-SSIM"}} == {"not decided"}
    bare = [replace(row, replicates={}) for row in rows]
    assert {c.verdict for c in claims(bare, "BraTS") if c.measure == "FID axial"} == {"not decided"}


def test_held_out_volumes_are_the_yardstick() -> None:
    real = replace(system("held-out", fid=3.0), title="held-out real volumes")
    assert fid_table([system("a", "1")], "x", real).printed[-1][:2] == ["held-out real volumes", "3.00 [2.00, 4.00]"]
    assert unbiased_table([system("a", "1")], real).printed[-1][-1] == "80.0 [80.0, 80.0]"
