"""Scores on the features of FID that few slices bias less: the kernel distance KID, and precision and recall.

All work on feature vectors (N, D) of slices, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput

Vectors = NDArray[np.floating]

KEPT = 4000
"""Slices of a set and plane that are kept for these scores, drawn at random."""
SUBSETS, SUBSET = 100, 1000
"""KID's number of pairs of subsets, and the largest size of one [Binkowski et al.]."""
NEIGHBOUR = 3
"""Which neighbour's distance is the radius of a vector in precision and recall [Kynkaanniemi et al.]."""
BLOCK = 1000
"""Vectors whose distances are held at once."""


@dataclass(frozen=True)
class Sample:
    """At most KEPT feature vectors of the slices of a set of volumes, every one with the same probability.

    vectors (N, D); volumes (N,): the name of each one's volume; order (N,): a random number of each, by which they are
    sorted and of which the smallest are kept: what is kept does not depend on the order in which volumes are read.
    """

    vectors: NDArray[np.float32]
    volumes: NDArray[np.str_]
    order: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: Vectors, volume: str, rng: np.random.Generator) -> Sample:
        """The sample that holds the vectors of some slices of one volume."""
        return _kept(vectors.astype(np.float32), np.full(len(vectors), volume), rng.random(len(vectors)))

    def join(self, other: Sample) -> Sample:
        """The sample that holds the vectors of both."""
        return _kept(
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.volumes, other.volumes]),
            np.concatenate([self.order, other.order]),
        )


def _kept(vectors: NDArray[np.float32], volumes: NDArray[np.str_], order: NDArray[np.float64]) -> Sample:
    chosen = np.argsort(order, kind="stable")[:KEPT]
    return Sample(vectors[chosen], volumes[chosen], order[chosen])


def kernel_distance(real: Vectors, synthetic: Vectors, seed: int = 0) -> float:
    """KID: the unbiased squared maximum mean discrepancy under the kernel (x y / D + 1)^3 (Binkowski et al., 2018).

    Mean over SUBSETS pairs of random subsets of SUBSET vectors, or of as many as the smaller set has; can be below 0.
    Raises BadInput where a set holds fewer than two vectors.
    """
    size = min(SUBSET, len(real), len(synthetic))
    if size < 2:
        raise BadInput(f"kernel distance of {len(real)} and {len(synthetic)} slices: expected two or more in each set")
    rng = np.random.default_rng(seed)
    whole = size == len(real) == len(synthetic)
    pairs = 1 if whole else SUBSETS
    found = [
        _discrepancy(*(v[rng.choice(len(v), size, replace=False)].astype(np.float64) for v in (real, synthetic)))
        for _ in range(pairs)
    ]
    return float(np.mean(found))


def _discrepancy(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    n = len(x)

    within = sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k in (cubic_kernel(x, x), cubic_kernel(y, y)))
    return float(within - 2 * cubic_kernel(x, y).mean())


def cubic_kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """That of KID, (N, M), of vectors (N, D) and (M, D)."""
    cubed: NDArray[np.float64] = (a @ b.T / a.shape[1] + 1) ** 3
    return cubed


def precision_recall(real: Vectors, synthetic: Vectors) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Improved precision and recall (Kynkaanniemi et al., 2019), vector by vector: their means are the two scores.

    Precision: does each synthetic vector lie within the radius of a real one; recall: does each real vector lie within
    that of a synthetic one. Radius: the distance to the NEIGHBOUR-th nearest of the same set, which has to hold more
    vectors than that; raises BadInput where it does not.
    """
    few = min(len(real), len(synthetic))
    if few <= NEIGHBOUR:
        raise BadInput(f"precision and recall of sets of {few} slices: expected {NEIGHBOUR + 1} or more in each")
    a, b = real.astype(np.float64), synthetic.astype(np.float64)
    return _covered(b, a), _covered(a, b)


def _covered(vectors: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of `vectors` lie within the radius of one of `by`."""
    radii = np.concatenate([np.partition(d, NEIGHBOUR, axis=1)[:, NEIGHBOUR] for d in _distances(by, by)])
    inside = [(d <= radii).any(axis=1) for d in _distances(vectors, by)]
    return np.concatenate(inside)


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Squared distances of every vector of a to every one of b, block by block."""
    squares = (b**2).sum(axis=1)
    blocks = (a[first : first + BLOCK] for first in range(0, len(a), BLOCK))
    return [np.maximum((block**2).sum(axis=1)[:, None] + squares - 2 * block @ b.T, 0) for block in blocks]
