"""Intensities to [-1, 1] and back: one recorded, invertible line a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.prepare.outline import Outline
from gem3d_core.spec.prepare import IntensitySpec
from gem3d_core.spec.terms import Modality


@dataclass(frozen=True)
class IntensityMap:
    """[low, high] of the source's units onto [-1, 1]; background: the source's value outside the outline."""

    kind: Modality
    low: float
    high: float
    background: float

    def __post_init__(self) -> None:
        """Refuse a window that cannot be inverted."""
        if not (np.isfinite([self.low, self.high, self.background]).all() and self.low < self.high):
            raise BadInput(f"intensity window [{self.low}, {self.high}]: expected finite values with low < high")

    def forward(self, image: np.ndarray, outline: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Source units -> [-1, 1] float32, clipped; -1 outside `outline` (bool, same shape)."""
        scaled = image.astype(np.float64)
        scaled -= self.low
        scaled *= 2.0 / (self.high - self.low)
        scaled -= 1.0
        mapped = np.clip(scaled, -1.0, 1.0, out=scaled).astype(np.float32)
        if outline is not None:
            mapped[~outline] = -1.0
        return mapped

    def inverse(self, image: np.ndarray, outline: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """[-1, 1] -> source units float32; the background value outside `outline`.

        inverse(forward(v)) differs from a v inside [low, high] by less than
        2^-23 (high - low + max(|low|, |high|)), the rounding of float32.
        """
        restored = np.clip(image.astype(np.float64), -1.0, 1.0)
        restored += 1.0
        restored *= (self.high - self.low) / 2.0
        restored += self.low
        if outline is not None:
            restored[~outline] = self.background
        return restored.astype(np.float32)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> IntensityMap:
        """The map of `to_dict`."""
        low, high, background = (float(cast("float", values[name])) for name in ("low", "high", "background"))
        return cls(cast("Modality", values["kind"]), low, high, background)


def fit_intensity(image: np.ndarray, outline: Outline, modality: Modality, spec: IntensitySpec) -> IntensityMap:
    """The map of one canonical image: the fixed HU window for CT, percentiles inside the outline for MRI.

    A constant image gets a window of width 1 above its value. Raises BadInput for values that are not finite.
    """
    if modality == "ct":
        return IntensityMap("ct", *spec.ct_window, outline.background)
    low, high = (float(v) for v in np.percentile(image[outline.mask].astype(np.float64), spec.mri_percentiles))
    return IntensityMap("mri", low, high if high > low else low + 1.0, outline.background)


def median_map(maps: Sequence[IntensityMap]) -> IntensityMap:
    """The median of several maps' values, for volumes whose informed slice was generated.

    Raises BadInput for no maps or for maps of different kinds.
    """
    kinds = sorted({each.kind for each in maps})
    if len(kinds) != 1:
        raise BadInput(f"median of {len(maps)} intensity maps of kinds {kinds}: expected maps of one kind")
    low, high, background = np.median([(m.low, m.high, m.background) for m in maps], axis=0)
    return IntensityMap(maps[0].kind, float(low), float(high), float(background))
