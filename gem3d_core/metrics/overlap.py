"""Dice and HD95 of a segmentation, per label or region, with the BraTS rules for empty masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput

MISSED_HD95_MM = 373.1287
"""HD95 where one of two masks is empty: the diagonal of a BraTS volume (240 x 240 x 155 mm), as in BraTS."""

Labels = NDArray[np.integer]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Overlap:
    """Dice in [0, 1] (higher is better) and HD95 in millimetres (lower is better)."""

    dice: float
    hd95: float


@dataclass(frozen=True)
class CaseOverlap:
    """The scores of one case by label or region name, and their mean over the names."""

    labels: Mapping[str, Overlap]
    mean: Overlap


def score_case(
    prediction: Labels,
    truth: Labels,
    labels: Mapping[str, int | tuple[int, ...]],
    spacing_mm: tuple[float, float, float],
) -> CaseOverlap:
    """Score integer label maps of one shape (three axes, `spacing_mm` in their order).

    `labels` maps a name to an id or, for regions, to the ids it unites; the background (0) is left out.
    Both empty: Dice 1, HD95 0. One empty: Dice 0, HD95 373.1287 mm.
    Raises BadInput for shapes that differ, label maps that are not integer, or no foreground label.
    """
    for name, array in (("prediction", prediction), ("truth", truth)):
        if not np.issubdtype(array.dtype, np.integer) or array.ndim != 3:
            raise BadInput(f"{name} of shape {array.shape} and type {array.dtype}: expected a 3D integer label map")
    if prediction.shape != truth.shape:
        raise BadInput(f"prediction of shape {prediction.shape}, truth of shape {truth.shape}: expected one shape")
    regions = {name: ids if isinstance(ids, tuple) else (ids,) for name, ids in labels.items()}
    regions = {name: ids for name, ids in regions.items() if ids != (0,)}
    if not regions:
        raise BadInput(f"labels {dict(labels)} hold nothing but background: expected a label to score")
    scores = {name: overlap(np.isin(prediction, ids), np.isin(truth, ids), spacing_mm) for name, ids in regions.items()}
    dice = float(np.mean([score.dice for score in scores.values()]))
    hd95 = float(np.mean([score.hd95 for score in scores.values()]))
    return CaseOverlap(scores, Overlap(dice, hd95))


def overlap(prediction: Mask, truth: Mask, spacing_mm: tuple[float, float, float]) -> Overlap:
    """Dice and HD95 of two masks of one shape, by MONAI, with the BraTS rules where one is empty."""
    if not prediction.any() and not truth.any():
        return Overlap(1.0, 0.0)
    if not prediction.any() or not truth.any():
        return Overlap(0.0, MISSED_HD95_MM)
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    predicted, true = (torch.from_numpy(mask[None, None]) for mask in _cropped(prediction, truth))
    spacing = tuple(float(step) for step in spacing_mm)
    hd95 = compute_hausdorff_distance(predicted, true, include_background=True, percentile=95, spacing=spacing)
    dice = compute_dice(predicted, true, include_background=True)
    return Overlap(float(dice.item()), float(hd95.item()))


def _cropped(a: Mask, b: Mask) -> tuple[Mask, Mask]:
    """Both in the box around them and one voxel more: edges at the volume's border are edges too."""
    either = np.pad(a | b, 1)
    box = []
    for axis in range(3):
        line = np.flatnonzero(either.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(line[0] - 1, line[-1] + 2))
    return np.pad(a, 1)[tuple(box)], np.pad(b, 1)[tuple(box)]
