"""Entries on their way into a journal: read to their end, then compared with what it knows.

Reading takes as long as a manifest is long; it happens outside of the journal's transaction, and
keeps no more than some megabytes in memory. All entries are written, or none.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Generator, Iterable
from functools import lru_cache
from pathlib import Path

import attrs

from apikley_async.batch.manifest.fields import folded
from apikley_async.batch.states import State
from apikley_async.batch.store.journal_file import hindered
from apikley_async.batch.store.protocol import Entry, Item, Plan
from apikley_async.batch.store.rows import ITEM, payload_sum, place_of
from apikley_async.errors import ManifestConflictError

__all__ = ["plan", "read_out", "refuse_name"]

MOST = 1024**2  # bytes of entries in memory; what is more waits in a file without a name


def read_out(entries: Iterable[Entry], folder: Path) -> Generator[Entry | None]:
    """Read *entries* to their end; gives what gives them again. Blocks."""
    again = _spooled(entries, folder)
    next(again)
    return again


def _spooled(entries: Iterable[Entry], folder: Path) -> Generator[Entry | None]:
    """Gives None when all entries are read, and then the entries."""
    with tempfile.SpooledTemporaryFile(max_size=MOST, dir=str(folder)) as spool:
        for entry in entries:
            line = json.dumps(attrs.astuple(entry, recurse=False)).encode()
            try:
                spool.write(line + b"\n")
            except OSError as exc:
                told = f"{folder} has no room for what is to be planned: {exc.strerror}"
                raise hindered(told, exc) from None
        spool.seek(0)
        yield None
        for line in spool:
            yield Entry(*json.loads(line))


def plan(
    db: sqlite3.Connection,
    entries: Iterable[Entry | None],
    *,
    home: Path,
    source: str,
    allow_duplicates: bool,
    failed: Collection[str] | None,
    change: Callable[[str], None],
    begun: Callable[[str], object] | None = None,
) -> Plan:
    """Write *entries* down; refuse what contradicts them, and what would be paid twice.

    Places are written down relative to *home*. *change* is called with the key of an item that
    has new content: nothing was ever created for it, so it is planned anew. *begun* is called
    after that with the key of each item that is new or has new content.
    """
    new = known = changed = 0
    db.create_function("folded", 1, folded, deterministic=True)
    db.execute("CREATE TEMP TABLE IF NOT EXISTS seen (key PRIMARY KEY, place)")
    db.execute("CREATE TEMP TABLE IF NOT EXISTS stem (folded PRIMARY KEY, key)")
    db.execute("DELETE FROM seen")
    db.execute("DELETE FROM stem")
    db.execute("INSERT OR IGNORE INTO stem SELECT folded(key), key FROM item")
    for entry in filter(None, entries):
        note_seen(db, entry)
        digest = digest_of(db, entry.key)
        if digest is not None and entry.matches(digest):
            known += 1
            move(db, entry, home)
            continue
        if digest is None:
            claim_stem(db, entry)
        elif not may_change(db, entry.key, failed):
            refuse_change(db, entry)
        if not allow_duplicates:
            refuse_twin(db, entry)
        write(db, entry, source, home)
        if digest is None:
            new += 1
        else:
            change(entry.key)
            changed += 1
        if begun is not None:
            begun(entry.key)
    # Films without a manifest come one by one: what is not named again is not gone.
    db.execute(
        "UPDATE item SET gone = key NOT IN (SELECT key FROM seen)"
        " WHERE (source = :source AND :source != '') OR key IN (SELECT key FROM seen)",
        {"source": source},
    )
    [gone] = db.execute("SELECT count(*) FROM item WHERE gone AND source = ?", (source,)).fetchone()
    return Plan(new, known, gone, changed)


def write(db: sqlite3.Connection, entry: Entry, source: str, home: Path) -> None:
    """A new item, or the new content of one that is there."""
    total = payload_sum(entry.key, entry.payload)
    db.execute(
        "INSERT INTO item (key, payload, payload_sum, digest, base, source, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET payload = excluded.payload,"
        " payload_sum = excluded.payload_sum, digest = excluded.digest, base = excluded.base,"
        " source = excluded.source",
        (
            entry.key,
            entry.payload,
            total,
            entry.digest,
            base_of(entry, home),
            source,
            State.PLANNED,
        ),
    )


def move(db: sqlite3.Connection, entry: Entry, home: Path) -> None:
    """Remember where a known film's images are now: its manifest may have been moved."""
    base = base_of(entry, home)
    [known] = db.execute("SELECT base FROM item WHERE key = ?", (entry.key,)).fetchone()
    if known != base:
        db.execute("UPDATE item SET base = ? WHERE key = ?", (base, entry.key))


def base_of(entry: Entry, home: Path) -> str:
    return folder_of(entry.base, home) if entry.base else ""


@lru_cache(maxsize=64)
def folder_of(base: str, home: Path) -> str:
    """A folder as it is written down; the films of one manifest share theirs."""
    return place_of(Path(base), home)


def note_seen(db: sqlite3.Connection, entry: Entry) -> None:
    twin = db.execute("SELECT place FROM seen WHERE key = ?", (entry.key,)).fetchone()
    if twin is not None:
        raise ManifestConflictError(
            f"{entry.where}: the key {entry.key!r} was given before, at {twin['place']}; "
            "say takes: 2 for two films of one storyboard"
        )
    db.execute("INSERT INTO seen VALUES (?, ?)", (entry.key, entry.where))


def claim_stem(db: sqlite3.Connection, entry: Entry) -> None:
    """Refuse a key whose file would be another's, where letters' cases or forms do not count."""
    name = folded(entry.key)
    twin = db.execute("SELECT key FROM stem WHERE folded = ?", (name,)).fetchone()
    if twin is not None:
        raise ManifestConflictError(
            f"{entry.where}: {entry.key!r} names the same file as {twin['key']!r} on many disks; "
            "give it another key"
        )
    db.execute("INSERT INTO stem VALUES (?, ?)", (name, entry.key))


def refuse_name(db: sqlite3.Connection, key: str, *, besides: str) -> None:
    """Refuse a key that another item than *besides* has, or one of the same file."""
    db.create_function("folded", 1, folded, deterministic=True)
    twin = db.execute(
        "SELECT key, state FROM item WHERE key != ? AND folded(key) = ?", (besides, folded(key))
    ).fetchone()
    if twin is not None:
        raise ManifestConflictError(
            f"{twin['key']!r} is in the journal already ({twin['state']}), and {key!r} would name "
            "the same file; nothing was changed"
        )


def digest_of(db: sqlite3.Connection, key: str) -> str | None:
    """What the item of a key is made of; None where there is no such item."""
    row = db.execute("SELECT digest FROM item WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row["digest"])


def may_change(db: sqlite3.Connection, key: str, failed: Collection[str] | None) -> bool:
    """Whether nothing was ever created for an item, or it is one of the *failed* (None: any)."""
    row = db.execute(f"{ITEM} WHERE key = ?", (key,)).fetchone()
    if row["state"] == State.FAILED and (failed is None or key in failed):
        return True
    return Item(key, State(row["state"]), attempts=row["attempts"]).may_change


def refuse_change(db: sqlite3.Connection, entry: Entry) -> None:
    row = db.execute("SELECT state FROM item WHERE key = ?", (entry.key,)).fetchone()
    failed = ", or say `apikley batch retry --changed`" if row["state"] == State.FAILED else ""
    raise ManifestConflictError(
        f"{entry.where}: {entry.key!r} is in the journal with other content "
        f"({row['state']}); give the changed film a new key{failed}"
    )


def refuse_twin(db: sqlite3.Connection, entry: Entry) -> None:
    twin = db.execute(
        "SELECT key FROM item WHERE digest IN (SELECT value FROM json_each(?))"
        " AND state != 'dropped'",
        (json.dumps([entry.digest, *entry.former]),),
    ).fetchone()
    if twin is not None:
        raise ManifestConflictError(
            f"{entry.where}: {entry.key!r} has the same content as {twin['key']!r}: it would "
            "be paid twice; say takes: 2, or allow duplicates"
        )
