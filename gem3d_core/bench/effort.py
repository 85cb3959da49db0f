"""Seconds and memory that a piece of work takes."""

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")

INTERVAL = 0.01
"""Seconds between two looks at the memory of the process."""


@dataclass(frozen=True)
class Effort:
    """What one piece of work took.

    peak_bytes: on a GPU the most that was allocated on it meanwhile, weights included; on a CPU the most that the
    process held meanwhile, above what it held before.
    """

    seconds: float
    peak_bytes: int


def watched(work: Callable[[], T], device: torch.device) -> tuple[T, Effort]:
    """Do the work on a device, and say what it took."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        done, seconds = _timed(work)
        return done, Effort(seconds, torch.cuda.max_memory_allocated(device))
    _give_back()
    before = peak = _resident()
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(INTERVAL):
            peak = max(peak, _resident())

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        done, seconds = _timed(work)
    finally:
        ended.set()
        watching.join()
    return done, Effort(seconds, max(peak, _resident()) - before)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _resident() -> int:
    """Bytes that this process holds."""
    import psutil  # type: ignore[import-untyped]  # it comes without types; a GPU's memory is known without it

    held: int = psutil.Process().memory_info().rss
    return held


def _give_back() -> None:
    """Return to the system what the allocator kept: the next work would take it and seem to need less."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
