"""Scores of reweighted volumes: what the weights make of them, and how two systems are paired."""

import numpy as np
import pytest

from gem3d_core.errors import BadInput
from gem3d_core.metrics.frechet import Moments, frechet_distance
from gem3d_core.metrics.neighbours import kernel_distance
from gem3d_core.metrics.uncertainty import (
    frechet_replicates,
    kernel_replicates,
    share_replicates,
    spread_interval,
    volume_weights,
)


def vectors(n: int, seed: int, features: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, features)) @ rng.normal(size=(features, features))


@pytest.mark.parametrize("features", [4, 30], ids=["more slices than features", "fewer slices than features"])
def test_a_replicate_is_the_distance_of_the_weighted_volumes(features: int) -> None:
    real = Moments.of(vectors(60, 0, features))
    drawn, volumes = vectors(20, 1, features), np.repeat([f"v{k}" for k in range(5)], 4)
    found = frechet_replicates(real, drawn, volumes, resamples=6, seed=3)
    expected = []
    for k in range(6):
        weights = np.repeat([volume_weights(f"v{v}", 6, seed=3)[k] for v in range(5)], 4)
        weights *= 20 / weights.sum()
        mean = np.average(drawn, axis=0, weights=weights)
        scatter = (drawn - mean).T @ np.diag(weights) @ (drawn - mean)
        expected.append(frechet_distance(real, Moments(20, mean, scatter)))
    assert found == pytest.approx(expected, rel=1e-6)
    assert np.std(found) > 0


def test_volumes_count_whatever_their_order_and_the_seed_draws_their_weights() -> None:
    real, drawn, volumes = Moments.of(vectors(50, 0, 5)), vectors(24, 1, 5), np.repeat(["a", "b", "c"], 8)
    mixed = np.random.default_rng(0).permutation(24)
    found = frechet_replicates(real, drawn, volumes, 4)
    assert found == pytest.approx(frechet_replicates(real, drawn[mixed], volumes[mixed], 4))
    assert found != pytest.approx(frechet_replicates(real, drawn, volumes, 4, seed=1))


def test_weights_have_a_mean_and_a_spread_of_one() -> None:
    weights = np.concatenate([volume_weights(f"v{k}", 200) for k in range(50)])
    assert weights.mean() == pytest.approx(1, abs=0.05)
    assert weights.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("lacking", [None, "v03"])
def test_two_systems_are_paired_volume_by_volume_also_where_one_lacks_some(lacking: str | None) -> None:
    """The difference of two nearly equal systems is far surer than either of them."""
    real, drawn = Moments.of(vectors(200, 0, 6)), vectors(160, 1, 6)
    volumes = np.repeat([f"v{k:02d}" for k in range(40)], 4)
    drawn += 0.5 * np.repeat(np.random.default_rng(2).normal(size=(40, 6)), 4, axis=0)
    kept = volumes != lacking
    a = frechet_replicates(real, drawn, volumes, 60)
    b = frechet_replicates(real, (drawn + 0.01)[kept], volumes[kept], 60)
    assert np.std(b - a) < 0.5 * np.std(a)


def test_equal_volumes_leave_no_doubt_and_one_volume_is_refused() -> None:
    real, one = Moments.of(vectors(50, 0, 5)), vectors(10, 1, 5)
    found = frechet_replicates(real, np.concatenate([one] * 4), np.repeat(list("abcd"), 10), 5)
    expected = frechet_distance(real, Moments.of(np.concatenate([one] * 4)))
    assert found == pytest.approx(np.full(5, expected), rel=1e-8)
    with pytest.raises(BadInput, match=r"over 1 volume\(s\): expected two or more"):
        frechet_replicates(real, one, ["a"] * 10, 5)


def test_a_kernel_replicate_is_the_distance_of_the_weighted_vectors() -> None:
    real, drawn, volumes = vectors(12, 0, 5), vectors(9, 1, 5), np.repeat(["a", "b", "c"], 3)
    weights = np.repeat([volume_weights(name, 4, seed=3) for name in "abc"], 3, axis=0)
    for replicate, w in zip(kernel_replicates(real, drawn, volumes, 4, seed=3), weights.T, strict=True):
        p = w / w.sum()
        pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
        own = sum(p[i] * p[j] * kernel(drawn[i], drawn[j]) for i, j in pairs) / sum(p[i] * p[j] for i, j in pairs)
        known = np.mean([kernel(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j])
        cross = sum(p[i] * np.mean([kernel(drawn[i], x) for x in real]) for i in range(9))
        assert replicate == pytest.approx(known + own - 2 * cross)


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return float((a @ b / len(a) + 1) ** 3)


def test_kernel_replicates_lie_about_the_kernel_distance() -> None:
    real, drawn, volumes = vectors(90, 0, 5), vectors(90, 1, 5), np.repeat([f"v{k}" for k in range(30)], 3)
    found = kernel_replicates(real, drawn, volumes, 200)
    assert np.std(found) > 0
    assert found.mean() == pytest.approx(
        kernel_distance(real, drawn), abs=3 * np.std(found) / 200**0.5 + 0.1 * np.std(found)
    )


def test_a_share_is_that_of_the_weighted_vectors() -> None:
    inside, volumes = np.array([True, True, False, False, True]), np.array(["a", "a", "a", "b", "b"])
    a, b = volume_weights("a", 3), volume_weights("b", 3)
    assert share_replicates(inside, volumes, 3) == pytest.approx((2 * a + b) / (3 * a + 2 * b))
    assert share_replicates(~inside, volumes, 3) == pytest.approx((a + b) / (3 * a + 2 * b))
    assert (share_replicates(np.full(5, True), volumes, 3) == 1).all()


def test_the_interval_has_the_value_in_its_middle() -> None:
    interval = spread_interval(5.0, np.array([6.0, 7.0, 8.0]), n=40)
    assert (interval.low, interval.mean, interval.high, interval.n) == pytest.approx((3.04, 5.0, 6.96, 40), abs=1e-3)
