"""Which of the measured values stand in which place of a table's row."""

import math

import numpy as np
import pytest

from configs import TableRow, table_rows
from gem3d_core.study.rows import Cost, System
from tasks.evaluation.scores import BORDER, EDITED, PAIRED, SYNTHETIC, Value
from tasks.evaluation.volumes import HELD_OUT
from tasks.study.rows import scored_system, with_encoder

COST = Cost(5_800_000, "1700 + 800", 1200.0, 4.5, volumes=12, rejected=1, sampler="dpm++, 20 steps")


@pytest.fixture
def row() -> TableRow:
    return next(row for row in table_rows() if row.name == "paper")


def values(of: str) -> list[Value]:
    """As they come from a run: of the set, of held-out volumes, of paired ones."""
    return [
        Value("FID axial", of, "", 5.0, 400, 300),
        Value("FID axial", HELD_OUT, "", 2.0, 400, 100),
        Value("KID axial", of, "", 0.01, 400, 300),
        Value("recall axial", HELD_OUT, "", 0.9, 400, 100),
        Value("MS-SSIM", PAIRED, "a", 0.6),
        Value("MS-SSIM", PAIRED, "b", math.nan),
        Value("LPIPS", PAIRED, "a", 0.2),
        Value(BORDER, of, "v1", 1.1),
        Value(BORDER, of, "v2", None),
        Value(BORDER, PAIRED, "a", 3.0),
        Value("(b) coronal over real", of, "v1", 0.9),
    ]


def scored(row: TableRow, of: str) -> System:
    replicates = {
        (of, "FID axial"): (7, np.array([4.0, 6.0])),
        (of, "KID axial"): (7, np.array([0.01, 0.03])),
        (HELD_OUT, "FID axial"): (40, np.array([1.0, 3.0])),
    }
    return scored_system(row, values(of), replicates, {"v1": 0.8}, {"LPIPS": "no trunk"}, COST)


@pytest.mark.parametrize("of", [SYNTHETIC, EDITED])
def test_a_row_holds_the_scores_of_its_own_volumes(row: TableRow, of: str) -> None:
    found = scored(row, of)
    reach = 1.959964 * 2**0.5
    assert (found.name, found.cost, found.missing) == ("paper", COST, {"LPIPS": "no trunk"})
    interval = found.fid["axial"].interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((5 - reach, 5 + reach))
    assert found.replicates["axial"].tolist() == [4.0, 6.0]
    assert list(found.neighbours) == ["KID axial"]
    assert found.neighbours["KID axial"].low == pytest.approx(0.01 - 0.01 * reach)
    assert (found.ms_ssim, found.lpips) == ({"a": 0.6}, {"a": 0.2}), "a score that is not defined is none"
    assert found.border == {"v1": 1.1}
    assert found.smoothness == {"axial": {}, "coronal": {"v1": 0.9}, "sagittal": {}}
    assert (found.agreement, found.scored) == ({"v1": 0.8}, 7)
    assert found.paper["BraTS"].fid == (2.07, 6.14, 6.33)


def test_edited_masks_are_what_a_row_with_both_is_about(row: TableRow) -> None:
    both = [*values(EDITED), Value("FID axial", SYNTHETIC, "", 50.0, 400, 300)]
    found = scored_system(row, both, {}, {}, {}, COST)
    assert found.fid["axial"].value == 5.0
    assert found.fid["axial"].interval is None
    assert found.neighbours["KID axial"].low is None
    assert found.scored == COST.volumes, "of sets that were not resampled all accepted volumes are compared"


def test_a_row_whose_slice_goes_through_an_image_encoder_says_which() -> None:
    row = next(row for row in table_rows() if row.name == "cross-attention")
    attending = {"injection": "cross_attention", "image_encoder": "/models/clip-vit-base-patch32"}
    assert with_encoder(row, attending).title == f"{row.title} (clip-vit-base-patch32)"
    assert with_encoder(row, {"injection": "concat", "image_encoder": "tf_efficientnet_lite0"}) == row
