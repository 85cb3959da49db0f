"""What torch says where it could not allocate, on a GPU and on a CPU."""

import torch

IN_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Of a CPU's allocator, of CUDA itself, and of its libraries, whose errors have no class of their own."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed to allocate."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in IN_WORDS)


def give_back(device: torch.device) -> None:
    """Return to a GPU what torch keeps of it for itself.

    Not inside `except`: the error holds the tensors of the call that failed.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
