"""Networks by their facts: built with fresh weights, their weights written and read again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from gem3d_core.codec.interface import Codec
from gem3d_core.networks.image_encoders import open_encoder
from gem3d_core.networks.injections import Branched, CrossAttended, ImageEncoder
from gem3d_core.networks.slices import SliceNetwork, WindowNetwork, position_network
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.networks.whole import WholeNetwork
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, UNetSpec


def facts_from(values: dict[str, Any]) -> NetworkFacts:
    """Facts of plain values, as `dataclasses.asdict` and JSON leave them."""
    plain = values | {
        "unet": UNetSpec(**_tuples(values["unet"])),
        "condition": ConditionSpec(**_tuples(values["condition"])),
    }
    return NetworkFacts(**plain)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


Network: TypeAlias = SliceNetwork | WindowNetwork | UNet2DConditionModel


def recompute_activations(network: Network) -> None:
    """Keep no activations for the backward pass: it computes them again. Networks of MONAI keep theirs."""
    for module in network.modules():
        if isinstance(module, ModelMixin):
            module.enable_gradient_checkpointing()


def build(facts: NetworkFacts, seed: int, encoder: ImageEncoder | None = None) -> Network:
    """A network with fresh weights, drawn from a seed; torch's global generator is left as it was.

    encoder: of the informed slice, where the network attends to it.
    """
    with seeded(seed):
        return _build(facts, encoder)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from a seed within the block, and goes on as before behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _build(facts: NetworkFacts, encoder: ImageEncoder | None) -> Network:
    if facts.kind == "position":
        return position_network(facts.unet, facts.latent_channels)
    if facts.kind == "whole":
        return WholeNetwork(facts)
    slices = _slice_network(facts, encoder)
    return slices if facts.kind == "slice" else VolumeNetwork(slices, facts)


def _slice_network(facts: NetworkFacts, encoder: ImageEncoder | None) -> SliceNetwork:
    if facts.condition.injection == "cross_attention":
        if encoder is None:
            raise ValueError("a network that attends to the informed slice needs an image encoder")
        return CrossAttended(facts, encoder)
    return Branched(facts) if facts.condition.injection == "controlnet" else SliceNetwork(facts)


def encoder_of(
    facts: NetworkFacts, codec: Codec | None, device: torch.device, folder: Path | None = None
) -> ImageEncoder | None:
    """The image encoder of a network, from a folder or as its facts name it; none for those without one.

    Raises NotAvailable where it cannot be had.
    """
    if facts.condition.injection != "cross_attention" or facts.kind in {"position", "whole"}:
        return None
    if codec is None:
        raise ValueError("an image encoder sees decoded slices: give the codec of the latents")
    return open_encoder(facts.condition.image_encoder if folder is None else str(folder), codec, device)


def load_network(
    facts: NetworkFacts, weights: Path, device: torch.device, codec: Codec | None = None, encoder: Path | None = None
) -> Network:
    """A saved network, frozen, on a device; `codec` is that of its latents. Raises as `encoder_of`."""
    tokens = encoder_of(facts, codec, device, encoder)
    with torch.device("meta"):
        network = _build(facts, tokens)
    network.load_state_dict(load_file(weights), assign=True)
    freeze(network)
    return network.to(device)


def freeze(network: nn.Module) -> nn.Module:
    """Ready for sampling: no gradients, no dropout."""
    return network.requires_grad_(False).eval()
