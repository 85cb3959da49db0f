"""What was measured of each system, and what the paper reports of it: the rows of the tables as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gem3d_core.metrics.frechet import Fid
from gem3d_core.metrics.intervals import Interval
from gem3d_core.spec.terms import Plane

ByCase = Mapping[str, float]


@dataclass(frozen=True)
class Reported:
    """What the paper reports: FID (axial, coronal, sagittal), and (MS-SSIM, LPIPS)."""

    fid: tuple[float, float, float] | None = None
    paired: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cost:
    """What a system took: parameters of the network that draws; seconds of training, and of drawing one volume."""

    parameters: int
    steps: str
    """Steps of its trainings, such as "1900 + 700"."""
    training_seconds: float
    seconds_per_volume: float
    volumes: int
    """That were drawn for training masks and accepted."""
    rejected: int
    """That were drawn and hold no image, or could not be drawn because no edit of the mask was accepted."""
    sampler: str
    """Such as `dpm++, 20 steps`."""


@dataclass(frozen=True)
class System:
    """A row: what was measured of one system.

    fid, replicates: of volumes for training masks, by plane; replicates (resamples,) of FID have the same weights of
    the same volumes in every system.
    neighbours: KID, precision and recall, such as "KID axial". ms_ssim, lpips: by test case. border, smoothness: by
    volume, the latter for each plane; agreement: Dice in [0, 1] by volume.
    """

    name: str
    title: str
    tables: tuple[str, ...]
    fid: Mapping[Plane, Fid]
    replicates: Mapping[Plane, NDArray[np.float64]]
    neighbours: Mapping[str, Interval]
    ms_ssim: ByCase
    lpips: ByCase
    border: ByCase
    smoothness: Mapping[Plane, ByCase]
    agreement: ByCase
    scored: int
    """How many of the accepted volumes FID and its kin compare."""
    cost: Cost | None = None
    """None of real volumes."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Measures that are not available, and why."""
    paper: Mapping[str, Reported] = field(default_factory=dict)
    """By dataset."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Titles in single tables, where they differ."""
    beside: str | None = None
    """The name of the system that this one changes one thing of."""

    def titled(self, table: str) -> str:
        """The row's title in a table."""
        return self.titles.get(table, self.title)


def in_table(systems: Sequence[System], table: str) -> list[System]:
    """The rows of a table, in their order."""
    return [system for system in systems if table in system.tables]
