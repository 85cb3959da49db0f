"""Pictures of stage 11: drawn volumes beneath the real ones that they were drawn for, and nearest distances."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_catalog import Artifact
from gem3d_core.report.pictures import PictureRow, comparison, distance_histogram
from tasks.artifacts.files import read_label_slices
from tasks.artifacts.prepared import Prepared
from tasks.artifacts.source import Source
from tasks.artifacts.volumes import Synthetic, edited_masks
from tasks.evaluation.paired import Real
from tasks.frame.stage import Work

PICTURE_ROWS = 3
"""Rows of a picture."""
TITLES = {"training": "new", "paired": "drawn", "augmented": "edited mask, new"}
"""What a picture calls its sampled volumes."""


def draw_comparisons(
    work: Work,
    source: Source,
    prepared: Prepared,
    volumes: Artifact,
    groups: Mapping[str, list[tuple[Synthetic, Real]]],
) -> dict[str, Path]:
    """Drawn volumes beneath the real ones of their cases, a picture for each group; an empty group has none."""
    pictures = {}
    for key, shown in groups.items():
        rows = [row for one, real in shown for row in _picture_rows(work, prepared, volumes, one, real, TITLES[key])]
        if rows:
            pictures[f"{key}.png"] = comparison(rows, work.folder / f"{key}.png", source.label_names)
    return pictures


def draw_distances(work: Work, synthetic: np.ndarray, held_out: np.ndarray) -> dict[str, Path]:
    """Distances (N,), (M,) to the nearest training volume; no picture without held-out ones to compare with."""
    if not len(held_out):
        return {}
    return {"distances.png": distance_histogram(synthetic, held_out, work.folder / "distances.png")}


def _picture_rows(
    work: Work, prepared: Prepared, volumes: Artifact, drawn: Synthetic, real: Real, title: str
) -> list[PictureRow]:
    """The real volume and the drawn one beneath it, with the mask that each belongs to."""
    x, y, z = prepared.cases[drawn.case].geometry.grid_spacing
    above = PictureRow(f"real {drawn.case}", real.image, real.mask, (z, y, x))
    mask = real.mask
    if drawn.variant != "true":
        masks = work.catalog.get(edited_masks(volumes))
        mask = read_label_slices(work.catalog.path(masks, f"cases/{drawn.case}/mask.nii.gz"))
    return [above, PictureRow(title, drawn.slices, mask, (z, y, x))]
