"""Frechet distances of resampled volumes: what they would be for the volumes repeated, and how wide they spread."""

import numpy as np
import pytest

from gem3d_core.errors import BadInput
from gem3d_core.metrics.fidelity import Moments, frechet_distance
from gem3d_core.metrics.resampled import frechet_replicates, spread_interval


def vectors(n: int, seed: int, features: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, features)) @ rng.normal(size=(features, features))


@pytest.mark.parametrize("features", [4, 30], ids=["more slices than features", "fewer slices than features"])
def test_a_replicate_is_the_distance_of_the_drawn_volumes(features: int) -> None:
    real = Moments.of(vectors(60, 0, features))
    drawn, volumes = vectors(20, 1, features), np.repeat([f"v{k}" for k in range(5)], 4)
    found = frechet_replicates(real, drawn, volumes, resamples=6, seed=3)
    counts = np.random.default_rng(3).multinomial(5, np.full(5, 1 / 5), size=6)
    expected = [frechet_distance(real, Moments.of(np.repeat(drawn, np.repeat(c, 4), axis=0))) for c in counts]
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(set(np.round(found, 6))) > 1


def test_volumes_count_whatever_their_order_and_the_seed_draws_them() -> None:
    real, drawn, volumes = Moments.of(vectors(50, 0, 5)), vectors(24, 1, 5), np.repeat(["a", "b", "c"], 8)
    mixed = np.random.default_rng(0).permutation(24)
    found = frechet_replicates(real, drawn, volumes, 4)
    assert found == pytest.approx(frechet_replicates(real, drawn[mixed], volumes[mixed], 4))
    assert found != pytest.approx(frechet_replicates(real, drawn, volumes, 4, seed=1))


def test_equal_volumes_leave_no_doubt_and_one_volume_is_refused() -> None:
    real, one = Moments.of(vectors(50, 0, 5)), vectors(10, 1, 5)
    same = np.concatenate([one] * 4)
    found = frechet_replicates(real, same, np.repeat(list("abcd"), 10), 5)
    assert found == pytest.approx(np.full(5, frechet_distance(real, Moments.of(same))), rel=1e-8)
    with pytest.raises(BadInput, match=r"over 1 volume\(s\): expected two or more"):
        frechet_replicates(real, one, ["a"] * 10, 5)


def test_the_interval_has_the_value_in_its_middle() -> None:
    interval = spread_interval(5.0, np.array([6.0, 7.0, 8.0]), n=40)
    assert (interval.low, interval.mean, interval.high, interval.n) == pytest.approx((3.04, 5.0, 6.96, 40), abs=1e-3)
