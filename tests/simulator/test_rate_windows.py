"""How the simulated service counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikley_async.simulator.service.rate_windows import (
    FixedWindow,
    NoLimit,
    SlidingWindow,
    make_window,
)


def admitted(door, times):
    """The times at which *door* lets somebody in."""
    inside = []
    for now in times:
        if door.delay(now) <= 0:
            door.count(now)
            inside.append(now)
    return inside


def test_a_sliding_window_forgets_one_arrival_at_a_time():
    """Each place is free again exactly *per* seconds after it was taken."""
    door = SlidingWindow(2, 10)

    assert admitted(door, [0, 4, 9, 10, 13.9, 14, 14]) == [0, 4, 10, 14]


def test_a_fixed_window_forgets_everything_at_once():
    """Around the border of two windows twice the limit gets in, which is how it differs."""
    door = FixedWindow(2, 10)

    assert admitted(door, [8, 9, 9.5, 10, 11, 12, 20]) == [8, 9, 10, 11, 20]


@pytest.mark.parametrize(("kind", "wait"), [("sliding", 7.0), ("fixed", 5.0)])
def test_it_says_how_long_to_wait(kind, wait):
    """The wait is exact: one who obeys it is let in, one who comes sooner is not."""
    door = make_window(kind, 1, 10)
    door.count(2.0)

    assert door.delay(5.0) == wait
    assert door.delay(4.999 + wait) > 0.0
    assert door.delay(5.0 + wait) == 0.0


def test_refused_arrivals_can_be_counted_too():
    """One who does not wait and is counted all the same stays outside for longer."""
    door = SlidingWindow(1, 10)
    for now in (0.0, 5.0, 8.0):
        door.count(now)

    assert door.delay(10.0) == 8.0


@given(
    times=st.lists(st.floats(0, 200), max_size=80).map(sorted),
    limit=st.integers(1, 5),
    per=st.floats(0.5, 50),
)
def test_no_sliding_window_is_ever_overfull(times, limit, per):
    """Among any *limit* + 1 arrivals in a row the first and the last lie *per* seconds apart."""
    inside = admitted(SlidingWindow(limit, per), times)

    assert all(a + per <= b for a, b in zip(inside, inside[limit:], strict=False))


def test_without_a_limit_the_door_is_open():
    """No limit means that nobody ever waits."""
    door = make_window("sliding", None, 10)
    door.count(0.0)

    assert isinstance(door, NoLimit)
    assert door.delay(0.0) == 0.0


@pytest.mark.parametrize(
    ("kind", "limit", "per"), [("sliding", 0, 1), ("fixed", 1, 0), ("x", 1, 1)]
)
def test_impossible_windows_are_refused(kind, limit, per):
    """A limit that can never let anybody in is a mistake, not a test."""
    with pytest.raises(ValueError, match=r"limit|window"):
        make_window(kind, limit, per)
