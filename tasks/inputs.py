"""Artifacts as the stages read them: typed rows over the Parquet indexes, volumes over the NIfTI files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from pydantic import BaseModel, ConfigDict

from data_catalog import Artifact, Catalog
from gem3d_core.ahead import ahead
from gem3d_core.errors import BadInput
from gem3d_core.geometry import Geometry
from gem3d_core.intensity import IntensityMap
from gem3d_core.kept import Kept
from gem3d_core.nnunet import RawCase
from gem3d_core.prepare_spec import Modality
from gem3d_core.volumes import Volume, read_file, read_label, read_volume, whole_numbers

LabelIds = int | tuple[int, ...]


CASES = "cases.parquet"
"""File of a source, and of prepared data, with a row for every case."""


class DatasetRefs(BaseModel):
    """References to one dataset as it was read, prepared and encoded.

    A stage names those among its inputs that it reads: what lies between can be the same although they differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    prepared: str
    latents: str


def refs_behind(catalog: "Catalog", ref: str) -> DatasetRefs:
    """The dataset that an artifact was made from. Raises BadInput where the catalog does not hold it."""
    source, prepared, latents = (parent_of(catalog, ref, kind) for kind in ("source", "prepared", "latents"))
    return DatasetRefs(source=source, prepared=prepared, latents=latents)


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


KeptCases = Kept[tuple[Volume, Volume]]
"""Images and label maps of a source between two passes over it."""


def keep_cases() -> KeptCases:
    """Room for them."""
    return Kept(lambda pair: pair[0].array.nbytes + pair[1].array.nbytes)


def raw_cases(source: Source, names: Iterable[str], threads: int, kept: KeptCases | None = None) -> Iterator[RawCase]:
    """Cases as nnU-Net takes them, in order, read by several threads and, where they are to be, kept."""

    def read(name: str) -> RawCase:
        image, label = source.cases[name].read_image(), source.cases[name].read_label()
        if kept is not None:
            kept.put(name, (image, label))
        return RawCase(name, image.array, image.affine, label.array)

    return ahead(read, names, threads)


@dataclass(frozen=True)
class PreparedCase:
    """One prepared case: where it comes from on the source grid and how its intensities were mapped."""

    case: str
    patient: str
    train: bool
    geometry: Geometry
    intensity: IntensityMap
    depth: int
    """Z, axial slices."""


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset; volumes are read when asked for."""

    catalog: Catalog
    artifact: Artifact
    cases: Mapping[str, PreparedCase]

    @property
    def train(self) -> list[str]:
        """Training cases, sorted."""
        return sorted(name for name, case in self.cases.items() if case.train)

    @property
    def test(self) -> list[str]:
        """Held-out cases, sorted."""
        return sorted(name for name, case in self.cases.items() if not case.train)

    @property
    def target_spacing(self) -> tuple[float, float, float]:
        """(x, y, z) mm that nnU-Net chose."""
        x, y, z = cast("list[float]", self.artifact.meta["target_spacing"])
        return x, y, z

    def image(self, case: str) -> np.ndarray:
        """(Z, H, W) float32 in [-1, 1]."""
        return read_slices(self.catalog.path(self.artifact, f"cases/{case}/image.nii.gz")).astype(np.float32)

    def mask(self, case: str) -> np.ndarray:
        """(Z, H, W) integer label ids."""
        return read_label_slices(self.catalog.path(self.artifact, f"cases/{case}/mask.nii.gz"))

    def outline(self, case: str) -> np.ndarray:
        """(Z, H, W) bool."""
        return read_label_slices(self.catalog.path(self.artifact, f"cases/{case}/outline.nii.gz")) > 0

    def source_outline(self, case: str) -> np.ndarray:
        """The outline on the source grid, (X, Y, Z) bool."""
        return read_label(self.catalog.path(self.artifact, f"cases/{case}/source_outline.nii.gz")).array > 0


def open_prepared(catalog: Catalog, ref: str) -> Prepared:
    """A `prepared` artifact."""
    artifact = catalog.get(ref)
    cases = {}
    for row in read_rows(catalog.path(artifact, CASES)):
        case = PreparedCase(
            case=str(row["case"]),
            patient=str(row["patient"]),
            train=bool(row["train"]),
            geometry=Geometry.from_dict(json.loads(str(row["geometry"]))),
            intensity=IntensityMap.from_dict(json.loads(str(row["intensity"]))),
            depth=cast("int", row["depth"]),
        )
        cases[case.case] = case
    return Prepared(catalog, artifact, cases)


def parent_of(catalog: Catalog, ref: str, kind: str) -> str:
    """The nearest ancestor of a kind. Raises BadInput when there is none in the catalog."""
    for _depth, artifact in catalog.lineage(ref):
        if isinstance(artifact, Artifact) and artifact.kind == kind:
            return artifact.ref.full
    raise BadInput(f"{ref} does not descend from any {kind} in this catalog: give a reference that does")


def run_of_model(model: Artifact) -> str:
    """Name of the run that trained a model: `model/Hippocampus-volume` -> `Hippocampus`."""
    return model.name.rpartition("-")[0]


def seconds_of(catalog: Catalog, artifact: Artifact) -> float:
    """Seconds that an artifact took to be made, over all sittings."""
    rows = catalog.table("metrics", artifact)
    return float(rows.loc[rows["metric"] == "seconds", "value"].sum()) if "metric" in rows else 0.0


def hash_file(path: Path) -> str:
    """SHA-256 of a file that a stage reads from outside the catalog."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of all files in a folder, by their paths within it; empty where there is no folder."""
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def dataset_path(catalog: Catalog, ref: str) -> Path:
    """The nnU-Net folder of a published dataset, ready to be used as it lies."""
    artifact = catalog.get(ref)
    return catalog.view(artifact) / cast("str", artifact.meta["folder"])


def read_rows(path: Path) -> list[dict[str, object]]:
    """Rows of a Parquet file."""
    import pyarrow.parquet as pq

    return cast("list[dict[str, object]]", pq.read_table(path).to_pylist())


def read_slices(path: Path) -> np.ndarray:
    """Stored (W, H, Z) -> (Z, H, W)."""
    return np.ascontiguousarray(read_volume(path).array.transpose(2, 1, 0))


def read_label_slices(path: Path) -> np.ndarray:
    """Stored (W, H, Z) label map -> (Z, H, W)."""
    return np.ascontiguousarray(read_label(path).array.transpose(2, 1, 0))
