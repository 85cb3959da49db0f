"""Bootstrap intervals: seeded, of the right width, honest about one case."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gem3d_core.errors import BadInput
from gem3d_core.metrics.intervals import Interval, mean_interval


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=40)
    ours = mean_interval(values, seed=1)
    published = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=1
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(published.low, rel=0.02)
    assert ours.high == pytest.approx(published.high, rel=0.02)
    assert ours.n == 40


def test_it_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    intervals = [mean_interval(generator.normal(size=40), resamples=1000) for _ in range(200)]
    covered = np.mean([one.low <= 0 <= one.high for one in intervals])  # type: ignore[operator]
    assert 0.88 <= covered <= 0.99


def test_one_seed_gives_one_answer() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5)
    assert mean_interval(values, seed=5) != mean_interval(values, seed=6)


def test_one_case_has_a_mean_and_no_interval() -> None:
    assert mean_interval([0.7]) == Interval(0.7, None, None, 1)


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [float("inf")]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(BadInput, match="expected one or more"):
        mean_interval(values)
