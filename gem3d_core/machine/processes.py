"""Processes that end with the one that started them."""

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gem3d_core.errors import Gem3dError

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies, however it dies; a `preexec_fn`, without effect but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Interrupted(Gem3dError):  # noqa: N818 - a state, not a fault
    """SIGTERM came; the checkpoint is written and the same command goes on from it."""

    exit_code = 130


@contextmanager
def terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; outside the main thread, where no handler can be set, it stays unset."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def set_event(_signal: int, _frame: FrameType | None) -> None:
        event.set()

    before = signal.signal(signal.SIGTERM, set_event)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
