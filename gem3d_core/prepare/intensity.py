"""Intensities to [-1, 1] and back: one recorded, invertible line a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.spec.prepare import IntensitySpec
from gem3d_core.spec.terms import Modality

LINE = "line"


@dataclass(frozen=True)
class IntensityMap:
    """The line that takes [low, high] of the source's units to [-1, 1].

    background: the source's value outside the outline. As plain values it has a `kind`, so that other maps may follow.
    """

    modality: Modality
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
        return {"kind": LINE, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> IntensityMap:
        """The map of `to_dict`. Raises BadInput for a kind that is not known here."""
        modality, kind = values.get("modality"), values["kind"]
        if modality is None:  # version 0.1.0 knew lines only, and told the modality as their kind
            modality, kind = kind, LINE
        if kind != LINE:
            raise BadInput(
                f"intensity map of kind {kind!r}: this version knows {LINE!r}; use the version that wrote it"
            )
        low, high, background = (float(cast("float", values[name])) for name in ("low", "high", "background"))
        return cls(cast("Modality", modality), low, high, background)


def fit_intensity(
    image: np.ndarray, outline: NDArray[np.bool_], background: float, modality: Modality, spec: IntensitySpec
) -> IntensityMap:
    """The map of one canonical image: the fixed HU window for CT, percentiles inside the outline for MRI.

    background: the value outside the outline, in the source's units.

    A constant image gets a window of width 1 above its value. Raises BadInput for values that are not finite.
    """
    if modality == "ct":
        return IntensityMap("ct", *spec.ct_window, background)
    low, high = (float(v) for v in np.percentile(image[outline].astype(np.float64), spec.mri_percentiles))
    return IntensityMap("mri", low, high if high > low else low + 1.0, background)


def median_map(maps: Sequence[IntensityMap]) -> IntensityMap:
    """The median of several maps' values, for volumes whose informed slice was generated.

    Raises BadInput for no maps or for maps of different modalities.
    """
    modalities = sorted({each.modality for each in maps})
    if len(modalities) != 1:
        raise BadInput(f"median of {len(maps)} intensity maps of {modalities}: expected maps of one modality")
    low, high, background = np.median([(m.low, m.high, m.background) for m in maps], axis=0)
    return IntensityMap(maps[0].modality, float(low), float(high), float(background))
