"""A `source`: a checked dataset. The catalog holds what it consists of; its files stay where they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from data_catalog import Artifact, Catalog
from gem3d_core.errors import BadInput
from gem3d_core.scans.volumes import Volume, VolumeFile, read_file, whole_numbers
from gem3d_core.spec.terms import LabelIds, Modality
from tasks.artifacts.files import CASES, read_rows
from tasks.artifacts.seen import SeenFiles

FAULTS = "faults.parquet"
"""File of a source: what is wrong with the cases that were left out."""


@dataclass(frozen=True)
class SourceCase:
    """One sound case of the source and the hashes under which it was checked; paths are relative to the dataset."""

    case: str
    patient: str
    image: str
    label: str
    channel: int
    dtype: str
    image_sha256: str
    label_sha256: str


@dataclass(frozen=True)
class Source:
    """A checked dataset. folder: where it lies now; none: its files are looked for where this machine saw them."""

    artifact: Artifact
    cases: Mapping[str, SourceCase]
    folder: Path | None
    seen: SeenFiles

    @property
    def modality(self) -> Modality:
        """What the intensities mean."""
        return cast("Modality", str(self.artifact.meta["modality"]).lower())  # version 0.1.0 wrote capitals

    @property
    def channel(self) -> str:
        """Name of the image channel."""
        return str(self.artifact.meta["channel"])

    @property
    def licence(self) -> str:
        """The licence of the dataset; empty where dataset.json states none."""
        return str(self.artifact.meta["licence"])

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
    def label_names(self) -> dict[int, str]:
        """Names of single labels by their ids, without background and regions."""
        return {ids: name for name, ids in self.labels.items() if isinstance(ids, int) and ids}

    @property
    def regions_class_order(self) -> tuple[int, ...] | None:
        """As in dataset.json."""
        order = cast("list[int] | None", self.artifact.meta["regions_class_order"])
        return tuple(order) if order else None

    def image(self, name: str) -> Volume:
        """A case's image as it was checked, (X, Y, Z) in file order. Raises BadInput where it is not there any more."""
        case = self.cases[name]
        return self._read(case.image, case.image_sha256).volume(case.channel)

    def label(self, name: str) -> Volume:
        """A case's integer label map as it was checked. Raises as `image`."""
        case = self.cases[name]
        file = self._read(case.label, case.label_sha256)
        return Volume(whole_numbers(file.path, file.voxels[..., 0]), file.affine)

    def _read(self, relative: str, sha256: str) -> VolumeFile:
        """The file of a hash: in the dataset's folder, else wherever this machine saw it."""
        here = None if self.folder is None else self.folder / relative
        path = here if here is not None and here.is_file() else self.seen.find(sha256)
        if path is None:
            raise BadInput(
                f"{relative} of {self.artifact.name} (sha256 {sha256[:12]}) is not at hand: name the dataset's folder, "
                "as an argument or by GEM3D_DATASET"
            )
        file = read_file(path)
        if file.sha256 != sha256:
            raise BadInput(
                f"{path} has changed since it was checked (sha256 {file.sha256[:12]}, expected {sha256[:12]}): "
                "give the same command again, which checks and records the dataset anew"
            )
        return file


def open_source(catalog: Catalog, artifact: Artifact, folder: str | None = None) -> Source:
    """A `source` artifact, its files in `folder`."""
    rows = read_rows(catalog.path(artifact, CASES))
    cases = {str(row["case"]): SourceCase(**{n: row[n] for n in SourceCase.__annotations__}) for row in rows}  # type: ignore[arg-type]  # Parquet's own types
    return Source(artifact, cases, None if folder is None else Path(folder), SeenFiles.beside(catalog))
