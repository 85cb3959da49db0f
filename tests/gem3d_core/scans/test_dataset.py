import json
from pathlib import Path

import pytest

from gem3d_core.errors import BadInput
from gem3d_core.scans.dataset import Dataset, open_dataset

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the project")

NNUNET: dict[str, object] = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "oedema": 1, "core": 2},
    "file_ending": ".nrrd",
}
MSD: dict[str, object] = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "tumour"},
    "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ("B_2", "B_1")],
}


def make(root: Path, declared: object, *files: str) -> Path:
    for name in ("imagesTr/.DS_Store", "labelsTr/._B_1.nii.gz", "imagesTr/notes.txt", *files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "dataset.json").write_text(declared if isinstance(declared, str) else json.dumps(declared))
    return root


def nnunet(root: Path, **changes: object) -> Path:
    files = [f"imagesTr/{case}_000{c}.nrrd" for case in ("p2_a", "p1_b", "p1_a") for c in (0, 1)]
    labels = [f"labelsTr/{case}.nrrd" for case in ("p1_a", "p1_b", "p2_a")]
    return make(root / "Dataset007_Two", NNUNET | changes, *files, *labels)


def msd(root: Path, **changes: object) -> Path:
    files = [f"{folder}/B_{i}.nii.gz" for folder in ("imagesTr", "labelsTr") for i in (1, 2)]
    return make(root / "Task01_Brain", MSD | changes, *files)


def test_nnunet_layout(tmp_path: Path) -> None:
    dataset = open_dataset(nnunet(tmp_path), channel="flair", patient_pattern=r"^(p\d)_")
    assert (dataset.layout, dataset.name, dataset.file_ending) == ("nnunet", "Two", ".nrrd")
    assert (dataset.channel, dataset.channel_name, dataset.modality) == (1, "FLAIR", "mri")
    assert [(c.case, c.patient) for c in dataset.cases] == [("p1_a", "p1"), ("p1_b", "p1"), ("p2_a", "p2")]
    assert {c.image.name for c in dataset.cases} == {f"{p}_0001.nrrd" for p in ("p1_a", "p1_b", "p2_a")}
    assert {c.channel for c in dataset.cases} == {0}
    assert dataset.file_channels == 1
    assert dataset.label_ids == (1, 2)
    assert dataset.regions_class_order is None
    assert (dataset.images_without_label, dataset.labels_without_image) == ((), ())


@pytest.mark.parametrize("channel", ["T2w", "t2W", 3, "3"])
def test_msd_layout_picks_a_channel_of_the_file(tmp_path: Path, channel: str | int) -> None:
    dataset = open_dataset(msd(tmp_path), channel=channel)
    assert (dataset.layout, dataset.name, dataset.channel_name) == ("msd", "Brain", "T2w")
    assert [(c.case, c.patient, c.channel) for c in dataset.cases] == [("B_1", "B_1", 3), ("B_2", "B_2", 3)]
    assert dataset.file_channels == 4
    assert dataset.labels == {"background": 0, "edema": 1, "tumour": 2}


@pytest.mark.parametrize("name", ["CT", "ct"])
def test_ct_is_told_by_the_channel_name(tmp_path: Path, name: str) -> None:
    assert open_dataset(nnunet(tmp_path, channel_names={"0": name})).modality == "ct"


def test_regions(tmp_path: Path) -> None:
    labels = {"background": 0, "whole tumour": [1, 2], "core": [2]}
    dataset = open_dataset(nnunet(tmp_path, labels=labels, regions_class_order=[1, 2]), channel=0)
    assert dataset.labels == {"background": 0, "whole tumour": (1, 2), "core": (2,)}
    assert dataset.regions_class_order == (1, 2)
    assert dataset.label_ids == (1, 2)
    for order in (None, [1], ["1", "2"]):
        with pytest.raises(BadInput, match="regions_class_order"):
            open_dataset(nnunet(tmp_path, labels=labels, regions_class_order=order), channel=0)


def test_incomplete_pairs_are_kept_apart(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    (root / "labelsTr/p1_a.nrrd").unlink()
    (root / "imagesTr/p2_a_0001.nrrd").unlink()
    dataset = open_dataset(root, channel=1)
    assert [c.case for c in dataset.cases] == ["p1_b"]
    assert [p.name for p in dataset.images_without_label] == ["p1_a_0001.nrrd"]
    assert [p.name for p in dataset.labels_without_image] == ["p2_a.nrrd"]

    root = msd(tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / "B_1.nii.gz").unlink()
    dataset = open_dataset(root, channel=0)
    assert [p.name for p in dataset.images_without_label] == ["B_1.nii.gz"]
    assert dataset.labels_without_image == ()


def test_several_channels_must_be_chosen_from(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"choose one .*T1 \(0\), FLAIR \(1\)"):
        open_dataset(nnunet(tmp_path))
    with pytest.raises(BadInput, match=r"'flare' .*did you mean FLAIR"):
        open_dataset(nnunet(tmp_path), channel="flare")
    with pytest.raises(BadInput, match="channel 2 is none"):
        open_dataset(nnunet(tmp_path), channel=2)
    with pytest.raises(BadInput, match="channel -1 is none"):
        open_dataset(nnunet(tmp_path), channel=-1)
    with pytest.raises(BadInput, match="by index"):
        open_dataset(nnunet(tmp_path, channel_names={"0": "T1", "1": "t1"}), channel="T1")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("{", "not valid JSON"),
        ([], "found a list"),
        ({"labels": {}}, "found the keys labels"),
        (NNUNET | {"labels": {}}, "labels is"),
        (NNUNET | {"labels": {"background": 0, "x": "one"}}, "label 'x' is 'one'"),
        (NNUNET | {"labels": {"background": 0, "x": True}}, "label 'x' is True"),
        (NNUNET | {"labels": {"background": 0, "x": 2}}, "without gaps"),
        (NNUNET | {"labels": {"background": 0}}, "at least one structure"),
        (NNUNET | {"channel_names": {"1": "T1"}}, "channel_names is"),
        (NNUNET | {"channel_names": ["T1"]}, "channel_names is"),
        (NNUNET | {"channel_names": {"0": "T1"}, "file_ending": 7}, "file_ending is 7"),
        (NNUNET | {"channel_names": {"0": "T1"}, "file_ending": ".mha"}, "no training case"),
        (MSD | {"modality": {"0": "CT"}, "training": {}}, "training is no list"),
        (MSD | {"modality": {"0": "CT"}, "training": ["a"]}, "training entry 'a'"),
        (MSD | {"modality": {"0": "CT"}, "training": [{"image": "a.nii", "label": "b.nii"}] * 2}, "listed twice"),
        (MSD | {"labels": {"0": "background", "1": "x", "2": "x"}, "modality": {"0": "CT"}}, "share a name"),
    ],
)
def test_a_faulty_description_is_named(tmp_path: Path, declared: object, message: str) -> None:
    root = make(tmp_path / "d", declared)
    (root / "labelsTr").mkdir(exist_ok=True)
    with pytest.raises(BadInput, match=message) as caught:
        open_dataset(root)
    assert str(root) in str(caught.value)


def test_missing_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    nnunet(tmp_path)
    with pytest.raises(BadInput, match="did you mean one of its folders: Dataset007_Two"):
        open_dataset(tmp_path)
    root = tmp_path / "empty"
    root.mkdir()
    (root / "dataset.json").write_text(json.dumps(NNUNET))
    with pytest.raises(BadInput, match="imagesTr: no such folder"):
        open_dataset(root, channel=0)


@pytest.mark.parametrize("pattern", ["(", "p", "^(q)", "^()"])
def test_patient_patterns_that_find_nobody(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(BadInput, match="patient"):
        open_dataset(nnunet(tmp_path), channel=0, patient_pattern=pattern)


@needs_shared
@pytest.mark.parametrize(
    ("folder", "name", "modality", "cases", "ids"),
    [
        ("Task04_Hippocampus", "Hippocampus", "mri", 200, (1, 2)),
        ("Dataset113_BraTS2013", "BraTS2013", "mri", 4, (1, 2, 3, 4)),
        ("Dataset114_AbdomenCT", "AbdomenCT", "ct", 1, (1, 2, 3, 4)),
        ("Dataset120_BadInputs", "BadInputs", "mri", 17, (1, 2)),
    ],
)
def test_real_datasets(folder: str, name: str, modality: str, cases: int, ids: tuple[int, ...]) -> None:
    dataset: Dataset = open_dataset(SHARED / folder)
    assert (dataset.name, dataset.modality, len(dataset.cases)) == (name, modality, cases)
    assert dataset.label_ids == ids
    assert all(case.image.is_file() and case.label.is_file() for case in dataset.cases)
