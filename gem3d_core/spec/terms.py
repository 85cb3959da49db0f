"""Words that every room uses: modalities, label ids, planes."""

from __future__ import annotations

from typing import Literal

Modality = Literal["ct", "mri"]


def modality_of(channel_name: str) -> Modality:
    """The modality of a channel as nnU-Net sees it: one named CT is in HU, any other is not."""
    return "ct" if channel_name.strip().casefold() == "ct" else "mri"


LabelIds = int | tuple[int, ...]

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
