"""Pictures of stage 11: drawn volumes beneath the real ones that they were drawn for, and nearest distances."""

from pathlib import Path

import numpy as np

from data_catalog import Artifact
from gem3d_core.pictures import PictureRow, comparison, distance_histogram
from tasks.inputs import Prepared, Source, parent_of, read_label_slices
from tasks.stage import Work
from tasks.synthetic import Synthetic, accepted, open_synthetic

PICTURE_ROWS = 3


def draw_comparisons(
    work: Work, source: Source, prepared: Prepared, volumes: Artifact, paired: list[Synthetic]
) -> dict[str, Path]:
    """The first drawn volumes of each kind; a kind without a volume has no picture."""
    names = {ids: name for name, ids in source.labels.items() if isinstance(ids, int) and ids}
    true, edited = (
        list(open_synthetic(work.catalog, volumes, accepted(work.catalog, volumes, variant)[:PICTURE_ROWS]))
        for variant in ("true", "augmented")
    )
    pictures = {}
    for key, title, drawn in (
        ("training", "new", true),
        ("paired", "drawn", paired[:PICTURE_ROWS]),
        ("augmented", "edited mask, new", edited),
    ):
        rows = [row for one in drawn for row in _picture_rows(work, prepared, volumes, one, title)]
        if rows:
            pictures[f"{key}.png"] = comparison(rows, work.folder / f"{key}.png", names)
    return pictures


def draw_distances(work: Work, synthetic: np.ndarray, held_out: np.ndarray) -> dict[str, Path]:
    """Distances (N,), (M,) to the nearest training volume; no picture without held-out ones to compare with."""
    if not len(held_out):
        return {}
    return {"distances.png": distance_histogram(synthetic, held_out, work.folder / "distances.png")}


def _picture_rows(work: Work, prepared: Prepared, volumes: Artifact, drawn: Synthetic, title: str) -> list[PictureRow]:
    """The real volume and the drawn one beneath it, with the mask that each belongs to."""
    x, y, z = prepared.cases[drawn.case].geometry.grid_spacing
    real = PictureRow(f"real {drawn.case}", prepared.image(drawn.case), prepared.mask(drawn.case), (z, y, x))
    if drawn.variant == "true":
        return [real, PictureRow(title, drawn.slices, prepared.mask(drawn.case), (z, y, x))]
    masks = work.catalog.get(parent_of(work.catalog, volumes.ref.full, "masks"))
    mask = read_label_slices(work.catalog.path(masks, f"cases/{drawn.case}/mask.nii.gz"))
    return [real, PictureRow(title, drawn.slices, mask, (z, y, x))]
