"""How close synthetic volumes come to real ones: FID in three planes, MS-SSIM and LPIPS on pairs (paper, section 4).

Volumes are prepared slices (Z, H, W) in [-1, 1]: Z foot to head, H back to front, W left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.metrics.intervals import Interval
from gem3d_core.spec.terms import PLANES, Plane

Volume = NDArray[np.float32]
Outline = NDArray[np.bool_]
Features = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Number, mean (D,) and sum of centred products (D, D) of feature vectors, in float64."""

    n: int
    mean: Matrix
    scatter: Matrix

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Moments:
        """Moments of (N, D) feature vectors, N >= 1."""
        values = features.astype(np.float64)
        mean = values.mean(axis=0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together, without cancellation (Chan, Golub and LeVeque)."""
        n = self.n + other.n
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.n / n)
        scatter = self.scatter + other.scatter + np.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, mean, scatter)

    @property
    def covariance(self) -> Matrix:
        """Unbiased, (D, D); needs two vectors or more."""
        return self.scatter / (self.n - 1)


@dataclass(frozen=True)
class Fid:
    """A Frechet distance with the number of slices behind it; only comparable at like numbers and extractors."""

    value: float
    n_real: int
    n_synthetic: int
    interval: Interval | None = None
    """Over volumes, where they were resampled."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets of feature vectors.

    Symmetric eigenvalues keep it real for singular covariances (fewer vectors than D).
    Raises BadInput where a set holds fewer than two vectors or values that are not finite.
    """
    if min(a.n, b.n) < 2:
        raise BadInput(f"Frechet distance of {a.n} and {b.n} slices: expected two or more in each set")
    if not all(np.isfinite(m.mean).all() and np.isfinite(m.scatter).all() for m in (a, b)):
        raise BadInput("Frechet distance: a set holds features that are not finite; check its volumes")
    root = symmetric_root(a.covariance)
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(((a.mean - b.mean) ** 2).sum() + trace, 0.0))


def plane_slices(volume: NDArray[np.generic], plane: Plane) -> NDArray[np.generic]:
    """The slices of (Z, H, W) across one plane, as a view: axial (Z, H, W), coronal (H, Z, W), sagittal (W, Z, H)."""
    if plane == "axial":
        return volume
    return volume.transpose(1, 0, 2) if plane == "coronal" else volume.transpose(2, 0, 1)


def slice_features(
    volume: Volume, outline: Outline, features: Features, batch: int = 16
) -> Iterator[tuple[Plane, NDArray[np.float32]]]:
    """Feature vectors (N, D) of the slices of a volume (Z, H, W) in each plane, a batch at a time.

    Slices wholly outside the outline are left out: they are equal in every volume and would flatter a score.
    """
    for plane in PLANES:
        for slices in _batches(volume, outline, plane, batch):
            yield plane, features(slices)


def fid(real: Mapping[Plane, Moments], synthetic: Mapping[Plane, Moments]) -> dict[Plane, Fid]:
    """FID in each plane; raises BadInput where either set is empty."""
    if not real or not synthetic:
        raise BadInput("FID: a set of volumes has no slice inside its outline")
    return {
        plane: Fid(frechet_distance(real[plane], synthetic[plane]), real[plane].n, synthetic[plane].n)
        for plane in PLANES
    }


def _batches(volume: Volume, outline: Outline, plane: Plane, batch: int) -> Iterator[NDArray[np.float32]]:
    if volume.shape != outline.shape:
        raise BadInput(f"volume of shape {volume.shape} with an outline of shape {outline.shape}")
    slices = plane_slices(volume, plane)
    inside = np.flatnonzero(plane_slices(outline, plane).any(axis=(1, 2)))
    for start in range(0, len(inside), batch):
        yield slices[inside[start : start + batch]].astype(np.float32)


def symmetric_root(matrix: Matrix) -> Matrix:
    """The root (D, D) of a covariance; what rounding put below zero counts as zero."""
    values, vectors = np.linalg.eigh(matrix)
    root: Matrix = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root
