"""Items in the journal's tables: read, moved from state to state, renamed, purged.

Every function here runs in the journal's thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from apikley_async._text import fold_name
from apikley_async.batch.states import ItemEvent, ItemState, NoTransitionError, next_state
from apikley_async.batch.store import spending
from apikley_async.batch.store.database import Row, marks
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.rows import (
    SELECT_ITEM,
    files_to_json,
    payload_sum,
    read_item,
    resolve_path,
    storable_text,
    stored_path,
    stored_to_json,
)
from apikley_async.batch.store.schema import PURGE, RENAME
from apikley_async.batch.store.values import Item, Transition
from apikley_async.errors import Blame, DownloadError, JournalError, ManifestConflictError

__all__ = [
    "add_folder",
    "get",
    "listed",
    "load_folders",
    "move",
    "of_keys",
    "owner_of",
    "purge",
    "rename",
]

ENDED = (ItemState.DONE, ItemState.REJECTED, ItemState.EXPIRED, ItemState.DROPPED)
IN_WORK = (ItemState.PLANNED, ItemState.SUBMITTED, ItemState.STALLED, ItemState.SUCCESS)


def get(journal: OpenJournal, key: str) -> Item:
    """One item; `KeyError` when there is none of that key."""
    row = journal.db.execute(f"{SELECT_ITEM} WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise KeyError(key)
    return _from_row(journal, row)


def listed(
    journal: OpenJournal, states: Sequence[ItemState] | None, after: int, count: int
) -> list[Item]:
    """Items behind number *after* in their order, those in *states* or all, *count* at most."""
    chosen = "TRUE" if states is None else f"state IN ({marks(states)})"
    rows = journal.db.execute(
        f"{SELECT_ITEM} WHERE {chosen} AND ord > ? ORDER BY ord LIMIT ?",
        (*(states or ()), after, count),
    )
    return [_from_row(journal, row) for row in rows]


def of_keys(journal: OpenJournal, keys: Sequence[str]) -> list[Item]:
    """The items of some keys that are there, in the order of the keys."""
    rows = journal.db.execute(f"{SELECT_ITEM} WHERE key IN ({marks(keys)})", keys).fetchall()
    found = {row["key"]: row for row in rows}
    return [_from_row(journal, found[key]) for key in keys]


def _from_row(journal: OpenJournal, row: Row) -> Item:
    try:
        return read_item(row, journal.home, journal.folders)
    except JournalError:
        known = journal.folders
        load_folders(journal)  # another process may have saved it, in a folder of its own
        if journal.folders == known:
            raise
        return read_item(row, journal.home, journal.folders)


def owner_of(journal: OpenJournal, task_id: str) -> str | None:
    """The key of the item that a task belongs to; None when it belongs to none."""
    row = journal.db.execute("SELECT key FROM item WHERE task_id = ?", (task_id,)).fetchone()
    return None if row is None else str(row["key"])


def move(
    journal: OpenJournal,
    key: str,
    transition: Transition,
    *,
    owner: str | None = None,
    digest: str | None = None,
) -> None:
    """Move an item to its next state: the only place where an item's state changes.

    The caller has begun a transaction. An INTEND is its *owner*'s only, and of the content of
    *digest* if that is given.

    Raises:
        KeyError: there is no item of that key.
        NoTransitionError: the event does not apply to its state, or the item is another owner's, or
            has other content.
        JournalError: the task belongs to another item.
    """
    query = "SELECT state, owner, digest FROM item WHERE key = ?"
    row = journal.db.execute(query, (key,)).fetchone()
    if row is None:
        raise KeyError(key)
    if transition.event is ItemEvent.INTEND:
        _check_owner(journal, key, row["owner"], owner)
        if digest not in (None, row["digest"]):
            raise NoTransitionError(f"{key!r} has other content by now")
    before = ItemState(row["state"])
    following = next_state(before, transition.event)
    if transition.task_id is not None:
        owner = owner_of(journal, transition.task_id)
        if owner not in (None, key):
            raise JournalError(f"{transition.task_id} is the task of {owner!r}")
    for saved in transition.files:
        _insert_folder(journal, saved.path.parent)
    _update_item(journal, key, before, following, transition)
    # An item holds what its last task consumed; each attempt keeps its own, so that a film that is
    # made again still counts what the first one cost.
    if transition.credits is not None:
        spending.record_cost(journal, key, transition.credits)
    _note_event(
        journal,
        key,
        transition.event,
        before,
        following,
        cause=transition.cause,
        by=transition.by,
        token=transition.token,
    )


def _check_owner(journal: OpenJournal, key: str, current: str | None, owner: str | None) -> None:
    """Refuse whoever has not claimed an item, or has lost it.

    Where owners may die, an item that nobody has claimed is sent by nobody: who would know later
    that its answer is missing?
    """
    if current == owner and not (owner is None and journal.shared):
        return
    row = journal.db.execute("SELECT name FROM owner WHERE id = ?", (current,)).fetchone()
    whose = "nobody has claimed it" if row is None else f"it is claimed by {row['name']}"
    raise NoTransitionError(f"{key!r} is not this run's, or not any more: {whose}")


def _update_item(
    journal: OpenJournal,
    key: str,
    before: ItemState,
    following: ItemState,
    transition: Transition,
) -> None:
    # The task and the credits of an earlier attempt stay with that attempt; the item starts anew.
    buys_again = transition.event in (ItemEvent.RETRY, ItemEvent.RESUBMIT)
    # An item that has ended is nobody's, nor is one with new content, which its owner has not read.
    is_free = following in ENDED or transition.event is ItemEvent.CHANGE
    journal.db.execute(
        "UPDATE item SET state = :to, cause = :cause,"
        " task_id = CASE WHEN :again THEN NULL ELSE coalesce(:task_id, task_id) END,"
        " fail_code = :fail_code, fail_message = :fail_message,"
        " credits = CASE WHEN :again THEN NULL ELSE coalesce(:credits, credits) END,"
        " result = coalesce(:result, result),"
        " success_at = coalesce(:success_at, success_at),"
        " files = CASE WHEN :elsewhere THEN :files ELSE files END,"
        " stored = CASE WHEN :elsewhere THEN :stored ELSE stored END,"
        " owner = CASE WHEN :is_free = 1 THEN NULL ELSE owner END"
        " WHERE key = :key AND state = :before",
        {
            "to": following,
            "cause": storable_text(transition.cause),
            "again": buys_again,
            "task_id": transition.task_id,
            "fail_code": storable_text(transition.fail_code),
            "fail_message": storable_text(transition.fail_message),
            "credits": transition.credits,
            "result": storable_text(transition.result) or None,
            "success_at": transition.success_at and transition.success_at.timestamp(),
            "files": files_to_json(transition.files, journal.home) if transition.files else None,
            "stored": stored_to_json(transition.stored) if transition.stored else None,
            "is_free": int(is_free),
            "elsewhere": bool(transition.files or transition.stored),  # and no more where it was
            "key": key,
            "before": before,
        },
    )


def _note_event(
    journal: OpenJournal,
    key: str,
    event: str,
    before: ItemState,
    following: ItemState,
    *,
    cause: str = "",
    by: str = "",
    token: str = "",
) -> None:
    journal.db.execute(
        'INSERT INTO event (at, mono, key, event, "from", "to", cause, by, token)'
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *journal.now,
            key,
            event,
            before,
            following,
            storable_text(cause),
            storable_text(by),
            token or None,
        ),
    )


def rename(journal: OpenJournal, key: str, new: str, by: str) -> Item:
    """Give an item another key; see `Store.rename`."""
    with journal.transaction():
        item = get(journal, key)
        if item.state is ItemState.SENDING:
            raise NoTransitionError(f"{key!r} is being sent")
        _check_in_no_run(journal, key)
        _check_new_key(journal, key, new)
        # Attempts refer to the item's key, and both change in this transaction.
        journal.defer_references()
        journal.db.execute(
            "UPDATE item SET key = ?, payload_sum = ? WHERE key = ?",
            (new, payload_sum(new, item.payload), key),
        )
        journal.db.execute("UPDATE attempt SET key = ? WHERE key = ?", (new, key))
        journal.db.execute("UPDATE event SET key = ? WHERE key = ?", (new, key))
        _note_event(journal, new, RENAME, item.state, item.state, cause=f"it was {key}", by=by)
    return get(journal, new)


def _check_in_no_run(journal: OpenJournal, key: str) -> None:
    """Refuse another key for an item that a run is making under the one it has."""
    row = journal.db.execute("SELECT state, owner FROM item WHERE key = ?", (key,)).fetchone()
    if row["owner"] is not None and row["state"] in IN_WORK:
        raise NoTransitionError(f"{key!r} is being made; end the run first")


def _check_new_key(journal: OpenJournal, key: str, new: str) -> None:
    """Refuse a new key that another item has, or one that names the same file."""
    name = fold_name(new)
    for other in journal.db.execute("SELECT key, state FROM item WHERE key != ?", (key,)):
        if fold_name(other["key"]) == name:
            raise ManifestConflictError(
                f"{other['key']!r} is in the journal already ({other['state']}), and {new!r} would "
                "name the same file; nothing was changed"
            )


def purge(journal: OpenJournal, payloads: Mapping[str, str], by: str) -> None:
    """Replace the payloads of items, and remove what answers and causes repeat of them."""
    with journal.erase_old_text(), journal.transaction():
        for key, payload in payloads.items():
            item = get(journal, key)
            result = json.loads(item.result) if item.result else None
            if isinstance(result, dict):
                result.pop("content", None)
            journal.db.execute(
                "UPDATE item SET payload = ?, payload_sum = ?, result = ?, cause = NULL,"
                " fail_message = NULL WHERE key = ?",
                (payload, payload_sum(key, payload), result and json.dumps(result), key),
            )
            # Causes may repeat words of the prompt: what was compared, what was refused.
            journal.db.execute("UPDATE attempt SET raw = NULL, cause = NULL WHERE key = ?", (key,))
            journal.db.execute("UPDATE event SET cause = NULL WHERE key = ?", (key,))
            _note_event(journal, key, PURGE, item.state, item.state, by=by)


def load_folders(journal: OpenJournal) -> None:
    """Read where saved files may lie; other processes may have added folders."""
    rows = journal.db.execute("SELECT path FROM folder ORDER BY rowid").fetchall()
    journal.folders = {resolve_path(row["path"], journal.home): None for row in rows}


def add_folder(journal: OpenJournal, folder: Path) -> None:
    """Remember that films are saved in *folder*, as the newest one.

    Raises:
        DownloadError: no database takes its name.
    """
    folder = resolve_path(stored_path(folder.absolute(), journal.home), journal.home)
    if [*journal.folders][-1:] == [folder]:
        return
    if storable_text(path := stored_path(folder, journal.home)) != path:
        fault = f"{str(folder)!r}: a folder with a name in Unicode"
        raise DownloadError.before_paying(fault, blames=Blame.INPUT)
    with journal.transaction():
        journal.db.execute("DELETE FROM folder WHERE path = ?", (path,))
        journal.folders.pop(folder, None)
        _insert_folder(journal, folder)


def _insert_folder(journal: OpenJournal, folder: Path) -> None:
    path = stored_path(folder, journal.home)
    if (found := resolve_path(path, journal.home)) not in journal.folders:
        journal.db.execute("INSERT INTO folder (path) VALUES (?) ON CONFLICT DO NOTHING", (path,))
        journal.folders[found] = None
