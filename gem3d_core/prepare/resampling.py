"""Between a crop on the source grid and prepared slices: nnU-Net's own resampling, and the padding.

A mask goes through the same functions (nnunetv2.preprocessing) as in the network that is trained on it.
"""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from gem3d_core.prepare.geometry import Geometry, S, Shape3, Spacing3, canonical_spacing, expect_shape


def resample(array: NDArray[S], shape: Shape3, spacing: Spacing3, new_spacing: Spacing3, *, label: bool) -> NDArray[S]:
    """`array` on a grid of `shape` over the same extent, by nnU-Net's default resampling.

    Images cubic, label maps by nnU-Net's one-label-at-a-time linear vote (integer labels stay integers);
    along an axis more than three times as coarse as the others, nearest. Same shape: the array, untouched.
    """
    if array.shape == shape:
        return array
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    carried = array.astype(np.uint8) if array.dtype == np.bool_ else array
    order = 1 if label else 3
    moved = resample_data_or_seg_to_shape(
        carried[None],
        shape,
        spacing,
        new_spacing,
        is_seg=label,
        order=order,
        order_z=0,
        force_separate_z=None,
    )
    return cast("NDArray[S]", moved[0].astype(array.dtype, copy=False))


def to_slices(geometry: Geometry, crop: NDArray[S], *, label: bool, fill: float) -> NDArray[S]:
    """Crop (x, y, z) -> prepared (Z, H, W); `label` for label maps and outlines. Raises BadInput for another shape."""
    expect_shape(crop.shape, geometry.crop_shape, "crop")
    spacing = canonical_spacing(geometry.affine)
    return geometry.fit_slices(resample(crop, geometry.grid_shape, spacing, geometry.grid_spacing, label=label), fill)


def from_slices(geometry: Geometry, slices: NDArray[S], *, label: bool) -> NDArray[S]:
    """Prepared (Z, H, W) -> crop (x, y, z) in canonical voxels. Raises BadInput for another shape."""
    spacing = canonical_spacing(geometry.affine)
    grid = geometry.unfit_slices(slices)
    return resample(grid, geometry.crop_shape, geometry.grid_spacing, spacing, label=label)
