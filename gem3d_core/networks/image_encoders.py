"""Frozen networks that others trained, as encoders of the informed slice: tokens for cross-attention (Table 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gem3d_core.codec.efficientnet import efficientnet_lite0_network
from gem3d_core.codec.interface import Codec
from gem3d_core.errors import NotAvailable

LITE = "efficientnet-lite0"
CLIP_FILES = ("config.json", "*.safetensors")
"""What a CLIP vision model consists of."""
LITE_WIDTH, LITE_SIDE, LITE_TOKENS = 320, 128, 16
"""Channels of EfficientNet-Lite0 before its head, the side that slices are resized to for it, and the tokens there."""


@dataclass(frozen=True)
class FrozenEncoder:
    """Tokens of slices that a codec decodes.

    network: (N, 3, side, side) images, values as it was trained on -> (N, k, width). mean, scale: an image is
    (slice * scale - mean), for slices in [-1, 1].
    """

    network: Callable[[Tensor], Tensor]
    codec: Codec
    width: int
    side: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)

    @torch.no_grad()
    def tokens(self, latents: Tensor) -> Tensor:
        """Latents (N, c, h, w) -> (N, k, width); a row that is like the one before is not looked at again."""
        distinct, place = torch.unique_consecutive(latents.float(), dim=0, return_inverse=True)
        with torch.autocast(latents.device.type, enabled=False):
            grey = self.codec.decode(distinct).clamp(-1, 1)[:, None]
            grey = interpolate(grey, size=(self.side, self.side), mode="bilinear", antialias=True)
            mean, scale = (grey.new_tensor(values)[None, :, None, None] for values in (self.mean, self.scale))
            return self.network(grey * scale - mean)[place]


@dataclass(frozen=True)
class Blank:
    """Tokens of zeros, as many and as wide as an encoder's: to count what a network costs."""

    count: int
    width: int

    def tokens(self, latents: Tensor) -> Tensor:
        """Zeros (N, count, width)."""
        return latents.new_zeros(len(latents), self.count, self.width)


def blank(name: str) -> Blank:
    """In place of an encoder: nothing is read but, of a CLIP model, its configuration."""
    if name == LITE:
        return Blank(LITE_TOKENS, LITE_WIDTH)
    config = _clip(name, "CLIPVisionConfig")
    return Blank((config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)


def find_encoder(name: str, *, download: bool) -> Path | None:
    """The folder of a CLIP vision model: as named, or the snapshot of a hub id; none for one that a package brings.

    Raises NotAvailable where there is none.
    """
    if name == LITE:
        return None
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(CLIP_FILES), local_files_only=not download))
    except (OSError, ValueError) as error:  # the hub's errors, and an id that cannot be one
        raise _no_clip(name, error) from error


def open_encoder(name: str, codec: Codec, device: torch.device) -> FrozenEncoder:
    """An encoder by name: efficientnet-lite0, or a folder or hub id of a CLIP vision model.

    Raises NotAvailable where it cannot be had.
    """
    if name == LITE:
        network = _Lite(efficientnet_lite0_network()).requires_grad_(requires_grad=False).eval()
        return FrozenEncoder(network.to(device), codec, LITE_WIDTH, LITE_SIDE)
    model = _clip(name, "CLIPVisionModel").requires_grad_(requires_grad=False).eval().to(device)
    mean, spread = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of [0, 1]
    # ((v + 1) / 2 - mean) / spread
    return FrozenEncoder(
        lambda x: model(pixel_values=x).last_hidden_state,
        codec,
        model.config.hidden_size,
        model.config.image_size,
        tuple((m - 0.5) / s for m, s in zip(mean, spread, strict=True)),
        tuple(0.5 / s for s in spread),
    )


class _Lite(nn.Module):
    """The last level of EfficientNet-Lite0 before its head, a token for each of its pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        parts = ("conv_stem", "bn1", "blocks")
        self.levels = nn.Sequential(*(network.get_submodule(part) for part in parts))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, H W / 32^2, 320)."""
        features: Tensor = self.levels(images.contiguous(memory_format=torch.channels_last))
        return features.flatten(2).transpose(1, 2)


def _clip(name: str, what: str) -> Any:
    """An object of transformers, which may be missing."""
    try:
        import transformers  # it may be missing

        return getattr(transformers, what).from_pretrained(name)
    except (ImportError, OSError, ValueError) as error:
        raise _no_clip(name, error) from error


def _no_clip(name: str, error: Exception) -> NotAvailable:
    reason = " ".join(str(error).split())
    return NotAvailable(
        f"condition.image_encoder={name!r}: no CLIP vision model in such a folder or on the hub ({reason}): "
        f"`pip install transformers` and give a folder that holds one, or set {LITE}"
    )
