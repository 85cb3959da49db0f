"""How sure a set's score is: computed again with other weights of its volumes (Bayesian bootstrap, Rubin 1981)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.metrics.frechet import Matrix, Moments, symmetric_root
from gem3d_core.metrics.intervals import Interval
from gem3d_core.metrics.neighbours import Vectors, cubic_kernel
from gem3d_core.seeds import derive_seed

Names = Sequence[str] | NDArray[np.str_]

NORMAL = 1.959964
"""Standard deviations on either side that hold 95% of a normal distribution."""


def volume_weights(name: str, resamples: int, seed: int = 0) -> Matrix:
    """Weights (resamples,) of one volume, exponential with mean 1, whatever other volumes there are."""
    return np.random.default_rng(derive_seed(seed, "weight of a volume", name)).exponential(size=resamples)


def frechet_replicates(real: Moments, vectors: Vectors, volumes: Names, resamples: int, seed: int = 0) -> Matrix:
    """Frechet distances (resamples,) between `real` and reweighted volumes' vectors (N, D), volumes (N,) naming whose.

    A volume has the same weights in every set that holds one of its name, so that two sets which were drawn for the
    same masks are compared pair by pair, also where one of them lacks some. Raises BadInput for fewer than two volumes.
    """
    whose, weights = _weights(volumes, resamples, seed)
    shifted = vectors.astype(np.float64) - real.mean
    turned, spread = shifted @ symmetric_root(real.covariance), float(np.trace(real.covariance))
    return np.array([_distance(shifted, turned, spread, drawn[whose]) for drawn in weights])


def kernel_replicates(real: Vectors, vectors: Vectors, volumes: Names, resamples: int, seed: int = 0) -> Matrix:
    """KID (resamples,) of all `real` (M, D) and reweighted volumes' vectors (N, D), with weights as above.

    With p the weights of the vectors, sum p = 1: sum over i != j of p_i p_j k(y_i, y_j) / (1 - sum p^2) estimates
    what the mean over pairs of different vectors does where all weigh the same.
    """
    whose, weights = _weights(volumes, resamples, seed)
    x, y = real.astype(np.float64), vectors.astype(np.float64)
    own = cubic_kernel(y, y)
    np.fill_diagonal(own, 0)
    member = np.eye(weights.shape[1])[whose]
    pairs, counts = member.T @ own @ member, member.sum(axis=0)  # summed by volume: all that weights can change
    cross = member.T @ cubic_kernel(y, x).mean(axis=1)
    within = cubic_kernel(x, x)
    known = (within.sum() - np.trace(within)) / (len(x) * (len(x) - 1))
    p = weights / (weights @ counts)[:, None]
    replicates: Matrix = known + np.einsum("kv,vu,ku->k", p, pairs, p) / (1 - p**2 @ counts) - 2 * p @ cross
    return replicates


def share_replicates(inside: NDArray[np.bool_], volumes: Names, resamples: int, seed: int = 0) -> Matrix:
    """The share (resamples,) of vectors for which `inside` (N,) is true, with weights as above."""
    whose, weights = _weights(volumes, resamples, seed)
    counts = np.bincount(whose).astype(np.float64)
    shares: Matrix = (weights @ np.bincount(whose, weights=inside)) / (weights @ counts)
    return shares


def _weights(volumes: Names, resamples: int, seed: int) -> tuple[NDArray[np.intp], Matrix]:
    """Which volume (N,) each vector is of, and the weights (resamples, volumes)."""
    names, whose = np.unique(np.asarray(volumes), return_inverse=True)
    if len(names) < 2:
        raise BadInput(f"a score resampled over {len(names)} volume(s): expected two or more")
    return whose, np.stack([volume_weights(str(name), resamples, seed) for name in names], axis=1)


def _distance(shifted: Matrix, turned: Matrix, spread: float, weights: Matrix) -> float:
    """Frechet distance of vectors less the real mean (and those times the real covariance's root), weighted to N."""
    n = len(weights)
    weights = weights * (n / weights.sum())
    mean = weights @ shifted / n
    own = float(weights @ ((shifted - mean) ** 2).sum(axis=1)) / (n - 1)
    scaled = np.sqrt(weights)[:, None] * (turned - weights @ turned / n)
    # the smaller of the two products has the same eigenvalues above zero
    product = scaled @ scaled.T if n < scaled.shape[1] else scaled.T @ scaled
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(product / (n - 1)), 0, None)).sum()
    return float(max(mean @ mean + spread + own - 2 * cross, 0.0))


def spread_interval(value: float, replicates: Matrix, n: int) -> Interval:
    """The value of n volumes with 1.96 standard deviations of its replicates on either side.

    Their percentiles would not do: unequal weights leave fewer volumes, for which a Frechet distance is larger.
    """
    reach = NORMAL * float(np.std(replicates, ddof=1))
    return Interval(value, value - reach, value + reach, n)
