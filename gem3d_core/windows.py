"""Which window draws which slice: the plan of Algorithm 1, apart from its execution.

Both directions continue from the first window. A window's known slots are finished slices where they truly
lie, also in the last window of a direction, which overlaps by as many as it must. Every slice is written
exactly once, for every number of slices Z, window n, overlap h and start position.

Algorithm 1 begins its first window at the start slice. A network that was trained with the informed slice anywhere in
its window (section 3.1) may as well lay it around the start slice, where the fewest windows follow.
"""

from dataclasses import dataclass
from typing import Literal

from gem3d_core.settings import FirstWindow

Direction = Literal["first", "up", "down"]


@dataclass(frozen=True)
class Window:
    """n slots of a volume.

    start: slice index of slot 0. Slots past the volume's last slice (only when Z < n) are drawn and dropped.
    known: slots whose slice is finished before this window is drawn.
    fresh: slots whose slice this window writes.
    informed: slice index of the informed slice; the volume's start slice for the first window, afterwards the
        finished slice next to the unknown ones.
    after: index, in the plan, of the window that must be finished before; None for the first.
    """

    direction: Direction
    start: int
    n: int
    known: tuple[int, ...]
    fresh: tuple[int, ...]
    informed: int
    after: int | None

    def slices(self, Z: int) -> list[int]:
        """Slice index of every slot; slots past the end repeat the last slice's condition."""
        return [min(self.start + k, Z - 1) for k in range(self.n)]

    def offsets(self) -> list[int]:
        """Signed distance, in slices, of every slot from the informed slice."""
        return [self.start + k - self.informed for k in range(self.n)]


def start_slice(p: float, Z: int) -> int:
    """Slice index of the normalised position p in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"start position p={p} is outside [0, 1]")
    return min(int(p * Z), Z - 1)


def plan_windows(Z: int, n: int, h: int, start: int, first_window: FirstWindow = "at_start") -> tuple[Window, ...]:
    """Windows of n slots that draw a volume of Z slices from slice index `start` outwards.

    Z, n >= 1; 1 <= h < n (any h when n >= Z, where one window is the whole plan). first_window: begins at the start
    slice (Algorithm 1), or lies where it holds the start slice and the fewest windows are needed. Up and down are
    listed alternately, so that a batch of ready windows holds both. Raises ValueError on values outside these.
    """
    if Z < 1 or n < 1 or not 0 <= start < Z:
        raise ValueError(f"no plan for Z={Z} slices, window n={n}, start slice {start} (0 <= start < Z)")
    if n < Z and not 1 <= h < n:
        raise ValueError(f"overlap h={h} must lie in 1..n-1={n - 1}")

    first = max(0, min(start, Z - n)) if first_window == "at_start" else _fewest(Z, n, h, start)
    slots = range(min(n, Z))
    windows = [Window("first", first, n, (), tuple(slots), start, None)]

    low, high = first, min(first + n, Z)  # finished slices are low..high-1
    last_up = last_down = 0
    while low > 0 or high < Z:
        if high < Z:
            windows.append(_continue("up", high, Z, n, h, last_up))
            last_up, high = len(windows) - 1, windows[-1].start + n
        if low > 0:
            windows.append(_continue("down", low, Z, n, h, last_down))
            last_down, low = len(windows) - 1, windows[-1].start
    return tuple(windows)


def _fewest(Z: int, n: int, h: int, start: int) -> int:
    """Where a first window that holds the start slice leaves the fewest windows and, of these, the shortest chain;
    then, where the start slice lies nearest to its middle."""

    def cost(first: int) -> tuple[int, int, int]:
        up, down = (-(-left // (n - h)) for left in (Z - n - first, first))
        return up + down, max(up, down), abs(2 * (start - first) - (n - 1))

    return min(range(max(0, start - n + 1), min(start, Z - n) + 1), key=cost) if n < Z else 0


def _continue(direction: Direction, edge: int, Z: int, n: int, h: int, after: int) -> Window:
    """The window that goes on from one end of the finished range; down is up seen in a mirror.

    edge: first slice past the finished range for up, first slice of it for down. All slots on the finished
    side of the edge belong to the window's own chain, because the first window alone is n slices wide.
    """
    if direction == "up":
        start = min(edge - h, Z - n)
        known = range(edge - start)
        informed = edge - 1
    else:
        start = max(edge + h - n, 0)
        known = range(edge - start, n)
        informed = edge
    fresh = tuple(k for k in range(n) if k not in known)
    return Window(direction, start, n, tuple(known), fresh, informed, after)


def window_borders(plan: tuple[Window, ...], Z: int) -> tuple[int, ...]:
    """Every k whose slices k and k + 1 were written by different windows."""
    writer = {window.start + slot: index for index, window in enumerate(plan) for slot in window.fresh}
    return tuple(k for k in range(Z - 1) if writer[k] != writer[k + 1])
