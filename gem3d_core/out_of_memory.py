"""What torch says where it could not allocate, on a GPU and on a CPU."""

import torch


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed to allocate; of a CPU's allocator it says so in words only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def give_back(device: torch.device) -> None:
    """Return to a GPU what torch keeps of it for itself."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
