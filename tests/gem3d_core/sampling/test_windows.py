"""The plan of Algorithm 1: every slice written once, known slots truly finished, both directions from one window."""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d_core.sampling.batched import count_windows
from gem3d_core.sampling.windows import (
    Plan,
    Window,
    most_ready,
    plan_independent,
    plan_keyframes,
    plan_volume,
    plan_windows,
    start_slice,
    window_borders,
)
from gem3d_core.spec.method import ConditionSpec, FirstWindow, SampleSpec


class Case(NamedTuple):
    Z: int
    n: int
    h: int
    start: int
    first_window: FirstWindow = "at_start"


@st.composite
def cases(draw: st.DrawFn, deepest: int = 90) -> Case:
    Z = draw(st.integers(1, deepest))
    n = draw(st.integers(2, 24))
    first_window: FirstWindow = draw(st.sampled_from(["at_start", "fewest"]))
    return Case(Z, n, draw(st.integers(1, n - 1)), draw(st.integers(0, Z - 1)), first_window)


def chain(plan: Plan, k: int) -> list[int]:
    """Indices of the windows that window k comes after, nearest first."""
    ancestors: list[int] = []
    while plan[k].after:
        (before,) = plan[k].after
        assert before < k, "a plan lists a window after the one that it needs"
        ancestors.append(before)
        k = before
    return ancestors


def written(window: Window) -> set[int]:
    return {window.start + slot * window.stride for slot in window.fresh}


@settings(max_examples=400, deadline=None)
@given(cases())
def test_every_slice_is_written_exactly_once(case: Case) -> None:
    slices = [index for window in plan_windows(*case) for index in sorted(written(window))]
    assert sorted(slices) == list(range(case.Z))


@settings(max_examples=400, deadline=None)
@given(cases())
def test_known_slots_are_slices_finished_by_the_windows_own_chain(case: Case) -> None:
    plan = plan_windows(*case)
    for k, window in enumerate(plan):
        finished = set().union(*(written(plan[a]) for a in chain(plan, k)))
        known = {window.start + slot for slot in window.known}
        assert known == finished & set(range(window.start, window.start + window.n))


@settings(max_examples=400, deadline=None)
@given(cases())
def test_both_directions_continue_from_the_first_window(case: Case) -> None:
    plan = plan_windows(*case)
    assert [w.direction for w in plan].count("first") == 1
    assert plan[0].direction == "first"
    assert plan[0].given
    assert not any(window.given for window in plan[1:])
    assert case.start in written(plan[0])
    for k, window in enumerate(plan[1:], start=1):
        ancestors = chain(plan, k)
        assert ancestors[-1] == 0
        assert {plan[a].direction for a in ancestors[:-1]} <= {window.direction}


@settings(max_examples=400, deadline=None)
@given(cases())
def test_windows_lie_in_the_volume_and_overlap_by_h_but_for_the_last(case: Case) -> None:
    Z, n, h, *_ = case
    plan = plan_windows(*case)
    for k, window in enumerate(plan):
        assert window.n == n
        assert window.start >= 0
        assert window.start + n <= max(Z, n)
        assert window.fresh
        ends = any(later.after == (k,) and later.direction == window.direction for later in plan)
        if window.direction != "first":
            assert len(window.known) == h if ends else len(window.known) >= h


@settings(max_examples=400, deadline=None)
@given(cases())
def test_informed_slice_and_offsets(case: Case) -> None:
    plan = plan_windows(*case)
    for window in plan:
        assert window.offsets() == [window.start + k - window.informed for k in range(case.n)]
        assert window.slices(case.Z) == [min(window.start + k, case.Z - 1) for k in range(case.n)]
        slot = window.informed - window.start
        if window.direction == "first":
            assert window.informed == case.start
            assert slot in window.fresh
        else:
            assert slot in window.known
            assert {slot - 1, slot + 1} & set(window.fresh), "the informed slice touches the unknown ones"


@settings(max_examples=300, deadline=None)
@given(cases())
def test_down_is_up_in_a_mirror(case: Case) -> None:
    Z, n, h, start, _ = case
    if n > Z or start > Z - n:  # a clamped first window has its mirror image where the unclamped one has
        start = max(0, Z - n)
    mirrored_start = max(0, Z - n - start)
    flipped = {"up": "down", "down": "up"}
    expected = {
        (
            flipped[w.direction],
            Z - w.start - n,
            tuple(n - 1 - k for k in reversed(w.known)),
            tuple(n - 1 - k for k in reversed(w.fresh)),
            Z - 1 - w.informed,
        )
        for w in plan_windows(Z, n, h, start)[1:]
    }
    found = {(w.direction, w.start, w.known, w.fresh, w.informed) for w in plan_windows(Z, n, h, mirrored_start)[1:]}
    assert found == expected


@settings(max_examples=300, deadline=None)
@given(cases())
def test_wherever_the_first_window_lies_the_others_follow_from_its_place(case: Case) -> None:
    """So what is true of them from the start slice on is true where the fewest follow."""
    Z, n, h, start, _ = case
    fewest = plan_windows(Z, n, h, start, "fewest")
    assert fewest[1:] == plan_windows(Z, n, h, fewest[0].start)[1:]


@settings(max_examples=100, deadline=None)
@given(Z=st.integers(1, 16), start=st.integers(0, 15), h=st.integers(-2, 40))
def test_a_volume_no_deeper_than_a_window_is_one_window(Z: int, start: int, h: int) -> None:
    start = min(start, Z - 1)
    expected = Window("first", 0, 16, (), tuple(range(Z)), start)
    assert plan_windows(Z, 16, h, start) == (expected,)


def test_a_plan_worked_out_by_hand() -> None:
    """Z = 12, n = 5, h = 2, start 6: first 6..10, up 7..11 (four finished), down 3..7 and 0..4 (two finished)."""
    first = Window("first", 6, 5, (), (0, 1, 2, 3, 4), 6)
    up = Window("up", 7, 5, (0, 1, 2, 3), (4,), 10, (0,))
    down = Window("down", 3, 5, (3, 4), (0, 1, 2), 6, (0,))
    last = replace(down, start=0, informed=3, after=(2,))
    assert plan_windows(12, 5, 2, 6) == (first, up, down, last)


def test_the_last_window_of_the_paper_is_pinned_where_its_slices_truly_lie() -> None:
    plan = plan_windows(155, 16, 1, 70)
    ups = [w for w in plan if w.direction == "up"]
    assert ups[-1].start == 155 - 16
    assert len(ups[-1].known) > 1
    assert len(plan) == 1 + len(ups) + sum(w.direction == "down" for w in plan) == 11


@pytest.mark.parametrize(
    ("Z", "n", "h", "start"),
    [(0, 4, 1, 0), (-3, 4, 1, 0), (10, 0, 1, 0), (10, 4, 0, 0), (10, 4, 4, 0), (10, 4, 1, -1), (10, 4, 1, 10)],
)
def test_values_without_a_plan_are_refused(Z: int, n: int, h: int, start: int) -> None:
    with pytest.raises(ValueError, match=r"no plan for|overlap h="):
        plan_windows(Z, n, h, start)


@given(p=st.floats(0, 1), Z=st.integers(1, 400))
def test_start_slice_is_the_floor_within_the_volume(p: float, Z: int) -> None:
    index = start_slice(p, Z)
    assert 0 <= index < Z
    assert index == Z - 1 or index <= p * Z < index + 1


@pytest.mark.parametrize("p", [-0.01, 1.01, float("nan")])
def test_start_positions_outside_the_unit_interval_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        start_slice(p, 10)


@settings(max_examples=400, deadline=None)
@given(cases())
def test_no_first_window_leaves_fewer_than_the_fewest(case: Case) -> None:
    Z, n, h, start, _ = case
    fewest = plan_windows(Z, n, h, start, "fewest")
    elsewhere = range(max(0, start - n + 1), min(start, Z - n) + 1)  # every place that holds the start slice
    windows = [1 + -(-first // (n - h)) + -(-(Z - n - first) // (n - h)) for first in elsewhere] or [1]
    assert len(fewest) == min(windows) <= len(plan_windows(Z, n, h, start))
    assert len(fewest) <= max(1, -(-(Z - h) // (n - h)) + 1), "at most one more than windows laid end to end"


def test_of_the_fewest_the_shortest_chain_is_taken() -> None:
    """Z = 36, n = 16, h = 2, start 18: from the start on four windows, three of them in a row."""
    at_start, fewest = (plan_windows(36, 16, 2, 18, first) for first in ("at_start", "fewest"))
    assert [(w.direction, w.start) for w in at_start] == [("first", 18), ("up", 20), ("down", 4), ("down", 0)]
    assert [(w.direction, w.start) for w in fewest] == [("first", 10), ("up", 20), ("down", 0)]
    assert fewest[0].informed == 18


def test_count_windows_sums_the_plans() -> None:
    spec = SampleSpec(overlap=1, first_window="at_start")
    condition = ConditionSpec(window=16)
    assert count_windows([5, 16, 17, 155], condition, spec) == 1 + 1 + 2 + 12
    assert count_windows([5, 16, 17, 155], condition, replace(spec, first_window="fewest")) == 1 + 1 + 2 + 11


@settings(max_examples=200, deadline=None)
@given(cases())
def test_borders_are_where_the_writer_changes(case: Case) -> None:
    plan = plan_windows(*case)
    borders = window_borders(plan, case.Z)
    assert len(borders) == len(plan) - 1
    for k in range(case.Z - 1):
        together = any({k, k + 1} <= written(w) for w in plan)
        assert (k in borders) is not together


def test_borders_of_the_plan_worked_out_by_hand() -> None:
    assert window_borders(plan_windows(12, 5, 2, 6), 12) == (2, 5, 10)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_independent_windows_lie_side_by_side_and_know_nothing(case: Case) -> None:
    plan = plan_independent(case.Z, case.n, case.start, case.first_window)
    assert sorted(z for window in plan for z in written(window)) == list(range(case.Z))
    assert all(window.given and not window.known and window.informed == case.start for window in plan)
    assert len(plan) <= -(-case.Z // case.n) + 1


LADDERS = [(1,), (1, 2), (1, 3), (1, 2, 4), (1, 3, 15), (1, 4, 12, 36)]


class Ladder(NamedTuple):
    Z: int
    n: int
    h: int
    start: int
    strides: tuple[int, ...]


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    strides = draw(st.sampled_from(LADDERS))
    widest = max((b // a for a, b in pairwise(strides)), default=1)
    n, Z = draw(st.integers(widest + 1, 20)), draw(st.integers(1, 300))
    return Ladder(Z, n, draw(st.integers(1, n - 1)), draw(st.integers(0, Z - 1)), strides)


@settings(max_examples=400, deadline=None)
@given(ladders())
def test_key_frames_write_every_slice_once_after_the_slices_that_they_know(ladder: Ladder) -> None:
    plan = plan_keyframes(*ladder)
    slices = [z for window in plan for z in written(window)]
    assert sorted(slices) == list(range(ladder.Z))
    for k, window in enumerate(plan):
        before = set().union(*(written(plan[a]) for a in ancestors(plan, k)))
        assert all(a < k for a in window.after)
        known = {window.start + slot * window.stride for slot in window.known}
        assert known <= before
        assert window.given or window.informed in known
        assert all(0 <= z < ladder.Z for z in known | written(window))


def ancestors(plan: Plan, k: int) -> set[int]:
    """Indices of all windows that window k comes after, however far."""
    return set(plan[k].after).union(*(ancestors(plan, a) for a in plan[k].after))


@settings(max_examples=400, deadline=None)
@given(ladders())
def test_between_key_frames_a_gap_has_both_ends_known(ladder: Ladder) -> None:
    """But for the slices before the first key frame and past the last, which have one."""
    plan = plan_keyframes(*ladder)
    for window in plan:
        if window.direction == "between":
            levels = {plan[a].stride for a in window.after}
            assert min(levels) > window.stride, "no window of a level waits for another of it"
            outermost = [min(written(plan[0])), max(z for w in plan if w.stride > window.stride for z in written(w))]
            for slot in window.fresh:
                z = window.start + slot * window.stride
                ends = min(window.known) < slot < max(window.known)
                assert (
                    ends or z > outermost[1] or z < min(z for w in plan if w.stride > window.stride for z in written(w))
                )


def depth(plan: Plan) -> int:
    """Windows on the longest way through a plan."""
    deep: list[int] = []
    for window in plan:
        deep.append(1 + max((deep[a] for a in window.after), default=0))
    return max(deep)


def test_the_longest_way_grows_with_the_logarithm_of_the_depth() -> None:
    ladder = (1, 3, 15, 75)
    assert [depth(plan_keyframes(Z, 16, 1, Z // 2, ladder)) for Z in (16, 40, 220, 1000)] == [1, 2, 3, 4]
    assert [depth(plan_windows(Z, 16, 1, Z // 2, "fewest")) for Z in (16, 40, 220, 1000)] == [1, 2, 8, 34]


def test_key_frames_worked_out_by_hand() -> None:
    """Z = 20, n = 7, strides 1 and 3, start 10: 1, 4, ... 19 at once, then 0..6, 4..10, 10..16 and 13..19."""
    plan = plan_keyframes(20, 7, 1, 10, (1, 3))
    assert (plan[0].start, plan[0].stride, plan[0].slices(20)) == (1, 3, [1, 4, 7, 10, 13, 16, 19])
    assert [(w.start, w.known, w.fresh) for w in plan[1:]] == [
        (0, (1, 4), (0, 2, 3)),
        (4, (0, 3, 6), (1, 2, 4, 5)),
        (10, (0, 3, 6), (1, 2, 4, 5)),
        (13, (0, 3, 6), (4, 5)),
    ]
    assert all(w.after == (0,) and w.informed == w.start + w.known[len(w.known) // 2] for w in plan[2:])


def test_coarse_windows_overlap_as_they_are_asked_to() -> None:
    """Z = 60, n = 6, h = 2, stride 3 on 20 slices from slice 1: two of a window are known, but of the last."""
    coarse = [w for w in plan_keyframes(60, 6, 2, 4, (1, 3)) if w.stride == 3]
    assert [(w.start, w.known) for w in coarse] == [
        (4, ()),
        (16, (0, 1)),
        (1, (1, 2, 3, 4, 5)),
        (28, (0, 1)),
        (40, (0, 1)),
        (43, (0, 1, 2, 3, 4)),
    ]


def test_key_frames_that_a_window_cannot_span_are_refused() -> None:
    with pytest.raises(ValueError, match="do not reach from one key frame to the next"):
        plan_keyframes(100, 4, 1, 0, (1, 4))


def test_the_sampler_chooses_the_plan() -> None:
    condition = ConditionSpec(window=8, strides=(1, 3))
    assert plan_volume(40, condition, 5, SampleSpec(overlap=2)) == plan_windows(40, 8, 2, 5, "fewest")
    assert plan_volume(40, condition, 5, SampleSpec(continuation="none")) == plan_independent(40, 8, 5, "fewest")
    keyed = SampleSpec(plan="keyframes", continuation="known")
    assert plan_volume(40, condition, 5, keyed) == plan_keyframes(40, 8, 1, 5, (1, 3), "fewest")


def test_the_widest_level_of_a_plan_is_what_can_be_drawn_at_once() -> None:
    assert most_ready(plan_windows(155, 16, 1, 70, "fewest")) == 2
    assert most_ready(plan_independent(155, 16, 70)) == 11
    assert most_ready(plan_keyframes(155, 16, 1, 70, (1, 3, 15))) == 11
    assert most_ready(plan_windows(9, 16, 1, 4)) == 1
