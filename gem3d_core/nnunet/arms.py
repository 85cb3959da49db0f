"""nnU-Net 2.8 as the planner of the true data and as the judge of every arm (paper, Table 4).

A workspace folder belongs to one content: each step leaves a finished product and is skipped when that is
there, so the caller names the folder by what goes in. Images are written in RAS order on an axis-aligned grid
(nnU-Net ignores directions), with the constant MRI background shifted to 0, which its crop looks for.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.files import read_json, write_json, write_text
from gem3d_core.nnunet.plans import PLANS_NAME, TRAINER, Plans, arm_plans, read_plans
from gem3d_core.nnunet.process import Workspace, run_step
from gem3d_core.prepare.geometry import canonical_array, canonical_spacing, orientation_of, source_array
from gem3d_core.prepare.outline import find_outline
from gem3d_core.scans.volumes import read_label, write_nifti
from gem3d_core.spec.nnunet import ArmSpec
from gem3d_core.spec.terms import Modality, modality_of

__all__ = [
    "ArmSpec",
    "Plans",
    "RawCase",
    "Workspace",
    "model_files",
    "plan",
    "predict_arm",
    "read_prediction",
    "train_arm",
    "write_images",
    "write_raw",
]

ENDING = ".nii.gz"
PLANNING = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints"
DIGEST = "arm.sha256"
EPOCH = re.compile(r"\bEpoch (\d+)\s")

Output = Callable[[str], None]


@dataclass(frozen=True)
class RawCase:
    """image, label (X, Y, Z) in source order (label None for a case to predict); affine 4x4 -> RAS mm."""

    case: str
    image: np.ndarray
    affine: np.ndarray
    label: np.ndarray | None = None


def write_raw(
    folder: Path,
    dataset_id: int,
    name: str,
    cases: Iterable[RawCase],
    *,
    labels: Mapping[str, int | Sequence[int]],
    channel_name: str,
    regions_class_order: Sequence[int] | None = None,
) -> Path:
    """A dataset in nnU-Net's raw layout under `folder`; returns DatasetNNN_NAME. Written dataset.json: skipped.

    labels and regions_class_order as in dataset.json. Raises BadInput for label ids that nnU-Net cannot train
    on (not 0..n-1 without regions), for a case without label and for a case named twice.
    """
    dataset = folder / f"Dataset{dataset_id:03d}_{name}"
    if read_json(dataset / "dataset.json") is not None:
        return dataset
    _check_labels(labels, regions_class_order)
    written: set[str] = set()
    for case in cases:
        if case.label is None or case.case in written:
            raise BadInput(f"case {case.case}: expected a label map, and each name once, to train nnU-Net")
        _write_case(dataset, case, case.label, modality_of(channel_name))
        written.add(case.case)
    content = {
        "channel_names": {"0": channel_name},
        "labels": dict(labels),
        "numTraining": len(written),
        "file_ending": ENDING,
    }
    regions = {} if regions_class_order is None else {"regions_class_order": list(regions_class_order)}
    write_json(dataset / "dataset.json", content | regions, indent=1)
    return dataset


def write_images(folder: Path, cases: Iterable[RawCase], channel_name: str) -> Path:
    """Images to predict, as nnU-Net names them, treated like those of `write_raw`; returns `folder`."""
    for case in cases:
        _write_image(folder / f"{case.case}_0000{ENDING}", case, modality_of(channel_name))
    return folder


def plan(work: Path, dataset_id: int, processes: int = 1, on_output: Output | None = None) -> Plans:
    """nnU-Net's fingerprint and plan of the one dataset `dataset_id` under work/raw.

    Skipped if both are there and finished. Raises Gem3dError when nnU-Net fails.
    """
    workspace = Workspace(work.resolve())
    folder = workspace.preprocessed / _dataset(workspace, dataset_id)
    finished, planned = folder / "planned.json", folder / "nnUNetPlans.json"
    if (content := read_json(finished)) is None:
        planned.unlink(missing_ok=True)  # nnU-Net would merge an unfinished one into the new
        environment = workspace.environment(workers=1, compiled=False)  # 0 workers breaks planning
        asked = ["-d", str(dataset_id), "-npfp", str(processes), "--clean", "--no_pp", "--no_pbar"]
        entry = (PLANNING, "plan_and_preprocess_entry")
        run_step(workspace, "plan", entry, asked, environment=environment, on_output=on_output)
        found = read_plans(planned.read_text(), (folder / "dataset_fingerprint.json").read_text())
        content = found.to_dict()
        write_json(finished, content)
    return Plans.from_dict(content)


def train_arm(
    work: Path,
    dataset_id: int,
    plans: Plans,
    spec: ArmSpec,
    on_epoch: Callable[[int, int], None] | None = None,
    threads: int = 1,
) -> Path:
    """Train nnU-Net on all of the dataset under work/raw by the given plans; returns the model's folder.

    Goes on from the last checkpoint after a kill; another plan or `spec` starts afresh. on_epoch gets (epochs
    done, epochs); threads: processes that preprocess. Raises Gem3dError when nnU-Net fails.
    """
    workspace = Workspace(work.resolve())
    dataset = _dataset(workspace, dataset_id)
    text = arm_plans(plans, dataset, spec)
    digest = hashlib.sha256((text + plans.fingerprint).encode()).hexdigest()
    _preprocess(workspace, dataset, plans, text, digest, threads)

    model = workspace.results / dataset / f"{TRAINER}__{PLANS_NAME}__{plans.configuration}"
    if _read(model / DIGEST) != digest:
        shutil.rmtree(model, ignore_errors=True)
        write_text(model / DIGEST, digest)
    for checkpoint in (model / "fold_all").glob("*.pth"):
        if not zipfile.is_zipfile(checkpoint):  # torn: nnU-Net would fail on it instead of using an older one
            checkpoint.unlink()
    if not (model / "fold_all" / "checkpoint_final.pth").exists():
        _place_trainer(workspace)
        asked = [dataset, plans.configuration, "all", "-tr", TRAINER, "-p", PLANS_NAME, "--c"]
        run_step(
            workspace,
            "train",
            ("nnunetv2.run.run_training", "run_training_entry"),
            [*asked, "-device", spec.device],
            environment=workspace.environment(workers=spec.workers, compiled=False),
            on_output=_epochs(spec.epochs, on_epoch) if on_epoch else None,
        )
    return model


def model_files(model: Path) -> dict[str, Path]:
    """The files in the folder of `train_arm` that `predict_arm` reads, by their names within it."""
    names = ("plans.json", "dataset.json", DIGEST, "fold_all/checkpoint_final.pth")
    return {name: model / name for name in names}


def predict_arm(
    work: Path, model: Path, images: Path, out: Path, spec: ArmSpec, on_output: Output | None = None, threads: int = 1
) -> dict[str, Path]:
    """Predict every image of the folder with the model of `train_arm`; returns the label map of each case.

    Finished predictions of the same model are kept. Label maps lie on the written images' RAS grid: bring them
    back with `read_prediction`. threads: of the processes that read and write, which are half as many each. Raises
    Gem3dError when nnU-Net fails or leaves a case out.
    """
    workspace = Workspace(work.resolve())
    expected = {f.name.removesuffix(f"_0000{ENDING}") for f in images.glob(f"*_0000{ENDING}")}
    files = {case: out / f"{case}{ENDING}" for case in sorted(expected)}
    _drop_stale(out, files.values(), _read(model / DIGEST))
    if all(file.exists() for file in files.values()):
        return files
    _place_trainer(workspace)
    asked = ["-i", str(images.resolve()), "-o", str(out.resolve()), "-m", str(model.resolve()), "-f", "all"]
    asked += ["-device", spec.device]
    each = str(max(1, threads // 2))
    asked += ["-npp", each, "-nps", each, "--continue_prediction", "--disable_progress_bar"]
    run_step(
        workspace,
        "predict",
        ("nnunetv2.inference.predict_from_raw_data", "predict_entry_point_modelfolder"),
        asked if spec.mirroring else [*asked, "--disable_tta"],
        environment=workspace.environment(workers=1, compiled=False),
        on_output=on_output,
    )
    missing = [case for case, file in files.items() if not file.exists()]
    if missing:
        raise Gem3dError(f"nnU-Net predicted nothing for {', '.join(missing)}; see {workspace.logs}/predict.log")
    return files


def read_prediction(path: Path, affine: NDArray[np.floating]) -> np.ndarray:
    """A predicted label map in the voxel order (X, Y, Z) of the source that has this affine."""
    return source_array(read_label(path).array, orientation_of(affine))


def _preprocess(workspace: Workspace, dataset: str, plans: Plans, text: str, digest: str, threads: int) -> None:
    folder = workspace.preprocessed / dataset
    if _read(folder / DIGEST) == digest:
        return
    write_text(folder / f"{PLANS_NAME}.json", text)
    write_text(folder / "dataset_fingerprint.json", plans.fingerprint)
    write_text(folder / "dataset.json", (workspace.raw / dataset / "dataset.json").read_text())
    asked = ["-d", str(int(dataset[7:10])), "-plans_name", PLANS_NAME, "-c", plans.configuration, "-np", str(threads)]
    environment = workspace.environment(workers=1, compiled=False)
    run_step(workspace, "preprocess", (PLANNING, "preprocess_entry"), asked, environment=environment)
    write_text(folder / DIGEST, digest)


def _dataset(workspace: Workspace, dataset_id: int) -> str:
    found = sorted(workspace.raw.glob(f"Dataset{dataset_id:03d}_*/dataset.json"))
    if len(found) != 1:
        raise Gem3dError(f"{workspace.raw}: {len(found)} datasets with id {dataset_id}; expected one by write_raw")
    return found[0].parent.name


def _write_case(dataset: Path, case: RawCase, label: np.ndarray, modality: Modality) -> None:
    _write_image(dataset / "imagesTr" / f"{case.case}_0000{ENDING}", case, modality)
    file = dataset / "labelsTr" / f"{case.case}{ENDING}"
    if not file.exists():
        write_nifti(file, canonical_array(label, orientation_of(case.affine)), _straight(case.affine))


def _write_image(file: Path, case: RawCase, modality: Modality) -> None:
    if not file.exists():
        image = canonical_array(case.image, orientation_of(case.affine)).astype(np.float32, copy=False)
        write_nifti(file, _shifted(image, modality), _straight(case.affine))


def _shifted(image: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
    """The image less its constant background (MRI); CT keeps its HU."""
    if modality == "ct":
        return image
    outline = find_outline(image, modality)
    return image - np.float32(outline.background) if outline.kind == "border-constant" else image


def _straight(affine: np.ndarray) -> NDArray[np.float64]:
    """The voxel sizes of the RAS array without its direction, which SimpleITK refuses when slightly sheared."""
    return np.diag([*canonical_spacing(affine), 1.0])


def _check_labels(labels: Mapping[str, int | Sequence[int]], order: Sequence[int] | None) -> None:
    ids = sorted({i for value in labels.values() for i in ([value] if isinstance(value, int) else value)})
    if order is None and ids != list(range(len(labels))):
        raise BadInput(f"labels {dict(labels)}: nnU-Net trains on ids 0..{len(labels) - 1}; renumber the masks")
    regions = [name for name, value in labels.items() if name != "ignore" and value not in (0, [0], (0,))]
    if order is not None and len(order) != len(regions):
        raise BadInput(f"regions_class_order {list(order)}: expected one id for each of {', '.join(regions)}")


def _place_trainer(workspace: Workspace) -> None:
    source = Path(__file__).with_name("trainer.py")
    write_text(workspace.trainer / "gem3d_trainer.py", source.read_text(encoding="utf-8"))


def _epochs(total: int, report: Callable[[int, int], None]) -> Output:
    def read(text: str) -> None:
        for done in EPOCH.findall(text)[-1:]:
            report(int(done), total)

    return read


def _drop_stale(out: Path, files: Iterable[Path], digest: str) -> None:
    """Remove predictions of another model, and the one that a kill cut short."""
    if _read(out / DIGEST) != digest:
        shutil.rmtree(out, ignore_errors=True)
        write_text(out / DIGEST, digest)
    for file in files:
        try:
            read_label(file)
        except BadInput:
            file.unlink(missing_ok=True)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
