"""Which window draws which slice: the plan of Algorithm 1, apart from its execution.

Both directions continue from the first window. A window's known slots are finished slices where they truly
lie, also in the last window of a direction, which overlaps by as many as it must. Every slice is written
exactly once, for every number of slices Z, window n, overlap h and start position.

Algorithm 1 begins its first window at the start slice. A network that was trained with the informed slice anywhere in
its window (section 3.1) may as well lay it around the start slice, where the fewest windows follow.

A chain adds the errors of all its windows. Key frames do not: windows of a stride draw coarse slices first, and those
of finer strides what lies between, every gap with both ends known and none waiting for another.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from gem3d_core.spec.method import ConditionSpec, FirstWindow, SampleSpec

Direction = Literal["first", "up", "down", "between"]


@dataclass(frozen=True)
class Window:
    """n slots of a volume.

    start: slice index of slot 0; stride: slices from one slot to the next. Slots past the volume's last slice (only
        when it is shorter than the window) are drawn and dropped.
    known: slots whose slice is finished before this window is drawn.
    fresh: slots whose slice this window writes.
    informed: slice index of the informed slice; the volume's start slice where that is given, else a finished slice:
        in a chain the one next to the unknown ones, between key frames the one nearest to the middle.
    after: indices, in the plan, of the windows that must be finished before.
    """

    direction: Direction
    start: int
    n: int
    known: tuple[int, ...]
    fresh: tuple[int, ...]
    informed: int
    after: tuple[int, ...] = ()
    stride: int = 1

    @property
    def given(self) -> bool:
        """Whether the informed slice is the volume's own, and not one that was drawn."""
        return not self.after

    def slices(self, Z: int) -> list[int]:
        """Slice index of every slot; slots past the end repeat the last slice's condition."""
        return [min(self.start + k * self.stride, Z - 1) for k in range(self.n)]

    def offsets(self) -> list[int]:
        """Signed distance, in slices, of every slot from the informed slice."""
        return [self.start + k * self.stride - self.informed for k in range(self.n)]


Plan = tuple[Window, ...]


def start_slice(p: float, Z: int) -> int:
    """Slice index of the normalised position p in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"start position p={p} is outside [0, 1]")
    return min(int(p * Z), Z - 1)


def plan_volume(Z: int, condition: ConditionSpec, start: int, spec: SampleSpec) -> Plan:
    """The windows of a volume of Z slices as a sampler is set to lay them. Raises ValueError as the plans do."""
    n = condition.window
    if spec.plan == "keyframes":
        return plan_keyframes(Z, n, spec.overlap, start, condition.strides, spec.first_window)
    if spec.continuation == "none":
        return plan_independent(Z, n, start, spec.first_window)
    return plan_windows(Z, n, spec.overlap, start, spec.first_window)


def plan_windows(Z: int, n: int, h: int, start: int, first_window: FirstWindow = "at_start") -> Plan:
    """Windows of n slots that draw a volume of Z slices from slice index `start` outwards.

    Z, n >= 1; 1 <= h < n (any h when n >= Z, where one window is the whole plan). first_window: begins at the start
    slice (Algorithm 1), or lies where it holds the start slice and the fewest windows are needed. Up and down are
    listed alternately, so that a batch of ready windows holds both. Raises ValueError on values outside these.
    """
    if n < Z and not 1 <= h < n:
        raise ValueError(f"overlap h={h} must lie in 1..n-1={n - 1}")
    return _chain(Z, n, h, start, first_window)


def plan_independent(Z: int, n: int, start: int, first_window: FirstWindow = "at_start") -> Plan:
    """Windows that lie side by side and know nothing of each other; the last of a direction drops what is drawn."""
    return tuple(replace(window, known=(), after=(), informed=start) for window in _chain(Z, n, 0, start, first_window))


def plan_keyframes(
    Z: int, n: int, h: int, start: int, strides: tuple[int, ...], first_window: FirstWindow = "at_start"
) -> Plan:
    """Coarse slices first, then the slices between them, stride by stride down to 1.

    strides: ascending from 1, each dividing the next. The coarsest level is a chain on every s-th slice, of the
    smallest stride s at which one window holds them all, else of the largest. A finer level waits for the level above
    and for nothing else. Raises ValueError where a window cannot hold two key frames, or as `plan_windows`.
    """
    if n < Z and any(coarse // fine >= n for fine, coarse in pairwise(strides)):
        raise ValueError(f"strides={strides}: windows of n={n} slots do not reach from one key frame to the next")
    held = [s for s in strides if len(_grid(Z, start, s)) <= n]
    s = held[0] if held else strides[-1]
    grid = _grid(Z, start, s)
    chain = plan_windows(len(grid), n, h, grid.index(start), first_window)
    plan = [_spread(window, grid.start, s) for window in chain]
    for finer in reversed([f for f in strides if f < s]):
        plan += _between(plan, Z, n, start, finer, s // finer)
        s = finer
    return tuple(plan)


def _grid(Z: int, start: int, stride: int) -> range:
    """Every stride-th slice of a volume, the start slice among them."""
    return range(start % stride, Z, stride)


def _spread(window: Window, first: int, stride: int) -> Window:
    """A window on the slices first, first + stride, ..."""
    return replace(
        window,
        start=first + window.start * stride,
        informed=first + window.informed * stride,
        stride=window.stride * stride,
    )


def _between(plan: list[Window], Z: int, n: int, start: int, stride: int, ratio: int) -> list[Window]:
    """Windows of a stride between slices that the plan has drawn, `ratio` times as far apart."""
    grid, done = _grid(Z, start, stride), _writers(plan)
    windows: list[Window] = []
    written: set[int] = set()
    first = 0  # place, on the grid, of the next window
    while len(written) < len(grid) - len(_grid(Z, start, stride * ratio)):
        first = max(0, min(first, len(grid) - n))
        places = grid[first : first + n]
        known = tuple(k for k, z in enumerate(places) if z in done)
        reach = n if first + n >= len(grid) else known[-1]  # past its last known slot a window has one end only
        fresh = tuple(k for k, z in enumerate(places[:reach]) if z not in done and z not in written)
        middle = min(known, key=lambda k: abs(2 * k - (n - 1)))
        after = tuple(sorted({done[places[k]] for k in known}))
        windows.append(Window("between", places[0], n, known, fresh, places[middle], after, stride))
        written |= {places[k] for k in fresh}
        first += known[-1]
    return windows


def _chain(Z: int, n: int, h: int, start: int, first_window: FirstWindow) -> Plan:
    if Z < 1 or n < 1 or not 0 <= start < Z:
        raise ValueError(f"no plan for Z={Z} slices, window n={n}, start slice {start} (0 <= start < Z)")
    first = max(0, min(start, Z - n)) if first_window == "at_start" else _fewest(Z, n, h, start)
    windows = [Window("first", first, n, (), tuple(range(min(n, Z))), start)]

    low, high = first, min(first + n, Z)  # finished slices are low..high-1
    last_up = last_down = 0
    while low > 0 or high < Z:
        if high < Z:
            windows.append(_continue(high, Z, n, h, last_up))
            last_up, high = len(windows) - 1, windows[-1].start + n
        if low > 0:
            windows.append(_mirrored(_continue(Z - low, Z, n, h, last_down), Z))
            last_down, low = len(windows) - 1, windows[-1].start
    return tuple(windows)


def _fewest(Z: int, n: int, h: int, start: int) -> int:
    """Where a first window that holds the start slice leaves the fewest windows and, of these, the shortest chain;
    then, where the start slice lies nearest to its middle."""

    def cost(first: int) -> tuple[int, int, int]:
        up, down = (-(-left // (n - h)) for left in (Z - n - first, first))
        return up + down, max(up, down), abs(2 * (start - first) - (n - 1))

    return min(range(max(0, start - n + 1), min(start, Z - n) + 1), key=cost) if n < Z else 0


def _continue(edge: int, Z: int, n: int, h: int, after: int) -> Window:
    """The window that goes up from a finished range that ends before slice index `edge`.

    All slots on the finished side of the edge belong to the window's own chain, because the first window alone is n
    slices wide.
    """
    start = min(edge - h, Z - n)
    known = edge - start
    return Window("up", start, n, tuple(range(known)), tuple(range(known, n)), edge - 1, (after,))


def _mirrored(window: Window, Z: int) -> Window:
    """The same window of the volume upside down: what goes up goes down."""

    def turned(slots: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(window.n - 1 - slot for slot in reversed(slots))

    start, informed = Z - window.n - window.start, Z - 1 - window.informed
    return replace(
        window,
        direction="down",
        start=start,
        known=turned(window.known),
        fresh=turned(window.fresh),
        informed=informed,
    )


def _writers(plan: Iterable[Window]) -> dict[int, int]:
    """Which window of a plan writes a slice."""
    return {w.start + slot * w.stride: index for index, w in enumerate(plan) for slot in w.fresh}


def most_ready(plan: Plan) -> int:
    """The most windows of a plan that can be drawn at once."""
    deep: list[int] = []
    for window in plan:
        deep.append(1 + max((deep[k] for k in window.after), default=0))
    return max(map(deep.count, set(deep)))


def window_borders(plan: Plan, Z: int) -> tuple[int, ...]:
    """Every k whose slices k and k + 1 were written by different windows."""
    writer = _writers(plan)
    return tuple(k for k in range(Z - 1) if writer[k] != writer[k + 1])
