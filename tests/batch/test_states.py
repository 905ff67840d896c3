"""The life of an item: one table."""

from __future__ import annotations

import itertools

import pytest

from apikley_async.batch import TABLE, Event, State
from apikley_async.batch._states import after

WHOLE = {
    "planned": "intend sending, drop dropped, refuse rejected",
    "sending": "accept submitted, throttle planned, unsent planned, postpone planned,"
    " refuse rejected, doubt uncertain, crash uncertain",
    "uncertain": "resolve submitted, resubmit planned, drop dropped",
    "submitted": "succeed success, fail failed, stall stalled",
    "stalled": "resume submitted, drop dropped",
    "success": "save done, expire expired",
    "expired": "resume success, drop dropped",
    "failed": "retry planned, drop dropped",
    "rejected": "retry planned, drop dropped",
}
PAYS = {Event.INTEND}
BY_A_PERSON = {Event.RESUBMIT, Event.RETRY, Event.RESOLVE, Event.DROP}


def test_the_whole_table() -> None:
    """No step is there that is not written down here, and none is missing."""
    written = {
        (start, *step.split()) for start, steps in WHOLE.items() for step in steps.split(", ")
    }

    assert {(start, event, to) for (start, event), to in TABLE.items()} == written


def test_every_state_can_be_reached_and_every_event_is_used() -> None:
    """The table has no dead states and no dead events."""
    reached = {State.PLANNED}
    for _ in State:
        reached |= {to for (start, _), to in TABLE.items() if start in reached}
    assert reached == set(State)
    assert {event for _, event in TABLE} == set(Event)


def test_only_what_is_planned_is_ever_sent() -> None:
    """There is one way to a POST, and it begins where nothing is paid. (A1)."""
    assert [key for key in TABLE if key[1] in PAYS] == [(State.PLANNED, Event.INTEND)]
    assert {start for (start, _), to in TABLE.items() if to is State.SENDING} == {State.PLANNED}


def test_nothing_that_may_be_paid_is_planned_again_but_by_a_person() -> None:
    """From a state that may have cost something only a person's word leads back. (A1, A27)."""
    paid = {State.UNCERTAIN, State.SUBMITTED, State.SUCCESS, State.FAILED, State.STALLED,
            State.EXPIRED, State.DONE, State.DROPPED}  # fmt: skip
    back = {event for (start, event), to in TABLE.items() if start in paid and to is State.PLANNED}
    assert back == {Event.RESUBMIT, Event.RETRY}
    assert back <= BY_A_PERSON


@pytest.mark.parametrize("state", [State.DONE, State.DROPPED])
def test_the_last_states_are_last(state: State) -> None:
    """No event leads out of done and dropped."""
    assert not [event for (start, event) in TABLE if start is state]


def test_a_step_that_is_not_in_the_table_is_refused() -> None:
    """Every other pair is an error that names both."""
    pairs = [pair for pair in itertools.product(State, Event) if pair not in TABLE]
    for state, event in pairs:
        with pytest.raises(LookupError, match=f"{event.value}.*{state.value}"):
            after(state, event)
    assert len(pairs) + len(TABLE) == len(State) * len(Event)
