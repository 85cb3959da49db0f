"""A `prepared` dataset: axial slices of every case, and where they lie on the source grid."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from data_catalog import Artifact, Catalog
from gem3d_core.prepare.geometry import Geometry
from gem3d_core.prepare.intensity import IntensityMap
from gem3d_core.scans.volumes import read_label
from tasks.artifacts.files import CASES, read_label_slices, read_rows, read_slices

PLANS = "plans.json"
"""File of prepared data: nnU-Net's plan."""


@dataclass(frozen=True)
class CaseRecord:
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
    cases: Mapping[str, CaseRecord]

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

    def source_label(self, case: str) -> np.ndarray:
        """The mask as it was segmented, on the source grid, (X, Y, Z) integer label ids."""
        return read_label(self.catalog.path(self.artifact, f"cases/{case}/source_label.nii.gz")).array


@dataclass(frozen=True)
class SplitSizes:
    """Numbers of training cases, of their patients, and of test cases."""

    train: int
    patients: int
    test: int


def split_sizes(catalog: Catalog, ref: str) -> SplitSizes:
    """Sizes of a `prepared` dataset's parts, from its record alone."""
    meta = catalog.get(ref).meta
    train, patients, test = (cast("int", meta[name]) for name in ("train", "patients", "test"))
    return SplitSizes(train, patients, test)


def open_prepared(catalog: Catalog, artifact: Artifact) -> Prepared:
    """A `prepared` artifact."""
    cases = {}
    for row in read_rows(catalog.path(artifact, CASES)):
        case = CaseRecord(
            case=str(row["case"]),
            patient=str(row["patient"]),
            train=bool(row["train"]),
            geometry=Geometry.from_dict(json.loads(str(row["geometry"]))),
            intensity=IntensityMap.from_dict(json.loads(str(row["intensity"]))),
            depth=cast("int", row["depth"]),
        )
        cases[case.case] = case
    return Prepared(catalog, artifact, cases)
