"""One case from the source grid to prepared axial slices, and synthetic slices back to the source grid.

The order is nnU-Net's: crop to the outline, map intensities, resample (so that the background, already at
its final value, does not bleed into the resampled edge more than the interpolation must).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.prepare.geometry import Box, Geometry, Spacing3, canonical_array, orientation_of, plan_geometry
from gem3d_core.prepare.intensity import IntensityMap, fit_intensity
from gem3d_core.prepare.outline import Outline, OutlineKind, bounding_box, find_outline
from gem3d_core.prepare.resampling import from_slices, to_slices
from gem3d_core.scans.volumes import Volume
from gem3d_core.spec.prepare import PrepareSpec
from gem3d_core.spec.terms import Modality

OUTSIDE = -1.0  # of the prepared image, outside the outline and in the padding


@dataclass(frozen=True)
class PreparedCase:
    """image (Z, H, W) float32 in [-1, 1]; mask (Z, H, W) uint8 or int16; outline (Z, H, W) bool.

    spacing: (z, y, x) mm of the prepared voxels. The outline holds every labelled voxel; source_outline is the
    same on the source grid (X, Y, Z).
    """

    image: NDArray[np.float32]
    mask: np.ndarray
    outline: NDArray[np.bool_]
    spacing: Spacing3
    geometry: Geometry
    intensity: IntensityMap
    outline_kind: OutlineKind
    source_outline: NDArray[np.bool_]
    notes: tuple[str, ...]


def prepare_case(
    image: Volume,
    label: Volume,
    modality: Modality,
    target_spacing: Spacing3,
    spec: PrepareSpec,
    outline: Outline | None = None,
) -> PreparedCase:
    """Prepare one image and its label map; target_spacing (x, y, z) mm in RAS order.

    outline: found in the image where none is given.

    Raises BadInput where shapes differ, intensities are not finite, or labels are not integers.
    """
    _check(image, label)
    orientation = orientation_of(image.affine)
    canonical = canonical_array(image.array, orientation)
    labels = canonical_array(label.array, orientation)
    outline = outline or find_outline(canonical, modality)
    intensity = fit_intensity(canonical, outline.mask, outline.background, modality, spec.intensity)
    inside, notes = _with_labels(outline, labels)

    crop = bounding_box(inside)
    geometry = plan_geometry(image.array.shape, image.affine, crop, target_spacing, spec.slice_size, fit=spec.fit)
    whole = geometry.to_source(inside)
    mapped = intensity.forward(canonical[_window(crop)], geometry.cropped(inside))
    del canonical

    slices = to_slices(geometry, mapped, label=False, fill=OUTSIDE)
    mask, inner = slice_mask(geometry, labels, inside)
    np.clip(slices, -1.0, 1.0, out=slices)
    slices[~inner] = OUTSIDE
    spacing = geometry.grid_spacing[::-1]
    return PreparedCase(slices, mask, inner, spacing, geometry, intensity, outline.kind, whole, notes)


def slice_mask(
    geometry: Geometry, labels: np.ndarray, outline: NDArray[np.bool_]
) -> tuple[np.ndarray, NDArray[np.bool_]]:
    """Label map and outline (x, y, z) in canonical voxels -> both as prepared slices (Z, H, W).

    The outline of the slices holds every labelled voxel.
    """
    mask = to_slices(geometry, geometry.cropped(labels), label=True, fill=0)
    return mask, to_slices(geometry, geometry.cropped(outline), label=True, fill=0) | (mask > 0)


def restore_image(
    slices: np.ndarray,
    outline_slices: NDArray[np.bool_],
    geometry: Geometry,
    intensity: IntensityMap,
    dtype_kind: str = "float32",
) -> np.ndarray:
    """Prepared image (Z, H, W) in [-1, 1] -> source (X, Y, Z) in the source's units.

    Outside the outline, and so outside the crop, stands the map's background value. dtype_kind: a numpy dtype
    name; integers are rounded and clipped to their range. Raises BadInput for slices of another geometry.
    """
    crop = from_slices(geometry, np.asarray(slices, dtype=np.float32), label=False)
    inside = from_slices(geometry, np.asarray(outline_slices, dtype=np.bool_), label=True)
    restored = geometry.uncropped(intensity.inverse(crop, inside), intensity.background)
    return as_dtype(restored, dtype_kind)


def as_dtype(array: np.ndarray, dtype_kind: str) -> np.ndarray:
    """`array` in a dtype by name; for integers rounded and clipped to what the dtype can hold."""
    wanted = np.dtype(dtype_kind)
    if wanted.kind not in "iu":
        return array.astype(wanted, copy=False)
    bounds = np.iinfo(wanted)
    # float64 holds the bounds of every integer up to 32 bits, float32 does not
    return np.clip(np.rint(array.astype(np.float64)), bounds.min, bounds.max).astype(wanted)


def _check(image: Volume, label: Volume) -> None:
    if image.array.shape != label.array.shape:
        raise BadInput(
            f"image of shape {image.array.shape}, label map of shape {label.array.shape}: expected the same grid"
        )
    if not np.issubdtype(label.array.dtype, np.integer):
        raise BadInput(f"label map of dtype {label.array.dtype}: expected integers; read it with read_label")
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        bad = int((~np.isfinite(image.array)).sum())
        raise BadInput(f"image has {bad} voxel(s) that are NaN or infinite: expected finite intensities")


def _with_labels(outline: Outline, labels: np.ndarray) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """The outline grown by labelled voxels that lie outside it, and what is to be said of the case."""
    labelled = labels > 0
    stray = int((labelled & ~outline.mask).sum())
    notes = [outline.note] if outline.note else []
    if stray:
        notes.append(f"{stray} labelled voxel(s) lie outside the outline, which was extended to hold them")
    return outline.mask | labelled, tuple(notes)


def _window(crop: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in crop)
