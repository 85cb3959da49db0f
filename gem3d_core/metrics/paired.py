"""How close a drawn volume comes to the real one: MS-SSIM and LPIPS on axial slices (paper, section 4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from gem3d_core.errors import BadInput
from gem3d_core.metrics.frechet import Outline, Volume

PAIRED_SIDE = 256
"""Axial slices of paired scores are resized bilinearly to this on their shorter side (five scales need > 160)."""


def ms_ssim(synthetic: Volume, real: Volume, outline: Outline | None = None, batch: int = 8) -> float:
    """Five-scale MS-SSIM of two volumes (Z, H, W) in [-1, 1], mean over axial slices (1 = equal).

    It is that of the volumes in [0, 1]: its luminance means nothing where means can be negative. Slices are resized
    bilinearly to 256 on the shorter side; with an outline, those wholly outside are left out.
    Raises BadInput for shapes that differ.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as published

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = published((a + 1) / 2, (b + 1) / 2, data_range=1.0, reduction="none")
        return scores

    return _mean_over_slices(synthetic, real, outline, batch, torch.device("cpu"), score)


def lpips_distance(
    synthetic: Volume, real: Volume, network: nn.Module, outline: Outline | None = None, batch: int = 8
) -> float:
    """LPIPS of two volumes (Z, H, W) in [-1, 1], mean over axial slices (0 = equal), resized as for MS-SSIM.

    `network` comes from `features.load_lpips`; grey is repeated to its three channels.
    Raises BadInput for shapes that differ.
    """
    device = next(iter([*network.parameters(), *network.buffers()])).device

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distances: torch.Tensor = network(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
        return distances.flatten()

    return _mean_over_slices(synthetic, real, outline, batch, device, score)


def _mean_over_slices(
    synthetic: Volume,
    real: Volume,
    outline: Outline | None,
    batch: int,
    device: torch.device,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> float:
    if synthetic.shape != real.shape or synthetic.ndim != 3:
        raise BadInput(f"volumes of shapes {synthetic.shape} and {real.shape}: expected one shape (Z, H, W)")
    inside = np.arange(len(real)) if outline is None else np.flatnonzero(outline.any(axis=(1, 2)))
    if not len(inside):
        raise BadInput("paired scores: the outline holds no slice")
    scores = []
    with torch.inference_mode():
        for start in range(0, len(inside), batch):
            chosen = inside[start : start + batch]
            pair = (_paired_size(volume[chosen], device) for volume in (synthetic, real))
            scores.append(score(*pair).double().cpu())
    return float(torch.cat([part.flatten() for part in scores]).mean())


def _paired_size(slices: Volume, device: torch.device) -> torch.Tensor:
    """(N, H, W) to (N, 1, h, w) with the shorter side at PAIRED_SIDE."""
    height, width = slices.shape[1:]
    factor = PAIRED_SIDE / min(height, width)
    size = (round(height * factor), round(width * factor))
    tensor = torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32))[:, None].to(device)
    return interpolate(tensor, size=size, mode="bilinear", antialias=True)
