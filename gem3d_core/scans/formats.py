"""Decoding of image files to voxels (X, Y, Z, C) and a voxel-to-RAS affine; `volumes` is what others call.

NIfTI is decoded here from bytes, because ITK reads a truncated `.nii.gz` without a word; the rest is ITK's.
"""
# mypy: disallow-untyped-calls=False

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from isal import igzip, isal_zlib

from gem3d_core.errors import BadInput

if TYPE_CHECKING:
    import nibabel as nib
    import SimpleITK


TWO_DIMENSIONAL = "two-dimensional image"
SHEAR_TOLERANCE = 1e-3  # cosine between two voxel axes: rounding passes, a gantry tilt does not
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NIFTI_HEADER_BYTES = 540  # of NIfTI-2, the longer one
UNCHECKED = {".gipl": 256, ".vtk": 100}  # ITK invents what is cut off in these: bytes of their headers

Shape3 = tuple[int, int, int]


class Unreadable(BadInput):
    """A file that is no usable volume: which file, what is wrong, what was found and expected, what to do."""

    def __init__(self, path: Path, fault: str, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{path}: {fault}: found {found}, expected {expected}; {remedy}")
        self.path, self.fault = path, fault
        self.found, self.expected, self.remedy = found, expected, remedy

    def __reduce__(self) -> tuple[type["Unreadable"], tuple[Path, str, str, str, str]]:
        return Unreadable, (self.path, self.fault, self.found, self.expected, self.remedy)


def damaged(path: Path, fault: str, found: str) -> Unreadable:
    """The error of a file that did not arrive whole."""
    remedy = "fetch or export this file again, or take the case out of the dataset"
    return Unreadable(path, fault, found, "a complete image file", remedy)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI in one file (`.nii`, `.nii.gz`), or has no ending, as content-addressed files."""
    return not path.suffix or path.name.lower().endswith((".nii", ".nii.gz"))


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in millimetres along the three array axes."""
    x, y, z = np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def checked_affine(path: Path, affine: np.ndarray) -> np.ndarray:
    """The affine as float64; raises Unreadable where it is not finite, flat or sheared (no shear in ITK)."""
    affine = np.asarray(affine, dtype=np.float64)
    remedy = "resample the case onto a regular grid (gantry tilt), or repair the header"
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or min(spacing_of(affine)) <= 0:
        expected = "4x4 finite numbers with voxel sizes above 0"
        raise Unreadable(path, "unusable affine", str(affine.tolist()), expected, remedy)
    axes = affine[:3, :3] / spacing_of(affine)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > SHEAR_TOLERANCE:
        expected = f"perpendicular axes (within {SHEAR_TOLERANCE})"
        raise Unreadable(path, "sheared voxel axes", f"axes with cosine {shear:.3g}", expected, remedy)
    return affine


def layout(path: Path, shape: tuple[int, ...]) -> tuple[Shape3, int]:
    """Spatial shape (X, Y, Z) and channels of a stored shape; (X, Y, Z, 1, C) is how NIfTI stores vectors."""
    if len(shape) < 3 or min(shape[:3]) < 2:
        found, expected = f"shape {tuple(shape)}", "three axes of two voxels or more"
        remedy = "give whole volumes; stack single slices into one file a case"
        raise Unreadable(path, TWO_DIMENSIONAL, found, expected, remedy)
    x, y, z = (int(n) for n in shape[:3])
    return (x, y, z), int(np.prod(shape[3:], dtype=np.int64))


def real_numbers(path: Path, dtype: np.dtype) -> None:
    """Raises Unreadable for colour and complex voxels."""
    if dtype.kind not in "biuf":
        raise damaged(path, "unsupported voxel type", f"{dtype} (colour or complex voxels)")


def unzipped(path: Path, read: Callable[[], bytes]) -> bytes:
    """What `read` decompresses; raises Unreadable where the stream is cut or fails its check."""
    try:
        return read()
    except EOFError as error:
        raise damaged(path, "truncated file", "compressed data that end too early") from error
    except (isal_zlib.error, igzip.BadGzipFile) as error:  # type: ignore[misc]  # isal's stubs call the class an instance
        raise damaged(path, "damaged file", f"compressed data that fail their check ({error})") from error


def nifti_class(path: Path, data: bytes) -> "type[nib.Nifti1Image]":
    """nibabel's class for these bytes, NIfTI-1 or -2 in one file; raises Unreadable for anything else."""
    import nibabel as nib

    sizes = {int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")}
    if 348 in sizes and data[344:347] == b"n+1":
        return nib.Nifti1Image
    if 540 in sizes and data[4:7] == b"n+2":
        return nib.Nifti2Image
    found = f"{len(data)} byte(s) starting {data[:12]!r}" if data else "an empty file"
    raise damaged(path, "not a NIfTI file", found)


def decode_nifti(path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z, C) and affine of a whole NIfTI file, compressed or not whatever its name says."""
    if data[:2] == b"\x1f\x8b":
        data = unzipped(path, lambda: igzip.decompress(data))
    kind = nifti_class(path, data)
    try:
        image = kind.from_bytes(data)
        spatial, channels = layout(path, image.shape)
        real_numbers(path, image.get_data_dtype())
        needed = int(getattr(image.dataobj, "offset", 0)) + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        if len(data) < needed:
            raise damaged(path, "truncated file", f"{len(data)} of {needed} bytes")
        voxels = np.asanyarray(image.dataobj)
    except (ValueError, OSError, OverflowError) as error:
        raise damaged(path, "damaged file", f"a header that cannot be used ({error})") from error
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    return native.reshape(*spatial, channels, order="F"), np.asarray(image.affine)


def nifti_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, np.dtype]:
    """Stored shape, affine and dtype, from the first bytes of the file alone."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        source = igzip.GzipFile(fileobj=stream) if zipped else stream
        head = unzipped(path, lambda: source.read(NIFTI_HEADER_BYTES))
    kind = nifti_class(path, head).header_class
    try:
        header = kind.from_fileobj(io.BytesIO(head))
        dtype = header.get_data_dtype()
        return header.get_data_shape(), header.get_best_affine(), dtype.newbyteorder("=")
    except (ValueError, OSError, OverflowError) as error:
        raise damaged(path, "damaged file", f"a header that cannot be used ({error})") from error


def decode_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z, C) and affine of any file that SimpleITK reads."""
    import SimpleITK

    try:
        image = _itk_reader(path).Execute()
    except RuntimeError as error:
        raise damaged(path, "unreadable or truncated file", _itk_reason(error)) from error
    spatial, channels = layout(path, image.GetSize())
    voxels = SimpleITK.GetArrayFromImage(image)
    real_numbers(path, voxels.dtype)
    needed = voxels.nbytes + UNCHECKED.get(path.suffix.lower(), 0)
    if path.suffix.lower() in UNCHECKED and path.stat().st_size < needed:
        raise damaged(path, "truncated file", f"{path.stat().st_size} of {needed} bytes or more")

    # ITK's array is (C, Z, Y, X) for a fourth axis and (Z, Y, X, C) for vector voxels
    components = image.GetNumberOfComponentsPerPixel()
    stacked = voxels.reshape(channels, *spatial[::-1], components).transpose(3, 2, 1, 0, 4)
    return stacked.reshape(*spatial, channels * components), _itk_affine(path, image)


def itk_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, np.dtype]:
    """Stored shape (channels last), affine and dtype without the voxels."""
    import SimpleITK

    reader = _itk_reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise damaged(path, "unreadable file", _itk_reason(error)) from error
    components = reader.GetNumberOfComponents()
    one_voxel = SimpleITK.Image([1, 1, 1], reader.GetPixelID(), components)
    dtype = SimpleITK.GetArrayFromImage(one_voxel).dtype
    return (*reader.GetSize(), components), _itk_affine(path, reader), dtype


def _itk_reader(path: Path) -> "SimpleITK.ImageFileReader":
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    return reader


def _itk_reason(error: RuntimeError) -> str:
    """The line of ITK's report that says something; errno is reported even where nothing set it."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Reason:", "File"))]
    return telling[-1][:160] if telling else type(error).__name__


def _itk_affine(path: Path, source: "SimpleITK.Image | SimpleITK.ImageFileReader") -> np.ndarray:
    size = source.GetSize()
    if len(size) < 3:
        layout(path, size)
    spacing = _tiff_spacing(path) or source.GetSpacing()[:3]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(source.GetDirection(), (len(size), len(size)))[:3, :3] * spacing
    affine[:3, 3] = source.GetOrigin()[:3]
    return LPS_TO_RAS @ affine


def _tiff_spacing(path: Path) -> tuple[float, float, float] | None:
    """TIFF has no slice distance; nnU-Net keeps it in CASE.json beside the file, in array order (Z, Y, X)."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return None
    case = path.stem[:-5] if path.stem[-5:-4] == "_" and path.stem[-4:].isdigit() else path.stem
    sidecar = path.with_name(f"{case}.json")
    if not sidecar.is_file():
        return None
    try:
        z, y, x = json.loads(sidecar.read_text())["spacing"]
        return float(x), float(y), float(z)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(sidecar, "spacing missing", f"no list of three numbers ({error})") from error
