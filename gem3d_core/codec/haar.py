"""The wavelet codec: an orthonormal Haar packet of every slice, lossless, with nothing to train."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor

from gem3d_core.errors import BadInput
from gem3d_core.machine.out_of_memory import in_batches
from gem3d_core.spec.method import CodecSpec, Precision

DETAIL_FLOOR = 1e-3
"""Smallest standard deviation of a wavelet channel that is scaled up; weaker channels are numerically constant."""


HAAR_BATCH = 16
"""Slices that the wavelet transform takes at once."""


@dataclass(frozen=True)
class Haar:
    """Orthonormal Haar wavelet packet: every level halves the slice and multiplies the channels by four.

    shift, scale (c,): latents are (coefficient - shift) * scale, of unit variance in every channel, for which
    predicting v is the right precondition. What would then be spent on the noise of the finest details is taken back
    by the emphasis: the loss weighs a channel by its spread.
    """

    levels: int
    shift: Tensor
    scale: Tensor

    @property
    def channels(self) -> int:
        """4 ** levels."""
        return int(4**self.levels)

    @property
    def factor(self) -> int:
        """2 ** levels."""
        return int(2**self.levels)

    def encode(self, slices: Tensor) -> Tensor:
        """(N, H, W) -> (N, 4**levels, H / 2**levels, W / 2**levels)."""

        def encode(part: Tensor) -> Tensor:
            z = haar(part[:, None], self.levels)
            return (z - self.shift.to(z)[:, None, None]) * self.scale.to(z)[:, None, None]

        return in_batches(encode, HAAR_BATCH, slices)

    def decode(self, latents: Tensor, precision: Precision = "fp32") -> Tensor:  # noqa: ARG002 - always exact
        """The exact inverse of `encode`."""

        def decode(part: Tensor) -> Tensor:
            z = part / self.scale.to(part)[:, None, None] + self.shift.to(part)[:, None, None]
            return inverse_haar(z, self.levels)[:, 0]

        return in_batches(decode, HAAR_BATCH, latents)

    @property
    def emphasis(self) -> Tensor:
        """Spread of every channel over that of the widest."""
        return self.scale.min() / self.scale

    def save(self, folder: Path) -> None:
        """Write codec.safetensors and codec.json."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"shift": self.shift, "scale": self.scale}, folder / "codec.safetensors")
        (folder / "codec.json").write_text(json.dumps({"kind": "haar", "levels": self.levels}))


def haar(x: Tensor, levels: int) -> Tensor:
    """Orthonormal Haar packet of (N, 1, H, W); raises BadInput when a side cannot be halved that often."""
    if x.shape[-2] % 2**levels or x.shape[-1] % 2**levels:
        raise BadInput(
            f"slice size {tuple(x.shape[-2:])} cannot be halved {levels} times: choose a slice_size that is a multiple "
            f"of {2**levels}, or fewer codec.levels"
        )
    for _ in range(levels):
        quads = rearrange(x, "n c (h i) (w j) -> n c h w (i j)", i=2, j=2)
        x = rearrange(quads @ _HADAMARD.to(x), "n c h w k -> n (c k) h w")
    return x


def inverse_haar(x: Tensor, levels: int) -> Tensor:
    """The transpose of `haar`, which is its inverse."""
    for _ in range(levels):
        quads = rearrange(x, "n (c k) h w -> n c h w k", k=4) @ _HADAMARD.to(x)
        x = rearrange(quads, "n c h w (i j) -> n c (h i) (w j)", i=2, j=2)
    return x


_HADAMARD = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0


def fit_haar(spec: CodecSpec, slices: Tensor) -> Haar:
    """A wavelet codec whose channel statistics are those of training slices (N, H, W)."""
    z = haar(slices[:, None], spec.levels)
    spread = z.std(dim=(0, 2, 3)).clamp_min(DETAIL_FLOOR)
    return Haar(spec.levels, z.mean(dim=(0, 2, 3)), 1 / spread)
