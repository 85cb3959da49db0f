"""Weights that others trained, as the stages look for them: LPIPS, and the features that FID compares."""

import os
from pathlib import Path

from torch import nn

from configs import Config
from gem3d_core.errors import NotAvailable
from gem3d_core.metrics.features import (
    LPIPS_TRUNK,
    Extractor,
    efficientnet_lite0,
    find_weights,
    load_lpips,
    radimagenet_resnet50,
)
from tasks.artifacts.prepared import Prepared
from tasks.artifacts.seen import hash_file

RADIMAGENET_FILE = "RadImageNet-ResNet50.pt"


def weights_folder(config: Config) -> Path | None:
    """Where weights of others are looked for first."""
    named = config.runtime.weights or os.environ.get("GEM3D_WEIGHTS")
    return Path(named).expanduser().absolute() if named else None


def feature_files(config: Config) -> list[str]:
    """Files of the network whose features FID compares; those of EfficientNet come with a package."""
    return [RADIMAGENET_FILE] if config.evaluate.features == "radimagenet-resnet50" else []


def weights_hashes(config: Config, names: list[str]) -> dict[str, str | None]:
    """Content hash of each file; None where there is none."""
    return {name: _hash(config, name) for name in names}


def download(config: Config, names: list[str]) -> dict[str, str]:
    """Fetch what is not here and can be had; returns why others could not be, by name."""
    missing = {}
    for name in names:
        try:
            find_weights(name, weights_folder(config), download=True)
        except NotAvailable as reason:
            missing[name] = str(reason)
    return missing


def open_features(config: Config, device: str) -> tuple[Extractor | None, dict[str, str]]:
    """The network whose features FID compares; none, and why, where it is not available."""
    try:
        if config.evaluate.features == "radimagenet-resnet50":
            return radimagenet_resnet50(find_weights(RADIMAGENET_FILE, weights_folder(config)), device), {}
        return efficientnet_lite0(device), {}
    except NotAvailable as reason:
        return None, {"FID": str(reason)}


def open_lpips(config: Config, prepared: Prepared, device: str) -> tuple[nn.Module | None, dict[str, str]]:
    """The network of LPIPS; none where it is not available, and which paired scores there are not."""
    if not prepared.test:
        reason = "there is no test split: with fewer than two patients all cases train"
        return None, {"MS-SSIM": reason, "LPIPS": reason}
    try:
        return load_lpips(weights_folder(config), device, download=False), {}
    except NotAvailable as reason:
        return None, {"LPIPS": str(reason)}


def without_weights(config: Config) -> dict[str, str]:
    """Measures that cannot be taken here, and why; weights are downloaded first where they can be."""
    wanted = {"LPIPS": [LPIPS_TRUNK], "FID": feature_files(config)}
    missing = {measure: download(config, names) for measure, names in wanted.items()}
    return {measure: "; ".join(reasons.values()) for measure, reasons in missing.items() if reasons}


def _hash(config: Config, name: str) -> str | None:
    try:
        return hash_file(find_weights(name, weights_folder(config)))
    except NotAvailable:
        return None
