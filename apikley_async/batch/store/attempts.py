"""Attempts in the journal's tables: stored before they are sent, and when they have ended.

Every function here runs in the journal's thread.
"""

from __future__ import annotations

import logging
from pathlib import Path

import attrs

from apikley_async import Attempt
from apikley_async._tokens import MOST_NAMED_TASKS
from apikley_async.batch.states import ItemEvent, ItemState, NoTransitionError
from apikley_async.batch.store import claims, items, spending
from apikley_async.batch.store.database import Row
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.rescue import RescuePlaces, read_notes
from apikley_async.batch.store.rows import ATTEMPT_STATES, storable_text
from apikley_async.batch.store.values import Bounds, Item, Transition

__all__ = ["apply", "bind_late", "bind_rescued", "intend", "keep_callback", "settle"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

COST_NOTHING = ("refused", "unsent")  # the states of attempts that created nothing
NEVER_LEFT = (
    "%s: attempt %s was never sent, as is known now; it was taken for a dead run's meanwhile, and "
    "the film is %s"
)


def intend(
    journal: OpenJournal,
    key: str,
    token: str,
    fingerprint: str,
    reserved: float | None,
    *,
    owner: str | None,
    digest: str | None,
    kind: int | str | None,
    bounds: Bounds | None,
) -> None:
    """Store a new attempt before it is sent; see `Store.intend`."""
    with journal.transaction():
        known = _find(journal, token)
        # The same call again: its commit succeeded, and the answer was lost. A second row would
        # be a second attempt that nobody sends.
        if known is not None and (known["key"], known["attempt"]) == (key, "intent"):
            return
        if known is not None:
            raise NoTransitionError(f"attempt {token} of {known['key']!r} is {known['attempt']}")
        sending = Transition(ItemEvent.INTEND, token=token)
        items.move(journal, key, sending, owner=owner, digest=digest)
        claims.see_at_work(journal, owner)
        # In this transaction: what any other run has set aside meanwhile is counted.
        price_kind = None if kind is None else spending.kind_name(kind)
        reserved = spending.reserve(journal, reserved, price_kind, bounds)
        spending.add(journal, price_kind, reserved)
        journal.db.execute(
            "INSERT INTO attempt (token, key, n, state, fingerprint, reserved, kind, began_at)"
            " VALUES (?, ?, (SELECT count(*) + 1 FROM attempt WHERE key = ?), 'intent',"
            " ?, ?, ?, ?)",
            (token, key, key, fingerprint, reserved, price_kind, journal.now[0]),
        )
    journal.intents += 1
    journal.write_witness()


def settle(journal: OpenJournal, key: str, attempt: Attempt, transition: Transition) -> Item:
    """Store how an attempt has ended; see `Store.settle`."""
    # A former owner may do this too: the id of a paid task must not be lost.
    with journal.transaction(owner_only=False):
        known = _find(journal, attempt.token)
        # After another process has settled it, its item may have been renamed.
        if known is None or (known["key"] != key and known["attempt"] == "intent"):
            raise KeyError(f"{key!r} has no attempt {attempt.token}")
        key = str(known["key"])
        # Settled before, perhaps as uncertain by another process that opened the journal while this
        # one seemed to be dead. Only a task's id still counts: it was paid for.
        if known["attempt"] != "intent":
            if attempt.task_id is not None:
                bind_late(journal, attempt.token, attempt.task_id, "the answer came late")
            item = items.get(journal, key)
            if transition.event is ItemEvent.UNSENT and known["attempt"] not in COST_NOTHING:
                logger.warning(NEVER_LEFT, key, attempt.token, item.state)
            return item
        owner = attempt.task_id and items.owner_of(journal, attempt.task_id)
        if owner:  # the answer was another attempt's, so this attempt's own task is unknown
            cause = f"the answer names {attempt.task_id}, the task of {owner!r}"
            transition = Transition(ItemEvent.UNCERTAIN, cause=cause)
            attempt = attrs.evolve(attempt, task_id=None, cause=cause)
        items.move(journal, key, attrs.evolve(transition, token=attempt.token))
        state = ATTEMPT_STATES[transition.event]
        if state in COST_NOTHING and attempt.task_id is None:
            spending.change(journal, attempt.token, -1)
        journal.db.execute(
            "UPDATE attempt SET state = ?, ended_at = ?, http = ?, code = ?, task_id = ?,"
            " raw = ?, cause = ? WHERE token = ?",
            (
                state,
                journal.now[0],
                attempt.http,
                attempt.code,
                attempt.task_id,
                storable_text(attempt.raw),
                storable_text(attempt.cause),
                attempt.token,
            ),
        )
    return items.get(journal, key)


def apply(journal: OpenJournal, key: str, transition: Transition) -> Item:
    """Apply a transition to an item and to its uncertain attempts; see `Store.apply`."""
    with journal.transaction():
        known = _find(journal, transition.token) if transition.token else None
        state = ATTEMPT_STATES.get(transition.event)
        applied = known is not None and (known["key"], known["attempt"]) == (key, state)
        if known is not None and applied and transition.task_id in (None, known["task_id"]):
            return items.get(journal, key)  # the same call again
        items.move(journal, key, transition)
        if transition.owner:
            claims.give(journal, key, transition.owner)
        # A decision about the item settles its uncertain attempts as well, or the one it names:
        # no item may leave UNCERTAIN with an attempt that stays unknown.
        if state is not None:
            done = journal.db.execute(
                "UPDATE attempt SET state = ?, task_id = coalesce(?, task_id)"
                " WHERE key = ? AND state = 'unknown' AND ? IN ('', token)",
                (state, transition.task_id, key, transition.token),
            )
            if transition.token and not done.rowcount:
                raise NoTransitionError(
                    f"attempt {transition.token} of {key!r} is uncertain no more"
                )
    return items.get(journal, key)


def bind_late(journal: OpenJournal, token: str, task_id: str, cause: str) -> bool:
    """Give a paid task to the attempt that paid for it, after that attempt seemed to be over.

    The caller has begun a transaction. An item that is uncertain, or being sent, becomes submitted.
    Any other keeps its state, and the task is stored beside the attempt and logged.

    Returns:
        Whether the journal has the task now; False when it has no such attempt.
    """
    known, owner = _find(journal, token), items.owner_of(journal, task_id)
    if known is not None and (task_id == known["task_id"] or owner == known["key"]):
        return True
    # One task belongs to one item. Giving it to a second one would hide the film that this
    # attempt really paid for.
    if known is None or owner is not None:
        logger.critical(
            "film %s was paid; its attempt is not in this journal, or it is %r: see client.job",
            task_id,
            owner,
        )
        return False
    event = {
        (ItemState.UNCERTAIN, "unknown"): ItemEvent.RESOLVE,
        (ItemState.SENDING, "intent"): ItemEvent.ACCEPT,  # its lease is not over yet
    }.get((known["item"], known["attempt"]))
    if event is not None:
        transition = Transition(event, task_id=task_id, cause=cause, token=token)
        items.move(journal, known["key"], transition)
        journal.db.execute(
            "UPDATE attempt SET state = ?, task_id = ?, ended_at = ? WHERE token = ?",
            (ATTEMPT_STATES[event], task_id, journal.now[0], token),
        )
        logger.warning("film %s of %r is bound: %s", task_id, known["key"], cause)
        return True
    _keep_unclaimed(journal, known, token, task_id)
    return True


def bind_rescued(journal: OpenJournal, places: RescuePlaces) -> list[Path]:
    """Give the tasks in rescue notes to their attempts. The caller has begun a transaction.

    Returns:
        The files of which nothing is needed any more when the transaction has happened.
    """
    cause, done = "the journal could not be written when the answer came", []
    for found in read_notes(places):
        bound = [bind_late(journal, note.token, note.task_id, cause) for note in found.notes]
        if not found.is_understood:
            logger.warning(
                "%s stays: not all of it is a note of this journal, and it may name a paid film",
                found.path,
            )
        elif all(bound):
            done.append(found.path)
    return done


def _keep_unclaimed(journal: OpenJournal, known: Row, token: str, task_id: str) -> None:
    """Keep a paid task whose item was decided otherwise: the decision stays.

    The id is kept with the attempt, and in the inbox, from where the next run shows it as paid and
    unclaimed.
    """
    if known["attempt"] in COST_NOTHING and known["task_id"] is None:
        spending.change(journal, token, 1)
    journal.db.execute(
        "UPDATE attempt SET task_id = coalesce(task_id, ?) WHERE token = ?", (task_id, token)
    )
    kept = journal.db.execute(
        "INSERT INTO inbox VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (token, task_id, journal.now[0]),
    )
    if kept.rowcount:
        logger.critical(
            "film %s was paid for %r, which was decided otherwise: see client.job",
            task_id,
            known["key"],
        )


def keep_callback(journal: OpenJournal, token: str, task_id: str) -> None:
    """Store the task that a callback names for an attempt."""
    with journal.transaction():
        journal.db.execute(
            "INSERT INTO inbox SELECT token, ?, ? FROM attempt WHERE token = ?"
            " AND (SELECT count(*) FROM inbox WHERE inbox.token = attempt.token) < ?"
            " ON CONFLICT DO NOTHING",
            (storable_text(task_id), journal.now[0], token, MOST_NAMED_TASKS),
        )


def _find(journal: OpenJournal, token: str) -> Row | None:
    """An attempt, with the state of its item."""
    row: Row | None = journal.db.execute(
        "SELECT item.key, item.state AS item, attempt.state AS attempt, attempt.task_id"
        " FROM attempt JOIN item USING (key) WHERE token = ?",
        (token,),
    ).fetchone()
    return row
