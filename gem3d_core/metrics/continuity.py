"""Whether windows and slices join: the two continuity measures, both on differences of neighbouring slices.

The border ratio alone cannot see stripes (a volume that jumps everywhere has no worse borders), so the smoothness
ratio compares with the real volume at the same indices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.metrics.frechet import Volume, plane_slices
from gem3d_core.spec.terms import PLANES, Plane

Differences = Mapping[Plane, NDArray[np.float64]]
"""Mean absolute differences of neighbouring slices (slices - 1,) of one volume, by plane."""


def slice_differences(volume: Volume, plane: Plane = "axial") -> NDArray[np.float64]:
    """Mean absolute difference of each pair of neighbouring slices (k, k + 1): shape (slices - 1,)."""
    slices = plane_slices(volume, plane)
    pairs = range(len(slices) - 1)
    return np.array([np.abs(_wide(slices[k + 1]) - _wide(slices[k])).mean() for k in pairs], dtype=np.float64)


def all_differences(volume: Volume) -> Differences:
    """`slice_differences` of a volume (Z, H, W) in every plane."""
    return {plane: slice_differences(volume, plane) for plane in PLANES}


def border_ratio(drawn: Differences, borders: Collection[int]) -> float | None:
    """Mean axial difference at window borders over that inside windows; 1 is even, above 1 shows seams.

    `borders` holds k for each pair (k, k + 1) whose slices different windows generated. None where there is no
    border, nothing but borders, or no difference inside windows.
    Raises BadInput for a border outside the volume.
    """
    differences = drawn["axial"]
    if any(not 0 <= k < len(differences) for k in borders):
        slices = len(differences) + 1
        raise BadInput(f"window borders {sorted(borders)} of {slices} slices: expected 0 to {slices - 2}")
    at_border = np.zeros(len(differences), dtype=bool)
    at_border[list(borders)] = True
    if not at_border.any() or at_border.all():
        return None
    inside = float(differences[~at_border].mean())
    return float(differences[at_border].mean()) / inside if inside > 0 else None


def smoothness_ratio(drawn: Differences, real: Differences) -> dict[Plane, float | None]:
    """Mean slice-to-slice difference over the real volume's at the same indices, in each plane.

    1 is as smooth as the real one, above 1 stripes or noise, below 1 blur. None where the real one never changes.
    Raises BadInput for volumes whose shapes differ.
    """
    shapes = [tuple(len(differences[plane]) + 1 for plane in PLANES) for differences in (drawn, real)]
    if shapes[0] != shapes[1]:
        raise BadInput(f"volumes of shapes {shapes[0]} and {shapes[1]}: expected one shape (Z, H, W)")
    ratios: dict[Plane, float | None] = {}
    for plane in PLANES:
        expected = float(real[plane].sum())
        ratios[plane] = float(drawn[plane].sum()) / expected if expected > 0 else None
    return ratios


def _wide(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return values.astype(np.float64)
