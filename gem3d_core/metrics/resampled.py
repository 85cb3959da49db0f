"""How sure a Frechet distance is: it is computed again for volumes drawn with replacement (bootstrap over volumes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.metrics.fidelity import Matrix, Moments, symmetric_root
from gem3d_core.metrics.intervals import Interval

NORMAL = 1.959964
"""Standard deviations on either side that hold 95% of a normal distribution."""


def frechet_replicates(
    real: Moments,
    vectors: NDArray[np.floating],
    volumes: Sequence[str] | NDArray[np.str_],
    resamples: int,
    seed: int = 0,
) -> Matrix:
    """Frechet distances (resamples,) between `real` and resampled volumes' vectors (N, D), volumes (N,) naming whose.

    The same seed draws the same volumes of any set with as many of them, so that two sets drawn for the same masks are
    compared pair by pair. Raises BadInput for fewer than two volumes.
    """
    names, whose = np.unique(np.asarray(volumes), return_inverse=True)
    if len(names) < 2:
        raise BadInput(f"Frechet distance resampled over {len(names)} volume(s): expected two or more")
    values = vectors.astype(np.float64)
    shifted = values - real.mean
    root = symmetric_root(real.covariance)
    turned, spread = shifted @ root, float(np.trace(real.covariance))
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.array([_distance(shifted, turned, spread, drawn[whose].astype(np.float64)) for drawn in counts])


def _distance(shifted: Matrix, turned: Matrix, spread: float, weights: Matrix) -> float:
    """Of vectors less the real mean, and of those times the root of the real covariance, each counted so many times."""
    seen = weights > 0
    weights, n = weights[seen], weights.sum()
    mean = weights @ shifted[seen] / n
    centred = shifted[seen] - mean
    own = float(weights @ (centred**2).sum(axis=1)) / (n - 1)
    scaled = np.sqrt(weights)[:, None] * (turned[seen] - weights @ turned[seen] / n)
    # the smaller of the two products has the same eigenvalues above zero
    product = scaled @ scaled.T if len(scaled) < scaled.shape[1] else scaled.T @ scaled
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(product / (n - 1)), 0, None)).sum()
    return float(max(mean @ mean + spread + own - 2 * cross, 0.0))


def spread_interval(value: float, replicates: Matrix, n: int) -> Interval:
    """The value of n volumes with 1.96 standard deviations of its replicates on either side.

    Their percentiles would not do: a volume that is drawn twice has no new slices, so replicates of a Frechet distance
    lie above it.
    """
    reach = NORMAL * float(np.std(replicates, ddof=1))
    return Interval(value, value - reach, value + reach, n)
