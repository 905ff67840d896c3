"""The life of a paid item: one table, (state, event) -> state, and nothing else.

The rules of the table: what guards a request is stored before the request; a film is bought
again only by an event that a person caused; out of `done` only a person's word leads, to fetch
files that were lost, and out of `dropped` only new content, where nothing was ever sent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["TABLE", "Event", "NoStepError", "State", "after"]


class State(enum.StrEnum):
    """Where an item of a batch stands."""

    PLANNED = "planned"
    """Nothing is out, nothing is paid."""
    SENDING = "sending"
    """An attempt is written down and may be on its way."""
    UNCERTAIN = "uncertain"
    """An attempt may have been heard, and paid: a person or a callback decides."""
    SUBMITTED = "submitted"
    """Paid; the task id is known."""
    SUCCESS = "success"
    """The film is ready at the service; its bytes are not yet here."""
    DONE = "done"
    """The film is whole on the disk."""
    FAILED = "failed"
    """The service reports a failure, twice."""
    REJECTED = "rejected"
    """Refused for good; nothing was created."""
    STALLED = "stalled"
    """Paid, but the looking ended at its deadline; the next run looks again."""
    EXPIRED = "expired"
    """Ready once, but every link is dead."""
    DROPPED = "dropped"
    """Given up by a person."""


class Event(enum.StrEnum):
    """What can happen to an item."""

    INTEND = "intend"
    ACCEPT = "accept"
    THROTTLE = "throttle"
    UNSENT = "unsent"
    POSTPONE = "postpone"
    REFUSE = "refuse"
    NOT_CREATED = "not_created"
    DOUBT = "doubt"
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


TABLE: Mapping[tuple[State, Event], State] = {
    (State.PLANNED, Event.INTEND): State.SENDING,
    (State.PLANNED, Event.DROP): State.DROPPED,
    # New content for what was never created; whether it was is asked of the attempts.
    (State.PLANNED, Event.CHANGE): State.PLANNED,
    (State.REJECTED, Event.CHANGE): State.PLANNED,
    (State.DROPPED, Event.CHANGE): State.PLANNED,
    (State.PLANNED, Event.REFUSE): State.REJECTED,  # before any attempt: an image that is none
    (State.PLANNED, Event.ADOPT): State.UNCERTAIN,  # what a lost log may have held
    # What becomes of an attempt.
    (State.SENDING, Event.ACCEPT): State.SUBMITTED,
    (State.SENDING, Event.THROTTLE): State.PLANNED,
    (State.SENDING, Event.UNSENT): State.PLANNED,
    (State.SENDING, Event.POSTPONE): State.PLANNED,  # 401, 402, 433, 455: not this item's fault
    (State.SENDING, Event.NOT_CREATED): State.PLANNED,  # somebody vouches for the code
    (State.SENDING, Event.REFUSE): State.REJECTED,
    (State.SENDING, Event.DOUBT): State.UNCERTAIN,
    (State.SENDING, Event.CRASH): State.UNCERTAIN,  # found so when the journal is opened
    # The only ways out of uncertain.
    (State.UNCERTAIN, Event.RESOLVE): State.SUBMITTED,
    (State.UNCERTAIN, Event.RESUBMIT): State.PLANNED,
    (State.UNCERTAIN, Event.DROP): State.DROPPED,
    # A paid film.
    (State.SUBMITTED, Event.SUCCEED): State.SUCCESS,
    (State.SUBMITTED, Event.FAIL): State.FAILED,
    (State.SUBMITTED, Event.STALL): State.STALLED,
    (State.STALLED, Event.RESUME): State.SUBMITTED,
    (State.STALLED, Event.DROP): State.DROPPED,
    (State.SUCCESS, Event.SAVE): State.DONE,
    (State.DONE, Event.REFETCH): State.SUCCESS,  # a file is lost, and a person wants it again
    (State.SUCCESS, Event.EXPIRE): State.EXPIRED,
    (State.EXPIRED, Event.RESUME): State.SUCCESS,
    (State.EXPIRED, Event.DROP): State.DROPPED,
    # A new charge, because somebody says so.
    (State.FAILED, Event.RETRY): State.PLANNED,
    (State.REJECTED, Event.RETRY): State.PLANNED,
    (State.FAILED, Event.DROP): State.DROPPED,
    (State.REJECTED, Event.DROP): State.DROPPED,
}


class NoStepError(LookupError):
    """The table has no such step: the item stands elsewhere."""


def after(state: State, event: Event) -> State:
    """The state that *event* leads to.

    Raises:
        NoStepError: the table has no such step.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise NoStepError(
            f"{event.value} does not apply to an item that is {state.value}"
        ) from None
