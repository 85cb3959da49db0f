"""Running out of memory, on a GPU or a CPU: how torch says it, and trying again with less."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from gem3d_core.errors import Gem3dError

T = TypeVar("T")

IN_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Words of a CPU's allocator, of CUDA itself and of its libraries, whose errors have no class of their own."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed to allocate."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in IN_WORDS)


def give_back() -> None:
    """Return to the GPUs what torch keeps of them for itself; does nothing where torch uses none.

    Not inside `except`: the error holds the tensors of the call that failed.
    """
    torch.cuda.empty_cache()


def until_it_fits(attempt: Callable[[], T], smaller: Callable[[], bool], what: str) -> T:
    """What `attempt` returns; where it needs more memory than there is, it is repeated after `smaller`.

    smaller: makes the next attempt need less; False where that is not possible. what: the smallest that was tried.
    Before each repetition all GPUs get back what the failed attempt held.

    Raises Gem3dError where nothing smaller is left.
    """
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not smaller():
                raise Gem3dError(
                    f"{what} does not fit into memory ({error}): use a smaller network or slice_size, or a device "
                    "with more memory"
                ) from error
        give_back()


def halved_until_it_fits(attempt: Callable[[int], T], size: int, what: str) -> tuple[T, int]:
    """What `attempt` returns for `size`, or for half of it, a quarter and so on to 1; and the size that did fit.

    Raises Gem3dError where 1 does not fit.
    """

    def halve() -> bool:
        nonlocal size
        size //= 2
        return size > 0

    return until_it_fits(lambda: attempt(size), halve, what), size


def in_batches(function: Callable[..., Tensor], batch: int, *volumes: Tensor) -> Tensor:
    """function of volumes (N, ...), `batch` slices at a time, so that its memory does not grow with N.

    Half as many at a time from where they do not fit. Raises Gem3dError where one slice does not.
    """

    def part(first: int, size: int) -> Tensor:
        return function(*(volume[first : first + size] for volume in volumes))

    N, first = len(volumes[0]), 0
    made: Tensor | None = None
    while made is None or first < N:
        found, batch = halved_until_it_fits(partial(part, first), batch, "one slice")
        if made is None:
            made = found.new_empty((N, *found.shape[1:]))
        made[first : first + batch] = found
        first += batch
    return made
