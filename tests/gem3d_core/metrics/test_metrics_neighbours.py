"""KID against torchmetrics, precision and recall against worked examples, and the sample that they are taken from."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_kernel, poly_mmd

from gem3d_core.errors import BadInput
from gem3d_core.metrics import neighbours
from gem3d_core.metrics.neighbours import Sample, kernel_distance, precision_recall


def vectors(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (n, 8))


def test_the_kernel_distance_is_torchmetrics() -> None:
    a, b = vectors(50, 0), vectors(50, 1, shift=0.5)
    theirs = float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b), degree=3, gamma=None, coef=1.0))
    assert kernel_distance(a, b) == pytest.approx(theirs, rel=1e-9)


def test_the_kernel_distance_is_unbiased_and_grows_with_the_shift() -> None:
    same = [kernel_distance(vectors(30, 2 * k), vectors(30, 2 * k + 1)) for k in range(40)]
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / 40**0.5)
    assert min(same) < 0
    shifted = [kernel_distance(vectors(200, 0), vectors(200, 1, shift)) for shift in (0.2, 0.6, 1.5)]
    assert shifted == sorted(shifted)
    assert shifted[0] > 0.05


def test_subsets_of_unequal_sets_are_seeded() -> None:
    a, b = vectors(60, 0), vectors(40, 1, 0.5)
    assert kernel_distance(a, b, seed=1) == kernel_distance(a, b, seed=1)
    assert kernel_distance(a, b, seed=1) == pytest.approx(kernel_distance(a, b, seed=2), rel=0.3)


def test_the_mean_over_subsets_is_the_distance_of_the_whole_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unequal ones: each kind of pair has its own mean, of torchmetrics' kernel."""
    monkeypatch.setattr(neighbours, "SUBSET", 25)
    monkeypatch.setattr(neighbours, "SUBSETS", 2000)
    a, b = vectors(60, 0), vectors(40, 1, 0.5)
    xx, yy, xy = (poly_kernel(*map(torch.from_numpy, pair)).numpy() for pair in ((a, a), (b, b), (a, b)))
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy))
    assert kernel_distance(a, b) == pytest.approx(within - 2 * xy.mean(), rel=0.03)


def shares(real: np.ndarray, synthetic: np.ndarray) -> tuple[float, float]:
    precision, recall = precision_recall(real, synthetic)
    assert (len(precision), len(recall)) == (len(synthetic), len(real))
    return float(precision.mean()), float(recall.mean())


def test_precision_and_recall_of_worked_examples() -> None:
    """On a line, with the third neighbour: real 0, 1, ..., 9 have radii 3, 2, 2, ..., 2, 3."""
    real = np.arange(10.0)[:, None]
    assert shares(real, real + 100) == (0, 0)
    assert shares(real, real) == (1, 1)
    # synthetic 0, 0.1, 0.2, 0.3: all are real-like, and their own radii reach 0 and no other real vector
    assert shares(real, np.arange(4.0)[:, None] / 10) == (1, 0.1)
    # spread ones: radii of 60 to 90 cover all real vectors, but only 0 is near any
    assert shares(real, np.array([[0.0], [30.0], [60.0], [90.0]])) == (0.25, 1)


def test_precision_and_recall_are_those_of_their_definition() -> None:
    """Every distance by itself: a vector is covered by one whose third neighbour, itself not counted, is as far."""

    def covered(vectors: np.ndarray, by: np.ndarray) -> list[bool]:
        radii = [sorted(np.linalg.norm(by - one, axis=1))[3] for one in by]  # the first is its own, 0
        return [any(np.linalg.norm(one - v) <= r for one, r in zip(by, radii, strict=True)) for v in vectors]

    a, b = vectors(70, 0), vectors(60, 1, 0.6)
    precision, recall = precision_recall(a, b)
    assert precision.tolist() == covered(b, a)
    assert recall.tolist() == covered(a, b)
    assert 0.2 < precision.mean() < 0.9
    assert 0.2 < recall.mean() < 0.9


def test_a_vector_at_the_radius_is_inside() -> None:
    """Real 0, 1, 2, 3 have radii 3, 2, 2, 3; the one at 6 lies at the radius of the last."""
    precision, _ = precision_recall(np.arange(4.0)[:, None], np.array([[6.0], [6.5], [-3.0], [-4.0]]))
    assert precision.tolist() == [True, False, True, False]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = vectors(57, 0), vectors(41, 1, 0.5)
    expected = shares(a, b)
    monkeypatch.setattr(neighbours, "BLOCK", 10)
    assert shares(a, b) == expected
    assert 0 < expected[0] < 1


def test_sets_that_are_too_small_are_refused() -> None:
    with pytest.raises(BadInput, match="of 1 and 5 slices"):
        kernel_distance(vectors(1, 0), vectors(5, 1))
    with pytest.raises(BadInput, match="sets of 3 slices: expected 4"):
        precision_recall(vectors(3, 0), vectors(5, 1))


def test_a_sample_holds_every_slice_with_the_same_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "KEPT", 10)
    rng, counts = np.random.default_rng(0), np.zeros(40)
    for _ in range(400):
        parts = [Sample.of(np.arange(first, first + 8.0)[:, None], f"v{first}", rng) for first in range(0, 40, 8)]
        joined = parts[0]
        for part in parts[1:]:
            joined = joined.join(part)
        assert joined.vectors.shape == (10, 1)
        counts[joined.vectors[:, 0].astype(int)] += 1
    assert counts.min() > 60
    assert counts.max() < 145


def test_what_a_sample_keeps_does_not_depend_on_which_volume_was_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "KEPT", 10)
    parts = [Sample.of(vectors(8, k), f"v{k}", np.random.default_rng(k)) for k in range(4)]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward = forward.join(part)
    for part in parts[-2::-1]:
        backward = backward.join(part)
    np.testing.assert_array_equal(forward.vectors, backward.vectors)
    np.testing.assert_array_equal(forward.volumes, backward.volumes)
    for vector, volume in zip(forward.vectors, forward.volumes, strict=True):
        assert (parts[int(volume[1:])].vectors == vector).all(axis=1).any()
