"""The networks: a 2D UNet for slices, its volumetric extension, and the position-conditioned UNet (section 3.1).

All work on latents. A slice network sees (N, c, h, w); the volumetric network sees windows folded into the batch,
((b n) c h w), and its added layers work along n. Counted at the paper's width: 274.1 M and + 93.8 M parameters,
as in the release.
"""

import math
import os
import shutil
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from gem3d_core.errors import NotAvailable
from gem3d_core.settings import UNetSpec

Backend: TypeAlias = str | Callable[..., Callable[..., Any]]
"""Of torch.compile: a name, or a function of a graph and its example inputs."""
POSITION_EMBEDDING = 128
"""Width of the sinusoid of 1000 p [release]."""


def slice_network(spec: UNetSpec, in_channels: int, out_channels: int, *, offset: bool) -> UNet2DModel:
    """The slice model: noisy latent and conditions in, prediction out; `offset` adds the slice-offset embedding."""
    levels = len(spec.multipliers)
    with_attention = [2**level in spec.attention_at for level in range(levels)]
    return UNet2DModel(
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=tuple(spec.base_channels * m for m in spec.multipliers),
        layers_per_block=spec.blocks,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in with_attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(with_attention)),
        attention_head_dim=spec.head_channels,
        norm_num_groups=spec.norm_groups,
        class_embed_type="timestep" if offset else None,
    )


def position_network(spec: UNetSpec, channels: int) -> UNet2DConditionModel:
    """The mask-free slice model; its cross-attention context is the embedding of p (Appendix A)."""
    levels = len(spec.multipliers)
    with_attention = [2**level in spec.attention_at for level in range(levels)]
    widths = tuple(spec.base_channels * m for m in spec.multipliers)
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=spec.blocks,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in with_attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(with_attention)),
        # diffusers' name notwithstanding, this argument is the number of heads of each level
        attention_head_dim=tuple(width // spec.head_channels for width in widths),
        norm_num_groups=spec.norm_groups,
        cross_attention_dim=POSITION_EMBEDDING,
    )


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

    def __init__(self, attention2d: Attention, slots: Slots, head_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.spatial = attention2d
        channels = attention2d.query_dim
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.slots = slots
        if not self.out.weight.is_meta:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, *, temb: Tensor | None = None) -> Tensor:
        """((b n) c h w) -> the same."""
        x = self.spatial(x, temb=temb)
        height, n = x.shape[2], self.slots.n
        tokens = rearrange(self.norm(x), "(b n) c h w -> (b h w) n c", n=n)
        q, k, v = rearrange(self.qkv(tokens), "s n (three m d) -> three s m n d", three=3, m=self.heads)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        tokens = self.out(rearrange(mixed, "s m n d -> s n (m d)"))
        added: Tensor = rearrange(tokens, "(b h w) n c -> (b n) c h w", h=height, b=x.shape[0] // n)
        return x + added


class VolumeNetwork(nn.Module):
    """A slice network with volumetric layers after every 3 x 3 convolution and every attention.

    Takes over the given network. Equals it exactly until the volumetric layers are trained, whatever n.
    """

    def __init__(self, slices: UNet2DModel, spec: UNetSpec, n: int) -> None:
        super().__init__()
        self.slots = Slots(n)
        self.fixed_batch = False
        self.unet = slices
        for parent in list(slices.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
                    setattr(parent, name, SliceConv(child, self.slots))
                elif isinstance(child, Attention):
                    setattr(parent, name, SliceAttention(child, self.slots, spec.head_channels, spec.norm_groups))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """((b n) c h w) and t ((b n)) -> the prediction of the same layout as the latent."""
        prediction: Tensor = self.unet(x, t, class_labels=class_labels, return_dict=False)[0]
        return prediction

    def compile_for_sampling(self, backend: Backend = "inductor") -> None:
        """Compile the forward pass for batches of one size, to CUDA graphs on a GPU; `fixed_batch` asks for such.

        The weights of 2D convolutions are stored channels-last, as compiled convolutions want them. Raises NotAvailable
        on a CPU without the C++ compiler that torch would call.
        """
        self.to(memory_format=torch.channels_last)
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

    def volumetric_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that stage 2 trains, by name."""
        frozen = {name for name, _ in self.named_parameters() if ".spatial." in name}
        layers = {name for name, m in self.named_modules() if isinstance(m, SliceConv | SliceAttention)}
        return {
            name: p
            for name, p in self.named_parameters()
            if name not in frozen and any(name.startswith(layer + ".") for layer in layers)
        }


def count_parameters(network: nn.Module) -> int:
    """Number of scalars among the parameters."""
    return sum(p.numel() for p in network.parameters())
