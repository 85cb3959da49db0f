"""The body's outline: what a mask alone does not say, and where the crop lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gem3d_core.prepare.geometry import Box
from gem3d_core.spec.terms import Modality

OutlineKind = Literal["border-constant", "body", "full-box"]

BORDER_SHARE = 0.75  # of the voxels on the six faces; a head cut by one face still has this much background
BODY_HU = -500.0  # between air (-1000) and fat (-100)
AIR_HU = -1000.0
IN_SPACE, IN_PLANE = (0, 1, 2), (0, 1)  # the axes along which an image, or a single slice, has a border


@dataclass(frozen=True)
class Outline:
    """mask bool (x, y, z) in canonical voxels; background: the value outside it, in the source's units."""

    mask: NDArray[np.bool_]
    kind: OutlineKind
    background: float
    note: str = ""


def find_outline(image: np.ndarray, modality: Modality, *, flat: bool = False) -> Outline:
    """The outline of a canonical image (x, y, z) in the source's intensities.

    flat: the image is a single axial slice (x, y, 1), which has a border in plane only.

    MRI: voxels that differ from the value shared by nearly all voxels on the volume's faces, holes filled.
    CT: the largest connected component above -500 HU, holes filled in each axial slice.
    None found: the full box, and the note says so.
    """
    return _body(image) if modality == "ct" else _off_border(image, IN_PLANE if flat else IN_SPACE)


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest half-open box that holds all true voxels; the whole array if there are none."""
    from acvl_utils.cropping_and_padding.bounding_boxes import (  # type: ignore[import-untyped]  # ships no types
        get_bbox_from_mask,
    )

    (x0, x1), (y0, y1), (z0, z1) = get_bbox_from_mask(mask)
    return (int(x0), int(x1)), (int(y0), int(y1)), (int(z0), int(z1))


def border_value(image: np.ndarray, axes: tuple[int, ...] = IN_SPACE) -> tuple[float, float]:
    """The commonest value on the faces of (x, y, z) along some axes, and its share of the voxels there."""
    faces = [np.take(image, end, axis=axis).ravel() for axis in axes for end in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    top = int(counts.argmax())
    return float(values[top]), float(counts[top] / counts.sum())


def _off_border(image: np.ndarray, axes: tuple[int, ...]) -> Outline:
    from scipy.ndimage import binary_fill_holes

    value, share = border_value(image, axes)
    if share < BORDER_SHARE:
        return _full_box(image, f"no constant border: the commonest value on the faces covers {share:.1%} of them")
    differs = image != image.dtype.type(value)
    filled = binary_fill_holes(differs) if axes == IN_SPACE else binary_fill_holes(differs[:, :, 0])[:, :, None]
    mask = np.asarray(filled, dtype=np.bool_)
    if not mask.any():
        return _full_box(image, f"every voxel has the border's value {value:g}")
    if mask.all():
        return _full_box(image, "no voxel has the border's value once holes are filled")
    return Outline(mask, "border-constant", value)


def _body(image: np.ndarray) -> Outline:
    from scipy.ndimage import label

    components, count = label(image > BODY_HU)
    if count == 0:
        return _full_box(image, f"no voxel above {BODY_HU:g} HU")
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    mask = _filled_in_slices(components == sizes.argmax())
    if mask.all():
        return _full_box(image, f"every voxel is above {BODY_HU:g} HU or enclosed")
    air = image[~mask]
    return Outline(mask, "body", float(np.median(air)) if air.size else AIR_HU)


def _filled_in_slices(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    filled = np.empty_like(mask)
    for z in range(mask.shape[2]):
        filled[:, :, z] = binary_fill_holes(mask[:, :, z])
    return filled


def _full_box(image: np.ndarray, reason: str) -> Outline:
    """All voxels; the background is the darkest value, which only padding will show."""
    note = f"no outline found, the full box is used: {reason}"
    return Outline(np.ones(image.shape, dtype=np.bool_), "full-box", float(np.min(image)), note)
