"""How much the judging nnU-Net is trained: a frozen value, light to import."""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

Device = Literal["cpu", "cuda"]

SMALLEST_PATCH = 8  # nnU-Net pools no side below 4


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
    """Seed of the first weights and of each epoch's patches."""
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
