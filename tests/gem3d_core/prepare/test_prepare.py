"""One case to prepared slices and back, on made-up and on real volumes."""

from pathlib import Path

import numpy as np
import pytest

from gem3d_core.errors import BadInput
from gem3d_core.prepare.case import PreparedCase, as_dtype, prepare_case, restore_image
from gem3d_core.prepare.geometry import canonical_spacing
from gem3d_core.prepare.resampling import from_slices
from gem3d_core.scans.volumes import Volume, read_label, read_volume
from gem3d_core.spec.prepare import IntensitySpec, PrepareSpec

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
SAGITTAL = np.array([[0, 0, -1.0, 40], [1.0, 0, 0, -20], [0, -1.0, 0, 30], [0, 0, 0, 1]])
WHOLE = PrepareSpec((32, 30), intensity=IntensitySpec(mri_percentiles=(0, 100)))


def head(affine: np.ndarray = SAGITTAL, dtype: type = np.int16) -> tuple[Volume, Volume]:
    """An ellipsoid of tissue on a constant background, with two labels in it."""
    x, y, z = np.indices((26, 28, 24)) - np.array([13, 14, 12])[:, None, None, None]
    radius = (x / 10) ** 2 + (y / 11) ** 2 + (z / 9) ** 2
    image = np.full(radius.shape, -3, dtype)
    image[radius < 1] = (300 * (1 - radius[radius < 1]) + 50).astype(dtype)
    label = np.zeros(radius.shape, np.uint8)
    label[radius < 0.3], label[radius < 0.1] = 2, 1
    return Volume(image, affine), Volume(label, affine)


def prepared(image: Volume, label: Volume, spec: PrepareSpec = WHOLE, modality: str = "mri") -> PreparedCase:
    return prepare_case(image, label, modality, canonical_spacing(image.affine), spec)


def labels_of(case: PreparedCase) -> np.ndarray:
    """The prepared mask on the source grid."""
    return case.geometry.uncropped(from_slices(case.geometry, case.mask, label=True), 0)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_there_and_back_is_exact_at_the_sources_spacing(dtype: type) -> None:
    image, label = head(dtype=dtype)
    case = prepared(image, label)
    back = restore_image(case.image, case.outline, case.geometry, case.intensity, np.dtype(dtype).name)

    assert case.outline_kind == "border-constant"
    assert case.notes == ()
    assert back.dtype == image.array.dtype
    np.testing.assert_allclose(back, image.array, atol=1e-4)
    assert np.array_equal(labels_of(case), label.array)


def test_what_is_prepared() -> None:
    image, label = head()
    case = prepared(image, label)
    z, height, width = case.image.shape

    assert (height, width) == WHOLE.slice_size
    assert z == case.geometry.crop_shape[2]
    assert case.image.dtype == np.float32
    assert case.mask.dtype == np.uint8
    assert case.outline.dtype == np.bool_
    assert (case.image[~case.outline] == -1).all()
    assert case.image.max() == 1
    assert not ((case.mask > 0) & ~case.outline).any()
    assert case.spacing == (1, 1, 1)


def test_coarser_slices_come_back_to_the_sources_grid() -> None:
    image, label = head(np.diag([-0.5, 0.5, 1.0, 1.0]))
    case = prepare_case(image, label, "mri", (1.0, 1.0, 1.0), PrepareSpec((16, 12), fit="pad"))
    back = restore_image(case.image, case.outline, case.geometry, case.intensity, "int16")
    labels = labels_of(case)

    assert case.spacing == pytest.approx((1.0, 1.0, 1.0), rel=0.1)
    assert back.shape == image.array.shape == labels.shape
    inside = image.array > 0
    assert float(np.abs(back - image.array)[inside].mean()) < 15  # of 350: an edge of one coarse voxel
    overlap = 2 * ((labels > 0) & (label.array > 0)).sum() / ((labels > 0).sum() + (label.array > 0).sum())
    assert overlap > 0.85  # the label is about five coarse voxels wide
    assert set(np.unique(labels)) == {0, 1, 2}
    assert (back[0] == -3).all()


def test_outside_the_outline_stands_the_background_whatever_the_slices_say() -> None:
    image, label = head()
    case = prepared(image, label)
    bright = restore_image(np.ones_like(case.image), case.outline, case.geometry, case.intensity)
    assert (bright[image.array == -3] == -3).all()
    assert (bright[image.array != -3] == case.intensity.high).all()


def test_a_label_on_the_background_extends_the_outline_and_is_told() -> None:
    image, label = head()
    label.array[0, 0, 0] = 1
    case = prepared(image, label)
    assert "1 labelled voxel(s) lie outside" in case.notes[0]
    assert case.geometry.crop[0][1] - case.geometry.crop[0][0] > 20
    assert np.array_equal(labels_of(case), label.array)


def test_ids_past_255_survive() -> None:
    image, label = head()
    wide = Volume(label.array.astype(np.int16) * 200, label.affine)
    case = prepared(image, wide)
    assert case.mask.dtype == np.int16
    assert np.array_equal(labels_of(case), wide.array)


def test_integers_are_rounded_and_kept_in_range() -> None:
    assert as_dtype(np.array([-5.0, 1.6, 300.0]), "uint8").tolist() == [0, 2, 255]
    assert as_dtype(np.array([4e9, -4e9], np.float32), "int32").tolist() == [2**31 - 1, -(2**31)]
    assert as_dtype(np.array([1.6]), "float32").tolist() == [pytest.approx(1.6)]


def test_what_cannot_be_prepared_is_refused() -> None:
    image, label = head()
    with pytest.raises(BadInput, match="same grid"):
        prepared(image, Volume(label.array[:-1], label.affine))
    with pytest.raises(BadInput, match="integers"):
        prepared(image, Volume(label.array.astype(np.float32), label.affine))
    broken = image.array.astype(np.float32)
    broken[3, 3, 3] = np.nan
    with pytest.raises(BadInput, match="1 voxel"):
        prepared(Volume(broken, image.affine), label)
    case = prepared(image, label)
    with pytest.raises(BadInput, match="another geometry"):
        restore_image(case.image[:-1], case.outline, case.geometry, case.intensity)


@pytest.mark.parametrize(
    ("folder", "case", "modality", "size"),
    [
        ("Task04_Hippocampus", "hippocampus_001", "mri", (64, 48)),
        ("Dataset114_AbdomenCT", "ct_0001", "ct", (96, 128)),
    ],
)
def test_real_cases_come_back(folder: str, case: str, modality: str, size: tuple[int, int]) -> None:
    root = DATA / folder
    if not root.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    image = read_volume(next((root / "imagesTr").glob(f"{case}*.nii.gz")))
    label = read_label(root / "labelsTr" / f"{case}.nii.gz")
    done = prepared(image, label, PrepareSpec(size), modality)
    kind = image.array.dtype.name
    back = restore_image(done.image, done.outline, done.geometry, done.intensity, kind)

    low, high = done.intensity.low, done.intensity.high
    inside = done.geometry.uncropped(from_slices(done.geometry, done.outline, label=True), 0)
    expected = as_dtype(np.where(inside, np.clip(image.array, low, high), done.intensity.background), kind)
    assert np.array_equal(back, expected)
    assert np.array_equal(labels_of(done), label.array)
