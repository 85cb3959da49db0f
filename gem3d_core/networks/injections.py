"""Other ways for conditions to reach the slice model than concatenation (Table 3, Appendix C.3).

Each is a slice network of the same contract, trained and made volumetric like the one that concatenates.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.image_encoders import blank
from gem3d_core.networks.interface import Arguments
from gem3d_core.networks.slices import SliceNetwork, attending, slice_unet
from gem3d_core.spec.method import NetworkFacts


class ImageEncoder(Protocol):
    """A frozen network that sees slices."""

    @property
    def width(self) -> int:
        """Numbers in a token."""

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents of slices (N, c, h, w) -> (N, k, width)."""


class Branched(SliceNetwork):
    """A condition branch beside the main network, both trained together (ControlNet without a frozen base).

    The branch is a second encoder, which sees the noisy latent with mask and informed slice. What it finds is added,
    through 1 x 1 convolutions that start at zero, to what the main network's decoder takes from its own encoder.
    """

    def __init__(self, facts: NetworkFacts) -> None:
        super().__init__(facts)
        self.branch = self.unet  # which was built for all inputs
        del self.branch.up_blocks, self.branch.conv_norm_out, self.branch.conv_out
        self.unet = slice_unet(
            facts.unet, facts.latent_channels, facts.latent_channels, offset=facts.condition.slice_offset
        )
        self.joints = nn.ModuleList([_zero_convolution(width) for width in _skip_widths(self.unet)])
        self.middle = _zero_convolution(self.unet.config["block_out_channels"][-1])

    @property
    def unets(self) -> list[nn.Module]:
        """Main network and branch."""
        return [self.unet, self.branch]

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """x (N, c, h, w), t (N,) -> (N, c, h, w)."""
        labels = self.labels(cond)
        main, told = _embedding(self.unet, t, labels), _embedding(self.branch, t, labels)
        y, skips = _encoded(self.unet, x if cond.window is None else torch.cat([x, cond.window], dim=1), main)
        c, added = _encoded(self.branch, self.concatenated(x, cond), told)
        skips = [skip + joint(more) for skip, joint, more in zip(skips, self.joints, added, strict=True)]
        return _decoded(self.unet, y + self.middle(c), skips, main)

    def concatenated(self, x: Tensor, cond: Conditions) -> Tensor:
        """What the branch sees."""
        assert cond.informed is not None
        return torch.cat([x, cond.mask, cond.informed], dim=1)


class CrossAttended(SliceNetwork):
    """The mask is concatenated; attention looks at the informed slice as tokens of an image encoder."""

    def __init__(self, facts: NetworkFacts, encoder: ImageEncoder | None) -> None:
        if encoder is None:
            raise ValueError("a network that attends to the informed slice needs an image encoder")
        nn.Module.__init__(self)
        self.facts = facts
        self.encoder = encoder
        inputs = facts.latent_channels + facts.mask_channels
        offset, outputs = facts.condition.slice_offset, facts.latent_channels
        self.unet = UNet2DConditionModel(**attending(facts.unet, inputs, outputs, encoder.width, offset=offset))

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        """x (N, c, h, w), t (N,) -> (N, c, h, w)."""
        assert cond.informed is not None
        parts = [part for part in (x, cond.mask, cond.window) if part is not None]
        context = (self.encoder.tokens(cond.informed) if cond.tokens is None else cond.tokens).to(x.dtype)
        prediction: Tensor = self.unet(
            torch.cat(parts, dim=1), t, encoder_hidden_states=context, class_labels=self.labels(cond), return_dict=False
        )[0]
        return prediction

    def prepared(self, cond: Conditions) -> Conditions:
        """With the tokens of the informed slice, which all steps look at."""
        assert cond.informed is not None
        return replace(cond, tokens=self.encoder.tokens(cond.informed))

    def blank_arguments(self, slices: int, size: tuple[int, int]) -> Arguments:
        """Arguments of a call on `slices` latents (h, w): zeros, tokens too."""
        x, t, cond = super().blank_arguments(slices, size)
        return x, t, replace(cond, tokens=blank(self.facts.condition.image_encoder).tokens(x))


INJECTIONS: dict[str, Callable[..., SliceNetwork]] = {
    "concat": SliceNetwork,
    "controlnet": Branched,
    "cross_attention": CrossAttended,
}
"""By `condition.injection`: the class of the slice network."""


def slice_network(facts: NetworkFacts, encoder: ImageEncoder | None = None) -> SliceNetwork:
    """A slice network of its injection; encoder: of the informed slice, where that attends to it."""
    network = INJECTIONS[facts.condition.injection]
    return network(facts, encoder) if facts.condition.attends else network(facts)


def _zero_convolution(width: int) -> nn.Conv2d:
    layer = nn.Conv2d(width, width, 1)
    if not layer.weight.is_meta:
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return layer


def _skip_widths(unet: UNet2DModel) -> list[int]:
    """Channels of everything that the decoder takes from the encoder, in the order in which it is made."""
    widths = [int(unet.config["block_out_channels"][0])]
    for width, block in zip(unet.config["block_out_channels"], unet.down_blocks, strict=True):
        widths += [width] * (len(block.resnets) + (1 if block.downsamplers is not None else 0))
    return widths


def _embedding(unet: UNet2DModel, t: Tensor, labels: Tensor | None) -> Tensor:
    """Embed the timestep and, where there is one, the slice offset, as `UNet2DModel.forward` does."""
    embedding: Tensor = unet.time_embedding(unet.time_proj(t).to(unet.dtype))
    return embedding if labels is None else embedding + unet.class_embedding(unet.time_proj(labels).to(unet.dtype))


def _encoded(unet: UNet2DModel, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The lowest level, and what was made on the way down."""
    x = unet.conv_in(x)
    skips = [x]
    for block in unet.down_blocks:
        x, made = block(hidden_states=x, temb=embedding)
        skips += made
    return unet.mid_block(x, embedding), skips


def _decoded(unet: UNet2DModel, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
    for block in unet.up_blocks:
        taken = len(block.resnets)
        x = block(x, tuple(skips[-taken:]), embedding)
        skips = skips[:-taken]
    out: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
    return out
