"""The frozen first stage. Spaces used throughout:

voxels   (X, Y, Z)         source intensities on the source grid
slices   (N, H, W)         float32 in [-1, 1] on the prepared grid
latents  (N, c, h, w)      float32, h = H / factor, w = W / factor, scaled for the diffusion
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from einops import rearrange, repeat
from safetensors.torch import load_file, save_file
from torch import Tensor

from gem3d_core.errors import BadInput, NotAvailable
from gem3d_core.out_of_memory import give_back, is_out_of_memory
from gem3d_core.settings import CodecSpec, Precision

DETAIL_FLOOR = 1e-3
"""Smallest standard deviation of a wavelet channel that is scaled up; weaker channels are numerically constant."""


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


HAAR_BATCH = 16
"""Slices that the wavelet transform takes at once."""


def in_batches(function: Callable[..., Tensor], batch: int, *volumes: Tensor) -> Tensor:
    """function of volumes (N, ...), `batch` slices at a time, so that what it needs on the way does not grow with N.

    Half as many at a time from where they do not fit into memory; raises what torch raises where one slice does not.
    """
    N, first = len(volumes[0]), 0
    made: Tensor | None = None
    while made is None or first < N:
        part = None
        try:
            part = function(*(volume[first : first + batch] for volume in volumes))
        except RuntimeError as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
            batch //= 2
        if part is None:
            give_back(volumes[0].device)
            continue
        if made is None:
            made = part.new_empty((N, *part.shape[1:]))
        made[first : first + batch] = part
        first += batch
    return made


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


class KL:
    """A diffusers AutoencoderKL; grey is replicated to its input channels, the latent is the posterior mean.

    scale: what the mean is multiplied by for the diffusion; 0.18215 for latent diffusion's KL-f8 [release].
    batch: slices at once; four of 512x512 keep a GPU busy and hold half of what eight do.
    """

    def __init__(self, model: AutoencoderKL, scale: float, batch: int = 4) -> None:
        self.model = model.requires_grad_(requires_grad=False).eval()
        self.scale = scale
        self.batch = batch
        self.channels = int(model.config.latent_channels)
        self.factor = 2 ** (len(model.config.block_out_channels) - 1)

    @property
    def emphasis(self) -> Tensor:
        """All channels alike."""
        return torch.ones(self.channels)

    def encode(self, slices: Tensor) -> Tensor:
        """(N, H, W) -> (N, c, H / f, W / f)."""

        def encode(part: Tensor) -> Tensor:
            coloured = repeat(part.to(self.model.device), "n h w -> n c h w", c=self.model.config.in_channels)
            z: Tensor = self.model.encode(coloured).latent_dist.mean
            return z.to(slices.device) * self.scale

        with torch.no_grad():
            return in_batches(encode, self.batch, slices)

    def decode(self, latents: Tensor, precision: Precision = "fp32") -> Tensor:
        """(N, c, h, w) -> (N, H, W): the mean of the output channels. bf16 and auto: in bfloat16 on a GPU."""

        def decode(part: Tensor) -> Tensor:
            coloured: Tensor = self.model.decode(part.to(self.model.device) / self.scale).sample
            return coloured.float().mean(dim=1).to(latents.device)

        half = self.model.device.type == "cuda" and precision != "fp32"
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=half):
            return in_batches(decode, self.batch, latents)

    def save(self, folder: Path) -> None:
        """Write the autoencoder in diffusers' layout, with codec.json beside it."""
        self.model.save_pretrained(folder)
        (folder / "codec.json").write_text(json.dumps({"kind": "kl", "scale": self.scale}))


PAPER_WIDTHS, PAPER_LAYERS = (128, 256, 512, 512), 2
"""Of latent diffusion's KL-f8 (83.7 M parameters), the paper's codec."""


def autoencoder(widths: tuple[int, ...], layers: int = 1) -> AutoencoderKL:
    """A fresh one of latent diffusion's kind: three colours, four latent channels, a halving between two levels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=min(32, widths[0]),
    )


def trained_widths(spec: CodecSpec) -> tuple[int, ...]:
    """Of the autoencoder that is trained here."""
    return (spec.base_channels, spec.base_channels, 2 * spec.base_channels, 2 * spec.base_channels)


def open_kl(folder: Path) -> KL:
    """A pretrained AutoencoderKL. Raises NotAvailable where the folder does not hold one."""
    try:
        model = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise no_kl(str(folder), error) from error
    return KL(model, float(model.config.scaling_factor))


def no_kl(weights: str, error: Exception) -> NotAvailable:
    """What to say, and to do, where there is no such autoencoder."""
    reason = " ".join(str(error).split())
    return NotAvailable(
        f"codec.weights={weights!r}: no AutoencoderKL in such a folder, in the hub cache or on the hub ({reason}). "
        "Give a folder that holds config.json and its safetensors, or set codec.weights=train or codec.kind=haar"
    )


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
