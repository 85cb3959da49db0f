import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from gem3d_core.scans.check import CaseFacts, check_case, check_dataset
from gem3d_core.scans.dataset import open_dataset
from gem3d_core.scans.volumes import write_nifti

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the project")

AFFINE = np.array([[0, 0, 2.0, -10], [-1.5, 0, 0, 5], [0, 1.0, 0, 3], [0, 0, 0, 1]])
SHAPE = (6, 7, 8)

# what FAULTS.json calls it -> how the report begins to name it
NAMES = {
    "truncated image": ("truncated file", "imagesTr"),
    "label of another shape": ("label of another shape", "labelsTr"),
    "label of another affine": ("label of another affine", "labelsTr"),
    "label id not in dataset.json": ("label id not in dataset.json", "labelsTr"),
    "empty label": ("empty label", "labelsTr"),
    "NaN in image": ("NaN in image", "imagesTr"),
    "constant image": ("constant image", "imagesTr"),
    "image without label": ("image without label", "imagesTr"),
    "label without image": ("label without image", "labelsTr"),
    "two-dimensional image": ("two-dimensional image", "imagesTr"),
    "two channels in one file": ("several channels in one file", "imagesTr"),
    "not a NIfTI file": ("not a NIfTI file", "imagesTr"),
    "fractional labels": ("fractional labels", "labelsTr"),
}


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def label() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.float32)
    mask[2:4, 2:4, 2:4] = 1
    mask[4, 4, 4:6] = 2
    return mask


def dataset_of(root: Path, image_: np.ndarray, label_: np.ndarray, label_affine: np.ndarray = AFFINE) -> Path:
    write_nifti(root / "imagesTr/c_0000.nii.gz", image_, AFFINE)
    write_nifti(root / "labelsTr/c.nii.gz", label_, label_affine)
    declared = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(declared))
    return root


def faults_of(root: Path) -> list[str]:
    return [fault.fault for fault in check_dataset(open_dataset(root))[1]]


@needs_shared
def test_every_fault_of_the_bad_inputs_is_named_once() -> None:
    root = SHARED / "Dataset120_BadInputs"
    known = json.loads((root / "FAULTS.json").read_text())
    facts, faults = check_dataset(open_dataset(root))
    wanted = {case: NAMES[what] for case, what in known.items() if what in NAMES}
    assert len(wanted) == 13
    assert {f.case: (f.fault, f.file.split("/")[0]) for f in faults} == wanted
    assert len(faults) == 13
    assert {f"{fact.case}.nii.gz" for fact in facts} == {case for case, what in known.items() if what == "good"}
    for fault in faults:
        assert "\n" not in str(fault)
        for part in (fault.case, fault.file, fault.found, fault.expected, fault.remedy):
            assert part
            assert part in str(fault)


@needs_shared
def test_real_datasets_have_no_faults() -> None:
    for folder, cases in (("Task04_Hippocampus", 200), ("Dataset114_AbdomenCT", 1)):
        seen: list[tuple[int, int]] = []
        facts, faults = check_dataset(
            open_dataset(SHARED / folder), progress=lambda done, total, seen=seen: seen.append((done, total))
        )
        assert (len(facts), faults) == (cases, [])
        assert seen == [(i + 1, cases) for i in range(cases)]


def test_facts_of_a_sound_case(tmp_path: Path) -> None:
    root = dataset_of(tmp_path / "Dataset001_X", image(), label())
    (facts,), faults = check_dataset(open_dataset(root), workers=1)
    assert faults == []
    assert (facts.case, facts.patient, facts.channel, facts.shape) == ("c", "c", 0, SHAPE)
    assert facts.spacing == pytest.approx((1.5, 1.0, 2.0))
    np.testing.assert_allclose(np.reshape(facts.affine, (4, 4)), AFFINE, atol=1e-6)
    assert (facts.orientation, facts.dtype) == ("PSR", "float32")
    assert facts.label_voxels == {1: 8, 2: 2}
    assert facts.image_sha256 == hashlib.sha256(facts.image.read_bytes()).hexdigest()
    assert facts.label_sha256 == hashlib.sha256(facts.label.read_bytes()).hexdigest()


def test_workers_do_not_change_the_outcome(tmp_path: Path) -> None:
    root = dataset_of(tmp_path, image(), label())
    for i in range(5):
        write_nifti(root / f"imagesTr/d{i}_0000.nii.gz", image() + i, AFFINE)
        write_nifti(root / f"labelsTr/d{i}.nii.gz", label() * (i % 2), AFFINE)
    dataset = open_dataset(root)
    assert check_dataset(dataset, workers=1) == check_dataset(dataset, workers=4)
    assert [fault.case for fault in check_dataset(dataset)[1]] == ["d0", "d2", "d4"]


def test_independent_faults_of_a_case_are_all_listed(tmp_path: Path) -> None:
    bad = image()
    bad[0, 0, 0] = np.inf
    assert faults_of(dataset_of(tmp_path, bad, label() * 3)) == [
        "infinity in image",
        "label id not in dataset.json",
    ]
    assert faults_of(dataset_of(tmp_path, np.where(label() > 0, bad, np.nan), label()[:5])) == [
        "NaN in image",
        "label of another shape",
    ]


def test_a_file_that_cannot_be_read_hides_its_consequences(tmp_path: Path) -> None:
    root = dataset_of(tmp_path, image(), label()[:5])
    path = root / "labelsTr/c.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert faults_of(root) == ["truncated file"]


@pytest.mark.parametrize(("shift", "expected"), [(0.04, []), (0.08, ["label of another affine"])])
def test_grids_may_differ_by_a_twentieth_of_a_voxel(tmp_path: Path, shift: float, expected: list[str]) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += shift
    assert faults_of(dataset_of(tmp_path, image(), label(), moved)) == expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (label() * np.float32(1.0002), []),
        (label() * np.float32(1.3), ["fractional labels"]),
        (-label(), ["label id out of range"]),
        (label() * 0, ["empty label"]),
        (np.where(label() > 0, np.nan, 0).astype(np.float32), ["fractional labels"]),
    ],
)
def test_labels(tmp_path: Path, mask: np.ndarray, expected: list[str]) -> None:
    assert faults_of(dataset_of(tmp_path, image(), mask)) == expected


def test_decathlon_files_must_hold_the_declared_channels(tmp_path: Path) -> None:
    root = dataset_of(tmp_path, image(), label())
    (root / "imagesTr/c_0000.nii.gz").rename(root / "imagesTr/c.nii.gz")
    entries = [{"image": f"imagesTr/{c}.nii.gz", "label": f"labelsTr/{c}.nii.gz"} for c in ("c", "gone")]
    declared = {
        "modality": {"0": "FLAIR", "1": "T1"},
        "labels": {"0": "background", "1": "a", "2": "b"},
        "training": entries,
    }
    (root / "dataset.json").write_text(json.dumps(declared))
    assert faults_of_channel(root, "T1") == [
        ("c", "channels missing in file"),
        ("gone", "listed files missing"),
    ]


def faults_of_channel(root: Path, channel: str) -> list[tuple[str, str]]:
    return [(fault.case, fault.fault) for fault in check_dataset(open_dataset(root, channel=channel))[1]]


def test_one_case_alone(tmp_path: Path) -> None:
    dataset = open_dataset(dataset_of(tmp_path, image(), label()))
    assert isinstance(check_case(dataset, dataset.cases[0]), CaseFacts)
    dataset.cases[0].image.unlink()
    outcome = check_case(dataset, dataset.cases[0])
    assert isinstance(outcome, list)
    assert [fault.fault for fault in outcome] == ["file cannot be opened"]
