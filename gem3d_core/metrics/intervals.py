"""How sure a mean is: percentile bootstrap over cases, seeded. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput


@dataclass(frozen=True)
class Interval:
    """A mean, or another number, of n cases; `low` and `high` are None where one case leaves nothing to resample."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def times(self, factor: float) -> Interval:
        """In another unit; factor > 0."""
        low, high = (None if bound is None else bound * factor for bound in (self.low, self.high))
        return Interval(self.mean * factor, low, high, self.n)


def mean_interval(
    values: Sequence[float] | NDArray[np.floating], *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """The mean of one value a case with its bootstrap interval (Efron's percentiles), the same for one seed.

    Raises BadInput where there are no values or some are not finite.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if not array.size or not np.isfinite(array).all():
        raise BadInput(f"mean over {array.size} values: expected one or more, all of them finite")
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, None, None, 1)
    generator = np.random.default_rng(seed)
    # a resample of n cases is a multinomial count of each: (resamples, n) without gathering
    counts = generator.multinomial(array.size, np.full(array.size, 1 / array.size), size=resamples)
    means = counts @ array / array.size
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), int(array.size))
