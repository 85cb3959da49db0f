"""The kinds of networks: what settings, stages, training and budgets must know of each before there is one.

Its class stands in `networks.files.NETWORKS` under the same name; nothing else knows a kind by its name.
"""

from dataclasses import dataclass
from typing import Literal

Generator = Literal["volume", "slice", "whole"]
"""The kinds that draw volumes: slice: 2D, one slice at a time; volume: that with volumetric layers, a window at a time;
whole: 3D, all slices of a volume at once."""
TrainingStage = Literal["train_slices", "tune_volume", "train_informed"]
"""A training by the section of its settings."""


@dataclass(frozen=True)
class Kind:
    """What sets a kind of network apart; by default a network of windows, trained from scratch."""

    stage: TrainingStage = "tune_volume"
    """What trains it."""
    extends: str | None = None
    """The kind whose trained weights it takes over; only what it adds is trained."""
    unit: Literal["window", "slice"] = "window"
    """What has one timestep and is never cut apart: a window where slices see each other."""
    told: Literal["conditions", "position"] = "conditions"
    """What it knows of a slice: mask, informed slice and window, or nothing but its position in the volume."""
    injected: bool = False
    """Its layers are 2D: they know `condition.injection` and `condition.slice_offset`."""
    sees_window: bool = False
    """It can be told which slots are known (`condition.known`) and of strides."""
    all_slices: bool = False
    """Its window holds the deepest volume."""
    recomputes: bool = True
    """Its activations can be computed again instead of kept."""


KINDS = {
    "volume": Kind(extends="slice", injected=True, sees_window=True),
    "slice": Kind(stage="train_slices", unit="slice", injected=True),
    "whole": Kind(all_slices=True, recomputes=False),  # layers of MONAI keep their activations
    "position": Kind(stage="train_informed", unit="slice", told="position"),
}


def trainings(kind: str) -> tuple[TrainingStage, ...]:
    """The trainings that lead to a network, in their order."""
    basis = KINDS[kind].extends
    return (*(trainings(basis) if basis else ()), KINDS[kind].stage)


def trained_by(stage: TrainingStage) -> tuple[str, ...]:
    """The kinds that a stage trains."""
    return tuple(name for name, kind in KINDS.items() if kind.stage == stage)
