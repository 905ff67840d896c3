"""`_retry` and `_polling`: how long to wait, and whether to try again."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikley_async import errors
from apikley_async._polling import Backoff, exactly, spread
from apikley_async._retry import RETRIES, Timeouts, retry_delay
from apikley_async.errors import (
    ApikleyError,
    AuthenticationError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    KeyLimitError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    ServerError,
    StoryboardError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
)

SANE = st.floats(0.001, 10_000)


def first(count: int, pace: Backoff, seed: int = 0) -> list[float]:
    return list(itertools.islice(pace.delays(random.Random(seed)), count))


# --- the pace -------------------------------------------------------------------------------------


def test_the_default_pace_is_the_promised_one() -> None:
    """Two seconds first, half as much again each time, twenty at most, half an hour in all."""
    pace = Backoff()

    assert (pace.initial, pace.factor, pace.maximum) == (2, 1.5, 20)
    assert first(8, Backoff(jitter=exactly)) == [2, 3, 4.5, 6.75, 10.125, 15.1875, 20, 20]


def test_the_default_jitter_looks_a_little_earlier_never_later() -> None:
    """A hundred jobs started together do not look in step (P12)."""
    exact, jittered = first(200, Backoff(jitter=exactly)), first(200, Backoff())

    assert all(0.75 * full <= delay <= full for full, delay in zip(exact, jittered, strict=True))
    assert len(set(jittered[10:])) > 150


def test_chance_is_handed_in() -> None:
    """The same seed gives the same delays, two runs of one pace share nothing."""
    pace = Backoff()

    assert first(20, pace, seed=7) == first(20, pace, seed=7) != first(20, pace, seed=8)


@given(spans=st.tuples(SANE, SANE), factor=st.floats(1, 100), seed=st.integers(0, 99))
def test_delays_grow_to_the_cap_and_never_end(
    spans: tuple[float, float], factor: float, seed: int
) -> None:
    """Every delay is positive and within the cap; without jitter none is shorter than before."""
    first_, cap = sorted(spans)
    exact = first(60, Backoff(first_, factor, cap, jitter=exactly))
    jittered = first(60, Backoff(first_, factor, cap), seed)

    assert exact == sorted(exact)
    assert exact[0] == first_
    assert all(0 < delay <= cap for delay in exact + jittered)


def test_a_long_wait_does_not_overflow() -> None:
    """A job looked at for days asks for its ten thousandth delay like for its first."""
    delays = Backoff(factor=3.0, jitter=exactly).delays(random.Random(0))

    assert next(itertools.islice(delays, 10_000, None)) == 20


def test_a_constant_pace_is_a_pace() -> None:
    assert first(3, Backoff(initial=5, factor=1, jitter=exactly)) == [5, 5, 5]


def test_one_pace_serves_many() -> None:
    """It is a value: delays that are being read do not disturb each other."""
    pace = Backoff(jitter=exactly)
    one, other = pace.delays(random.Random(0)), pace.delays(random.Random(0))

    assert [next(one), next(one), next(other), next(one)] == [2, 3, 2, 4.5]


@pytest.mark.parametrize("jitter", [exactly, spread])
def test_a_jitter_is_a_plain_function(jitter: Any) -> None:
    assert 7.5 <= jitter(10.0, random.Random(0)) <= 10.0


def test_a_first_delay_beyond_the_longest_is_refused() -> None:
    """One of the two is a mistake: 30 s first, and 20 s at most."""
    with pytest.raises(ValueError, match=r"^maximum: 30 or more, as initial, not 20.0$"):
        Backoff(initial=30)
    assert first(2, Backoff(initial=20, jitter=exactly)) == [20, 20]


# --- values that are valid from birth -------------------------------------------------------------

NOT_SPANS = [0, -1, math.nan, math.inf, -math.inf, True, None, "2", [2]]


@pytest.mark.parametrize("value", NOT_SPANS)
@pytest.mark.parametrize("name", ["initial", "factor", "maximum"])
def test_a_pace_refuses_what_is_no_span(name: str, value: Any) -> None:
    """The message says the name and the rule, like every other of the house."""
    with pytest.raises(ValueError, match=rf"^{name}: a number above 0"):
        Backoff(**{name: value})


@pytest.mark.parametrize("value", NOT_SPANS)
@pytest.mark.parametrize("name", ["connect", "read", "idle"])
def test_timeouts_refuse_what_is_no_span(name: str, value: Any) -> None:
    """No wait is endless: there is no time-out of infinity or None."""
    with pytest.raises(ValueError, match=rf"^{name}: a number above 0"):
        Timeouts(**{name: value})


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_that_no_clock_can_hold_is_no_span(value: int) -> None:
    with pytest.raises(ValueError, match=r"^maximum: a number above 0"):
        Backoff(maximum=value)


@pytest.mark.parametrize("value", [0.5, 0.999])
def test_a_pace_never_quickens(value: float) -> None:
    with pytest.raises(ValueError, match=r"^factor: 1 or more, not 0"):
        Backoff(factor=value)


def test_the_default_timeouts_are_the_promised_ones() -> None:
    """An answer to createTask is waited for at least a minute: an unknown costs more (A2)."""
    assert Timeouts() == Timeouts(connect=10, read=120, idle=60)
    assert Timeouts().read >= 60


@pytest.mark.parametrize(("read", "one"), [(120, 30), (30, 30), (5, 5)])
def test_a_question_is_tried_more_than_once(read: float, one: float) -> None:
    """One try of what can be repeated never uses up all of the time."""
    assert Timeouts(read=read).repeatable == one


# --- whether to try again -------------------------------------------------------------------------

THROTTLED = RateLimitError("slow down", code=429)
UNSENT = UnreachableError("refused")
HOPELESS = UnreachableError("its certificate is not valid", permanent=True)
UNREAD = UnansweredError("no answer within 30 s")
BROKEN = ServerError("oops", code=502)


@pytest.mark.parametrize(
    ("error", "repeatable", "delay"),
    [
        (THROTTLED, True, 4.0),
        (THROTTLED, False, 4.0),
        (UNSENT, True, 4.0),
        (UNSENT, False, 4.0),
        (HOPELESS, True, None),
        (HOPELESS, False, None),
        (UNREAD, True, 4.0),
        (UNREAD, False, None),
        (BROKEN, True, 4.0),
        (BROKEN, False, None),
    ],
    ids=lambda value: getattr(value, "message", str(value)),
)
def test_what_is_tried_again(error: ApikleyError, repeatable: bool, delay: float | None) -> None:
    """What cannot have arrived always; what may have arrived only if it costs nothing."""
    assert retry_delay(error, repeatable=repeatable, delay=4.0) == delay


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        AuthenticationError,
        InsufficientCreditsError,
        InvalidRequestError,
        JobFailedError,
        KeyLimitError,
        MaintenanceError,
        NotFoundError,
        StoryboardError,
        SubmissionUncertainError,
    ],
)
def test_what_is_never_tried_again(kind: type[ApikleyError], repeatable: bool) -> None:
    """An uncertain submission above all: repeating it could pay twice (A1)."""
    assert retry_delay(kind("no"), repeatable=repeatable, delay=4.0) is None


def test_of_a_paid_request_only_two_errors_are_tried_again() -> None:
    """Whatever joins the family later is let through until somebody decides otherwise."""
    family = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]

    again = {
        kind for kind in family if retry_delay(kind("no"), repeatable=False, delay=1) is not None
    }

    assert again == {RateLimitError, UnreachableError}


@pytest.mark.parametrize(
    ("asked", "delay", "wait"),
    [(None, 4.0, 4.0), (0.0, 4.0, 4.0), (2.0, 4.0, 4.0), (30.0, 4.0, 30.0)],
)
def test_a_pause_the_service_asked_for_is_a_minimum(
    asked: float | None, delay: float, wait: float
) -> None:
    """Jitter and backoff only make it longer (R12)."""
    error = RateLimitError("slow down", code=429, retry_after=asked)

    assert retry_delay(error, repeatable=False, delay=delay) == wait


def test_the_pace_of_trying_again_is_bounded() -> None:
    """One second at first, never more than half a minute."""
    delays = first(20, RETRIES)

    assert 0.75 <= delays[0] <= 1
    assert max(delays) <= 30
