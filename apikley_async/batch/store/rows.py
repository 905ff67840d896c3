"""Rows of a journal and the values they stand for.

A journal may come from elsewhere: what stands in it is judged as a manifest is, where it is read.
Places are written down relative to the journal's folder, so that a project can be moved.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import attrs

from apikley_async.batch.manifest.fields import is_key, shown
from apikley_async.batch.states import Event, State
from apikley_async.batch.store.protocol import File, Item
from apikley_async.errors import JournalError

__all__ = [
    "ATTEMPTS",
    "ID",
    "ITEM",
    "LOST_UNKNOWN",
    "Facts",
    "found_at",
    "make_relative",
    "payload_sum",
    "place_of",
    "read_facts",
    "read_item",
    "spell_files",
    "storable",
]

ATTEMPTS: Mapping[Event, str] = {
    Event.ACCEPT: "accepted",
    Event.THROTTLE: "refused",
    Event.POSTPONE: "refused",
    Event.REFUSE: "refused",
    Event.UNSENT: "unsent",
    Event.NOT_CREATED: "abandoned",  # not refused: it counts as what it may have cost
    Event.DOUBT: "unknown",
    Event.RESOLVE: "resolved",
    Event.RESUBMIT: "abandoned",
    Event.DROP: "abandoned",
}
"""What an event makes of the attempt it is about."""

LOST_UNKNOWN = "unknown"  # how many attempts an adopted journal has lost, without a witness
ID, EPOCH, SHA256 = map(re.compile, ("[0-9a-f]{32}", "[0-9]{1,12}", "[0-9a-f]{64}"))
ITEM = "SELECT *, (SELECT count(*) FROM attempt WHERE attempt.key = item.key) AS attempts FROM item"


def payload_sum(key: str, payload: str) -> str:
    """What shows that a film's words are still those that were planned."""
    return hashlib.sha256(f"{key}\n{payload}".encode()).hexdigest()[:16]


@attrs.frozen
class Facts:
    """What a journal says of itself."""

    journal_id: str
    epoch: int
    begun: bool
    intents: int
    """Attempts that stand in it, and those that are known to be lost."""
    lost: int | None = 0
    """Attempts that were made and do not stand in it, since it was adopted; None: unknown."""


def read_facts(rows: Collection[sqlite3.Row], intents: int) -> Facts:
    """The facts of a journal. Its id names files of ours elsewhere, and so it must be an id."""
    facts = {row["name"]: row["value"] for row in rows}
    journal_id, epoch = facts.get("journal_id"), facts.get("epoch")
    if not (isinstance(journal_id, str) and ID.fullmatch(journal_id)):
        raise damaged("journal_id is not one")
    if isinstance(epoch, float) or not EPOCH.fullmatch(str(epoch)):
        raise damaged("epoch is not a number")
    lost = facts.get("lost", 0)
    if lost == LOST_UNKNOWN:
        return Facts(journal_id, int(str(epoch)), "begun" in facts, intents, None)
    if isinstance(lost, float) or not EPOCH.fullmatch(str(lost)):
        raise damaged("lost is not a number")
    return Facts(
        journal_id, int(str(epoch)), "begun" in facts, intents + int(str(lost)), int(str(lost))
    )


def read_item(row: sqlite3.Row, home: Path, folders: Collection[Path]) -> Item:
    """An item of the journal in the folder *home*; its files lie in *folders*.

    Raises:
        JournalError: what stands there is nothing that this program would have written.
    """
    key = row["key"]
    if not is_key(key):
        raise damaged(f"{shown(key)} is not a key")
    if row["payload_sum"] != payload_sum(key, row["payload"]):
        raise damaged(f"{key!r} is not as it was planned")
    try:
        files = tuple(read_files(row["files"], home, folders)) if row["files"] else ()
        at = row["success_at"]
        success_at = None if at is None else datetime.fromtimestamp(at, UTC)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, OSError) as error:
        told = (
            str(error)
            if isinstance(error, UnreadableError)
            else "its files or times are not readable"
        )
        raise damaged(f"{key!r}: {told}") from None
    return Item(
        key=key,
        state=State(row["state"]),
        order=row["ord"],
        payload=row["payload"],
        base=str(found_at(row["base"], home)) if row["base"] else "",
        digest=row["digest"],
        task_id=row["task_id"],
        cause=row["cause"] or "",
        fail_code=row["fail_code"] or "",
        fail_message=row["fail_message"] or "",
        credits=row["credits"],
        files=files,
        attempts=row["attempts"],
        result=row["result"] or "",
        success_at=success_at,
        gone=bool(row["gone"]),
    )


class UnreadableError(ValueError):
    """Why a part of a row is none of ours."""


def read_files(text: str, home: Path, folders: Collection[Path]) -> Iterator[File]:
    """The saved files of an item, each in a folder that films were saved in."""
    for said in json.loads(text):
        size, digest = said["size"], said["sha256"]
        place = found_at(said["path"], home)
        if place.parent not in folders:
            raise UnreadableError(
                f"{shown(said['path'])} lies in no folder that films were saved in"
            )
        if type(size) is not int or size < 0 or not SHA256.fullmatch(digest):
            raise UnreadableError("the size or SHA-256 of a file is none")
        yield File(place, size, digest)


def damaged(fault: str) -> JournalError:
    return JournalError(
        f"the journal is damaged, or was not written by this program: {fault}. It is left as it is"
    )


def spell_files(files: tuple[File, ...], home: Path) -> str:
    """Files as they are written down: relative to the journal."""
    return json.dumps(
        [{"path": place_of(f.path, home), "size": f.size, "sha256": f.sha256} for f in files]
    )


def place_of(path: Path, home: Path) -> str:
    """A place as it is written down: relative to the journal, where both are on one drive."""
    try:
        return os.path.relpath(path, home)
    except ValueError:  # Windows has several
        return str(path)


def found_at(place: str, home: Path) -> Path:
    """The place that was written down as *place*."""
    return Path(os.path.normpath(home / place))


def make_relative(db: sqlite3.Connection, home: Path) -> None:
    """Write the places of an older journal down as later ones are, and the folders of its files."""
    for row in db.execute("SELECT ord, base, files FROM item").fetchall():
        base, files = row["base"], row["files"]
        said = json.loads(files) if files else []
        for file in said:
            file["path"] = place_of(Path(file["path"]), home)
            folder = str(Path(file["path"]).parent)
            db.execute("INSERT OR IGNORE INTO folder VALUES (?)", (folder,))
        db.execute(
            "UPDATE item SET base = ?, files = ? WHERE ord = ?",
            (
                place_of(Path(base), home) if base else "",
                json.dumps(said) if said else files,
                row["ord"],
            ),
        )


def storable(text: str) -> str:
    """Foreign text as SQLite takes it: without lone surrogates."""
    return text.encode(errors="replace").decode()
