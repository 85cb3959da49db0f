"""Are synthetic volumes copies? Distances to the nearest training volume, beside those of held-out real volumes."""

from __future__ import annotations

from collections.abc import Sequence
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


def on_grid(volume: NDArray[np.float32], grid: tuple[int, int, int] = GRID) -> torch.Tensor:
    """A volume (Z, H, W) of any size averaged onto a grid, flattened: sizes need not agree, noise hides no copy.

    Raises BadInput where it is not three-dimensional.
    """
    if volume.ndim != 3:
        raise BadInput(f"nearest volumes: a volume of shape {volume.shape}, expected (Z, H, W)")
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    return interpolate(tensor, size=grid, mode="area").flatten()


def nearest_distances(queries: Sequence[torch.Tensor], references: Sequence[torch.Tensor]) -> Nearest:
    """Root mean squared difference, in [-1, 1] units, of each query to its nearest reference, all from `on_grid`.

    Distances of synthetic volumes well below those of held-out real ones to the same references point to memorised
    training volumes. Raises BadInput where either side is empty.
    """
    for side, volumes in (("queries", queries), ("references", references)):
        if not volumes:
            raise BadInput(f"nearest volumes: no {side} given")
    known = torch.stack(list(references))
    indices, distances = [], []
    for row in queries:
        squared = ((known - row) ** 2).mean(dim=1, dtype=torch.float64)
        nearest = int(squared.argmin())
        indices.append(nearest)
        distances.append(float(squared[nearest].sqrt()))
    return Nearest(np.array(indices, dtype=np.int64), np.array(distances, dtype=np.float64))
