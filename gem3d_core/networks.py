"""The networks: a 2D UNet for slices, its volumetric extension, and the position-conditioned UNet (section 3.1).

All work on latents. A slice network sees (N, c, h, w); the volumetric network sees windows folded into the batch,
((b n) c h w), and its added layers work along n. Counted at the paper's width: 274.1 M and + 93.8 M parameters,
as in the release.
"""

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from einops import rearrange
from torch import Tensor, nn

from gem3d_core.conditions import Conditions
from gem3d_core.errors import NotAvailable
from gem3d_core.settings import NetworkFacts, UNetSpec

Backend: TypeAlias = str | Callable[..., Callable[..., Any]]
"""Of torch.compile: a name, or a function of a graph and its example inputs."""
POSITION_EMBEDDING = 128
"""Width of the sinusoid of 1000 p [release]."""
STRIDE_WAVES = 8
"""Channels that tell of a window's stride."""


class SliceNetwork(nn.Module):
    """The slice model: (x, t, conditions) -> prediction, for slices (N, c, h, w).

    Mask and informed slice are concatenated to the noisy latent [paper]. Volumetric layers are inserted into `unets`.
    """

    layout = torch.channels_last

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

    def prepared(self, cond: Conditions) -> Conditions:
        """With what is the same for all steps."""
        return cond

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


def attending_unet(
    spec: UNetSpec, in_channels: int, out_channels: int, context: int, *, offset: bool
) -> UNet2DConditionModel:
    """A 2D UNet whose attention also sees a context of tokens (N, k, context)."""
    return UNet2DConditionModel(
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=widths(spec),
        layers_per_block=spec.blocks,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in has_attention(spec)),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(has_attention(spec))),
        # diffusers' name notwithstanding, this argument is the number of heads of each level
        attention_head_dim=tuple(width // spec.head_channels for width in widths(spec)),
        norm_num_groups=spec.norm_groups,
        cross_attention_dim=context,
        class_embed_type="timestep" if offset else None,
    )


def widths(spec: UNetSpec) -> tuple[int, ...]:
    """Channels of every level."""
    return tuple(spec.base_channels * m for m in spec.multipliers)


def has_attention(spec: UNetSpec) -> list[bool]:
    """Whether attention stands at a level."""
    return [2**level in spec.attention_at for level in range(len(spec.multipliers))]


def position_network(spec: UNetSpec, channels: int) -> UNet2DConditionModel:
    """The mask-free slice model; its cross-attention context is the embedding of p (Appendix A)."""
    return attending_unet(spec, channels, channels, POSITION_EMBEDDING, offset=False)


def embed_position(p: Tensor) -> Tensor:
    """Sinusoid of 1000 p, (N,) in [0, 1] -> (N, 1, 128), a context of one token."""
    half = POSITION_EMBEDDING // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=p.device) / half)
    angle = 1000 * p.float()[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], dim=1)[:, None]


class Slots:
    """The number of slices n of the windows in flight, shared by all volumetric layers of one network."""

    def __init__(self, n: int) -> None:
        self.n = n


class SliceConv(nn.Module):
    """A 1D convolution (kernel 3) over slices after a 2D convolution; the identity at the start."""

    def __init__(self, conv2d: nn.Conv2d, slots: Slots) -> None:
        super().__init__()
        self.spatial = conv2d
        self.volumetric = nn.Conv1d(conv2d.out_channels, conv2d.out_channels, 3, padding=1)
        self.slots = slots
        if not self.volumetric.weight.is_meta:
            nn.init.dirac_(self.volumetric.weight)
            nn.init.zeros_(self.bias())

    def forward(self, x: Tensor) -> Tensor:
        """((b n) c h w) -> the same; as one 3 x 1 x 1 convolution, which is (b h w) c n without the transposition."""
        y = rearrange(self.spatial(x), "(b n) c h w -> b c n h w", n=self.slots.n)
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

    def __init__(self, spatial: Attention | Transformer2DModel, channels: int, slots: Slots, spec: UNetSpec) -> None:
        super().__init__()
        self.spatial = spatial
        self.heads = channels // spec.head_channels
        self.norm = nn.GroupNorm(spec.norm_groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.slots = slots
        if not self.out.weight.is_meta:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, **given: Any) -> Tensor | tuple[Tensor]:
        """((b n) c h w) -> the same, called as the 2D attention is."""
        made = self.spatial(x, **given)
        return (self._added(made[0]),) if isinstance(made, tuple) else self._added(made)

    def _added(self, x: Tensor) -> Tensor:
        height, n = x.shape[2], self.slots.n
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


class WindowNetwork(nn.Module):
    """What sampling needs of a network that draws whole windows, ((b n) c h w), at once."""

    facts: NetworkFacts
    layout = torch.channels_last
    """Of weights, in which convolutions are fastest."""
    fixed_batch = False
    """Whether every call must be of one size."""

    @property
    def n(self) -> int:
        """Slices of a window."""
        return self.facts.window

    def prepared(self, cond: Conditions) -> Conditions:
        """With what is the same for all steps."""
        return cond

    def compile_for_sampling(self, backend: Backend = "inductor") -> None:
        """Compile the forward pass for batches of one size, to CUDA graphs on a GPU; `fixed_batch` asks for such.

        The weights of 2D convolutions are stored channels-last, as compiled convolutions want them. Raises NotAvailable
        on a CPU without the C++ compiler that torch would call.
        """
        self.to(memory_format=self.layout)
        on_gpu = next(self.parameters()).is_cuda
        compiler = os.environ.get("CXX", "g++")
        if backend == "inductor" and not on_gpu and shutil.which(compiler) is None:
            raise NotAvailable(
                f"compiling a network for the CPU takes a C++ compiler, and {compiler} is not here: install it, name "
                "another in CXX, or leave runtime.compile at false"
            )
        options = {"mode": "reduce-overhead"} if backend == "inductor" and on_gpu else {}
        self.compile(backend=backend, fullgraph=True, dynamic=False, **options)
        self.fixed_batch = True


class VolumeNetwork(WindowNetwork):
    """A slice network with volumetric layers after every 3 x 3 convolution and every attention.

    Takes over the given network. Equals it exactly until the volumetric layers are trained, whatever n. Where it is
    trained with known slots (condition.known) these reach it clean, at timestep 0 and marked in a channel; where its
    windows have strides, waves of log2(stride) are such channels too.
    """

    def __init__(self, slices: SliceNetwork, facts: NetworkFacts) -> None:
        super().__init__()
        self.facts = facts
        self.slices = slices
        slots = Slots(facts.window)
        for unet in slices.unets:
            _make_volumetric(unet, slots, facts.unet)
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

    def volumetric_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that stage 2 trains, by name."""
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


def _make_volumetric(module: nn.Module, slots: Slots, spec: UNetSpec) -> None:
    """Put a volumetric layer behind every 3 x 3 convolution and every 2D attention."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            setattr(module, name, SliceConv(child, slots))
        elif isinstance(child, Attention):
            setattr(module, name, SliceAttention(child, child.query_dim, slots, spec))
        elif isinstance(child, Transformer2DModel):
            setattr(module, name, SliceAttention(child, child.in_channels, slots, spec))
        else:
            _make_volumetric(child, slots, spec)


def count_parameters(network: nn.Module) -> int:
    """Number of scalars among the parameters."""
    return sum(p.numel() for p in network.parameters())
