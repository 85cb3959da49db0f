"""What torch says where it could not allocate, on a GPU and on a CPU."""

from collections.abc import Callable

import torch
from torch import Tensor

IN_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Words of a CPU's allocator, of CUDA itself and of its libraries, whose errors have no class of their own."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed to allocate."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in IN_WORDS)


def give_back(device: torch.device) -> None:
    """Return to a GPU what torch keeps of it for itself.

    Not inside `except`: the error holds the tensors of the call that failed.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()


def in_batches(function: Callable[..., Tensor], batch: int, *volumes: Tensor) -> Tensor:
    """function of volumes (N, ...), `batch` slices at a time, so that what it needs on the way does not grow with N.

    Half as many at a time from where they do not fit into memory; raises what torch raises where one slice does not.
    """
    N, first = len(volumes[0]), 0
    made: Tensor | None = None
    while made is None or first < N:
        part = None
        try:
            part = function(*(volume[first : first + batch] for volume in volumes))
        except RuntimeError as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
            batch //= 2
        if part is None:
            give_back(volumes[0].device)
            continue
        if made is None:
            made = part.new_empty((N, *part.shape[1:]))
        made[first : first + batch] = part
        first += batch
    return made
