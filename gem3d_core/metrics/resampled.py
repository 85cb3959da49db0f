"""How sure a Frechet distance is: computed again with other weights of the volumes (Bayesian bootstrap, Rubin 1981)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.metrics.fidelity import Matrix, Moments, symmetric_root
from gem3d_core.metrics.intervals import Interval
from gem3d_core.seeds import derive_seed

NORMAL = 1.959964
"""Standard deviations on either side that hold 95% of a normal distribution."""


def volume_weights(name: str, resamples: int, seed: int = 0) -> Matrix:
    """Weights (resamples,) of one volume, exponential with mean 1, whatever other volumes there are."""
    return np.random.default_rng(derive_seed(seed, "weight of a volume", name)).exponential(size=resamples)


def frechet_replicates(
    real: Moments,
    vectors: NDArray[np.floating],
    volumes: Sequence[str] | NDArray[np.str_],
    resamples: int,
    seed: int = 0,
) -> Matrix:
    """Frechet distances (resamples,) between `real` and reweighted volumes' vectors (N, D), volumes (N,) naming whose.

    A volume has the same weights in every set that holds one of its name, so that two sets which were drawn for the
    same masks are compared pair by pair, also where one of them lacks some. Raises BadInput for fewer than two volumes.
    """
    names, whose = np.unique(np.asarray(volumes), return_inverse=True)
    if len(names) < 2:
        raise BadInput(f"Frechet distance resampled over {len(names)} volume(s): expected two or more")
    shifted = vectors.astype(np.float64) - real.mean
    turned, spread = shifted @ symmetric_root(real.covariance), float(np.trace(real.covariance))
    weights = np.stack([volume_weights(str(name), resamples, seed) for name in names], axis=1)
    return np.array([_distance(shifted, turned, spread, drawn[whose]) for drawn in weights])


def _distance(shifted: Matrix, turned: Matrix, spread: float, weights: Matrix) -> float:
    """Of vectors less the real mean, and of those times the root of the real covariance, weighted to N in all."""
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
