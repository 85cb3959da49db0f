"""`volumes` of a repeat: the row of each, and its slices."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from safetensors.torch import load_file

from data_catalog import Artifact, Catalog, Ref
from gem3d_core.machine.reading import read_ahead
from tasks.artifacts.files import read_rows

VOLUMES = "volumes.parquet"
"""File of a repeat: a row for every volume, which answers for it."""

VolumeRow = dict[str, object]


@dataclass(frozen=True)
class Synthetic:
    """One drawn volume beside what it was drawn for: slices (Z, H, W) float32 in [-1, 1], outline (Z, H, W) bool."""

    name: str
    case: str
    variant: str
    """The kind of mask: true or augmented."""
    slices: np.ndarray
    outline: np.ndarray
    borders: tuple[int, ...]


def accepted(catalog: Catalog, volumes: Artifact) -> list[VolumeRow]:
    """Rows of the accepted volumes of a repeat."""
    return [row for row in read_rows(catalog.path(volumes, VOLUMES)) if row["accepted"]]


def open_synthetic(catalog: Catalog, volumes: Artifact, rows: Iterable[VolumeRow], threads: int) -> Iterator[Synthetic]:
    """The volumes of some rows, one at a time, read by several threads."""

    def read(row: VolumeRow) -> Synthetic:
        stored = load_file(catalog.path(volumes, f"volumes/{row['volume']}/slices.safetensors"))
        return Synthetic(
            name=str(row["volume"]),
            case=str(row["mask_case"]),
            variant=str(row["variant"]),
            slices=stored["image"].float().numpy(),
            outline=stored["outline"].numpy(),
            borders=tuple(json.loads(str(row["borders"]))),
        )

    return read_ahead(read, rows, threads)


def edited_masks(volumes: Artifact) -> str:
    """Reference to the edited masks that volumes of a repeat were sampled for, which some of them must be."""
    return next(ref for ref in volumes.parents if Ref.parse(ref).kind == "masks")
