import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from gem3d_core.errors import BadInput
from gem3d_core.scans.check import check_dataset
from gem3d_core.scans.dataset import open_dataset
from gem3d_core.scans.phantoms import CORE, OEDEMA, draw_phantom, write_cohort
from gem3d_core.scans.volumes import Volume


def canonical(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    return np.asarray(image.dataobj), image.affine


def hashes(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_cohort_is_a_sound_dataset_of_regions(tmp_path: Path) -> None:
    root = write_cohort(tmp_path, cases=8, size=40, seed=0)
    dataset = open_dataset(root)
    facts, faults = check_dataset(dataset)
    assert faults == []
    assert len(facts) == 8
    assert dataset.regions_class_order == (1, 2)
    assert dataset.labels == {"background": 0, "whole_tumour": (1, 2), "tumour_core": (2,)}
    assert {"RAS", "LPS", "PIR"} <= {fact.orientation for fact in facts}
    assert len({fact.shape for fact in facts}) > 4
    assert len({fact.spacing for fact in facts}) == 8
    assert {fact.dtype for fact in facts} == {"int16", "float32"}
    oblique = [np.abs(np.reshape(f.affine, (4, 4))[:3, :3]) for f in facts]
    assert any((a.max(axis=0) < 0.999 * a.sum(axis=0)).all() for a in oblique)


def test_the_same_seed_gives_the_same_bytes_whatever_the_length(tmp_path: Path) -> None:
    long, again = (hashes(write_cohort(tmp_path / n, cases=4, size=24, seed=5)) for n in "ab")
    assert long == again
    short = hashes(write_cohort(tmp_path / "c", cases=2, size=24, seed=5))
    assert {k: v for k, v in long.items() if k in short and k != "dataset.json"} == {
        k: v for k, v in short.items() if k != "dataset.json"
    }
    other = hashes(write_cohort(tmp_path / "d", cases=4, size=24, seed=6))
    assert not set(other.values()) & set(long.values())


def test_a_shorter_cohort_replaces_a_longer_one(tmp_path: Path) -> None:
    write_cohort(tmp_path, cases=3, size=24, seed=0)
    root = write_cohort(tmp_path, cases=2, size=24, seed=0)
    assert len(open_dataset(root).cases) == 2
    assert json.loads((root / "dataset.json").read_text())["numTraining"] == 2


@pytest.mark.parametrize("number", range(6))
def test_the_background_is_constant_and_the_head_one_piece(number: int) -> None:
    phantom = draw_phantom(number, size=40, seed=1)
    array = phantom.image.array
    border = array[0, 0, 0]
    head = array != border
    assert 0.15 < head.mean() < 0.5
    for axis in range(3):
        assert (np.take(array, [0, -1], axis) == border).all()
    pieces, count = ndimage.label(head)
    assert np.bincount(pieces.ravel())[1:].max() > 0.98 * head.sum()
    assert count < 40
    assert (head | (phantom.label.array == 0)).all()


@pytest.mark.parametrize("number", range(12))
def test_tissues_have_the_contrast_of_flair(number: int) -> None:
    phantom = draw_phantom(number, size=48, seed=2)
    image, label = phantom.image.array.astype(float), phantom.label.array
    head = image != image[0, 0, 0]
    tissue = np.median(image[head & (label == 0)])
    spread = image[head].std()
    assert np.median(image[label == OEDEMA]) > tissue + 1.2 * spread
    assert tissue < np.median(image[label == CORE]) < np.median(image[label == OEDEMA])
    assert np.percentile(image[head & (label == 0)], 2) < tissue - 0.5 * spread


def test_the_core_lies_inside_the_oedema_in_one_cerebral_hemisphere() -> None:
    for number in range(20):
        phantom = draw_phantom(number, size=32, seed=3)
        label, affine = canonical(phantom.label)
        assert (label == CORE).sum() >= 3
        assert (label == OEDEMA).sum() > (label == CORE).sum()
        grown = ndimage.binary_dilation(label == CORE)
        assert ((label > 0) & grown).sum() > 0.8 * grown.sum()
        x = (np.argwhere(label == CORE) * np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))[:, 0].mean()
        width = label.shape[0] * np.linalg.norm(affine[:3, 0])
        assert 12 < abs(x - width / 2) < 60


def test_ventricles_lie_in_the_middle_and_are_dark() -> None:
    for number in range(3):
        image, affine = canonical(draw_phantom(number, size=64, seed=4).image)
        x, y, z = np.round(np.linalg.inv(affine) @ [9, 0, 14, 1])[:3].astype(int)
        around = image[x - 3 : x + 4, y - 3 : y + 4, z - 2 : z + 3].astype(float)
        head = image[image != image[0, 0, 0]].astype(float)
        assert around.min() < np.percentile(head, 8)


def test_a_case_is_the_same_head_at_any_size() -> None:
    coarse, fine = (draw_phantom(0, size=size, seed=0) for size in (32, 64))
    volumes = [(p.label.array > 0).sum() * np.prod(p.label.spacing) for p in (coarse, fine)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.25)


def test_scanners_differ_in_contrast_and_scale() -> None:
    medians = [
        np.median(p.image.array[p.label.array == 0]) for p in (draw_phantom(n, size=24, seed=0) for n in range(3))
    ]
    assert len({draw_phantom(n, size=24, seed=0).scanner.name for n in range(3)}) == 3
    ranges = [np.ptp(draw_phantom(n, size=24, seed=0).image.array.astype(float)) for n in range(3)]
    assert ranges[1] > 3 * ranges[0] > 30 * ranges[2]
    assert medians[2] < 0


def test_sizes_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="0 cases"):
        write_cohort(tmp_path, cases=0, size=48, seed=0)
    with pytest.raises(BadInput, match="size 8"):
        write_cohort(tmp_path, cases=1, size=8, seed=0)
    assert list(tmp_path.iterdir()) == []
