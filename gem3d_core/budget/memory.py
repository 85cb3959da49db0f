"""How much memory a call of a network needs, counted on torch's meta device, and how large a batch a budget holds."""

import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode  # the place that torch's documentation names
from torch.utils._pytree import tree_leaves

from gem3d_core.networks.interface import Network

OVERHEAD = 2.0
"""Memory that is taken over what tensors need: kernels' own space, blocks that do not fit into each other. Measured
on two CPU cores: 1.3 to 1.8; once 2.1, in a process that had run a thousand tests before."""
MOST_WINDOWS = 64
"""Most windows of a call: more gain nothing, and a kill would lose all the volumes that they belong to."""
CODEC_SHARE = 0.25
"""Share of the memory beside the weights that a codec gets which decodes while windows are sampled."""
PROCESS_BYTES = 2**30
"""Bytes of a process before it has a network: the libraries, or a GPU's context."""


@dataclass(frozen=True)
class InFlight:
    """Volumes that a process holds beside the calls of a network.

    volume: bytes of one; most: how many there are to draw; waiting: how many of them may be drawn and not written yet,
    beside those in flight, of which every window of a call may have its own.
    """

    volume: float = 0
    most: int = 0
    waiting: int = 0

    def held(self, windows: int) -> float:
        """Bytes, where a call takes so many windows."""
        return self.volume * min(self.most, windows + self.waiting)


NONE_IN_FLIGHT = InFlight()


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it comes without types
    """Counts the bytes of all tensors that exist at once while it is on, but for those that were there before."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # it comes without types
        self.now: int = 0
        self.peak: int = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in before)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # as torch calls it
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.now -= size


def budget_on(device: torch.device, asked: float | None) -> float | None:
    """Bytes that a process may take: what was asked for, on a GPU at most all of it; None: no limit."""
    if device.type != "cuda":
        return asked
    whole = float(torch.cuda.get_device_properties(device).total_memory)
    return whole if asked is None else min(asked, whole)


def live_bytes(module: nn.Module, arguments: Callable[[], tuple[object, ...]]) -> int:
    """The most bytes that a call without gradients holds at once, inputs included and weights not.

    arguments: makes them, on the meta device. Nothing is computed; the module itself is left as it is.
    """
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
    }
    eager = torch.compiler.set_stance("force_eager")  # a compiled module is counted as it is written
    with eager, torch.no_grad(), _Live(state.values()) as live, torch.device("meta"):
        given = arguments()
        functional_call(module, state, given)
    peak: int = live.peak  # the mode comes without types
    return peak


def live_step_bytes(module: nn.Module, arguments: Callable[[], tuple[object, ...]]) -> int:
    """The most bytes that a training step holds at once: a call, its backward pass and the gradients; weights not.

    The module is on the meta device, and what it trains requires gradients.
    """
    known = chain(module.parameters(), module.buffers())
    with _Live(known) as live, torch.device("meta"):
        given = arguments()
        made: Tensor = module(*given)
        torch.autograd.backward(made.square().mean())
    peak: int = live.peak  # the mode comes without types
    return peak


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))


def largest_batch(one: float, two: float, budget: float) -> int:
    """How many fit into a budget of bytes, perhaps none; a batch of one and of two takes so much, others in line."""
    return max(0, 1 + math.floor((budget / OVERHEAD - one) / (two - one)))


def windows_that_fit(network: Network, size: tuple[int, int], room: float, flying: InFlight = NONE_IN_FLIGHT) -> int:
    """How many windows of latents (h, w) one call may denoise within so many bytes beside its weights; at least one.

    flying: the volumes for which the same bytes have to do. Counted in float32: under autocast a call holds less.
    """

    def bytes_of(windows: int) -> int:
        return live_bytes(network, lambda: network.blank_arguments(windows * network.facts.window, size))

    one, two = bytes_of(1), bytes_of(2)
    beside_all = largest_batch(one, two, room - flying.held(flying.most))
    if beside_all + flying.waiting >= flying.most:
        return max(1, beside_all)
    each = flying.volume / OVERHEAD  # `largest_batch` adds it, which a volume does not have
    return max(1, largest_batch(one + each, two + 2 * each, room - flying.waiting * flying.volume))


def plan_drawing(
    network: Network,
    codec: AutoencoderKL | None,
    size: tuple[int, int],
    budget: float,
    flying: InFlight = NONE_IN_FLIGHT,
) -> tuple[int, int]:
    """Windows of latents (h, w) that one call may denoise, and slices that an autoencoder may decode meanwhile.

    budget: bytes for the whole process. flying: the volumes that the same memory holds, as on a CPU.
    """
    room = budget - PROCESS_BYTES - weight_bytes(network) - (0 if codec is None else weight_bytes(codec))
    share = 0.0 if codec is None else CODEC_SHARE * (room - flying.held(1))
    slices = 1 if codec is None else slices_that_pass(codec, size, share)
    return min(MOST_WINDOWS, windows_that_fit(network, size, room - share, flying)), slices


def codec_bytes(model: AutoencoderKL, slices: int, size: tuple[int, int]) -> int:
    """The most bytes that an autoencoder holds at once to decode latents (h, w), or to encode their slices."""
    channels, colours = int(model.config["latent_channels"]), int(model.config["in_channels"])
    factor = 2 ** (len(model.config["block_out_channels"]) - 1)
    image = (slices, colours, size[0] * factor, size[1] * factor)
    decoding = live_bytes(model.decoder, lambda: (torch.zeros(slices, channels, *size),))
    return max(decoding, live_bytes(model.encoder, lambda: (torch.zeros(image),)))


def slices_that_pass(model: AutoencoderKL, size: tuple[int, int], room: float) -> int:
    """How many slices one call of an autoencoder may take within so many bytes beside its weights; at least one."""
    return max(1, largest_batch(codec_bytes(model, 1, size), codec_bytes(model, 2, size), room))
