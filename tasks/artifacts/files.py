"""Files of artifacts as values: Parquet rows, slices stored as NIfTI, content hashes."""

import hashlib
from pathlib import Path
from typing import cast

import numpy as np

from gem3d_core.scans.volumes import read_label, read_volume

CASES = "cases.parquet"
"""File of a source, and of prepared data, with a row for every case."""


def hash_file(path: Path) -> str:
    """SHA-256 of a file that a stage reads from outside the catalog."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of all files in a folder, by their paths within it; empty where there is no folder."""
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


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
