"""The outline on made-up volumes and on the real ones."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from gem3d_core.prepare.geometry import canonical_array, orientation_of
from gem3d_core.prepare.outline import bounding_box, find_outline
from gem3d_core.scans.volumes import read_volume

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def canonical(folder: str, name: str) -> np.ndarray:
    file = DATA / folder / "imagesTr" / name
    if not file.exists():
        pytest.skip(f"{file.name} is not on this machine")
    volume = read_volume(file)
    return canonical_array(volume.array, orientation_of(volume.affine))


def ball(radius: float = 8.0) -> np.ndarray:
    z, y, x = np.indices((24, 24, 24)) - 12
    return x**2 + y**2 + z**2 < radius**2


def test_mri_is_what_differs_from_the_border_with_holes_filled() -> None:
    image = np.full((24, 24, 24), -3.5, np.float32)
    image[ball()] = np.linspace(0, 1, ball().sum(), dtype=np.float32)
    image[ball(3.0)] = -3.5  # a ventricle of the background's very value
    found = find_outline(image, "mri")

    assert found.kind == "border-constant"
    assert found.background == -3.5
    assert found.note == ""
    assert np.array_equal(found.mask, ball())


def test_a_head_cut_by_one_face_is_found() -> None:
    image = np.zeros((24, 24, 24), np.int16)
    image[6:18, 6:18, :12] = 100
    found = find_outline(image, "mri")
    assert found.kind == "border-constant"
    assert np.array_equal(found.mask, image > 0)


def test_mri_without_constant_border_is_the_full_box_and_says_so() -> None:
    image = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    found = find_outline(image, "mri")
    assert found.kind == "full-box"
    assert found.mask.all()
    assert found.background == image.min()
    assert "no constant border" in found.note


@pytest.mark.parametrize("modality", ["mri", "ct"])
def test_an_empty_volume_is_the_full_box(modality: str) -> None:
    found = find_outline(np.full((5, 6, 7), -1000, np.int16), modality)
    assert found.kind == "full-box"
    assert found.mask.all()
    assert "full box" in found.note


def test_ct_is_the_largest_component_with_lungs_filled() -> None:
    image = np.full((24, 24, 24), -1000, np.int16)
    image[ball()], image[ball(4.0)] = 40, -800  # a lung inside
    image[0:2, 0:2, 0:2] = 200  # something on the table
    found = find_outline(image, "ct")

    assert found.kind == "body"
    assert found.background == -1000
    assert found.mask[12, 12, 12]
    assert not found.mask[0, 0, 0]
    assert np.array_equal(found.mask, binary_fill_holes(ball()))


@pytest.mark.parametrize("patient", ["0001", "0002", "0005", "0006"])
def test_brats_outline_is_a_tenth_to_a_fifth_of_the_voxels(patient: str) -> None:
    image = canonical("Dataset113_BraTS2013", f"brats_2013_pat{patient}_1_0000.nii.gz")
    found = find_outline(image, "mri")
    assert found.kind == "border-constant"
    assert found.background == image[0, 0, 0]
    assert 0.10 < found.mask.mean() < 0.20


def test_hippocampus_crop_has_no_outline() -> None:
    found = find_outline(canonical("Task04_Hippocampus", "hippocampus_001.nii.gz"), "mri")
    assert found.kind == "full-box"
    assert found.note


def test_abdomen_body_is_found() -> None:
    found = find_outline(canonical("Dataset114_AbdomenCT", "ct_0001_0000.nii.gz"), "ct")
    assert found.kind == "body"
    assert 0.3 < found.mask.mean() < 0.8
    assert -1100 < found.background < -900


def test_bounding_box() -> None:
    mask = np.zeros((5, 6, 7), np.bool_)
    mask[1:3, 2:6, 3] = True
    assert bounding_box(mask) == ((1, 3), (2, 6), (3, 4))
