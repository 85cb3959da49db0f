"""What a comparison says of measured volumes: means, speed, paired losses with their bounds."""

import json
import time
from dataclasses import asdict, replace

import pytest
import torch
from pydantic import TypeAdapter

from gem3d_core.bench.comparison import (
    Comparison,
    Speed,
    Yardstick,
    comparison_table,
    largest_difference,
    summarise,
    yardstick,
)
from gem3d_core.bench.effort import watched
from gem3d_core.bench.sampling import Measured, Method, Scores, reference_method
from gem3d_core.diffusion.denoise import window_calls
from gem3d_core.report.markdown import markdown
from gem3d_core.spec.method import SampleSpec

OURS = Method(SampleSpec(solver="dpm++", steps=5, resample=2, overlap=3, batch=8))
REFERENCE = reference_method()
SPEED = Speed(window_flops=1e9, matrix_flops=1e11, informed=True)
MIB = 2**20
SLOW = {
    ("a", 0): Measured(20.0, 2, 400, 30 * MIB, Scores(0.8, 0.2, border=1.2, smoothness=0.9)),
    ("a", 1): Measured(20.0, 2, 400, 10 * MIB, Scores(0.8, 0.2, border=1.2, smoothness=0.9)),
    ("b", 0): Measured(40.0, 4, 800, 20 * MIB, Scores(0.5, 0.4, border=1.2, smoothness=0.9)),
    ("b", 1): Measured(40.0, 4, 800, 20 * MIB, Scores(0.5, 0.4, border=1.2, smoothness=0.9)),
}
FAST = {
    ("a", 0): Measured(1.0, 4, 18, 50 * MIB, Scores(0.72, 0.21, border=1.2, smoothness=0.9)),
    ("a", 1): Measured(1.0, 0, 9, 60 * MIB, Scores(0.80, 0.23, border=1.2, smoothness=0.9)),
    ("b", 0): Measured(1.0, 4, 9, 50 * MIB, Scores(0.52, 0.40, border=1.2, smoothness=0.9)),
    ("b", 1): Measured(1.0, 4, 0, 50 * MIB, Scores(0.50, 0.40, border=1.2, smoothness=0.9)),
}
ALGORITHM_1 = Yardstick(seconds_per_volume=30.0, quality=SLOW)


def test_the_reference_is_the_papers_sampler_whatever_ours_is() -> None:
    expected = SampleSpec(
        solver="ddim", steps=200, eta=0.0, overlap=1, first_window="at_start", batch=1, precision="fp32"
    )
    assert Method(expected, literal=True) == REFERENCE
    assert [window_calls(method.spec, informed=True) for method in (REFERENCE, OURS)] == [200, 9]
    guided = SampleSpec(steps=5, mask_guidance=2.0)
    assert [window_calls(guided, informed=informed) for informed in (True, False)] == [15, 10]


def test_a_row_holds_means_over_volumes_and_losses_paired_by_volume_and_noise() -> None:
    row = summarise(OURS, FAST, ALGORITHM_1, SPEED)
    assert row.seconds_per_volume == 1.0
    assert row.network_calls == 9.0
    assert row.peak_memory_gib == 60 / 1024
    assert row.speedup == 30.0
    assert row.flops_per_second == pytest.approx(12 * 9 * 1e9 / 4)
    assert row.share_of_matrix_product == pytest.approx(0.27)
    assert row.ms_ssim == pytest.approx(0.635)
    assert row.lpips == pytest.approx(0.31)
    assert (row.border, row.smoothness) == pytest.approx((1.2, 0.9))
    losses = row.ms_ssim_loss, row.lpips_loss
    assert losses[0] is not None
    assert losses[1] is not None
    assert [loss.mean for loss in losses] == pytest.approx([(0.05 - 0.02) / 2, (0.10 + 0.0) / 2])
    assert [(loss.low, loss.high) for loss in losses] == [pytest.approx((-0.02, 0.05)), pytest.approx((0.0, 0.10))]
    assert [loss.n for loss in losses] == [2, 2], "seeds of one volume are not volumes of their own"


def test_the_reference_loses_nothing_against_itself() -> None:
    row = summarise(REFERENCE, SLOW, ALGORITHM_1, SPEED)
    assert row.speedup == 1.0
    assert row.ms_ssim_loss is not None
    assert (row.ms_ssim_loss.mean, row.ms_ssim_loss.high) == (0.0, 0.0)


def test_a_few_literal_volumes_give_the_seconds_and_the_fast_path_the_others() -> None:
    key = ("a", 0)
    literal = {key: Measured(25.0, 2, 400, 30 * MIB, Scores(0.81, 0.17, border=1.2, smoothness=0.9))}
    against = yardstick(literal, SLOW)
    assert against.seconds_per_volume == 25.0
    assert against.quality == {**SLOW, **literal}
    assert largest_difference(literal, SLOW) == pytest.approx(0.03)
    row = summarise(REFERENCE, literal, against, SPEED, against.quality)
    assert (row.seconds_per_volume, row.network_calls, row.speedup) == (25.0, 400, 1.0)
    assert row.ms_ssim == pytest.approx((0.81 + 0.8 + 0.5 + 0.5) / 4)
    assert summarise(OURS, FAST, against, SPEED).speedup == 25.0


def test_what_is_not_available_is_said_and_the_rest_is_told() -> None:
    unknown = {key: replace(one, scores=replace(one.scores, lpips=None, border=None)) for key, one in FAST.items()}
    reference, ours = summarise(REFERENCE, SLOW, ALGORITHM_1, SPEED), summarise(OURS, unknown, ALGORITHM_1, SPEED)
    assert (ours.lpips, ours.lpips_loss) == (None, None)
    missing = {"LPIPS": "no weights"}
    compared = Comparison(
        ours.speedup, reference, ours, (ours,), "model/N@0", 2, (0, 1), "cpu", 2, 1e11, missing, 4, None
    )
    document = json.loads(json.dumps(asdict(compared)))
    assert TypeAdapter(Comparison).validate_python(document) == compared
    text = markdown(comparison_table(compared))
    assert text.count("LPIPS is not available: no weights.") == 1
    assert text.count("not available: see above") == 2
    assert text.count("dpm++") == 1, "the same settings stand in one row"
    assert "| 1.50 [-2.00, 5.00] |" in text


def test_work_is_timed_and_its_memory_watched() -> None:
    def work() -> float:
        time.sleep(0.05)
        block = torch.ones(64 * MIB // 4)
        time.sleep(0.05)
        return float(block[0])

    done, effort = watched(work, torch.device("cpu"))
    assert done == 1.0
    assert effort.seconds >= 0.1
    assert 0.8 <= effort.peak_bytes / (64 * MIB) < 2
    _, again = watched(work, torch.device("cpu"))
    assert 0.8 <= again.peak_bytes / (64 * MIB) < 2, "what the first left behind does not hide what the second takes"
