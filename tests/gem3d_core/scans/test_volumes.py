import gzip
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d_core.errors import BadInput
from gem3d_core.scans.volumes import (
    TWO_DIMENSIONAL,
    Unreadable,
    read_file,
    read_header,
    read_label,
    read_volume,
    whole_numbers,
    write_nifti,
)

ANGLE = 0.3
OBLIQUE = np.array(
    [
        [-np.cos(ANGLE), 2 * np.sin(ANGLE), 0, -10],
        [-np.sin(ANGLE), -2 * np.cos(ANGLE), 0, -20],
        [0, 0, 3, 30],
        [0, 0, 0, 1.0],
    ]
)
FORMATS = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr", ".hdr"]


def voxels(dtype: type = np.int16, shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def write_itk(path: Path, array: np.ndarray, *, vector: bool = False) -> Path:
    image = SimpleITK.GetImageFromArray(array.T, isVector=vector)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    c, s = np.cos(ANGLE), np.sin(ANGLE)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_every_format_gives_the_same_voxels_and_ras_affine(tmp_path: Path, ending: str, dtype: type) -> None:
    path = write_itk(tmp_path / f"x{ending}", voxels(dtype))
    volume, header = read_volume(path), read_header(path)
    np.testing.assert_array_equal(volume.array, voxels(dtype))
    assert volume.array.dtype == header.dtype == dtype
    assert header.shape == volume.array.shape
    assert header.channels == 1
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(header.affine, volume.affine, atol=1e-5)
    np.testing.assert_allclose(volume.spacing, (1, 2, 3), atol=1e-5)


@pytest.mark.parametrize("ending", [*FORMATS[:4], ".gipl"])
def test_a_truncated_file_is_never_read(tmp_path: Path, ending: str) -> None:
    path = write_itk(tmp_path / f"x{ending}", voxels(np.float32, (9, 9, 9)))
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(Unreadable, match="truncated") as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_a_flipped_byte_in_compressed_data_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    write_nifti(path, voxels(), OBLIQUE)
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(Unreadable, match="damaged file"):
        read_volume(path)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", gzip.compress(b"text" * 200)], ids=["nothing", "a page", "zipped text"]
)
def test_what_is_no_nifti_is_called_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    for read in (read_volume, read_header):
        with pytest.raises(Unreadable, match="not a NIfTI file"):
            read(path)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    for read in (read_volume, read_header):
        with pytest.raises(BadInput, match=f"{name}: file cannot be opened"):
            read(tmp_path / name)


def test_an_uncompressed_file_named_gz_is_read(tmp_path: Path) -> None:
    write_nifti(tmp_path / "x.nii", voxels(), OBLIQUE)
    renamed = (tmp_path / "x.nii").rename(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_volume(renamed).array, voxels())
    assert read_header(renamed).shape == (5, 6, 7)


def test_two_dimensional_images_are_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(voxels(shape=(5, 6)), np.eye(4)), tmp_path / "flat.nii.gz")
    nib.save(nib.Nifti1Image(voxels(shape=(5, 6, 1)), np.eye(4)), tmp_path / "slice.nii.gz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels(np.uint8, (5, 6))), str(tmp_path / "x.png"))
    for name in ("flat.nii.gz", "slice.nii.gz", "x.png"):
        for read in (read_volume, read_header):
            with pytest.raises(Unreadable) as caught:
                read(tmp_path / name)
            assert caught.value.fault == TWO_DIMENSIONAL


def test_channels_of_4d_and_vector_files(tmp_path: Path) -> None:
    stack = voxels(np.float32, (4, 5, 6, 3))
    nib.save(nib.Nifti1Image(stack, OBLIQUE), tmp_path / "4d.nii.gz")
    nib.save(nib.Nifti1Image(stack[:, :, :, None], OBLIQUE), tmp_path / "5d.nii.gz")
    write_itk(tmp_path / "v.nrrd", np.moveaxis(stack, -1, 0), vector=True)
    for name in ("4d.nii.gz", "5d.nii.gz", "v.nrrd"):
        assert read_header(tmp_path / name).channels == 3
        for channel in range(3):
            volume = read_volume(tmp_path / name, channel)
            np.testing.assert_array_equal(volume.array, stack[..., channel], err_msg=name)
        with pytest.raises(Unreadable, match="3 channel"):
            read_volume(tmp_path / name, 3)


def test_scaled_values_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "x.nii.gz")
    stored = nib.load(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "x.nii.gz").array, stored.get_fdata())


def test_colour_and_sheared_and_flat_affines_are_refused(tmp_path: Path) -> None:
    colour = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "rgb.nii")
    sheared = np.eye(4)
    sheared[1, 2] = 0.4
    image = nib.Nifti1Image(voxels(), sheared)
    nib.save(image, tmp_path / "tilt.nii")
    for name, fault in (("rgb.nii", "unsupported voxel type"), ("tilt.nii", "sheared voxel axes")):
        for read in (read_volume, read_header):
            with pytest.raises(Unreadable) as caught:
                read(tmp_path / name)
            assert caught.value.fault == fault
    with pytest.raises(Unreadable, match="unusable affine"):
        write_nifti(tmp_path / "y.nii", voxels(), np.full((4, 4), np.nan))


def test_tiff_takes_its_spacing_from_the_file_beside_it(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "case_0000.tif", voxels(np.uint8))
    (tmp_path / "case.json").write_text('{"spacing": [5.0, 0.5, 0.25]}')
    assert read_volume(path).spacing == (0.25, 0.5, 5.0)
    np.testing.assert_allclose(np.abs(np.diag(read_header(path).affine)[:3]), (0.25, 0.5, 5.0))
    (tmp_path / "case.json").write_text('{"spacing": 5}')
    with pytest.raises(Unreadable, match=r"case\.json"):
        read_volume(path)


def test_hash_covers_detached_voxels(tmp_path: Path) -> None:
    path = write_itk(tmp_path / "x.mhd", voxels())
    before = read_file(path).sha256
    raw = bytearray((tmp_path / "x.raw").read_bytes())
    raw[0] ^= 1
    (tmp_path / "x.raw").write_bytes(bytes(raw))
    assert read_file(path).sha256 != before


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    ids = np.array([[[0, 1], [2, 300]]] * 2)
    for stored, dtype in ((ids.clip(0, 9), np.uint8), (ids, np.int16)):
        write_nifti(tmp_path / "l.nii.gz", stored.astype(np.float32), np.eye(4))
        label = read_label(tmp_path / "l.nii.gz")
        assert label.array.dtype == dtype
        np.testing.assert_array_equal(label.array, stored)
    for bad in (0.5, np.nan, np.inf, -1.0, 40000.0):
        with pytest.raises(Unreadable, match="label"):
            whole_numbers(Path("l.nii"), np.full((2, 2, 2), bad, dtype=np.float32))
    nib.save(nib.Nifti1Image(voxels(np.uint8, (3, 3, 3, 2)), np.eye(4)), tmp_path / "two.nii")
    with pytest.raises(Unreadable, match="several channels"):
        read_label(tmp_path / "two.nii")


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    dtype: type,
    spacing: tuple[float, float, float],
) -> None:
    path = tmp_path_factory.mktemp("w") / "x.nii.gz"
    affine = OBLIQUE @ np.diag([*spacing, 1])
    array = voxels(dtype, shape)
    write_nifti(path, array, affine)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-5, atol=1e-5)
    itk = SimpleITK.ReadImage(str(path))
    np.testing.assert_allclose(itk.GetSpacing(), volume.spacing, rtol=1e-4)


def test_written_header_is_clean_and_bytes_repeat(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, voxels(), OBLIQUE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    assert not header.extensions
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        assert bytes(header[field].tobytes()).strip(b"\0") == b""


def test_writing_refuses_what_would_change_values(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="do not fit uint8"):
        write_nifti(tmp_path / "x.nii", np.full((2, 2, 2), 256), np.eye(4), dtype=np.uint8)
    with pytest.raises(BadInput, match="do not fit int16"):
        write_nifti(tmp_path / "x.nii", np.full((2, 2, 2), 0.5), np.eye(4), dtype=np.int16)
    with pytest.raises(BadInput, match="do not fit uint8"):
        write_nifti(tmp_path / "x.nii", np.full((2, 2, 2), np.nan), np.eye(4), dtype=np.uint8)
    with pytest.raises(BadInput, match=r"ending in \.nii"):
        write_nifti(tmp_path / "x.mha", voxels(), np.eye(4))
    with pytest.raises(BadInput, match="no volume"):
        write_nifti(tmp_path / "x.nii", voxels(shape=(3, 3)), np.eye(4))
    assert list(tmp_path.iterdir()) == []
    write_nifti(tmp_path / "x.nii", np.ones((2, 2, 2), dtype=bool), np.eye(4))
    assert read_volume(tmp_path / "x.nii").array.dtype == np.uint8


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.nii"
    write_nifti(path, voxels(), OBLIQUE)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_nifti(path, voxels() + 1, OBLIQUE)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.nii"]


def test_the_error_survives_a_process_boundary() -> None:
    error = Unreadable(Path("a.nii"), "fault", "found", "expected", "remedy")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.fault, again.path) == (str(error), "fault", Path("a.nii"))
