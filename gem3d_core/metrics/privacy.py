"""Are synthetic volumes copies? Distances to the nearest training volume, beside those of held-out real volumes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from gem3d_core.errors import BadInput

GRID = (32, 32, 32)


@dataclass(frozen=True)
class Nearest:
    """For each query, the index of its nearest reference and the distance to it, both (N,)."""

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]


def nearest_distances(
    queries: Iterable[NDArray[np.float32]],
    references: Iterable[NDArray[np.float32]],
    grid: tuple[int, int, int] = GRID,
) -> Nearest:
    """Root mean squared difference, in [-1, 1] units, of each query volume to its nearest reference.

    Volumes (Z, H, W) of any size are averaged onto one `grid` first, so that sizes need not agree and noise does
    not hide a copy. Distances of synthetic volumes well below those of held-out real ones to the same references
    point to memorised training volumes. Raises BadInput where either side is empty or not three-dimensional.
    """
    asked, known = _on_grid(queries, grid, "queries"), _on_grid(references, grid, "references")
    indices, distances = [], []
    for row in asked:
        squared = ((known - row) ** 2).mean(dim=1, dtype=torch.float64)
        nearest = int(squared.argmin())
        indices.append(nearest)
        distances.append(float(squared[nearest].sqrt()))
    return Nearest(np.array(indices, dtype=np.int64), np.array(distances, dtype=np.float64))


def _on_grid(volumes: Iterable[NDArray[np.float32]], grid: tuple[int, int, int], side: str) -> torch.Tensor:
    """(N, voxels of the grid); one volume is held at full size at a time."""
    rows = [_averaged(volume, grid) for volume in volumes]
    if not rows:
        raise BadInput(f"nearest volumes: no {side} given")
    return torch.stack(rows)


def _averaged(volume: NDArray[np.float32], grid: tuple[int, int, int]) -> torch.Tensor:
    if volume.ndim != 3:
        raise BadInput(f"nearest volumes: a volume of shape {volume.shape}, expected (Z, H, W)")
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    return interpolate(tensor, size=grid, mode="area").flatten()
