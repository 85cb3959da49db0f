"""`metrics` artifacts: which measure each holds."""

from collections.abc import Iterable

from data_catalog import Artifact

FEATURES, FIDELITY, ARM, AGREEMENT = "real-features", "fidelity", "downstream", "mask-agreement"
"""The stages that measure, as their artifacts name them."""


def measured_by(stage: str, artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Those that a stage made."""
    return [artifact for artifact in artifacts if artifact.meta.get("stage") == stage]


def arms_among(artifacts: Iterable[Artifact]) -> dict[str, Artifact]:
    """Scores of nnU-Net by the data it was trained on: `true`, `1x`, a baseline's name."""
    return {str(artifact.meta["arm"]): artifact for artifact in measured_by(ARM, artifacts)}
