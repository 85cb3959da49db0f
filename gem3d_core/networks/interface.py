"""What training, budgets and sampling ask of a network, whatever its kind. All networks work on latents."""

import os
import shutil
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gem3d_core.errors import NotAvailable
from gem3d_core.networks.conditions import Conditions
from gem3d_core.spec.method import NetworkFacts

Backend: TypeAlias = str | Callable[..., Callable[..., Any]]
"""Backend of torch.compile: a name, or a function of a graph and its example inputs."""
Arguments: TypeAlias = tuple[Tensor, Tensor, Conditions]
"""Arguments of a call: x (N, c, h, w), t (N,) and conditions."""


class Network(nn.Module):
    """Called as (x (N, c, h, w), t (N,), prepared conditions) -> the prediction (N, c, h, w)."""

    facts: NetworkFacts
    layout = torch.channels_last
    """Memory layout of weights in which convolutions are fastest."""
    fixed_batch = False
    """Whether every call must be of one size."""

    def prepared(self, cond: Conditions) -> Conditions:
        """With what is the same for all steps."""
        return cond

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that its training changes, by name."""
        return dict(self.named_parameters())

    def blank_arguments(self, slices: int, size: tuple[int, int]) -> Arguments:
        """Arguments of a call on `slices` latents (h, w), to count what it needs: zeros."""
        facts = self.facts
        x, mask = (torch.zeros(slices, c, *size) for c in (facts.latent_channels, facts.mask_channels))
        per_slice = torch.ones(slices)
        cond = Conditions(mask, x if facts.condition.informed else None, per_slice, per_slice)
        return x, torch.zeros(slices, dtype=torch.long), cond


class WindowNetwork(Network):
    """A network that sees whole windows, folded into the batch, ((b n) c h w)."""

    @property
    def n(self) -> int:
        """Slices of a window."""
        return self.facts.window

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


def count_parameters(network: nn.Module) -> int:
    """Number of scalars among the parameters."""
    return sum(p.numel() for p in network.parameters())
