"""Reading ahead, in order and never too far; and values that wait in memory for a second reader."""

import threading
from itertools import count

import pytest

from gem3d_core.machine.reading import BoundedCache, read_ahead


def test_results_come_in_order_from_threads_that_work_at_once() -> None:
    together = threading.Barrier(3, timeout=10)

    def square(k: int) -> int:
        together.wait()  # passes only where three are under way
        return k * k

    assert list(read_ahead(square, range(6), workers=3)) == [0, 1, 4, 9, 16, 25]


def test_no_more_is_taken_than_is_asked_for() -> None:
    taken = []
    endless = read_ahead(taken.append, count(), workers=2)
    for _ in range(5):
        next(endless)
    endless.close()
    assert len(taken) <= 5 + 2


def test_an_error_comes_in_its_turn() -> None:
    results = read_ahead(lambda k: 6 // k, [3, 2, 0, 1], workers=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_value_is_given_back_once() -> None:
    cache = BoundedCache[str](len)
    cache.put("a", "value")
    assert cache.take("a") == "value"
    assert cache.take("a") is None


def test_what_has_no_room_is_not_kept_and_room_comes_back() -> None:
    cache = BoundedCache[str](len, room=5)
    cache.put("a", "1234")
    cache.put("b", "56")
    assert cache.take("b") is None
    assert cache.take("a") == "1234"
    cache.put("b", "56789")
    assert cache.take("b") == "56789"
