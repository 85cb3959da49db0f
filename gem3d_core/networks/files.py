"""Networks by their facts: built with fresh weights, their weights written and read again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors.torch import load_file
from torch import nn

from gem3d_core.codec.interface import Codec
from gem3d_core.errors import BadInput
from gem3d_core.networks.image_encoders import open_encoder
from gem3d_core.networks.injections import ImageEncoder, slice_network
from gem3d_core.networks.interface import Network
from gem3d_core.networks.slices import PositionNetwork
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.networks.whole import WholeNetwork
from gem3d_core.spec.kinds import KINDS
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, UNetSpec


def facts_from(values: dict[str, Any]) -> NetworkFacts:
    """Facts of plain values, as `dataclasses.asdict` and JSON leave them. Raises BadInput for an unknown kind."""
    if values["kind"] not in KINDS:
        raise BadInput(f"a network of kind {values['kind']!r}: expected one of {', '.join(sorted(KINDS))}")
    plain = values | {
        "unet": UNetSpec(**_tuples(values["unet"])),
        "condition": ConditionSpec(**_tuples(values["condition"])),
    }
    return NetworkFacts(**plain)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


NETWORKS: dict[str, Callable[..., Network]] = {
    "slice": slice_network,
    "volume": VolumeNetwork,
    "whole": WholeNetwork,
    "position": PositionNetwork,
}
"""What makes a network of a kind: called with its facts, with an image encoder too where conditions are injected, or,
where it extends another kind, with such a network and its facts."""


def build(facts: NetworkFacts, seed: int, encoder: ImageEncoder | None = None, start: Path | None = None) -> Network:
    """A network with fresh weights, drawn from a seed; torch's global generator is left as it was.

    encoder: of the informed slice, where the network attends to it. start: weights of the network that it extends;
    none: these are fresh, too.
    """
    if start is None:
        with seeded(seed):
            return _build(facts, encoder)
    basis = build(_basis(facts), seed, encoder)
    basis.load_state_dict(load_file(start))
    with seeded(seed):
        return NETWORKS[facts.kind](basis, facts)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from a seed within the block, and goes on as before behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _build(facts: NetworkFacts, encoder: ImageEncoder | None) -> Network:
    kind, network = KINDS[facts.kind], NETWORKS[facts.kind]
    if kind.extends:
        return network(_build(_basis(facts), encoder), facts)
    return network(facts, encoder) if kind.injected else network(facts)


def _basis(facts: NetworkFacts) -> NetworkFacts:
    """Facts of the network that another extends."""
    kind = KINDS[facts.kind].extends
    assert kind is not None
    return replace(facts, kind=kind)


def recompute_activations(network: Network) -> None:
    """Keep no activations for the backward pass: it computes them again. For kinds that can (`Kind.recomputes`)."""
    for module in network.modules():
        if isinstance(module, ModelMixin):
            module.enable_gradient_checkpointing()


def attends(facts: NetworkFacts) -> bool:
    """Whether a network looks at the informed slice by tokens of an image encoder."""
    return facts.condition.attends and KINDS[facts.kind].injected


def encoder_of(
    facts: NetworkFacts, codec: Codec | None, device: torch.device, folder: Path | None = None
) -> ImageEncoder | None:
    """The image encoder of a network, from a folder or as its facts name it; none for those without one.

    Raises NotAvailable where it cannot be had.
    """
    if not attends(facts):
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
