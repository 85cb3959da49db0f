"""nnU-Net's plan as a value: its target spacing in RAS order, and what an arm changes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from gem3d_core.errors import Gem3dError
from gem3d_core.prepare.geometry import Spacing3
from gem3d_core.spec.nnunet import ArmSpec

PLANS_NAME = "gem3dPlans"
TRAINER = "Gem3dTrainer"
SMALLEST_MAP = 4  # UNet_featuremap_min_edge_length of nnU-Net's planner
PLANNED_FEATURES = (32, 320)  # first and most channels of nnU-Net's 3D planner
CONVOLUTIONS = 2  # a level, of nnU-Net's PlainConvUNet


@dataclass(frozen=True)
class Plans:
    """configuration: 3d_fullres or 2d; spacing (x, y, z) mm in RAS order; plans, fingerprint: nnU-Net's JSON."""

    configuration: str
    spacing: Spacing3
    plans: str
    fingerprint: str
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Plans:
        """The plans of `to_dict`."""
        spacing = cast("Spacing3", tuple(float(s) for s in cast("Sequence[float]", values["spacing"])))
        texts = (str(values.get(name, "")) for name in ("plans", "fingerprint", "note"))
        return cls(str(values["configuration"]), spacing, *texts)


def read_plans(plans: str, fingerprint: str) -> Plans:
    """What nnU-Net planned, as a value. Raises Gem3dError if it planned neither 3d_fullres nor 2d."""
    content = json.loads(plans)
    known = content["configurations"]
    if "3d_fullres" in known:
        spacing = _ras(known["3d_fullres"]["spacing"], content["transpose_backward"])
        return Plans("3d_fullres", spacing, plans, fingerprint)
    if "2d" not in known:
        raise Gem3dError(f"nnU-Net planned {sorted(known)}: expected 3d_fullres or 2d")
    across = content["original_median_spacing_after_transp"][0]  # 2d leaves the spacing between slices alone
    spacing = _ras([across, *known["2d"]["spacing"]], content["transpose_backward"])
    return Plans("2d", spacing, plans, fingerprint, "nnU-Net planned no 3d_fullres: its 2d configuration is used")


def arm_plans(plans: Plans, dataset: str, spec: ArmSpec) -> str:
    """The plan for an arm's dataset: one configuration, with the arm's batch, patch and features (JSON text)."""
    content = json.loads(plans.plans)
    chosen = content["configurations"][plans.configuration]
    chosen["data_identifier"] = f"{PLANS_NAME}_{plans.configuration}"
    chosen["batch_size"] = spec.batch_size or chosen["batch_size"]
    if spec.max_patch is not None and max(chosen["patch_size"]) > spec.max_patch:
        _cap_patch(chosen, spec.max_patch)
    _set_features(chosen["architecture"]["arch_kwargs"], spec, len(chosen["patch_size"]))

    content |= {"dataset_name": dataset, "plans_name": PLANS_NAME, "gem3d": spec.to_dict()}
    content["configurations"] = {plans.configuration: chosen}
    return json.dumps(content, indent=1, sort_keys=True)


def _ras(transposed: Sequence[float], transpose_backward: Sequence[int]) -> Spacing3:
    """nnU-Net's spacing (its own axis order) to (x, y, z): files are RAS, which nnU-Net reads as (z, y, x)."""
    z, y, x = (float(transposed[i]) for i in transpose_backward)
    return x, y, z


def _cap_patch(chosen: dict[str, Any], longest: int) -> None:
    """The largest patch with no side above `longest`, and the topology that nnU-Net would give it."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    for side in range(longest, SMALLEST_MAP, -1):
        wanted = [min(side, planned) for planned in chosen["patch_size"]]
        _, strides, kernels, patch, _ = get_pool_and_conv_props(chosen["spacing"], wanted, SMALLEST_MAP, 999_999)
        if max(patch) <= longest:
            break
    levels = len(strides)
    chosen["patch_size"] = [int(n) for n in patch]
    chosen["architecture"]["arch_kwargs"] |= {
        "n_stages": levels,
        "strides": [[int(n) for n in stride] for stride in strides],
        "kernel_sizes": [[int(n) for n in kernel] for kernel in kernels],
        "n_conv_per_stage": [CONVOLUTIONS] * levels,
        "n_conv_per_stage_decoder": [CONVOLUTIONS] * (levels - 1),
    }


def _set_features(architecture: dict[str, Any], spec: ArmSpec, dimensions: int) -> None:
    """Doubling channels from the arm's first to its most; nnU-Net's own (most: 512 in 2D) where it says none."""
    first = spec.first_features or PLANNED_FEATURES[0]
    most = spec.max_features or (PLANNED_FEATURES[1] if dimensions == 3 else 512)
    levels = architecture["n_stages"]
    architecture["features_per_stage"] = [min(max(most, first), first * 2**level) for level in range(levels)]
