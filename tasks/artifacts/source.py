"""A `source`: a checked dataset, whose files are read as they were checked."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from data_catalog import Artifact, Catalog
from gem3d_core.errors import BadInput
from gem3d_core.machine.reading import BoundedCache, read_ahead
from gem3d_core.nnunet.arms import RawCase
from gem3d_core.scans.volumes import Volume, read_file, whole_numbers
from gem3d_core.spec.terms import Modality
from tasks.artifacts.files import CASES, read_rows
from tasks.artifacts.prepared import LabelIds


@dataclass(frozen=True)
class SourceCase:
    """One sound case of the source and the hashes under which it was checked."""

    case: str
    patient: str
    image: Path
    label: Path
    channel: int
    dtype: str
    image_sha256: str
    label_sha256: str

    def read_image(self) -> Volume:
        """The image as it was checked; raises BadInput when the file has changed since."""
        file = read_file(self.image)
        self._unchanged(self.image, file.sha256, self.image_sha256)
        return file.volume(self.channel)

    def read_label(self) -> Volume:
        """The integer label map as it was checked; raises BadInput when the file has changed since."""
        file = read_file(self.label)
        self._unchanged(self.label, file.sha256, self.label_sha256)
        return Volume(whole_numbers(self.label, file.voxels[..., 0]), file.affine)

    @staticmethod
    def _unchanged(path: Path, found: str, expected: str) -> None:
        if found != expected:
            raise BadInput(
                f"{path} has changed since it was checked (sha256 {found[:12]}, expected {expected[:12]}): "
                "give the same command again, which checks and records the dataset anew"
            )


@dataclass(frozen=True)
class Source:
    """A checked dataset."""

    artifact: Artifact
    cases: Mapping[str, SourceCase]

    @property
    def modality(self) -> Modality:
        """What the intensities mean."""
        return "ct" if self.artifact.meta["modality"] == "CT" else "mri"

    @property
    def channel(self) -> str:
        """Name of the image channel."""
        return str(self.artifact.meta["channel"])

    @property
    def labels(self) -> dict[str, LabelIds]:
        """Name to id, or to the ids of a region, as dataset.json orders them; background included."""
        stored = cast("list[tuple[str, int | list[int]]]", self.artifact.meta["labels"])
        return {name: tuple(ids) if isinstance(ids, list) else ids for name, ids in stored}

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Non-zero ids, ascending."""
        return tuple(cast("list[int]", self.artifact.meta["label_ids"]))

    @property
    def regions_class_order(self) -> tuple[int, ...] | None:
        """As in dataset.json."""
        order = cast("list[int] | None", self.artifact.meta["regions_class_order"])
        return tuple(order) if order else None


def open_source(catalog: Catalog, ref: str) -> Source:
    """A `source` artifact."""
    artifact = catalog.get(ref)
    rows = read_rows(catalog.path(artifact, CASES))
    cases = {}
    for row in rows:
        cases[str(row["case"])] = SourceCase(
            case=str(row["case"]),
            patient=str(row["patient"]),
            image=Path(str(row["image"])),
            label=Path(str(row["label"])),
            channel=cast("int", row["channel"]),
            dtype=str(row["dtype"]),
            image_sha256=str(row["image_sha256"]),
            label_sha256=str(row["label_sha256"]),
        )
    return Source(artifact, cases)


KeptCases = BoundedCache[tuple[Volume, Volume]]
"""Images and label maps of a source between two passes over it."""


def keep_cases() -> KeptCases:
    """Room for them."""
    return BoundedCache(lambda pair: pair[0].array.nbytes + pair[1].array.nbytes)


def raw_cases(source: Source, names: Iterable[str], threads: int, kept: KeptCases | None = None) -> Iterator[RawCase]:
    """Cases as nnU-Net takes them, in order, read by several threads and, where they are to be, kept."""

    def read(name: str) -> RawCase:
        image, label = source.cases[name].read_image(), source.cases[name].read_label()
        if kept is not None:
            kept.put(name, (image, label))
        return RawCase(name, image.array, image.affine, label.array)

    return read_ahead(read, names, threads)
