"""The life of an item: one table."""

from __future__ import annotations

import itertools

import pytest

from apikley_async.batch import TRANSITIONS, Item, ItemEvent, ItemState
from apikley_async.batch.states import next_state

WHOLE = {
    "planned": "intend sending, drop dropped, refuse rejected, change planned, adopt uncertain",
    "sending": "accept submitted, throttle planned, unsent planned, not_created planned,"
    " postpone planned, refuse rejected, doubt uncertain, crash uncertain",
    "uncertain": "resolve submitted, resubmit planned, drop dropped",
    "submitted": "succeed success, fail failed, stall stalled",
    "stalled": "resume submitted, drop dropped",
    "success": "save done, expire expired",
    "expired": "resume success, drop dropped",
    "failed": "retry planned, drop dropped",
    "rejected": "retry planned, drop dropped, change planned",
    "dropped": "change planned",
    "done": "refetch success",
}
PAYS = {ItemEvent.INTEND}
BY_A_PERSON = {ItemEvent.RESUBMIT, ItemEvent.RETRY, ItemEvent.RESOLVE, ItemEvent.DROP}


def test_the_whole_table() -> None:
    """No step is there that is not written down here, and none is missing."""
    written = {
        (start, *step.split()) for start, steps in WHOLE.items() for step in steps.split(", ")
    }

    assert {(start, event, to) for (start, event), to in TRANSITIONS.items()} == written


def test_every_state_can_be_reached_and_every_event_is_used() -> None:
    """The table has no dead states and no dead events."""
    reached = {ItemState.PLANNED}
    for _ in ItemState:
        reached |= {to for (start, _), to in TRANSITIONS.items() if start in reached}
    assert reached == set(ItemState)
    assert {event for _, event in TRANSITIONS} == set(ItemEvent)


def test_only_what_is_planned_is_ever_sent() -> None:
    """There is one way to a POST, and it begins where nothing is paid. (A1)."""
    assert [key for key in TRANSITIONS if key[1] in PAYS] == [(ItemState.PLANNED, ItemEvent.INTEND)]
    assert {start for (start, _), to in TRANSITIONS.items() if to is ItemState.SENDING} == {
        ItemState.PLANNED
    }


def test_nothing_that_may_be_paid_is_planned_again_but_by_a_person() -> None:
    """From a state that may have cost something only a person's decision leads back. (A1, A27)."""
    paid = set(ItemState) - {ItemState.PLANNED, ItemState.SENDING, ItemState.REJECTED}
    back = {
        event
        for (start, event), to in TRANSITIONS.items()
        if start in paid and to is ItemState.PLANNED
    }
    assert back == {ItemEvent.RESUBMIT, ItemEvent.RETRY, ItemEvent.CHANGE}
    assert back - {ItemEvent.CHANGE} <= BY_A_PERSON
    # New content, for what was dropped before any attempt: `Item.may_change` asks for that.
    changed = {start for (start, event) in TRANSITIONS if event is ItemEvent.CHANGE}
    assert changed & paid == {ItemState.DROPPED}
    assert not Item("a", ItemState.DROPPED, attempts=1).may_change


def test_the_last_states_are_last() -> None:
    """Out of done leads only fetching again what is paid, out of dropped only new content."""
    assert [event for (start, event) in TRANSITIONS if start is ItemState.DONE] == [
        ItemEvent.REFETCH
    ]
    assert [event for (start, event) in TRANSITIONS if start is ItemState.DROPPED] == [
        ItemEvent.CHANGE
    ]


@pytest.mark.parametrize("state", ItemState)
@pytest.mark.parametrize("attempts", [0, 1])
def test_content_may_change_only_where_nothing_was_created(state: ItemState, attempts: int) -> None:
    """Planned or dropped without any attempt, or refused for good. (A21, M11)."""
    never_sent = state in (ItemState.PLANNED, ItemState.DROPPED) and attempts == 0

    assert Item("a", state, attempts=attempts).may_change == (
        never_sent or state is ItemState.REJECTED
    )


def test_a_transition_that_is_not_in_the_table_is_refused() -> None:
    """Every other pair is an error that names both."""
    pairs = [pair for pair in itertools.product(ItemState, ItemEvent) if pair not in TRANSITIONS]
    for state, event in pairs:
        with pytest.raises(LookupError, match=f"{event.value}.*{state.value}"):
            next_state(state, event)
    assert len(pairs) + len(TRANSITIONS) == len(ItemState) * len(ItemEvent)
