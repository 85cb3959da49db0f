"""The KL autoencoder of latent diffusion: of the paper's size, trained here, or by others and found on the hub."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from einops import repeat
from huggingface_hub import snapshot_download
from torch import Tensor

from gem3d_core.errors import NotAvailable
from gem3d_core.machine.out_of_memory import in_batches
from gem3d_core.spec.method import CodecSpec, Precision


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
"""Widths and layers of latent diffusion's KL-f8 (83.7 M parameters), the paper's codec."""


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
    """Widths of the autoencoder that is trained here."""
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


KL_FILES = ("config.json", "diffusion_pytorch_model*.safetensors")
"""What an AutoencoderKL consists of."""


def find_kl(weights: str, *, download: bool) -> Path:
    """The folder of a pretrained AutoencoderKL: as named, or the newest snapshot of a hub id that can be had.

    Raises NotAvailable when there is none.
    """
    if Path(weights).is_dir():
        return Path(weights)
    try:
        return Path(snapshot_download(weights, allow_patterns=list(KL_FILES), local_files_only=not download))
    except (OSError, ValueError) as error:  # the hub's errors, and an id that cannot be one
        raise no_kl(weights, error) from error
