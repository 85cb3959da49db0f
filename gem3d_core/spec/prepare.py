"""How a dataset is prepared and how the judging nnU-Net is trained: frozen values, light to import."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

Fit = Literal["pad", "stretch"]


@dataclass(frozen=True)
class IntensitySpec:
    """Which of the source's intensities become [-1, 1]."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    ct_window: tuple[float, float] = (-200.0, 300.0)
    """CT: low and high in HU, the same for every case (the abdomen's fat, organs and contrast agent)."""
    mri_percentiles: tuple[float, float] = (0.5, 99.5)
    """MRI: percentiles of the voxels inside the outline, case by case."""

    def __post_init__(self) -> None:
        """Refuse windows that are empty."""
        low, high = self.ct_window
        if not low < high:
            raise ValueError(f"ct_window {self.ct_window}: expected low < high, in HU")
        low, high = self.mri_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"mri_percentiles {self.mri_percentiles}: expected 0 <= low < high <= 100")


@dataclass(frozen=True)
class SplitSpec:
    """Which cases are kept for testing."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["fifth", "seed", "file"] = "fifth"
    """fifth: sorted, every fifth starting with the first; seed: a fraction drawn; file: as the file says."""
    fraction: float = 0.2
    """seed only: the share of the patients that is kept for testing."""
    seed: int = 0
    """seed only."""
    file: str | None = None
    """file only: JSON {train: [...], test: [...]}, or nnU-Net's splits_final.json."""
    fold: int = 0
    """file only: which entry of splits_final.json."""

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out."""
        if not 0 < self.fraction < 1:
            raise ValueError(f"split fraction {self.fraction}: expected a value between 0 and 1, such as 0.2")
        if self.kind == "file" and not self.file:
            raise ValueError("split by file: no file was named; give split.file")


@dataclass(frozen=True)
class PrepareSpec:
    """How one case becomes axial slices."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    slice_size: tuple[int, int] = (64, 48)
    """(H, W) voxels, H along y and W along x (hippocampus 64x48, the paper 512x512)."""
    fit: Fit = "pad"
    """pad: keep the aspect, shrink in plane only as far as needed, pad around the centre; stretch: resize
    each slice to exactly slice_size, as the paper does."""
    intensity: IntensitySpec = field(default_factory=IntensitySpec)

    def __post_init__(self) -> None:
        """Refuse slices without voxels."""
        if min(self.slice_size) < 1:
            raise ValueError(f"slice_size {self.slice_size}: expected two positive numbers (H, W)")
