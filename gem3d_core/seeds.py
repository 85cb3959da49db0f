"""Seeds derived from names, so that a draw does not depend on the order or the batch it is made in."""

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a path of names and numbers."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def uniform(low: float, high: float, *parts: int | str) -> float:
    """One number drawn uniformly between low and high."""
    return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=generator(*parts)))


def normal(shape: tuple[int, ...], generators: list[torch.Generator], device: torch.device) -> Tensor:
    """Standard normal noise of `shape` for each generator, stacked along a new first axis."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
