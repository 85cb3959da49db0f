"""Written volumes have the same bytes on every machine, and every reader takes them."""

import gzip
import hashlib
import platform
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gem3d_core.scans.volumes import read_volume, write_nifti

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def written(path: Path, dtype: type = np.int16) -> np.ndarray:
    """A ramp with noise on it, surrounded by background, as images are."""
    array = np.zeros((40, 50, 30), dtype=dtype)
    noise = np.random.default_rng(0).integers(0, 40, (30, 40, 20))
    array[5:35, 5:45, 5:25] = noise + np.arange(30)[:, None, None]
    write_nifti(path, array, AFFINE)
    return array


def test_the_gzip_header_tells_neither_time_nor_name(tmp_path: Path) -> None:
    written(tmp_path / "x.nii.gz")
    header = (tmp_path / "x.nii.gz").read_bytes()[:10]
    assert header[:3] == b"\x1f\x8b\x08"
    assert header[3] == 0, "no name, no comment"
    assert header[4:8] == bytes(4), "no time"


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="igzip was compared on x86-64 alone")
def test_the_bytes_are_those_of_every_other_machine(tmp_path: Path) -> None:
    """Versions are hashes of bytes. Where this fails after an update of isal, the same voxels get new versions."""
    written(tmp_path / "x.nii.gz")
    found = hashlib.sha256((tmp_path / "x.nii.gz").read_bytes()).hexdigest()
    assert found == "26aaaf27c521a07b6416e82975e64f1ccde087aea14b7019bd2a118b9b9ef579"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_reader_takes_what_is_written(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "x.nii.gz"
    array = written(path, dtype)
    np.testing.assert_array_equal(nib.load(path).dataobj, array)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T, array)
    np.testing.assert_array_equal(read_volume(path).array, array)
    plain = tmp_path / "x.nii"
    write_nifti(plain, array, AFFINE)
    assert gzip.decompress(path.read_bytes()) == plain.read_bytes()
