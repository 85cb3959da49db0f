"""nnU-Net as a subprocess: what it is given, what it plans, and that nothing of it is lost or left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.nnunet import arms
from gem3d_core.nnunet.arms import (
    EPOCH,
    ArmSpec,
    Plans,
    RawCase,
    Workspace,
    plan,
    predict_arm,
    read_prediction,
    train_arm,
    write_images,
    write_raw,
)
from gem3d_core.nnunet.plans import arm_plans, read_plans
from gem3d_core.nnunet.process import run_step
from gem3d_core.scans.volumes import read_label, read_volume, write_nifti

ROOT = Path(__file__).resolve().parents[3]
HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
SAGITTAL = np.array([[0, 0, -2.0, 40], [1.0, 0, 0, -20], [0, -0.5, 0, 30], [0, 0, 0, 1]])
TINY = ArmSpec(iterations=2, epochs=2, batch_size=2, first_features=4, max_features=16, max_patch=16, mirroring=False)


def brain(background: float = -3.5) -> RawCase:
    image = np.full((10, 12, 8), background, np.float32)
    image[2:8, 3:9, 2:6] = np.linspace(0.5, 2, 144, dtype=np.float32).reshape(6, 6, 4)
    label = np.zeros(image.shape, np.uint8)
    label[3:5, 4:7, 3:5], label[5:7, 4:7, 3:5] = 1, 2
    return RawCase("brain", image, SAGITTAL, label)


def test_raw_dataset_is_canonical_with_the_background_at_zero(tmp_path: Path) -> None:
    case = brain()
    dataset = write_raw(tmp_path, 7, "Brain", [case], labels=LABELS, channel_name="FLAIR")
    image = read_volume(dataset / "imagesTr" / "brain_0000.nii.gz")
    label = read_label(dataset / "labelsTr" / "brain.nii.gz")

    assert dataset.name == "Dataset007_Brain"
    assert np.allclose(image.affine, np.diag([2.0, 1.0, 0.5, 1.0]))
    assert image.array.shape == label.array.shape == (8, 10, 12)
    assert image.array[0, 0, 0] == 0
    assert (image.array != 0).sum() == 144
    assert image.array.max() == pytest.approx(5.5)
    assert sorted(np.unique(label.array)) == [0, 1, 2]
    assert json.loads((dataset / "dataset.json").read_text()) == {
        "channel_names": {"0": "FLAIR"},
        "labels": LABELS,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    back = read_prediction(dataset / "labelsTr" / "brain.nii.gz", case.affine)
    assert np.array_equal(back, case.label)


def test_ct_keeps_its_hu_and_regions_are_passed_on(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    dataset = write_raw(tmp_path, 8, "CT", [brain(-1000)], labels=labels, channel_name="CT", regions_class_order=[1, 2])
    assert read_volume(dataset / "imagesTr" / "brain_0000.nii.gz").array.min() == -1000
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["regions_class_order"] == [1, 2]
    assert content["labels"] == labels


def test_a_finished_dataset_is_not_read_again(tmp_path: Path) -> None:
    first = write_raw(tmp_path, 7, "Brain", [brain()], labels=LABELS, channel_name="T1")

    def exploding() -> Iterator[RawCase]:
        raise AssertionError("read again")
        yield

    assert write_raw(tmp_path, 7, "Brain", exploding(), labels=LABELS, channel_name="T1") == first


def test_what_nnunet_cannot_train_on_is_refused(tmp_path: Path) -> None:
    def write(cases: list[RawCase], labels: dict[str, int | list[int]], order: list[int] | None = None) -> Path:
        return write_raw(tmp_path, 9, "Bad", cases, labels=labels, channel_name="T1", regions_class_order=order)

    with pytest.raises(BadInput, match="renumber"):
        write([brain()], {"background": 0, "tumour": 4})
    with pytest.raises(BadInput, match="regions_class_order"):
        write([brain()], LABELS, [1])
    ignoring = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    with pytest.raises(BadInput, match="one id for each of whole, core"):
        write([brain()], ignoring, [1, 2, 3])
    with pytest.raises(BadInput, match="each name once"):
        write([brain(), brain()], LABELS)
    with pytest.raises(BadInput, match="expected a label map"):
        write([replace(brain(), case="other", label=None)], LABELS)


def planned(spacing: list[float], patch: list[int], backward: list[int]) -> str:
    architecture = {"n_stages": 4, "features_per_stage": [32, 64, 128, 256], "strides": [], "kernel_sizes": []}
    fullres = {"spacing": spacing, "patch_size": patch, "batch_size": 6, "data_identifier": "nnUNetPlans"}
    content = {
        "transpose_backward": backward,
        "original_median_spacing_after_transp": [5.0, 2.0, 1.0],
        "configurations": {
            "2d": {"spacing": spacing[1:]},
            "3d_fullres": fullres | {"architecture": {"arch_kwargs": architecture}},
        },
    }
    return json.dumps(content)


def test_target_spacing_is_given_in_ras_order() -> None:
    # nnU-Net read (z, y, x) = (1, 2, 5) and put the coarse x first: transpose_forward is (2, 0, 1)
    text = planned([5.0, 1.0, 2.0], [16, 32, 32], [1, 2, 0])
    found = read_plans(text, "{}")
    assert found.configuration == "3d_fullres"
    assert found.spacing == (5.0, 2.0, 1.0)
    assert Plans.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_without_3d_fullres_the_2d_plan_serves_and_it_is_said() -> None:
    content = json.loads(planned([5.0, 2.0, 1.0], [16, 32, 32], [0, 1, 2]))
    del content["configurations"]["3d_fullres"]
    found = read_plans(json.dumps(content), "{}")
    assert found.configuration == "2d"
    assert found.spacing == (1.0, 2.0, 5.0)
    assert "no 3d_fullres" in found.note
    with pytest.raises(Gem3dError, match="expected 3d_fullres or 2d"):
        read_plans(json.dumps(content | {"configurations": {}}), "{}")


@pytest.mark.parametrize("longest", [8, 15, 20, 21, 33, 64])
def test_an_arm_changes_what_it_says_and_nothing_else(longest: int) -> None:
    found = read_plans(planned([1.0, 1.0, 1.0], [40, 56, 40], [0, 1, 2]), "{}")
    spec = replace(TINY, max_patch=longest)
    arm = json.loads(arm_plans(found, "Dataset001_Arm", spec))
    chosen = arm["configurations"]["3d_fullres"]
    architecture = chosen["architecture"]["arch_kwargs"]

    assert list(arm["configurations"]) == ["3d_fullres"]
    assert arm["dataset_name"] == "Dataset001_Arm"
    assert arm["gem3d"] == spec.to_dict()
    assert chosen["batch_size"] == 2
    assert max(chosen["patch_size"]) <= longest
    assert architecture["features_per_stage"] == [4, 8, 16, 16, 16][: architecture["n_stages"]]
    if longest < 56:
        pooled = np.prod(architecture["strides"], axis=0)
        assert (np.asarray(chosen["patch_size"]) % pooled == 0).all()
        assert len(architecture["strides"]) == architecture["n_stages"]
    untouched = json.loads(arm_plans(found, "Dataset001_Arm", ArmSpec()))["configurations"]["3d_fullres"]
    assert untouched["batch_size"] == 6
    assert untouched["architecture"]["arch_kwargs"]["features_per_stage"] == [32, 64, 128, 256]


@pytest.mark.parametrize(("field", "value"), [("epochs", 0), ("batch_size", 0), ("max_patch", 4)])
def test_an_arm_that_cannot_be_trained_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} {value}"):
        ArmSpec(**{field: value})


def modules(folder: Path, body: str) -> dict[str, str]:
    """An environment in which `fake.main` is what runs."""
    folder.mkdir(exist_ok=True)
    (folder / "fake.py").write_text(f"import os, sys, time\ndef main():\n    {body}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_a_failure_shows_the_last_lines(tmp_path: Path) -> None:
    environment = modules(tmp_path / "m", "print('reading ' + sys.argv[1]); raise ValueError('no such patch')")
    with pytest.raises(Gem3dError, match=r"(?s)nnU-Net: train ended with code 1.*reading it.*no such patch"):
        run_step(Workspace(tmp_path), "train", ("fake", "main"), ["it"], environment=environment)


def test_output_is_passed_on_and_success_is_silent(tmp_path: Path) -> None:
    heard: list[str] = []
    environment = modules(tmp_path / "m", "print('Epoch 3 ')")
    run_step(Workspace(tmp_path), "s", ("fake", "main"), [], environment=environment, on_output=heard.append)
    assert "".join(heard) == "Epoch 3 \n"
    assert (tmp_path / "logs" / "s.log").read_text() == "Epoch 3 \n"


SLEEPERS = "os.fork(); open(sys.argv[1] + '/' + str(os.getpid()), 'w').close(); time.sleep(60)"


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_kill_9_of_the_caller_leaves_no_orphan(tmp_path: Path) -> None:
    environment = modules(tmp_path / "m", SLEEPERS)
    pids = tmp_path / "pids"
    pids.mkdir()
    program = (
        "import os, sys; from pathlib import Path; from gem3d_core.nnunet.process import *\n"
        "run_step(Workspace(Path(sys.argv[1])), 's', ('fake', 'main'), [sys.argv[2]], environment=os.environ)"
    )
    caller = subprocess.Popen([sys.executable, "-c", program, tmp_path, pids], env=environment)
    assert eventually(lambda: len(list(pids.iterdir())) == 2)
    started = [int(f.name) for f in pids.iterdir()]
    assert all(map(alive, started))

    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert eventually(lambda: not any(map(alive, started)))


def test_an_interruption_ends_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    environment = modules(tmp_path / "m", "print('up', flush=True); " + SLEEPERS)

    def interrupt(_: str) -> None:
        eventually(lambda: len(list(pids.iterdir())) == 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(Workspace(tmp_path), "s", ("fake", "main"), [str(pids)], environment=environment, on_output=interrupt)
    started = [int(f.name) for f in pids.iterdir()]
    assert len(started) == 2
    assert eventually(lambda: not any(map(alive, started)))


def test_nothing_of_the_users_nnunet_reaches_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setenv("nnUNet_raw", "/elsewhere")
    environment = Workspace(tmp_path).environment(workers=0, compiled=False)
    assert environment["nnUNet_raw"] == str(tmp_path / "raw")
    assert environment["nnUNet_compile"] == "f"
    assert "nnUNet_wandb_enabled" not in environment


@dataclass(frozen=True)
class Planned:
    work: Path
    plans: Plans


def hippocampus(count: int) -> Iterator[RawCase]:
    for file in sorted((HIPPOCAMPUS / "imagesTr").glob("hippocampus_*.nii.gz"))[:count]:
        image = read_volume(file)
        label = read_label(HIPPOCAMPUS / "labelsTr" / file.name).array
        yield RawCase(file.name.removesuffix(".nii.gz"), image.array, image.affine, label)


LONGER = replace(TINY, epochs=8)
"""Several times longer than it takes to see the first epoch's end and to kill."""


class KilledError(Exception):
    """What stands for a kill in the middle of the training."""


def kill_after_the_first_epoch(done: int, total: int) -> None:
    assert total == LONGER.epochs
    if done >= 1:
        raise KilledError


@pytest.mark.slow
def test_plan_train_kill_resume_and_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not HIPPOCAMPUS.is_dir():
        pytest.skip("Task04_Hippocampus is not on this machine")
    import torch

    monkeypatch.chdir(tmp_path)
    work, whole = Path("killed"), Path("whole")  # relative: nnU-Net runs in another folder
    write_raw(work / "raw", 501, "Hippocampus", hippocampus(6), labels=LABELS, channel_name="MRI")
    plans = plan(work, 501)
    assert plans.configuration == "3d_fullres"
    assert plans.spacing == (1.0, 1.0, 1.0)
    assert json.loads(plans.fingerprint)["spacings"] == [[1.0, 1.0, 1.0]] * 6

    monkeypatch.setattr("gem3d_core.nnunet.process.POLL_SECONDS", 0.02)  # an epoch takes a tenth of a second
    with pytest.raises(KilledError):
        train_arm(work, 501, plans, LONGER, kill_after_the_first_epoch)
    shutil.copytree(work, whole, ignore=shutil.ignore_patterns("results"))
    told: list[int] = []
    resumed = train_arm(work, 501, plans, LONGER, lambda done, _: told.append(done))
    assert told[-1] == LONGER.epochs - 1
    trained = [int(epoch) for epoch in EPOCH.findall((work / "logs" / "train.log").read_text())]
    assert trained[0] >= 1
    assert trained == list(range(trained[0], LONGER.epochs))
    uninterrupted = train_arm(whole, 501, plans, LONGER)
    ours, theirs = (
        torch.load(model / "fold_all" / "checkpoint_final.pth", weights_only=False)["network_weights"]
        for model in (resumed, uninterrupted)
    )
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)

    images = write_images(Path("images"), hippocampus(2), "MRI")
    predicted = predict_arm(work, resumed, images, Path("out"), LONGER)
    for case in hippocampus(2):
        labels = read_prediction(predicted[case.case], case.affine)
        assert labels.shape == case.image.shape
        assert set(np.unique(labels)) <= {0, 1, 2}

    finished = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.is_file()}
    plan(work, 501)
    train_arm(work, 501, plans, LONGER)
    predict_arm(work, resumed, images, Path("out"), LONGER)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*") if file.is_file()} == finished


def test_a_prediction_that_a_kill_cut_short_is_not_kept(tmp_path: Path) -> None:
    """The rest is kept as it is; without a model the missing one cannot be made, and nnU-Net says so."""
    model, out = tmp_path / "model", tmp_path / "out"
    for folder in (model, out):
        folder.mkdir()
        (folder / "arm.sha256").write_text("same")
    images = write_images(tmp_path / "images", [replace(brain(), case="whole"), replace(brain(), case="cut")], "T1")
    write_nifti(out / "whole.nii.gz", np.ones((8, 10, 12), np.uint8), np.eye(4))
    (out / "cut.nii.gz").write_bytes((out / "whole.nii.gz").read_bytes()[:40])

    with pytest.raises(Gem3dError, match="nnU-Net: predict ended with code"):
        predict_arm(tmp_path, model, images, out, TINY)
    assert (out / "whole.nii.gz").exists()
    assert not (out / "cut.nii.gz").exists()


@pytest.mark.parametrize("left", [0, 9], ids=["empty", "torn"])
def test_what_a_power_cut_tore_is_made_again_and_nothing_else(
    left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    preprocessed = tmp_path / "preprocessed" / "Dataset001_Brain"
    fold = tmp_path / "results" / "Dataset001_Brain" / "Gem3dTrainer__gem3dPlans__3d_fullres" / "fold_all"

    def step(_workspace: Workspace, name: str, *_: object, **__: object) -> None:
        """What nnU-Net would leave."""
        steps.append(name)
        preprocessed.mkdir(parents=True, exist_ok=True)
        if name == "plan":
            (preprocessed / "nnUNetPlans.json").write_text(planned([1.0, 1.0, 1.0], [16, 16, 16], [0, 1, 2]))
            (preprocessed / "dataset_fingerprint.json").write_text("{}")
        if name == "train":
            fold.mkdir(parents=True, exist_ok=True)
            assert sorted(fold.glob("*.pth")) == [], "nnU-Net would go on from what is torn"
            with zipfile.ZipFile(fold / "checkpoint_final.pth", "w") as checkpoint:
                checkpoint.writestr("weights", "w" * 100)

    def run() -> Plans:
        write_raw(tmp_path / "raw", 1, "Brain", [brain()], labels=LABELS, channel_name="T1")
        plans = plan(tmp_path, 1)
        assert train_arm(tmp_path, 1, plans, TINY) == fold.parent
        return plans

    monkeypatch.setattr(arms, "run_step", step)
    first = run()
    markers = {
        tmp_path / "raw" / "Dataset001_Brain" / "dataset.json": [],
        preprocessed / "planned.json": ["plan"],
        preprocessed / "arm.sha256": ["preprocess"],
        fold / "checkpoint_final.pth": ["train"],
    }
    for marker, again in markers.items():
        steps.clear()
        whole = marker.read_bytes()
        marker.write_bytes(whole[:left])
        assert run() == first
        assert steps == again
        assert len(marker.read_bytes()) == len(whole)
    assert fold.exists()
