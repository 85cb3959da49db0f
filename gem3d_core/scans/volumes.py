"""Volumes on disk: every format that SimpleITK reads comes in, clean NIfTI goes out.

Arrays are (X, Y, Z) in the file's voxel order; affines are (4, 4) float64, voxel index to RAS millimetres
(the convention of nibabel).
"""
# mypy: disallow-untyped-calls=False

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal import igzip

from gem3d_core.errors import BadInput
from gem3d_core.machine.files import write_bytes
from gem3d_core.scans.formats import (
    TWO_DIMENSIONAL,
    Shape3,
    Unreadable,
    checked_affine,
    damaged,
    decode_itk,
    decode_nifti,
    is_nifti,
    itk_header,
    layout,
    nifti_header,
    real_numbers,
    spacing_of,
)

__all__ = [
    "TWO_DIMENSIONAL",
    "Header",
    "Unreadable",
    "Volume",
    "VolumeFile",
    "read_file",
    "read_header",
    "read_label",
    "read_volume",
    "spacing_of",
    "whole_numbers",
    "write_nifti",
]

WHOLE_NUMBER_TOLERANCE = 1e-3  # what float storage and header scaling may add to a label id
HEADER_ONLY = (".mhd", ".nhdr", ".hdr", ".img")  # the other half of the image lies in a file beside this one
OTHER_HALF = (".raw", ".raw.gz", ".zraw", ".img", ".img.gz", ".hdr")
DEFLATE_LEVEL = 2  # of igzip; the bytes of level 3 differ between processors, and hashes of bytes are versions


@dataclass(frozen=True)
class Volume:
    """array (X, Y, Z) of the file's dtype; affine (4, 4) float64, voxel index to RAS millimetres."""

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres along X, Y, Z of the array."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Header:
    """What a file says of itself: shape (X, Y, Z), affine (4, 4), dtype as stored, number of channels."""

    shape: Shape3
    affine: np.ndarray
    dtype: np.dtype
    channels: int


@dataclass(frozen=True)
class VolumeFile:
    """A file read once: voxels (X, Y, Z, C), affine (4, 4), sha256 of its bytes (and of detached voxels)."""

    path: Path
    voxels: np.ndarray
    affine: np.ndarray
    sha256: str

    @property
    def channels(self) -> int:
        """Number of channels in the file."""
        return int(self.voxels.shape[3])

    def volume(self, channel: int = 0) -> Volume:
        """One channel as a Volume; raises Unreadable where the file has no such channel."""
        if not 0 <= channel < self.channels:
            remedy = "choose another channel or correct dataset.json"
            found, expected = f"{self.channels} channel(s)", f"a channel with index {channel}"
            raise Unreadable(self.path, "channel missing", found, expected, remedy)
        picked = self.voxels[..., channel]
        return Volume(picked if self.channels == 1 else picked.copy(order="F"), self.affine)


def read_volume(path: Path, channel: int = 0) -> Volume:
    """One channel of an image file, its dtype kept (NIfTI with a scale in its header becomes float).

    Raises Unreadable (a BadInput) where the file is missing, truncated, damaged, not three-dimensional, of a
    voxel type that is no real number, or has no such channel.
    """
    return read_file(path).volume(channel)


def read_label(path: Path) -> Volume:
    """An integer label map, uint8 or (ids past 255) int16. Raises as `read_volume`, and on fractional ids."""
    file = read_file(path)
    if file.channels != 1:
        found, expected = f"{file.channels} channels", "one channel of label ids"
        remedy = "store the mask as one map of label ids"
        raise Unreadable(path, "several channels in one file", found, expected, remedy)
    return Volume(whole_numbers(path, file.voxels[..., 0]), file.affine)


def read_file(path: Path) -> VolumeFile:
    """Every channel of an image file together with the hash of what was read. Raises as `read_volume`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise damaged(path, "file cannot be opened", error.strerror or str(error)) from error
    digest = hashlib.sha256(data)
    for half in _other_halves(path):
        digest.update(half.read_bytes())

    voxels, affine = decode_nifti(path, data) if is_nifti(path) else decode_itk(path)
    return VolumeFile(path, voxels, checked_affine(path, affine), digest.hexdigest())


def read_header(path: Path) -> Header:
    """Shape, affine, dtype and channels without decoding the voxels. Raises as `read_volume`."""
    if not path.is_file():
        raise damaged(path, "file cannot be opened", "no such file")
    stored, affine, dtype = nifti_header(path) if is_nifti(path) else itk_header(path)
    shape, channels = layout(path, stored)
    real_numbers(path, dtype)
    return Header(shape, checked_affine(path, affine), dtype, channels)


def whole_numbers(path: Path, labels: np.ndarray) -> np.ndarray:
    """Label ids as uint8 or, past 255, int16.

    Floats within 1e-3 of a whole number pass; raises Unreadable (naming `path`) on fractional, infinite,
    negative or too large ids.
    """
    if labels.dtype.kind == "f":
        rounded = np.rint(labels)
        with np.errstate(invalid="ignore"):  # infinity minus itself is odd, as it should be
            odd = ~(np.abs(labels - rounded) <= WHOLE_NUMBER_TOLERANCE)
        if odd.any():
            raise _bad_ids(path, "fractional labels", f"{labels[odd][0]:g} in {int(odd.sum())} voxel(s)")
        labels = rounded
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > np.iinfo(np.int16).max:
        raise _bad_ids(path, "label id out of range", str(low if low < 0 else high))
    return labels.astype(np.uint8 if high <= 255 else np.int16, copy=False)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, *, dtype: np.dtype | type | None = None) -> None:
    """Write (X, Y, Z) voxels as `.nii` or `.nii.gz` with a header that holds geometry and nothing else.

    The same input gives the same bytes. A reader sees the whole file or none, also after a power cut.
    Bool becomes uint8, float16 float32, int64 int32.
    Raises BadInput on another file ending, values that `dtype` cannot hold, or an affine that is sheared.
    """
    if not is_nifti(path):
        raise BadInput(f"{path}: volumes are written as NIfTI; give a name ending in .nii or .nii.gz")
    if array.ndim != 3:
        raise BadInput(f"{path}: an array of shape {array.shape} is no volume; give (X, Y, Z)")
    data = _nifti_bytes(_storable(path, array, dtype), checked_affine(path, affine))
    zipped = path.name.lower().endswith(".gz")
    write_bytes(path, igzip.compress(data, DEFLATE_LEVEL, mtime=0) if zipped else data)


def _bad_ids(path: Path, fault: str, found: str) -> Unreadable:
    remedy = "export the mask again with nearest-neighbour resampling and without scaling"
    return Unreadable(path, fault, found, "whole label ids from 0 to 32767", remedy)


def _other_halves(path: Path) -> list[Path]:
    if path.suffix.lower() not in HEADER_ONLY:
        return []
    names = [path.with_name(path.stem + ending) for ending in OTHER_HALF]
    return [half for half in names if half != path and half.is_file()]


def _storable(path: Path, array: np.ndarray, dtype: np.dtype | type | None) -> np.ndarray:
    """The array in a dtype that NIfTI and ITK know; only integers are checked, floats may lose precision."""
    known = {"bool": np.uint8, "float16": np.float32, "int64": np.int32, "uint64": np.int32}
    wanted = np.dtype(dtype or known.get(array.dtype.name, array.dtype))
    real_numbers(path, wanted)
    if wanted.kind in "iu" and array.size and array.dtype.kind != "b":
        low, high, bounds = array.min(), array.max(), np.iinfo(wanted)
        whole = array.dtype.kind != "f" or np.array_equal(array, np.rint(array))
        if not (whole and bounds.min <= low and high <= bounds.max):
            raise BadInput(f"{path}: values from {low} to {high} do not fit {wanted}; choose another dtype")
    return array.astype(wanted.newbyteorder("<"), copy=False)


def _nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    import nibabel as nib

    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image.to_bytes()


def axial_depth(header: Header) -> int:
    """Number of axial slices: voxels along the array axis that runs most along the body."""
    return header.shape[int(np.abs(header.affine[2, :3]).argmax())]
