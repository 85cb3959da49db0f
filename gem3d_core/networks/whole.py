"""Whole volumes at once: the 3D networks of the baselines 3D LDM and Pix2Pix 3D (Table 2).

Their first stage is three-dimensional: the latents of a volume's slices go through an orthonormal Haar wavelet along
the slice axis too, so that a window of n slices ((b n) c h w) becomes (b, 4**levels c, n / 2**levels, h, w). It is
undone behind the network: for sampler and training loop a volume is a window of all its slices.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.interface import WindowNetwork
from gem3d_core.networks.slices import has_attention, widths
from gem3d_core.spec.method import NetworkFacts, UNetSpec

LEVELS = 2
"""Halvings along the slice axis by the wavelet."""


class WholeNetwork(WindowNetwork):
    """A 3D UNet (MONAI) on noisy volume, mask and, where one is a condition, informed slice, concatenated."""

    layout = torch.channels_last_3d

    def __init__(self, facts: NetworkFacts) -> None:
        super().__init__()
        from monai.networks.nets import DiffusionModelUNet

        self.facts = facts
        spec = facts.unet
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=2**LEVELS * _inputs(facts),
            out_channels=2**LEVELS * facts.latent_channels,
            num_res_blocks=spec.blocks,
            channels=widths(spec),
            attention_levels=has_attention(spec),
            norm_num_groups=spec.norm_groups,
            num_head_channels=spec.head_channels,  # the middle attends whatever the levels do
        )

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """((b n) c h w) and t ((b n)), the same for all slices of a volume -> the prediction of the same layout."""
        n = self.n
        made: Tensor = self.unet(spread_slices(_joined(x, cond), n), t[::n])
        return gather_slices(made, n)


def whole_window(depth: int, spec: UNetSpec) -> int:
    """Slices of the smallest window that holds a volume and can be halved as often as wavelet and network do."""
    unit: int = 2 ** (LEVELS + len(spec.multipliers) - 1)
    return unit * -(-depth // unit)


class Discriminator(nn.Module):
    """Pix2Pix's: whether patches of a volume belong to its mask, (b, 1, ...) numbers without bounds."""

    def __init__(self, facts: NetworkFacts) -> None:
        super().__init__()
        from monai.networks.nets import PatchDiscriminator

        self.n = facts.window
        self.patches: PatchDiscriminator = PatchDiscriminator(
            spatial_dims=3,
            channels=facts.unet.base_channels,
            in_channels=2**LEVELS * _inputs(facts),
            num_layers_d=1,
            kernel_size=3,  # volumes are small after the wavelet
            norm="INSTANCE",
        )

    def forward(self, x: Tensor, cond: Conditions) -> Tensor:
        """A clean volume ((b n) c h w)."""
        judged: Tensor = self.patches(spread_slices(_joined(x, cond), self.n))[-1]
        return judged


def _inputs(facts: NetworkFacts) -> int:
    return facts.latent_channels * (2 if facts.condition.informed else 1) + facts.mask_channels


def _joined(x: Tensor, cond: Conditions) -> Tensor:
    return torch.cat([part for part in (x, cond.mask, cond.informed) if part is not None], dim=1)


def spread_slices(x: Tensor, n: int) -> Tensor:
    """Orthonormal Haar wavelet packet along the slices: ((b n) c h w) -> (b, 4 c, n / 4, h, w)."""
    x = rearrange(x, "(b n) c h w -> b c n h w", n=n)
    for _ in range(LEVELS):
        even, odd = x[:, :, 0::2], x[:, :, 1::2]
        x = torch.cat([even + odd, even - odd], dim=1) * 0.5**0.5
    return x


def gather_slices(x: Tensor, n: int) -> Tensor:
    """The inverse of `spread_slices`."""
    for _ in range(LEVELS):
        low, high = x.chunk(2, dim=1)
        x = torch.stack([low + high, low - high], dim=3).flatten(2, 3) * 0.5**0.5
    return rearrange(x, "b c n h w -> (b n) c h w", n=n)
