"""Reading what comes next while the last is worked on."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(function: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """function of every item, in order, with up to `workers` of them under way or waiting to be taken.

    Raises what the function raises, when its item's turn comes.
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


V = TypeVar("V")

ROOM = 2 * 2**30
"""Bytes of what is kept."""


class Kept(Generic[V]):
    """Values by name, each given back once. Safe to use from several threads."""

    def __init__(self, size: Callable[[V], int], room: int = ROOM) -> None:
        self._size = size
        self._room = room
        self._values: dict[str, V] = {}
        self._lock = threading.Lock()

    def put(self, name: str, value: V) -> None:
        """Keep a value, where there is room for it."""
        size = self._size(value)
        with self._lock:
            if size <= self._room and name not in self._values:
                self._values[name] = value
                self._room -= size

    def take(self, name: str) -> V | None:
        """Give a value back and forget it; none where it was not kept."""
        with self._lock:
            value = self._values.pop(name, None)
            self._room += 0 if value is None else self._size(value)
        return value
