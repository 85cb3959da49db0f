"""What every codec offers, z = E(x), x = D(z). Spaces used throughout:

voxels   (X, Y, Z)         source intensities on the source grid
slices   (N, H, W)         float32 in [-1, 1] on the prepared grid
latents  (N, c, h, w)      float32, h = H / factor, w = W / factor, scaled for the diffusion
"""

import json
from pathlib import Path
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from gem3d_core.codec.haar import Haar
from gem3d_core.codec.kl import KL
from gem3d_core.spec.method import Precision


class Codec(Protocol):
    """z = E(x), x = D(z)."""

    @property
    def channels(self) -> int:
        """c of the latents."""

    @property
    def factor(self) -> int:
        """H / h."""

    @property
    def emphasis(self) -> Tensor:
        """Weight of each latent channel in the loss, (c,), at most 1."""

    def encode(self, slices: Tensor) -> Tensor:
        """(N, H, W) in [-1, 1] -> (N, c, h, w)."""

    def decode(self, latents: Tensor, precision: Precision = "fp32") -> Tensor:
        """(N, c, h, w) -> (N, H, W), not clamped."""

    def save(self, folder: Path) -> None:
        """Write what `load_codec` needs."""


def load_codec(folder: Path, device: torch.device | str = "cpu") -> Codec:
    """What `Codec.save` wrote; a KL codec computes on `device`, and gives back what it took from where it was."""
    facts = json.loads((folder / "codec.json").read_text())
    if facts["kind"] == "haar":
        tensors = load_file(folder / "codec.safetensors")
        return Haar(facts["levels"], tensors["shift"], tensors["scale"])
    model = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    return KL(model.to(device), facts["scale"])


def psnr(original: Tensor, reconstruction: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of slices in [-1, 1] (peak to peak 2)."""
    error = (original - reconstruction.clamp(-1, 1)).double().square().mean().clamp_min(1e-20)
    return float(10 * torch.log10(4 / error))
