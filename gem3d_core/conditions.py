"""From integer label maps to what is concatenated to the noisy latent (section 3.2)."""

import torch
from einops import rearrange
from torch import Tensor

from gem3d_core.codec import Codec, in_batches
from gem3d_core.settings import ConditionSpec

MASK_BATCH = 16
"""Slices whose labels are taken apart at once."""


def condition_channels(spec: ConditionSpec, codec: Codec, labels: tuple[int, ...]) -> int:
    """Channels of the mask condition: a label each and the outline, or the codec's."""
    return len(labels) + 1 if spec.mask == "one_hot" else codec.channels


def encode_mask(spec: ConditionSpec, codec: Codec, labels: tuple[int, ...], mask: Tensor, outline: Tensor) -> Tensor:
    """Condition latents of a label map.

    mask (Z, H, W) integer label ids, outline (Z, H, W) bool -> (Z, m, h, w) float32: the fraction of each latent
    cell's area that a label (in the order of `labels`) and the outline cover; or, with spec.mask = codec, the
    encoding of the label map as a grey image in which the outline has a level of its own [paper].
    """
    if spec.mask == "one_hot":

        def cover(mask: Tensor, outline: Tensor) -> Tensor:
            planes = torch.stack([mask == label for label in labels] + [outline], dim=1).float()
            return torch.nn.functional.avg_pool2d(planes, codec.factor)

        return in_batches(cover, MASK_BATCH, mask, outline)
    return codec.encode(grey_mask(labels, mask, outline))


def grey_mask(labels: tuple[int, ...], mask: Tensor, outline: Tensor) -> Tensor:
    """Background -1, outline, then the labels at equal steps up to 1; (Z, H, W) float32."""
    grey = outline.float()
    for level, label in enumerate(labels, start=2):
        grey = torch.where(mask == label, float(level), grey)
    return grey * (2 / (len(labels) + 1)) - 1


def pad_slices(volume: Tensor, n: int) -> Tensor:
    """Repeat the last slice of (Z, ...) until there are at least n."""
    missing = n - len(volume)
    return volume if missing <= 0 else torch.cat([volume, volume[-1:].expand(missing, *volume.shape[1:])])


def fold(windows: Tensor) -> Tensor:
    """(b, n, c, h, w) -> ((b n), c, h, w)."""
    return rearrange(windows, "b n c h w -> (b n) c h w")
