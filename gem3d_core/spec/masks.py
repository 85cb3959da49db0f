"""What a mask augmentation may draw (stage 8). Free of torch, so that the configuration can build it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AugmentSpec:
    """The ranges a mask edit is drawn from; axes are RAS (0 = left-right, 1 = back-front, 2 = foot-head).

    `labels` None edits the whole mask and the outline with it; otherwise only these labels move, inside the
    unchanged outline. The paper's BraTS edit: labels of the tumour, +-2.5 degrees on each axis, up to 60
    voxels towards the volume's centre (section 3); its abdomen edit: rotation of the whole mask only.

    `max_clipped` is the share of a label's voxels that a whole-mask edit may push over the volume's edge.
    Raises ValueError for a probability outside [0, 1], a negative range, an unknown axis or no attempts.
    """

    flip_probability: float = 0.5
    """Probability that an axis of the mask is mirrored."""
    flip_axes: tuple[int, ...] = (0,)
    """Axes that may be mirrored, each by itself."""
    max_degrees: float = 2.5
    """Largest rotation about each axis, in either direction."""
    max_translation_mm: float = 0.0
    """Largest shift along each axis, in either direction."""
    max_towards_centre_mm: float = 0.0
    """Largest shift of the labels towards the volume's centre."""
    labels: tuple[int, ...] | None = None
    """Labels that move inside an unchanged outline; none: the whole mask and its outline move."""
    attempts: int = 10
    """Edits that are tried before a mask is given up."""
    max_clipped: float = 0.0
    """Share of a label's voxels that may be pushed over the edge."""

    def __post_init__(self) -> None:
        self._require("flip_probability", 0 <= self.flip_probability <= 1, "between 0 and 1")
        self._require("max_clipped", 0 <= self.max_clipped < 1, "at least 0 and below 1")
        self._require("flip_axes", set(self.flip_axes) <= {0, 1, 2}, "axes among 0, 1 and 2")
        for name in ("max_degrees", "max_translation_mm", "max_towards_centre_mm"):
            self._require(name, getattr(self, name) >= 0, "zero or more")
        self._require("attempts", self.attempts >= 1, "one or more")
        if self.labels is not None:
            self._require("labels", bool(self.labels) and min(self.labels) > 0, "label ids above 0, or none")

    def _require(self, name: str, holds: bool, expected: str) -> None:  # noqa: FBT001 - a private check
        if not holds:
            raise ValueError(f"mask augmentation: {name} = {getattr(self, name)!r}, expected {expected}")
