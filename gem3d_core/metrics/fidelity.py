"""How close synthetic volumes come to real ones: FID in three planes, MS-SSIM and LPIPS on pairs (paper, section 4).

Volumes are prepared slices (Z, H, W) in [-1, 1]: Z foot to head, H back to front, W left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import interpolate

from gem3d_core.errors import BadInput
from gem3d_core.metrics.intervals import Interval

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
PAIRED_SIDE = 256
"""Axial slices of paired scores are resized bilinearly to this on their shorter side (five scales need > 160)."""

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
        """Of (N, D) feature vectors, N >= 1."""
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


def ms_ssim(synthetic: Volume, real: Volume, outline: Outline | None = None, batch: int = 8) -> float:
    """Five-scale MS-SSIM of two volumes (Z, H, W) in [-1, 1], mean over axial slices (1 = equal).

    It is that of the volumes in [0, 1]: its luminance means nothing where means can be negative. Slices are resized
    bilinearly to 256 on the shorter side; with an outline, those wholly outside are left out.
    Raises BadInput for shapes that differ.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as published

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = published((a + 1) / 2, (b + 1) / 2, data_range=1.0, reduction="none")
        return scores

    return _mean_over_slices(synthetic, real, outline, batch, torch.device("cpu"), score)


def lpips_distance(
    synthetic: Volume, real: Volume, network: nn.Module, outline: Outline | None = None, batch: int = 8
) -> float:
    """LPIPS of two volumes (Z, H, W) in [-1, 1], mean over axial slices (0 = equal), resized as for MS-SSIM.

    `network` comes from `features.load_lpips`; grey is repeated to its three channels.
    Raises BadInput for shapes that differ.
    """
    device = next(iter([*network.parameters(), *network.buffers()])).device

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distances: torch.Tensor = network(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
        return distances.flatten()

    return _mean_over_slices(synthetic, real, outline, batch, device, score)


def _mean_over_slices(
    synthetic: Volume,
    real: Volume,
    outline: Outline | None,
    batch: int,
    device: torch.device,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> float:
    if synthetic.shape != real.shape or synthetic.ndim != 3:
        raise BadInput(f"volumes of shapes {synthetic.shape} and {real.shape}: expected one shape (Z, H, W)")
    inside = np.arange(len(real)) if outline is None else np.flatnonzero(outline.any(axis=(1, 2)))
    if not len(inside):
        raise BadInput("paired scores: the outline holds no slice")
    scores = []
    with torch.inference_mode():
        for start in range(0, len(inside), batch):
            chosen = inside[start : start + batch]
            pair = (_paired_size(volume[chosen], device) for volume in (synthetic, real))
            scores.append(score(*pair).double().cpu())
    return float(torch.cat([part.flatten() for part in scores]).mean())


def _paired_size(slices: Volume, device: torch.device) -> torch.Tensor:
    """(N, H, W) to (N, 1, h, w) with the shorter side at PAIRED_SIDE."""
    height, width = slices.shape[1:]
    factor = PAIRED_SIDE / min(height, width)
    size = (round(height * factor), round(width * factor))
    tensor = torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32))[:, None].to(device)
    return interpolate(tensor, size=size, mode="bilinear", antialias=True)


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
