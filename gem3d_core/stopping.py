"""How a training ends early: SIGTERM is waited for, and the caller is told that it may go on later."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gem3d_core.errors import Gem3dError


class Interrupted(Gem3dError):  # noqa: N818 - a state, not a fault
    """SIGTERM came; the checkpoint is written and the same command goes on from it."""


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
