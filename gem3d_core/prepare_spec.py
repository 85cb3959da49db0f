"""How a dataset is prepared and how the judging nnU-Net is trained: frozen values, light to import."""

from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

Modality = Literal["ct", "mri"]
Fit = Literal["pad", "stretch"]
Device = Literal["cpu", "cuda"]

SMALLEST_PATCH = 8  # nnU-Net pools no side below 4


def modality_of(channel_name: str) -> Modality:
    """The modality of a channel as nnU-Net sees it: one named CT is in HU, any other is not."""
    return "ct" if channel_name.strip().casefold() == "ct" else "mri"


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


@dataclass(frozen=True)
class ArmSpec:
    """One training of nnU-Net on the whole of a dataset: the plan is nnU-Net's, this is how much is spent."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    iterations: int = 250
    """Training steps an epoch (nnU-Net: 250)."""
    epochs: int = 1000
    """Epochs (nnU-Net: 1000)."""
    batch_size: int | None = None
    """None: the plan's."""
    first_features: int | None = None
    """Channels of the first level, doubled at each level up to max_features. None: the plan's (32)."""
    max_features: int | None = None
    """None: the plan's (320)."""
    max_patch: int | None = None
    """Longest side of a patch; the network gets as many levels as that allows. None: the plan's."""
    mirroring: bool = True
    """Mirrored copies in training and when predicting (nnU-Net: true; eight times the predicting)."""
    save_every: int = 1
    """Epochs between checkpoints."""
    seed: int = 0
    """Of the first weights and of each epoch's patches."""
    workers: int = 0
    """Processes that augment. 0: in line, and an interrupted training ends as an uninterrupted one."""
    device: Device = "cpu"
    """cpu or cuda."""

    def __post_init__(self) -> None:
        """Refuse counts below one and patches that nnU-Net cannot pool."""
        for name in ("iterations", "epochs", "batch_size", "first_features", "max_features", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: expected at least 1")
        if self.max_patch is not None and self.max_patch < SMALLEST_PATCH:
            raise ValueError(f"max_patch {self.max_patch}: expected at least {SMALLEST_PATCH}")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)
