"""What a stage has read and needs once more: kept as far as there is room, so that no file is read twice."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

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
