"""Reading ahead on other threads, and keeping what was read for a second reader."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

ROOM = 2 * 2**30
"""Bytes that a cache holds where nothing else is said."""


def read_ahead(function: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """Yield `function(item)` for every item, in order, while `workers` threads compute the next ones.

    At most `workers` results are under way or wait to be taken. An error is raised in the turn of its item.
    """
    under_way: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) > workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for waiting in under_way:
                waiting.cancel()


class BoundedCache(Generic[T]):
    """Values by name, in a limited room; each is taken out once. Threads may share it."""

    def __init__(self, size: Callable[[T], int], room: int = ROOM) -> None:
        """size: bytes of a value. room: bytes of all values together."""
        self._size = size
        self._room = room
        self._values: dict[str, T] = {}
        self._lock = threading.Lock()

    def put(self, name: str, value: T) -> None:
        """Keep the value if there is room for it and nothing has its name; else do nothing."""
        size = self._size(value)
        with self._lock:
            if size <= self._room and name not in self._values:
                self._values[name] = value
                self._room -= size

    def take(self, name: str) -> T | None:
        """Remove the value and return it; None where it was not kept."""
        with self._lock:
            value = self._values.pop(name, None)
            self._room += 0 if value is None else self._size(value)
        return value
