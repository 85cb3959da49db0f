"""Files of artifacts as values: Parquet rows, and slices stored as NIfTI."""

from pathlib import Path
from typing import cast

import numpy as np

from gem3d_core.scans.volumes import read_label, read_volume

CASES = "cases.parquet"
"""File of a source, and of prepared data, with a row for every case."""


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
