"""The faults of a dataset, found before any work, and the facts about each sound case that ingest stores.

A case gives one line for each cause, not for each consequence: a truncated image is not also of a wrong shape.
"""
# mypy: disallow-untyped-calls=False

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from gem3d_core.scans.dataset import CaseFiles, Dataset
from gem3d_core.scans.volumes import TWO_DIMENSIONAL, Unreadable, VolumeFile, read_file, spacing_of, whole_numbers

GRID_TOLERANCE = 0.05  # of a voxel: how far the corners of image and mask may lie apart


@dataclass(frozen=True)
class Fault:
    """One thing to mend: which case and file, what is wrong, what was found and expected, what to do."""

    case: str
    file: str
    fault: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.case}: {self.fault} ({self.file}): found {self.found}, expected {self.expected}; {self.remedy}"


@dataclass(frozen=True)
class CaseFacts:
    """A sound case. Shape in voxels and spacing in mm along the array axes; affine row-major, voxel to RAS mm.

    `channel` is the one inside the image file; `orientation` the axis codes ("RAS"); `dtype` the image's as read;
    `label_voxels` counts voxels of each label id that occurs, background apart.
    """

    case: str
    patient: str
    image: Path
    label: Path
    channel: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: tuple[float, ...]
    orientation: str
    dtype: str
    label_voxels: dict[int, int]
    image_sha256: str
    label_sha256: str


def check_dataset(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None, workers: int = 2
) -> tuple[list[CaseFacts], list[Fault]]:
    """Facts of the sound cases and every fault of the others, both sorted by case.

    `progress` is called with the cases done and their number. Workers are threads: nearly all of the time goes to
    decompression, hashing and numpy, which release the interpreter, and no process has to start.
    """
    facts, faults = list[CaseFacts](), list(_unpaired(dataset))
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        outcomes = pool.map(lambda case: check_case(dataset, case), dataset.cases)
        for done, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, CaseFacts):
                facts.append(outcome)
            else:
                faults.extend(outcome)
            if progress is not None:
                progress(done, len(dataset.cases))
    return facts, sorted(faults, key=lambda fault: (fault.case, fault.file))


def check_case(dataset: Dataset, case: CaseFiles) -> CaseFacts | list[Fault]:
    """The facts of one case, or what is wrong with it; each of its two files is read once."""
    faults = list[Fault]()
    image = label = counts = None
    with _noted(faults, dataset, case.case):
        image = _read(case.image, dataset.file_channels, "as dataset.json declares")
    with _noted(faults, dataset, case.case):
        label = _read(case.label, 1, "a map of label ids")
    if [fault.fault for fault in faults] == [TWO_DIMENSIONAL] * 2:
        return faults[:1]

    if image is not None:
        with _noted(faults, dataset, case.case):
            _sound_intensities(case.image, image.volume(case.channel).array)
    if label is not None:
        with _noted(faults, dataset, case.case):
            counts = _label_voxels(label, dataset.label_ids)
    if image is not None and label is not None:
        with _noted(faults, dataset, case.case):
            _same_grid(image, label)

    if faults or image is None or label is None or counts is None:
        return faults
    return _facts(case, image, label, counts)


@contextmanager
def _noted(faults: list[Fault], dataset: Dataset, case: str) -> Iterator[None]:
    try:
        yield
    except Unreadable as error:
        file = _relative(dataset, error.path)
        faults.append(Fault(case, file, error.fault, error.found, error.expected, error.remedy))


def _relative(dataset: Dataset, path: Path) -> str:
    return str(path.relative_to(dataset.root)) if path.is_relative_to(dataset.root) else str(path)


def _unpaired(dataset: Dataset) -> Iterator[Fault]:
    """Pairs of which a half, or for a Decathlon list both halves, do not exist."""
    remedy = "add the missing file, or take this one out of the dataset"
    channel = f"_{dataset.channel:04d}" if dataset.layout == "nnunet" else ""
    for image in dataset.images_without_label:
        case = image.name.removesuffix(channel + dataset.file_ending)
        if image.is_file():
            fault, found, expected = "image without label", "no mask", f"labelsTr/{case}{dataset.file_ending}"
        else:
            fault, found, expected = "listed files missing", "neither image nor mask", "both, as dataset.json"
        yield Fault(case, _relative(dataset, image), fault, found, expected, remedy)
    for label in dataset.labels_without_image:
        case = label.name.removesuffix(dataset.file_ending)
        expected = f"imagesTr/{case}{channel}{dataset.file_ending}"
        yield Fault(case, _relative(dataset, label), "label without image", "no image", expected, remedy)


def _read(path: Path, channels: int, why: str) -> VolumeFile:
    file = read_file(path)
    if file.channels != channels:
        fault = "several channels in one file" if file.channels > channels else "channels missing in file"
        remedy = "split the channels into one file each, or correct dataset.json"
        raise Unreadable(path, fault, f"{file.channels} channel(s)", f"{channels}, {why}", remedy)
    return file


def _sound_intensities(path: Path, voxels: np.ndarray) -> None:
    if voxels.dtype.kind == "f" and not (finite := np.isfinite(voxels)).all():
        name = "NaN" if np.isnan(voxels).any() else "infinity"
        found = f"{int((~finite).sum())} voxel(s) that are not finite"
        raise Unreadable(path, f"{name} in image", found, "finite numbers", "export the image again")
    if (low := voxels.min()) == voxels.max():
        remedy = "fetch or export this image again, or take the case out of the dataset"
        raise Unreadable(path, "constant image", f"{low:g} in every voxel", "an image with contrast", remedy)


def _label_voxels(label: VolumeFile, declared: tuple[int, ...]) -> dict[int, int]:
    """Voxels of each id that occurs, background apart."""
    ids = whole_numbers(label.path, label.voxels[..., 0])
    counts = np.bincount(ids.ravel(order="K"))
    found = {int(i): int(counts[i]) for i in np.flatnonzero(counts) if i != 0}
    if not found:
        remedy = "segment the case, or take it out of the dataset"
        raise Unreadable(label.path, "empty label", "background alone", f"some of {list(declared)}", remedy)
    if unknown := sorted(set(found) - set(declared)):
        remedy = "declare the id in dataset.json or correct the mask"
        expected = f"0 or one of {list(declared)}, as dataset.json declares"
        counted = ", ".join(f"{i} ({found[i]} voxels)" for i in unknown)
        raise Unreadable(label.path, "label id not in dataset.json", counted, expected, remedy)
    return found


def _same_grid(image: VolumeFile, label: VolumeFile) -> None:
    shape = image.voxels.shape[:3]
    remedy = "resample the mask onto the image's grid (nearest neighbour)"
    if label.voxels.shape[:3] != shape:
        found, expected = str(label.voxels.shape[:3]), f"{shape}, the image's shape"
        raise Unreadable(label.path, "label of another shape", found, expected, remedy)
    corners = np.array(list(product(*((0, n - 1) for n in shape), (1,))), dtype=np.float64)
    gap = float(np.linalg.norm(corners @ (label.affine - image.affine).T, axis=1).max())
    allowed = GRID_TOLERANCE * min(spacing_of(image.affine))
    if gap > allowed:
        found = f"corners up to {gap:.3g} mm from the image's"
        remedy = f"{remedy}, or copy the image's affine where the voxels do correspond"
        raise Unreadable(label.path, "label of another affine", found, f"at most {allowed:.3g} mm", remedy)


def _facts(case: CaseFiles, image: VolumeFile, label: VolumeFile, counts: dict[int, int]) -> CaseFacts:
    import nibabel as nib

    x, y, z = (int(n) for n in image.voxels.shape[:3])
    return CaseFacts(
        case=case.case,
        patient=case.patient,
        image=case.image,
        label=case.label,
        channel=case.channel,
        shape=(x, y, z),
        spacing=spacing_of(image.affine),
        affine=tuple(float(a) for a in image.affine.ravel()),
        orientation="".join(str(code) for code in nib.aff2axcodes(image.affine)),
        dtype=image.voxels.dtype.name,
        label_voxels=counts,
        image_sha256=image.sha256,
        label_sha256=label.sha256,
    )
