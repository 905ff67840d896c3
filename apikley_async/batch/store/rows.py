"""Rows of a journal's tables, and the values that they stand for.

A journal may come from elsewhere, so every row is validated where it is read, as a manifest is.
Paths are stored relative to the journal's folder, so that a project can be moved; a journal without
a folder has absolute ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import attrs

from apikley_async import SavedFile
from apikley_async._text import describe_value
from apikley_async.batch.keys import is_stored_key
from apikley_async.batch.states import ItemEvent, ItemState
from apikley_async.batch.store.database import Row
from apikley_async.batch.store.journal_errors import damaged
from apikley_async.batch.store.values import Item, StoredFile

__all__ = [
    "ATTEMPT_STATES",
    "JOURNAL_ID",
    "LOST_UNKNOWN",
    "SELECT_ITEM",
    "JournalFacts",
    "files_to_json",
    "payload_sum",
    "read_facts",
    "read_item",
    "read_time",
    "relativize_paths",
    "resolve_path",
    "storable_text",
    "stored_path",
    "stored_to_json",
]

ATTEMPT_STATES: Mapping[ItemEvent, str] = {
    ItemEvent.ACCEPT: "accepted",
    ItemEvent.THROTTLE: "refused",
    ItemEvent.POSTPONE: "refused",
    ItemEvent.REFUSE: "refused",
    ItemEvent.UNSENT: "unsent",
    ItemEvent.NOT_CREATED: "abandoned",  # not refused: it counts as what it may have cost
    ItemEvent.UNCERTAIN: "unknown",
    ItemEvent.RESOLVE: "resolved",
    ItemEvent.RESUBMIT: "abandoned",
    ItemEvent.DROP: "abandoned",
}
"""The state of the attempt that an event is about, after the event."""

LOST_UNKNOWN = "unknown"  # how many attempts an adopted journal has lost, without a witness
JOURNAL_ID = re.compile("[0-9a-f]{32}")
NO_NAMES = ("", ".", "..")
NUMBER = re.compile("[0-9]{1,12}")
PLAIN_NAME = re.compile(r"[^/\\]{1,255}")
SHA256 = re.compile("[0-9a-f]{64}")
SELECT_ITEM = (
    "SELECT *, (SELECT count(*) FROM attempt WHERE attempt.key = item.key) AS attempts FROM item"
)


def payload_sum(key: str, payload: str) -> str:
    """A checksum that shows whether a film's payload is still the one that was planned."""
    return hashlib.sha256(f"{key}\n{payload}".encode()).hexdigest()[:16]


@attrs.frozen
class JournalFacts:
    """What a journal says of itself.

    Attributes:
        journal_id: made with the journal; it names the witness and other files of ours.
        epoch: how often the journal was opened for writing.
        begun: whether an owner has opened it and has not closed it.
        intents: how many attempts were made with it, lost ones included.
        lost: how many of them are not in it since it was adopted; None when that is unknown.
    """

    journal_id: str
    epoch: int
    begun: bool
    intents: int
    lost: int | None = 0


def read_facts(rows: Collection[Row], intents: int) -> JournalFacts:
    """The facts of a journal; *intents* are the attempts in it.

    Raises:
        JournalError: a fact is missing, or is not of its form. The id becomes part of file names.
    """
    facts = {row["name"]: row["value"] for row in rows}
    journal_id, epoch = facts.get("journal_id"), facts.get("epoch")
    if not (isinstance(journal_id, str) and JOURNAL_ID.fullmatch(journal_id)):
        raise damaged("journal_id is not one")
    if isinstance(epoch, float) or not NUMBER.fullmatch(str(epoch)):
        raise damaged("epoch is not a number")
    lost = facts.get("lost", 0)
    if lost == LOST_UNKNOWN:
        return JournalFacts(journal_id, int(str(epoch)), "begun" in facts, intents, None)
    if isinstance(lost, float) or not NUMBER.fullmatch(str(lost)):
        raise damaged("lost is not a number")
    return JournalFacts(
        journal_id, int(str(epoch)), "begun" in facts, intents + int(str(lost)), int(str(lost))
    )


def read_item(row: Row, home: Path | None, folders: Collection[Path]) -> Item:
    """The item of a row.

    Args:
        row: of `SELECT_ITEM`.
        home: the folder of the journal; None where its paths are absolute.
        folders: where saved files may lie.

    Raises:
        JournalError: the row holds what this program would not have written.
    """
    key = row["key"]
    if not is_stored_key(key):
        raise damaged(f"{describe_value(key)} is not a key")
    if row["payload_sum"] != payload_sum(key, row["payload"]):
        raise damaged(f"{key!r} is not as it was planned")
    try:
        files = tuple(read_files(row["files"], home, folders)) if row["files"] else ()
        stored = tuple(read_stored(row["stored"])) if row["stored"] else ()
        at = row["success_at"]
        success_at = None if at is None else datetime.fromtimestamp(at, UTC)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, OSError) as error:
        known = isinstance(error, UnreadableError)
        reason = str(error) if known else "its files or times are not readable"
        raise damaged(f"{key!r}: {reason}") from None
    return Item(
        key=key,
        state=ItemState(row["state"]),
        order=row["ord"],
        payload=row["payload"],
        base=str(resolve_folder(row["base"], home)) if row["base"] else "",
        digest=row["digest"],
        task_id=row["task_id"],
        cause=row["cause"] or "",
        fail_code=row["fail_code"] or "",
        fail_message=row["fail_message"] or "",
        credits=row["credits"],
        files=files,
        stored=stored,
        attempts=row["attempts"],
        result=row["result"] or "",
        success_at=success_at,
        gone=bool(row["gone"]),
    )


class UnreadableError(ValueError):
    """A part of a row is not of the form that this program writes."""


def read_files(text: str, home: Path | None, folders: Collection[Path]) -> Iterator[SavedFile]:
    """Yield the saved files of an item; each must lie in a folder that films were saved in."""
    for file in json.loads(text):
        size, digest = file["size"], file["sha256"]
        path = resolve_path(file["path"], home)
        if path.parent not in folders:
            raise UnreadableError(
                f"{describe_value(file['path'])} lies in no folder that films were saved in"
            )
        if type(size) is not int or size < 0 or not SHA256.fullmatch(digest):
            raise UnreadableError("the size or SHA-256 of a file is none")
        yield SavedFile(path, size, digest)


def read_stored(text: str) -> Iterator[StoredFile]:
    """Yield what was put into a destination."""
    for file in json.loads(text):
        name, location = file["name"], file["location"]
        size, sha256 = file["size"], file["sha256"]
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name) or not name.isprintable():
            raise UnreadableError(f"{describe_value(name)} is no name of a file")
        if type(size) is not int or size < 0 or not SHA256.fullmatch(sha256):
            raise UnreadableError("the size or SHA-256 of a file is none")
        found = StoredFile.at(name, location, size=size, sha256=sha256)
        if found.location != location:
            raise UnreadableError(f"the location of {describe_value(name)} is none")
        yield found


def stored_to_json(files: tuple[StoredFile, ...]) -> str:
    """What was put into a destination, as it is stored."""
    return storable_text(json.dumps([attrs.asdict(file) for file in files]))


def read_time(at: object) -> datetime | None:
    """A time as it is stored, in seconds since 1970; None for what is none."""
    if not isinstance(at, int | float) or isinstance(at, bool):
        return None
    try:
        return datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def files_to_json(files: tuple[SavedFile, ...], home: Path | None) -> str:
    """Files as they are stored."""
    return json.dumps(
        [{"path": stored_path(f.path, home), "size": f.size, "sha256": f.sha256} for f in files]
    )


def stored_path(path: Path, home: Path | None) -> str:
    """A path as it is stored: relative to the journal, where both are on one drive."""
    if home is None:
        return os.path.normpath(path.absolute())
    try:
        return os.path.relpath(path, home)
    except ValueError:  # Windows has several
        return str(path)


def resolve_path(path: str, home: Path | None) -> Path:
    """The path that was stored as *path*."""
    folder, name = os.path.split(path)
    return (
        resolve_folder(folder, home) / name if name not in NO_NAMES else resolve_folder(path, home)
    )


@lru_cache(maxsize=64)
def resolve_folder(folder: str, home: Path | None) -> Path:
    """The folder that was stored as *folder*; cached, since the films of a batch share theirs."""
    return Path(os.path.normpath(folder if home is None else home / folder))


def relativize_paths(db: sqlite3.Connection, home: Path) -> None:
    """Make the paths of an older journal relative, and store the folders of its files."""
    for row in db.execute("SELECT ord, base, files FROM item").fetchall():
        base, files = row["base"], row["files"]
        saved = json.loads(files) if files else []
        for file in saved:
            file["path"] = stored_path(Path(file["path"]), home)
            folder = str(Path(file["path"]).parent)
            db.execute("INSERT INTO folder VALUES (?) ON CONFLICT DO NOTHING", (folder,))
        db.execute(
            "UPDATE item SET base = ?, files = ? WHERE ord = ?",
            (
                stored_path(Path(base), home) if base else "",
                json.dumps(saved) if saved else files,
                row["ord"],
            ),
        )


def storable_text(text: str) -> str:
    """Foreign text as databases take it: without lone surrogates, and without NUL."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")
