"""The networks of single slices: a 2D UNet, and the position-conditioned one (section 3.1).

`volumetric` extends a slice network to windows. Counted at the paper's width: 274.1 M, and + 93.8 M volumetric
parameters, as in the release.
"""

import math
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from gem3d_core.networks.conditions import Conditions, at_positions
from gem3d_core.networks.interface import Arguments, Network
from gem3d_core.spec.method import NetworkFacts, UNetSpec

POSITION_EMBEDDING = 128
"""Width of the sinusoid of 1000 p [release]."""


class SliceNetwork(Network):
    """The slice model: (x, t, conditions) -> prediction, for slices (N, c, h, w).

    Mask and informed slice are concatenated to the noisy latent [paper]. Volumetric layers are inserted into `unets`.
    """

    def __init__(self, facts: NetworkFacts) -> None:
        super().__init__()
        self.facts = facts
        inputs = facts.latent_channels * (2 if facts.condition.informed else 1) + facts.mask_channels
        self.unet = slice_unet(facts.unet, inputs, facts.latent_channels, offset=facts.condition.slice_offset)

    @property
    def unets(self) -> list[nn.Module]:
        """The networks of 2D layers that the volume model makes volumetric."""
        return [self.unet]

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """x (N, c, h, w), t (N,) -> (N, c, h, w)."""
        prediction: Tensor = self.unet(
            self.concatenated(x, cond), t, class_labels=self.labels(cond), return_dict=False
        )[0]
        return prediction

    def concatenated(self, x: Tensor, cond: Conditions) -> Tensor:
        """Noisy latent, mask and informed slice (Algorithm 1, line 9), and what is told of the window."""
        return torch.cat([part for part in (x, cond.mask, cond.informed, cond.window) if part is not None], dim=1)

    def labels(self, cond: Conditions) -> Tensor | None:
        """What is embedded beside t."""
        return cond.offset if self.facts.condition.slice_offset else None


def slice_unet(spec: UNetSpec, in_channels: int, out_channels: int, *, offset: bool) -> UNet2DModel:
    """A 2D UNet of a shape; `offset` adds the slice-offset embedding."""
    return UNet2DModel(
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=widths(spec),
        layers_per_block=spec.blocks,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in has_attention(spec)),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(has_attention(spec))),
        attention_head_dim=spec.head_channels,
        norm_num_groups=spec.norm_groups,
        class_embed_type="timestep" if offset else None,
    )


def attending(spec: UNetSpec, in_channels: int, out_channels: int, context: int, *, offset: bool) -> dict[str, object]:
    """Arguments of a `UNet2DConditionModel`, whose attention also sees a context of tokens (N, k, context)."""
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": widths(spec),
        "layers_per_block": spec.blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in has_attention(spec)),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(has_attention(spec))),
        # diffusers' name notwithstanding, this argument is the number of heads of each level
        "attention_head_dim": tuple(width // spec.head_channels for width in widths(spec)),
        "norm_num_groups": spec.norm_groups,
        "cross_attention_dim": context,
        "class_embed_type": "timestep" if offset else None,
    }


def widths(spec: UNetSpec) -> tuple[int, ...]:
    """Channels of every level."""
    return tuple(spec.base_channels * m for m in spec.multipliers)


def has_attention(spec: UNetSpec) -> list[bool]:
    """Whether attention stands at a level."""
    return [2**level in spec.attention_at for level in range(len(spec.multipliers))]


class PositionNetwork(UNet2DConditionModel, Network):  # type: ignore[misc]  # diffusers comes without types
    """The mask-free slice model; its cross-attention context is the embedding of p (Appendix A)."""

    def __init__(self, facts: NetworkFacts) -> None:
        channels = facts.latent_channels
        super().__init__(**attending(facts.unet, channels, channels, POSITION_EMBEDDING, offset=False))
        self.facts = facts

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """x (N, c, h, w), t (N,) -> (N, c, h, w)."""
        prediction: Tensor = super().forward(x, t, encoder_hidden_states=cond.tokens, return_dict=False)[0]
        return prediction

    def prepared(self, cond: Conditions) -> Conditions:
        """With the position embedded, as the one token."""
        assert cond.position is not None
        return replace(cond, tokens=embed_position(cond.position))

    def blank_arguments(self, slices: int, size: tuple[int, int]) -> Arguments:
        """Arguments of a call on `slices` latents (h, w): zeros."""
        x, t = torch.zeros(slices, self.facts.latent_channels, *size), torch.zeros(slices, dtype=torch.long)
        cond = at_positions(torch.zeros(slices, 0))
        return x, t, replace(cond, tokens=torch.zeros(slices, 1, POSITION_EMBEDDING))


def embed_position(p: Tensor) -> Tensor:
    """Sinusoid of 1000 p, (N,) in [0, 1] -> (N, 1, 128), a context of one token."""
    half = POSITION_EMBEDDING // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=p.device) / half)
    angle = 1000 * p.float()[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], dim=1)[:, None]
