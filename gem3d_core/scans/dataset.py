"""What a segmentation dataset on disk consists of: Medical Segmentation Decathlon and nnU-Net v2 raw folders.

Only `dataset.json` and file names are read here; `check` opens the images.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gem3d_core.errors import BadInput
from gem3d_core.spec.terms import LabelIds, Modality, modality_of

Layout = Literal["msd", "nnunet"]
_Json = Mapping[str, object]


@dataclass(frozen=True)
class CaseFiles:
    """One training case: its patient, its two files, and which channel of the image file to read."""

    case: str
    patient: str
    image: Path
    label: Path
    channel: int


@dataclass(frozen=True)
class Dataset:
    """A dataset folder as its `dataset.json` and file names describe it; `cases` are sorted by name.

    `channel` is the index among the declared channels, `file_channels` how many of them share one file.
    `labels` are as declared, background included; a tuple is a region. The two last fields name the file that
    exists (or, listed by the Decathlon but absent like its partner, the image) of each incomplete pair.
    """

    root: Path
    name: str
    layout: Layout
    channel_name: str
    channel: int
    file_channels: int
    modality: Modality
    labels: Mapping[str, LabelIds]
    regions_class_order: tuple[int, ...] | None
    file_ending: str
    licence: str
    reference: str
    description: str
    cases: tuple[CaseFiles, ...]
    images_without_label: tuple[Path, ...]
    labels_without_image: tuple[Path, ...]

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The non-zero label ids that labels and regions name, ascending."""
        return tuple(i for i in _all_ids(self.labels) if i != 0)


@dataclass(frozen=True)
class _Pair:
    case: str
    image: Path
    label: Path


def plain_labels(labels: Mapping[str, LabelIds]) -> dict[str, int | list[int]]:
    """Labels as dataset.json states them: a region is a list."""
    return {name: list(ids) if isinstance(ids, tuple) else ids for name, ids in labels.items()}


def open_dataset(root: Path, *, channel: str | int | None = None, patient_pattern: str | None = None) -> Dataset:
    """Describe the dataset in `root`, reading one of its image channels.

    `channel` is a name (case ignored) or an index; needed where several are declared. `patient_pattern` is a
    regular expression whose first group, searched for in the case name, is the patient; without it every case
    is a patient of its own. Raises BadInput where folder, `dataset.json`, channel or pattern is at fault.
    """
    root = root.expanduser().resolve()
    declared = _read_json(root)
    layout = _layout(root, declared)
    names = _channel_names(root, declared, "channel_names" if layout == "nnunet" else "modality")
    labels = _labels(root, declared)
    index = _chosen_channel(root, names, channel)
    ending, pairs = _nnunet_pairs(root, declared, index) if layout == "nnunet" else _msd_pairs(root, declared)
    if not pairs:
        raise BadInput(f"{root}: no training case found; expected images in imagesTr and masks in labelsTr")

    complete = [p for p in pairs if p.image.is_file() and p.label.is_file()]
    in_file = index if layout == "msd" else 0
    return Dataset(
        root=root,
        name=re.sub(r"^(Task|Dataset)\d+_", "", root.name),
        layout=layout,
        channel_name=names[index],
        channel=index,
        file_channels=len(names) if layout == "msd" else 1,
        modality=modality_of(names[index]),
        labels=labels,
        regions_class_order=_regions_order(root, declared, labels),
        file_ending=ending,
        licence=_text(declared, "licence", "license"),
        reference=_text(declared, "reference"),
        description=_text(declared, "description"),
        cases=tuple(CaseFiles(p.case, _patient(p.case, patient_pattern), p.image, p.label, in_file) for p in complete),
        images_without_label=tuple(p.image for p in pairs if not p.label.is_file()),
        labels_without_image=tuple(p.label for p in pairs if p.label.is_file() and not p.image.is_file()),
    )


def _read_json(root: Path) -> _Json:
    path = root / "dataset.json"
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; give the folder of a dataset (TaskNN_Name or DatasetNNN_Name)")
    if not path.is_file():
        inside = sorted(p.parent.name for p in root.glob("*/dataset.json"))
        hint = f"did you mean one of its folders: {', '.join(inside)}" if inside else "add it"
        raise BadInput(f"{path}: missing; a dataset folder holds dataset.json, imagesTr and labelsTr; {hint}")
    try:
        declared = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{path}: not valid JSON ({error}); correct the file") from error
    if not isinstance(declared, dict):
        raise BadInput(f"{path}: found a {type(declared).__name__}, expected an object with labels and channels")
    return declared


def _layout(root: Path, declared: _Json) -> Layout:
    if "channel_names" in declared:
        return "nnunet"
    if "modality" in declared and "training" in declared:
        return "msd"
    raise BadInput(
        f"{root / 'dataset.json'}: found the keys {', '.join(sorted(declared)) or 'none'}; expected "
        "channel_names, labels and file_ending (nnU-Net v2) or modality, labels and training (Decathlon)"
    )


def _channel_names(root: Path, declared: _Json, key: str) -> tuple[str, ...]:
    names = declared[key]
    if isinstance(names, dict) and names and sorted(names) == sorted(str(i) for i in range(len(names))):
        return tuple(str(names[str(i)]) for i in range(len(names)))
    raise BadInput(f'{root / "dataset.json"}: {key} is {names!r}; expected a name by index, like {{"0": "MRI"}}')


def _chosen_channel(root: Path, names: Sequence[str], channel: str | int | None) -> int:
    choices = ", ".join(f"{name} ({i})" for i, name in enumerate(names))
    if channel is None:
        if len(names) > 1:
            raise BadInput(f"{root}: has {len(names)} channels; choose one by name or index: {choices}")
        return 0
    wanted = str(channel).strip()
    by_name = [i for i, name in enumerate(names) if name.casefold() == wanted.casefold()]
    if len(by_name) == 1:
        return by_name[0]
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    near = difflib.get_close_matches(wanted.casefold(), [n.casefold() for n in names], n=1, cutoff=0.4)
    hint = "".join(f"; did you mean {n}" for n in names if n.casefold() in near)
    what = "names several channels; choose by index" if by_name else "is none of the dataset's channels"
    raise BadInput(f"{root}: channel {channel!r} {what}: {choices}{hint}")


def _labels(root: Path, declared: _Json) -> dict[str, LabelIds]:
    path, found = root / "dataset.json", declared.get("labels")
    if not isinstance(found, dict) or not found:
        raise BadInput(f'{path}: labels is {found!r}; expected names and ids, like {{"background": 0, "liver": 1}}')
    by_id = all(key.isdecimal() for key in found)
    named = [(str(v), int(k)) if by_id else (k, v) for k, v in found.items()]
    labels = {name: _ids(path, name, value) for name, value in named}
    if len(labels) < len(named):
        raise BadInput(f"{path}: two labels share a name in {found!r}; give each its own")
    ids = _all_ids(labels)
    if ids != tuple(range(len(ids))) or len(ids) < 2:
        raise BadInput(
            f"{path}: label ids are {list(ids)}; nnU-Net needs 0 (background), 1, 2, ... without gaps "
            "and at least one structure; renumber the masks and dataset.json"
        )
    return labels


def _ids(path: Path, name: str, value: object) -> LabelIds:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, list) and value and all(type(i) is int for i in value):
        return tuple(value)
    raise BadInput(f"{path}: label {name!r} is {value!r}; expected a whole number or a list of them (a region)")


def _all_ids(labels: Mapping[str, LabelIds]) -> tuple[int, ...]:
    return tuple(sorted({i for ids in labels.values() for i in (ids if isinstance(ids, tuple) else (ids,))}))


def _regions_order(root: Path, declared: _Json, labels: Mapping[str, LabelIds]) -> tuple[int, ...] | None:
    if not any(isinstance(ids, tuple) and len(ids) > 1 for ids in labels.values()):
        return None
    regions = [name for name, ids in labels.items() if ids not in (0, (0,)) and name != "ignore"]
    order = declared.get("regions_class_order")
    if isinstance(order, list) and len(order) == len(regions) and all(type(i) is int for i in order):
        return tuple(order)
    raise BadInput(
        f"{root / 'dataset.json'}: regions_class_order is {order!r}; labels with regions need one id for each "
        f"of {', '.join(regions)}, in the order in which they are painted"
    )


def _text(declared: _Json, *keys: str) -> str:
    return next((str(declared[key]) for key in keys if declared.get(key)), "")


def _patient(case: str, pattern: str | None) -> str:
    if pattern is None:
        return case
    try:
        found = re.search(pattern, case)
    except re.error as error:
        raise BadInput(f"patient pattern {pattern!r} is no regular expression: {error}") from error
    if found is None or not found.re.groups or not found.group(1):
        raise BadInput(f"patient pattern {pattern!r} finds no patient in case {case!r}; its first group must")
    return found.group(1)


def _msd_pairs(root: Path, declared: _Json) -> tuple[str, list[_Pair]]:
    listed = declared["training"]
    if not isinstance(listed, list):
        raise BadInput(f"{root / 'dataset.json'}: training is no list; expected image and label of each case")
    ending, pairs = ".nii.gz", dict[str, _Pair]()
    for entry in listed:
        image, label = _msd_entry(root, entry)
        ending = _ending(image.name)
        case = image.name.removesuffix(ending)
        if case in pairs:
            raise BadInput(f"{root / 'dataset.json'}: case {case!r} is listed twice in training; remove one")
        pairs[case] = _Pair(case, image, label)
    return ending, [pairs[case] for case in sorted(pairs)]


def _msd_entry(root: Path, entry: object) -> tuple[Path, Path]:
    if isinstance(entry, dict):
        image, label = entry.get("image"), entry.get("label")
        if isinstance(image, str) and isinstance(label, str):
            return root / image, root / label
    raise BadInput(f"{root / 'dataset.json'}: training entry {entry!r}; expected the paths image and label")


def _ending(name: str) -> str:
    double = re.search(r"\.[A-Za-z]+\.gz$", name)
    return double.group(0) if double else Path(name).suffix


def _nnunet_pairs(root: Path, declared: _Json, channel: int) -> tuple[str, list[_Pair]]:
    ending = declared.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        path = root / "dataset.json"
        raise BadInput(f"{path}: file_ending is {ending!r}; expected the ending of the images, like .nii.gz")
    suffix = f"_{channel:04d}{ending}"
    images = {name.removesuffix(suffix) for name in _visible(root / "imagesTr") if name.endswith(suffix)}
    labels = {name.removesuffix(ending) for name in _visible(root / "labelsTr") if name.endswith(ending)}
    return ending, [
        _Pair(case, root / "imagesTr" / f"{case}{suffix}", root / "labelsTr" / f"{case}{ending}")
        for case in sorted(images | labels)
    ]


def _visible(folder: Path) -> Iterable[str]:
    """File names without what operating systems leave behind (.DS_Store, ._name)."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; a dataset holds dataset.json, imagesTr and labelsTr")
    return (p.name for p in folder.iterdir() if not p.name.startswith("."))
