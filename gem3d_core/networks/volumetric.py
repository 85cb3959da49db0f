"""The volumetric extension of a slice network: layers that work along the slices of a window (section 3.1).

Windows are folded into the batch, ((b n) c h w). At the start the extended network equals the slice network.
"""

from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from einops import rearrange
from torch import Tensor, nn

from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.interface import Arguments, WindowNetwork
from gem3d_core.networks.slices import SliceNetwork
from gem3d_core.spec.method import NetworkFacts, UNetSpec

STRIDE_WAVES = 8
"""Width of the sinusoidal embedding of a window's stride, before its projection (`Widened`)."""


class SliceConv(nn.Module):
    """A 1D convolution (kernel 3) over slices after a 2D convolution; the identity at the start."""

    def __init__(self, conv2d: nn.Conv2d, n: int) -> None:
        super().__init__()
        self.spatial = conv2d
        self.volumetric = nn.Conv1d(conv2d.out_channels, conv2d.out_channels, 3, padding=1)
        self.n = n
        if not self.volumetric.weight.is_meta:
            nn.init.dirac_(self.volumetric.weight)
            nn.init.zeros_(self.bias())

    def forward(self, x: Tensor) -> Tensor:
        """((b n) c h w) -> the same; as one 3 x 1 x 1 convolution, which is (b h w) c n without the transposition."""
        y = rearrange(self.spatial(x), "(b n) c h w -> b c n h w", n=self.n)
        kernel = rearrange(self.volumetric.weight, "o i k -> o i k 1 1")
        y = nn.functional.conv3d(y, kernel, self.volumetric.bias, padding=(1, 0, 0))
        return rearrange(y, "b c n h w -> (b n) c h w")

    def bias(self) -> Tensor:
        """The bias of the volumetric convolution (out,)."""
        bias = self.volumetric.bias
        assert bias is not None
        return bias


class SliceAttention(nn.Module):
    """Self-attention over the n slices, at every pixel apart, after a 2D attention; adds zero at the start."""

    def __init__(self, spatial: Attention | Transformer2DModel, channels: int, n: int, spec: UNetSpec) -> None:
        super().__init__()
        self.spatial = spatial
        self.heads = channels // spec.head_channels
        self.norm = nn.GroupNorm(spec.norm_groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.n = n
        if not self.out.weight.is_meta:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, **given: Any) -> Tensor | tuple[Tensor]:
        """((b n) c h w) -> the same, called as the 2D attention is."""
        made = self.spatial(x, **given)
        return (self._added(made[0]),) if isinstance(made, tuple) else self._added(made)

    def _added(self, x: Tensor) -> Tensor:
        height, n = x.shape[2], self.n
        tokens = rearrange(self.norm(x), "(b n) c h w -> (b h w) n c", n=n)
        q, k, v = rearrange(self.qkv(tokens), "s n (three m d) -> three s m n d", three=3, m=self.heads)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        tokens = self.out(rearrange(mixed, "s m n d -> s n (m d)"))
        added: Tensor = rearrange(tokens, "(b h w) n c -> (b n) c h w", h=height, b=x.shape[0] // n)
        return x + added


class Widened(nn.Module):
    """A first convolution that takes `extra` more channels, at the end of its input; they add zero at the start."""

    def __init__(self, first: nn.Module, extra: int, width: int) -> None:
        super().__init__()
        self.first = first
        self.added = nn.Conv2d(extra, width, 3, padding=1)
        if not self.added.weight.is_meta:
            nn.init.zeros_(self.added.weight)
            assert self.added.bias is not None
            nn.init.zeros_(self.added.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c + extra, h, w) -> (N, width, h, w)."""
        extra = self.added.in_channels
        made: Tensor = self.first(x[:, :-extra]) + self.added(x[:, -extra:])
        return made


class VolumeNetwork(WindowNetwork):
    """A slice network with volumetric layers after every 3 x 3 convolution and every attention.

    Takes over the given network. Equals it exactly until the volumetric layers are trained. Where it is
    trained with known slots (condition.known) these reach it clean, at timestep 0 and marked in a channel; where its
    windows have strides, a sinusoidal embedding of log2(stride) comes in there too, by a projection of its own.
    """

    def __init__(self, slices: SliceNetwork, facts: NetworkFacts) -> None:
        super().__init__()
        self.facts = facts
        self.slices = slices
        for unet in slices.unets:
            _make_volumetric(unet, facts.window, facts.unet)
        extra = (1 if facts.condition.known else 0) + (STRIDE_WAVES if facts.condition.strided else 0)
        if extra:
            slices.unet.conv_in = Widened(slices.unet.conv_in, extra, facts.unet.base_channels)

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """((b n) c h w) and t ((b n)) -> the prediction of the same layout as the latent."""
        planes = []
        if self.facts.condition.known:
            told = torch.zeros_like(t, dtype=torch.bool) if cond.known is None else cond.known.mask
            if cond.known is not None:
                x = torch.where(told[:, None, None, None], cond.known.clean.to(x.dtype), x)
                t = torch.where(told, torch.zeros_like(t), t)
            planes.append(told[:, None].to(x.dtype))
        if self.facts.condition.strided:
            planes.append(stride_waves(cond.stride).to(x.dtype))
        if planes:
            values = torch.cat(planes, dim=1)[:, :, None, None]
            cond = replace(cond, window=values.expand(-1, -1, *x.shape[2:]))
        made: Tensor = self.slices(x, t, cond)
        return made

    def prepared(self, cond: Conditions) -> Conditions:
        """With what is the same for all steps."""
        return self.slices.prepared(cond)

    def blank_arguments(self, slices: int, size: tuple[int, int]) -> Arguments:
        """As its slice network's."""
        return self.slices.blank_arguments(slices, size)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Those of the volumetric layers, which stage 2 trains, by name."""
        frozen = {name for name, _ in self.named_parameters() if ".spatial." in name}
        layers = {name for name, m in self.named_modules() if isinstance(m, SliceConv | SliceAttention | Widened)}
        return {
            name: p
            for name, p in self.named_parameters()
            if name not in frozen and any(name.startswith(layer + ".") for layer in layers)
        }


def stride_waves(stride: Tensor) -> Tensor:
    """Sines and cosines of log2(stride), (N,) -> (N, STRIDE_WAVES)."""
    angle = torch.log2(stride.float())[:, None] * torch.arange(1, STRIDE_WAVES // 2 + 1, device=stride.device) * 0.5
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _make_volumetric(module: nn.Module, n: int, spec: UNetSpec) -> None:
    """Put a volumetric layer behind every 3 x 3 convolution and every 2D attention."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            setattr(module, name, SliceConv(child, n))
        elif isinstance(child, Attention):
            setattr(module, name, SliceAttention(child, child.query_dim, n, spec))
        elif isinstance(child, Transformer2DModel):
            setattr(module, name, SliceAttention(child, child.in_channels, n, spec))
        else:
            _make_volumetric(child, n, spec)
