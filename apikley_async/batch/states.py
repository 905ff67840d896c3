"""The states of an item: one table, (state, event) -> next state, and nothing else.

The rules of the table: what guards a request is stored before the request. A film is bought again
only by an event that a person caused. An item leaves `done` only when a person wants lost files
again, and leaves `dropped` only with new content where nothing was ever sent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["TRANSITIONS", "ItemEvent", "ItemState", "NoTransitionError", "next_state"]


class ItemState(enum.StrEnum):
    """The state of an item of a batch, as it is stored."""

    PLANNED = "planned"
    """Nothing was sent, or nothing of it counts; nothing is paid."""
    SENDING = "sending"
    """An attempt is stored, and its request may be on its way."""
    UNCERTAIN = "uncertain"
    """An attempt may have been processed, and paid: a person or a callback decides."""
    SUBMITTED = "submitted"
    """Paid; the task id is known."""
    SUCCESS = "success"
    """The film is ready at the service; its files are not saved yet."""
    DONE = "done"
    """Every file of the film is on the disk."""
    FAILED = "failed"
    """The service reports a failure, and a second poll confirmed it."""
    REJECTED = "rejected"
    """Refused for good; no task was created."""
    STALLED = "stalled"
    """Paid, but polling ended at its deadline; the next run polls again."""
    EXPIRED = "expired"
    """The film was ready, but every link to it has expired."""
    DROPPED = "dropped"
    """Given up by a person."""


class ItemEvent(enum.StrEnum):
    """What can happen to an item. The values are stored, and older than some of the names."""

    INTEND = "intend"
    ACCEPT = "accept"
    THROTTLE = "throttle"
    UNSENT = "unsent"
    POSTPONE = "postpone"
    REFUSE = "refuse"
    NOT_CREATED = "not_created"
    UNCERTAIN = "doubt"
    CRASH = "crash"
    RESOLVE = "resolve"
    RESUBMIT = "resubmit"
    DROP = "drop"
    SUCCEED = "succeed"
    FAIL = "fail"
    STALL = "stall"
    RESUME = "resume"
    SAVE = "save"
    REFETCH = "refetch"
    EXPIRE = "expire"
    RETRY = "retry"
    CHANGE = "change"
    ADOPT = "adopt"


TRANSITIONS: Mapping[tuple[ItemState, ItemEvent], ItemState] = {
    (ItemState.PLANNED, ItemEvent.INTEND): ItemState.SENDING,
    (ItemState.PLANNED, ItemEvent.DROP): ItemState.DROPPED,
    # New content, where no task was ever created; the store checks that in the attempts.
    (ItemState.PLANNED, ItemEvent.CHANGE): ItemState.PLANNED,
    (ItemState.REJECTED, ItemEvent.CHANGE): ItemState.PLANNED,
    (ItemState.DROPPED, ItemEvent.CHANGE): ItemState.PLANNED,
    (
        ItemState.PLANNED,
        ItemEvent.REFUSE,
    ): ItemState.REJECTED,  # before any attempt: a file that is no image
    (
        ItemState.PLANNED,
        ItemEvent.ADOPT,
    ): ItemState.UNCERTAIN,  # the lost log may have held an attempt
    # How an attempt ended.
    (ItemState.SENDING, ItemEvent.ACCEPT): ItemState.SUBMITTED,
    (ItemState.SENDING, ItemEvent.THROTTLE): ItemState.PLANNED,
    (ItemState.SENDING, ItemEvent.UNSENT): ItemState.PLANNED,
    (
        ItemState.SENDING,
        ItemEvent.POSTPONE,
    ): ItemState.PLANNED,  # 401, 402, 433, 455
    (ItemState.SENDING, ItemEvent.NOT_CREATED): ItemState.PLANNED,  # see `not_created`
    (ItemState.SENDING, ItemEvent.REFUSE): ItemState.REJECTED,
    (ItemState.SENDING, ItemEvent.UNCERTAIN): ItemState.UNCERTAIN,
    (ItemState.SENDING, ItemEvent.CRASH): ItemState.UNCERTAIN,  # found when the journal is opened
    # The only ways out of uncertain.
    (ItemState.UNCERTAIN, ItemEvent.RESOLVE): ItemState.SUBMITTED,
    (ItemState.UNCERTAIN, ItemEvent.RESUBMIT): ItemState.PLANNED,
    (ItemState.UNCERTAIN, ItemEvent.DROP): ItemState.DROPPED,
    # A paid film.
    (ItemState.SUBMITTED, ItemEvent.SUCCEED): ItemState.SUCCESS,
    (ItemState.SUBMITTED, ItemEvent.FAIL): ItemState.FAILED,
    (ItemState.SUBMITTED, ItemEvent.STALL): ItemState.STALLED,
    (ItemState.STALLED, ItemEvent.RESUME): ItemState.SUBMITTED,
    (ItemState.STALLED, ItemEvent.DROP): ItemState.DROPPED,
    (ItemState.SUCCESS, ItemEvent.SAVE): ItemState.DONE,
    (
        ItemState.DONE,
        ItemEvent.REFETCH,
    ): ItemState.SUCCESS,  # a file is lost
    (ItemState.SUCCESS, ItemEvent.EXPIRE): ItemState.EXPIRED,
    (ItemState.EXPIRED, ItemEvent.RESUME): ItemState.SUCCESS,
    (ItemState.EXPIRED, ItemEvent.DROP): ItemState.DROPPED,
    # A new charge, because a person asks for it.
    (ItemState.FAILED, ItemEvent.RETRY): ItemState.PLANNED,
    (ItemState.REJECTED, ItemEvent.RETRY): ItemState.PLANNED,
    (ItemState.FAILED, ItemEvent.DROP): ItemState.DROPPED,
    (ItemState.REJECTED, ItemEvent.DROP): ItemState.DROPPED,
}


class NoTransitionError(LookupError):
    """The event does not apply to an item in this state."""


def next_state(state: ItemState, event: ItemEvent) -> ItemState:
    """The state of an item after *event*.

    Raises:
        NoTransitionError: the event does not apply to that state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise NoTransitionError(
            f"{event.value} does not apply to an item that is {state.value}"
        ) from None
