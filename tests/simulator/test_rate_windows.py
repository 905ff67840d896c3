"""How the service counts requests against its limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikley_async.simulator.service.rate_windows import (
    FixedWindow,
    NoLimit,
    SlidingWindow,
    TokenBucket,
    make_window,
)


def accepted_at(window, times):
    """The *times* at which *window* accepts a request."""
    accepted = []
    for now in times:
        if window.delay(now) <= 0:
            window.count(now)
            accepted.append(now)
    return accepted


def test_a_sliding_window_forgets_one_request_at_a_time():
    """Exactly *per* seconds after it arrived."""
    window = SlidingWindow(2, 10)

    assert accepted_at(window, [0, 4, 9, 10, 13.9, 14, 14]) == [0, 4, 10, 14]


def test_a_fixed_window_forgets_all_requests_at_once():
    """Around the border of two windows, twice the limit is accepted."""
    window = FixedWindow(2, 10)

    assert accepted_at(window, [8, 9, 9.5, 10, 11, 12, 20]) == [8, 9, 10, 11, 20]


def test_a_bucket_is_filled_evenly():
    """Full at first; then a token comes back every *per* / *limit* seconds."""
    window = TokenBucket(2, 10)

    assert accepted_at(window, [0, 0, 4.9, 5, 9.9, 10, 40, 40, 40]) == [0, 0, 5, 10, 40, 40]


def test_a_limit_may_change_while_it_counts():
    """What was accepted before is counted against the new limit."""
    rows = [("sliding", [], [9]), ("fixed", [], [9]), ("bucket", [8, 8], [])]
    failures = []
    for kind, under_two, under_four in rows:
        window = make_window(kind, 4, 10)
        before = accepted_at(window, [0, 1, 2])
        window.limit = 2
        fewer = accepted_at(window, [8, 8])
        window.limit = 4
        more = accepted_at(window, [9, 9])
        if (before, fewer, more) != ([0, 1, 2], under_two, under_four):
            failures.append((kind, before, fewer, more))

    assert failures == []


@pytest.mark.parametrize(("kind", "wait"), [("sliding", 7.0), ("fixed", 5.0), ("bucket", 7.0)])
def test_the_delay_is_exact(kind, wait):
    """A request after it is accepted, an earlier one is not."""
    window = make_window(kind, 1, 10)
    window.count(2.0)

    assert window.delay(5.0) == wait
    assert window.delay(4.999 + wait) > 0.0
    assert window.delay(5.0 + wait) == 0.0


def test_refused_requests_can_be_counted_too():
    """A client that does not wait then makes its own wait longer."""
    window = SlidingWindow(1, 10)
    for now in (0.0, 5.0, 8.0):
        window.count(now)

    assert window.delay(10.0) == 8.0


@given(
    times=st.lists(st.floats(0, 200), max_size=80).map(sorted),
    limit=st.integers(1, 5),
    per=st.floats(0.5, 50),
)
def test_a_sliding_window_is_never_overfull(times, limit, per):
    """Of any *limit* + 1 accepted requests, the first and the last are *per* seconds apart."""
    accepted = accepted_at(SlidingWindow(limit, per), times)

    assert all(a + per <= b for a, b in zip(accepted, accepted[limit:], strict=False))


def test_without_a_limit_every_request_is_accepted():
    window = make_window("sliding", None, 10)
    window.count(0.0)

    assert isinstance(window, NoLimit)
    assert window.delay(0.0) == 0.0


@pytest.mark.parametrize(
    ("kind", "limit", "per"), [("sliding", 0, 1), ("fixed", 1, 0), ("x", 1, 1)]
)
def test_impossible_windows_are_refused(kind, limit, per):
    """A limit that accepts nothing, an empty window, an unknown kind."""
    with pytest.raises(ValueError, match=r"limit|window"):
        make_window(kind, limit, per)
