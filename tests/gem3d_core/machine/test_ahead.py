"""Work done ahead: in order, on several threads, never too far."""

import threading
from itertools import count

import pytest

from gem3d_core.machine.reading import ahead


def test_results_come_in_order_from_threads_that_work_at_once() -> None:
    together = threading.Barrier(3, timeout=10)

    def square(k: int) -> int:
        together.wait()  # passes only where three are under way
        return k * k

    assert list(ahead(square, range(6), workers=3)) == [0, 1, 4, 9, 16, 25]


def test_no_more_is_taken_than_is_asked_for() -> None:
    taken = []
    endless = ahead(taken.append, count(), workers=2)
    for _ in range(5):
        next(endless)
    endless.close()
    assert len(taken) <= 5 + 2


def test_an_error_comes_in_its_turn() -> None:
    results = ahead(lambda k: 6 // k, [3, 2, 0, 1], workers=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
