"""Where the prepared slices lie in the source volume, as a frozen value, and the ways there and back.

Three grids: SOURCE (X, Y, Z), the file's voxel order; CANONICAL, the same voxels reoriented to RAS;
PREPARED (Z, H, W), axial slices with H along y and W along x. Between canonical and prepared lie the crop
to the outline, one resampling (`resampling`) and the padding.
"""
# mypy: disallow-untyped-calls=False

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.spec.prepare import Fit

Shape3 = tuple[int, int, int]
Spacing3 = tuple[float, float, float]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Orientation = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Affine = NDArray[np.float64]
S = TypeVar("S", bound=np.generic)


def orientation_of(affine: NDArray[np.floating]) -> Orientation:
    """For each source axis: the RAS axis it runs along most, and +1 or -1.

    Raises BadInput for an affine that is not 4x4, not finite or singular.
    """
    from nibabel.orientations import io_orientation

    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise BadInput(f"affine {np.array2string(affine)}: expected a finite, invertible 4x4 matrix; mend the header")
    found = io_orientation(affine)
    return cast("Orientation", tuple((int(axis), int(sign)) for axis, sign in found))


def canonical_array(array: NDArray[S], orientation: Orientation) -> NDArray[S]:
    """Source order (X, Y, Z) to RAS order, a contiguous copy."""
    flipped = array[_flips(orientation)]
    return np.ascontiguousarray(np.transpose(flipped, np.argsort([axis for axis, _ in orientation])))


def source_array(array: NDArray[S], orientation: Orientation) -> NDArray[S]:
    """RAS order back to source order (X, Y, Z), a contiguous copy; the inverse of `canonical_array`."""
    moved = np.transpose(array, [axis for axis, _ in orientation])
    return np.ascontiguousarray(moved[_flips(orientation)])


def _flips(orientation: Orientation) -> tuple[slice, ...]:
    return tuple(slice(None, None, sign) for _, sign in orientation)


def canonical_affine(affine: NDArray[np.floating], shape: Sequence[int]) -> Affine:
    """The voxel-to-RAS-mm matrix of the canonical array of a source of this affine and shape."""
    from nibabel.orientations import inv_ornt_aff

    orientation = np.asarray(orientation_of(affine), dtype=np.float64)
    turn: Affine = inv_ornt_aff(orientation, tuple(shape))
    return np.asarray(affine, dtype=np.float64) @ turn


def voxel_sizes(affine: NDArray[np.floating]) -> Spacing3:
    """Voxel sizes in mm along the array's own axes."""
    x, y, z = np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def canonical_spacing(affine: NDArray[np.floating]) -> Spacing3:
    """Voxel sizes in mm in RAS order."""
    sizes = voxel_sizes(affine)
    x, y, z = (sizes[i] for i in np.argsort([axis for axis, _ in orientation_of(affine)]))
    return x, y, z


@dataclass(frozen=True)
class Geometry:
    """All that is needed to bring a volume from the source grid to prepared slices and back.

    source_shape (X, Y, Z); source_affine 4x4 voxel -> RAS mm; orientation of each source axis;
    crop: half-open box in canonical voxels; target_spacing (x, y, z) mm;
    resampled_shape (x, y, z) of the crop at that spacing; slice_size (H, W); fit as in `PrepareSpec`.
    """

    source_shape: Shape3
    source_affine: tuple[tuple[float, float, float, float], ...]
    orientation: Orientation
    crop: Box
    target_spacing: Spacing3
    resampled_shape: Shape3
    slice_size: tuple[int, int]
    fit: Fit

    @property
    def affine(self) -> Affine:
        """The source's 4x4 matrix, voxel -> RAS mm."""
        return np.asarray(self.source_affine, dtype=np.float64)

    @property
    def canonical_shape(self) -> Shape3:
        """(x, y, z) of the whole volume in RAS order."""
        x, y, z = (self.source_shape[i] for i in np.argsort([axis for axis, _ in self.orientation]))
        return x, y, z

    @property
    def crop_shape(self) -> Shape3:
        """(x, y, z) of the crop in canonical voxels."""
        x, y, z = (stop - start for start, stop in self.crop)
        return x, y, z

    @property
    def grid_shape(self) -> Shape3:
        """(x, y, z) that the crop is resampled to, in one go: resampled_shape with `fit` applied in plane."""
        x, y, z = self.resampled_shape
        height, width = self.slice_size
        if self.fit == "stretch":
            return width, height, z
        scale = min(1.0, height / y, width / x)
        return min(width, max(1, round(x * scale))), min(height, max(1, round(y * scale))), z

    @property
    def grid_spacing(self) -> Spacing3:
        """(x, y, z) mm of the prepared voxels: the crop's extent over `grid_shape`."""
        spacing = canonical_spacing(self.affine)
        x, y, z = (s * n / m for s, n, m in zip(spacing, self.crop_shape, self.grid_shape, strict=True))
        return x, y, z

    @property
    def padding(self) -> tuple[int, int]:
        """Rows above and columns left of the grid in a prepared slice."""
        x, y, _ = self.grid_shape
        return (self.slice_size[0] - y) // 2, (self.slice_size[1] - x) // 2

    @property
    def prepared_affine(self) -> Affine:
        """4x4 voxel (w, h, z) -> RAS mm of the prepared slices transposed to (W, H, Z), for viewing them."""
        scale = np.asarray(self.crop_shape, dtype=np.float64) / np.asarray(self.grid_shape)
        rows, columns = self.padding
        first = np.asarray([start for start, _ in self.crop], dtype=np.float64) + (scale - 1) / 2
        step = np.eye(4)
        step[:3, :3] = np.diag(scale)
        step[:3, 3] = first - scale * np.asarray([columns, rows, 0])
        return canonical_affine(self.affine, self.source_shape) @ step

    def to_canonical(self, array: NDArray[S]) -> NDArray[S]:
        """Source (X, Y, Z) -> canonical (x, y, z). Raises BadInput for another shape."""
        expect_shape(array.shape, self.source_shape, "source volume")
        return canonical_array(array, self.orientation)

    def to_source(self, array: NDArray[S]) -> NDArray[S]:
        """Canonical (x, y, z) -> source (X, Y, Z). Raises BadInput for another shape."""
        expect_shape(array.shape, self.canonical_shape, "canonical volume")
        return source_array(array, self.orientation)

    def cropped(self, canonical: NDArray[S]) -> NDArray[S]:
        """The crop of a canonical array, a contiguous copy of shape `crop_shape`."""
        return np.ascontiguousarray(canonical[self._window()])

    def uncropped(self, crop: NDArray[S], fill: float) -> NDArray[S]:
        """A crop in its place in the SOURCE volume (X, Y, Z), `fill` around it."""
        expect_shape(crop.shape, self.crop_shape, "crop")
        whole = np.full(self.canonical_shape, fill, dtype=crop.dtype)
        whole[self._window()] = crop
        return self.to_source(whole)

    def fit_slices(self, array: NDArray[S], fill: float) -> NDArray[S]:
        """(x, y, z) of `grid_shape` -> (Z, H, W), `fill` in the padding."""
        expect_shape(array.shape, self.grid_shape, "resampled crop")
        x, y, z = self.grid_shape
        rows, columns = self.padding
        slices = np.full((z, *self.slice_size), fill, dtype=array.dtype)
        slices[:, rows : rows + y, columns : columns + x] = array.transpose(2, 1, 0)
        return slices

    def unfit_slices(self, slices: NDArray[S]) -> NDArray[S]:
        """(Z, H, W) -> (x, y, z) of `grid_shape`; the inverse of `fit_slices`."""
        x, y, z = self.grid_shape
        expect_shape(slices.shape, (z, *self.slice_size), "prepared slices")
        rows, columns = self.padding
        return np.ascontiguousarray(slices[:, rows : rows + y, columns : columns + x].transpose(2, 1, 0))

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `from_dict` gives the same geometry back exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Geometry:
        """The geometry of `to_dict`, also after JSON made lists of its tuples."""
        return cls(**{name: _frozen(value) for name, value in values.items()})  # type: ignore[arg-type]  # JSON's own types

    def _window(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.crop)


def plan_geometry(
    shape: Sequence[int],
    affine: NDArray[np.floating],
    crop: Box,
    target_spacing: Spacing3,
    slice_size: tuple[int, int],
    *,
    fit: Fit = "pad",
) -> Geometry:
    """The geometry of a source volume of `shape` (X, Y, Z) whose canonical `crop` is to be prepared.

    target_spacing (x, y, z) in mm, RAS order. Raises BadInput for a crop outside the volume or a bad spacing.
    """
    orientation = orientation_of(affine)
    if not all(math.isfinite(s) and s > 0 for s in target_spacing):
        raise BadInput(f"target spacing {target_spacing}: expected three positive numbers in mm")
    x, y, z = (
        max(1, round(s / t * (stop - start)))  # as nnU-Net's compute_new_shape
        for s, (start, stop), t in zip(canonical_spacing(affine), crop, target_spacing, strict=True)
    )
    rows = cast("tuple[tuple[float, float, float, float], ...]", tuple(tuple(float(v) for v in r) for r in affine))
    source_shape = (int(shape[0]), int(shape[1]), int(shape[2]))
    planned = Geometry(source_shape, rows, orientation, crop, target_spacing, (x, y, z), slice_size, fit)
    if not all(0 <= start < stop <= n for (start, stop), n in zip(crop, planned.canonical_shape, strict=True)):
        raise BadInput(f"crop {crop}: expected a box inside the canonical shape {planned.canonical_shape}")
    return planned


def expect_shape(found: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """Raise BadInput where an array has another shape than its geometry says."""
    if found != expected:
        raise BadInput(f"{what} of shape {found}: expected {expected}; it belongs to another geometry")


def _frozen(value: object) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
