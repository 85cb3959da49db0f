"""What a network is conditioned on, and the way there from integer label maps (section 3.2)."""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from gem3d_core.codec.interface import Codec
from gem3d_core.machine.out_of_memory import in_batches
from gem3d_core.spec.method import ConditionSpec

MASK_BATCH = 16
"""Slices whose labels are taken apart at once."""


@dataclass(frozen=True)
class Pinned:
    """Slots that are known: `clean` (N, c, h, w) where `mask` (N,) is true, anything elsewhere."""

    clean: Tensor
    mask: Tensor

    def rows(self, rows: slice, device: torch.device) -> "Pinned":
        """Some of the slices, on a device."""
        return Pinned(self.clean[rows].to(device), self.mask[rows].to(device))


@dataclass(frozen=True)
class Conditions:
    """What a batch of N slices is conditioned on.

    mask (N, m, h, w): label area fractions and outline, or the encoded mask.
    informed (N, c, h, w): latent of the informed slice, repeated for its window; none for networks without one.
    offset (N,) float: signed distance in slices from the informed slice.
    stride (N,) float: slices between neighbouring slots of the window.
    known: finished slices among the slots, for networks that are told of them; none where there are none.
    tokens (N, k, d): what networks with cross-attention attend to; made once for all steps.
    window (N, k, h, w): what a volume network tells its 2D layers of the window; it is for no one else to set.
    position (N,): p in [0, 1], normalised along the volume, for the network that is told of nothing else.
    """

    mask: Tensor
    informed: Tensor | None
    offset: Tensor
    stride: Tensor
    known: Pinned | None = None
    tokens: Tensor | None = None
    window: Tensor | None = None
    position: Tensor | None = None

    def rows(self, rows: slice, device: torch.device) -> "Conditions":
        """Some of the slices, on a device."""
        return Conditions(
            self.mask[rows].to(device),
            None if self.informed is None else self.informed[rows].to(device),
            self.offset[rows].to(device),
            self.stride[rows].to(device),
            None if self.known is None else self.known.rows(rows, device),
            position=None if self.position is None else self.position[rows].to(device),
        )

    def without(self, mask: Tensor, informed: Tensor) -> "Conditions":
        """With zeros for the mask and for the informed slice of some rows.

        No slice that an outline touches has zeros for its mask; one wholly outside of it is the same as no mask.

        mask, informed (N,) bool: the rows that lose theirs.
        """
        kept = None if self.informed is None else _zeroed(self.informed, informed)
        return replace(self, mask=_zeroed(self.mask, mask), informed=kept)


def at_positions(p: Tensor) -> Conditions:
    """Conditions of slices of which nothing but the normalised position (N,) is known."""
    nothing = p.new_zeros(len(p), 0)
    return Conditions(nothing, None, nothing, nothing, position=p)


def _zeroed(x: Tensor, rows: Tensor) -> Tensor:
    return x.masked_fill(rows.to(x.device)[:, None, None, None], 0)


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
