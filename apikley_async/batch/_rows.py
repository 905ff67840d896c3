"""Rows of a journal and the values they stand for."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from apikley_async.batch._states import Event, State
from apikley_async.batch._store import File, Item
from apikley_async.errors import JournalError

__all__ = ["ATTEMPTS", "ITEM", "payload_sum", "read_item", "spell_files", "storable"]

ATTEMPTS: Mapping[Event, str] = {
    Event.ACCEPT: "accepted",
    Event.THROTTLE: "refused",
    Event.POSTPONE: "refused",
    Event.REFUSE: "refused",
    Event.UNSENT: "unsent",
    Event.DOUBT: "unknown",
    Event.RESOLVE: "resolved",
    Event.RESUBMIT: "abandoned",
    Event.DROP: "abandoned",
}
"""What an event makes of the attempt it is about."""

ITEM = "SELECT *, (SELECT count(*) FROM attempt WHERE attempt.key = item.key) AS attempts FROM item"


def payload_sum(key: str, payload: str) -> str:
    """What shows that a film's words are still those that were planned."""
    return hashlib.sha256(f"{key}\n{payload}".encode()).hexdigest()[:16]


def read_item(row: sqlite3.Row) -> Item:
    if row["payload_sum"] != payload_sum(row["key"], row["payload"]):
        raise JournalError(f"the journal is damaged: {row['key']!r:.80} is not as it was planned")
    files = json.loads(row["files"]) if row["files"] else []
    at = row["success_at"]
    return Item(
        key=row["key"],
        state=State(row["state"]),
        order=row["ord"],
        payload=row["payload"],
        base=row["base"],
        digest=row["digest"],
        task_id=row["task_id"],
        cause=row["cause"] or "",
        fail_code=row["fail_code"] or "",
        fail_message=row["fail_message"] or "",
        credits=row["credits"],
        files=tuple(File(Path(f["path"]), f["size"], f["sha256"]) for f in files),
        attempts=row["attempts"],
        result=row["result"] or "",
        success_at=None if at is None else datetime.fromtimestamp(at, UTC),
        gone=bool(row["gone"]),
    )


def spell_files(files: tuple[File, ...]) -> str:
    return json.dumps([{"path": str(f.path), "size": f.size, "sha256": f.sha256} for f in files])


def storable(text: str) -> str:
    """Foreign text as SQLite takes it: without lone surrogates."""
    return text.encode(errors="replace").decode()
