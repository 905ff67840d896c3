"""Entries on their way into a journal: read to their end, then compared with what it knows.

Reading takes as long as the manifest is long. So it happens before the journal's transaction, and
holds no more than some megabytes in memory. All entries are stored, or none.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import attrs

from apikley_async._clock import Stopwatch
from apikley_async._text import fold_name
from apikley_async.batch.states import ItemEvent, ItemState
from apikley_async.batch.store import adoption, claims, items
from apikley_async.batch.store.database import Database, Row
from apikley_async.batch.store.journal_errors import journal_error
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.rows import payload_sum, stored_path
from apikley_async.batch.store.values import ManifestEntry, PlanResult, Transition
from apikley_async.errors import JournalError, ManifestConflictError

__all__ = ["SpooledEntries", "plan"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("apikley_async.batch")

MOST_IN_MEMORY = 1024**2  # bytes of entries; more of them wait in a file without a name
AT_ONCE = 1000  # new items that are inserted together
SIZE_AT_ONCE = 512 * 1024  # characters of them
NEW_ITEMS = "item (key, payload, payload_sum, digest, base, source, state)"
REPLACE_CONTENT = (
    "UPDATE item SET payload = ?, payload_sum = ?, digest = ?, base = ?, source = ? WHERE key = ?"
)
SELECT_CONTENTS = "SELECT ord, key, digest, base, state FROM item WHERE TRUE"
SELECT_NAMED = "SELECT ord, key, gone FROM item WHERE (gone = 1 OR (source = ? AND source != ''))"
PAGE = 10_000  # rows that are read at once
STILL_HERE = "SELECT 1"  # a database takes a process that says nothing for one that has stopped
NEW_IN_ADOPTED = (
    "may have been sent: the journal was adopted, and attempts that it has lost are not accounted "
    "for. Resolve the film with its task's id, or resubmit it; what is certainly new may go into a "
    "journal of its own"
)


class SpooledEntries:
    """Entries that were read to their end, and are given again as often as they are asked for.

    Args:
        folder: for the file that holds what does not fit into memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._abandoned = False
        # Closed by `close`: they are read in another thread, and more than once.
        self._file = tempfile.SpooledTemporaryFile(max_size=MOST_IN_MEMORY, dir=str(folder))  # noqa: SIM115

    def read(self, entries: Iterable[ManifestEntry]) -> None:
        """Read entries to their end. Blocks."""
        for entry in self._unless_abandoned(entries):
            line = json.dumps(attrs.astuple(entry, recurse=False)).encode()
            self._write(line + b"\n")

    def abandon(self) -> None:
        """Let whoever reads or stores them end with an error, at the next one."""
        self._abandoned = True

    def _unless_abandoned(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self._abandoned:
                raise JournalError("planning was given up; nothing was stored")
            yield item

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
        except OSError as exc:
            message = f"{self._folder} has no room for what is to be planned: {exc.strerror}"
            raise journal_error(message, exc) from None

    def __iter__(self) -> Iterator[ManifestEntry]:
        self._file.seek(0)
        for line in self._unless_abandoned(self._file):
            yield ManifestEntry(*json.loads(line))

    def close(self) -> None:
        self._file.close()


class KnownContents:
    """The contents of all items, read before the entries: nobody else writes until all are stored.

    Asked for one by one, they would take long, while the journal's lock is held.
    """

    def __init__(self, db: Database) -> None:
        self._contents: dict[str, tuple[str, str]] = {}
        self._keys: dict[str, list[str]] = {}  # by digest: of all items that are not dropped
        self._names: dict[str, str] = {}
        for _, key, digest, base, state in _rows(db, SELECT_CONTENTS):
            self._contents[key] = (digest, base)
            self._names[fold_name(key)] = key
            if state != ItemState.DROPPED:
                self._keys.setdefault(digest, []).append(key)

    def of(self, key: str) -> tuple[str | None, str]:
        """The digest and the folder of an item; (None, "") where there is none."""
        return self._contents.get(key) or (None, "")

    def replace(self, entry: ManifestEntry, former: str | None) -> None:
        """The item of an entry has its content from here on, in the place of *former*."""
        if former is not None and entry.key in (same := self._keys.get(former, [])):
            same.remove(entry.key)
        self._keys.setdefault(entry.digest, []).append(entry.key)

    def check_file_name(self, entry: ManifestEntry) -> None:
        """Refuse a key whose file is another item's where case or Unicode form is ignored."""
        other = self._names.setdefault(fold_name(entry.key), entry.key)
        if other != entry.key:
            raise ManifestConflictError(
                f"{entry.where}: {entry.key!r} names the same file as {other!r} on many disks; "
                "give it another key"
            )

    def check_duplicate(self, entry: ManifestEntry) -> None:
        """Refuse content that another item has: it would be paid twice."""
        for digest in (entry.digest, *entry.former):
            if others := self._keys.get(digest):
                raise ManifestConflictError(
                    f"{entry.where}: {entry.key!r} has the same content as {others[0]!r}: it "
                    "would be paid twice; say takes: 2, or allow duplicates"
                )


class NewItems:
    """New items on their way into the table, hundreds at a time.

    One by one, a long manifest would hold the journal's lock for minutes.
    """

    def __init__(self, db: Database) -> None:
        self.count: int = 0
        self._db = db
        self._rows: list[tuple[str, ...]] = []
        self._size = 0

    def add(self, row: tuple[str, ...]) -> None:
        self.count += 1
        self._rows.append(row)
        self._size += sum(map(len, row))
        if len(self._rows) == AT_ONCE or self._size >= SIZE_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Insert what is left."""
        if rows := self._rows:
            self._rows, self._size = [], 0
            self._db.insert(NEW_ITEMS, rows)


def plan(
    journal: OpenJournal,
    entries: Iterable[ManifestEntry],
    source: str,
    allow_duplicates: bool,
    failed: Collection[str] | None,
) -> PlanResult:
    """Store *entries* in one transaction; see `Store.plan`. Runs in the journal's thread."""
    planned: list[str] = []
    # Whether attempts are missing is read within the transaction, before any entry is stored.
    with journal.transaction():
        held = Stopwatch()
        result = _store_entries(
            journal,
            entries,
            source,
            allow_duplicates,
            failed,
            planned.append if adoption.lost_attempts_remain(journal) else None,
        )
        for key in planned:
            adoption.add_stand_in(journal, key, NEW_IN_ADOPTED)
        claims.spare_the_living(journal, held.seconds)
    if planned:
        adoption.recount_intents(journal)
        logger.warning(
            "%d films of %s are uncertain, as %r: each %s",
            len(planned),
            journal.name,
            planned[0],
            NEW_IN_ADOPTED,
        )
    journal.checkpoint()
    return result


def _store_entries(
    journal: OpenJournal,
    entries: Iterable[ManifestEntry],
    source: str,
    allow_duplicates: bool,
    failed: Collection[str] | None,
    on_planned: Callable[[str], None] | None,
) -> PlanResult:
    """Store each entry; *on_planned* gets the keys of items that are new or have new content."""
    db = journal.db
    known = changed = 0
    seen: dict[str, str] = {}  # the place of each key
    contents = KnownContents(db)
    new_items = NewItems(db)
    for number, entry in enumerate(entries):
        if number % AT_ONCE == 0:
            db.execute(STILL_HERE)
        _check_repeated_key(seen, entry)
        digest, base = contents.of(entry.key)
        # A digest of any version: an upgrade of this package must not make a paid film look new.
        if digest is not None and entry.matches(digest):
            known += 1
            _update_base(journal, entry, base)
            continue
        if digest is None:
            contents.check_file_name(entry)
        elif not _may_change(journal, entry.key, failed):
            raise _conflict(journal, entry)
        if not allow_duplicates:
            contents.check_duplicate(entry)
        contents.replace(entry, digest)
        row = _row_of(entry, journal.home, source)
        if digest is None:
            new_items.add(row)
        else:
            db.execute(REPLACE_CONTENT, (*row[1:-1], entry.key))
            _plan_again(journal, entry.key)
            changed += 1
        if on_planned is not None:
            on_planned(entry.key)
    new_items.flush()
    _mark_gone(db, seen, source)
    [gone] = db.execute(
        "SELECT count(*) FROM item WHERE gone = 1 AND source = ?", (source,)
    ).fetchone()
    if gone:  # it is not made any more, also by a run that has claimed it
        db.execute("UPDATE item SET owner = NULL WHERE gone = 1 AND state = 'planned'")
    return PlanResult(new_items.count, known, gone, changed)


def _rows(db: Database, query: str, *values: str) -> Iterator[Row]:
    """The rows of a query that begins with `ord`, some thousands at a time: no answer is long."""
    last = 0
    while rows := db.execute(
        f"{query} AND ord > ? ORDER BY ord LIMIT ?", (*values, last, PAGE)
    ).fetchall():
        yield from rows
        last = rows[-1][0]


def _mark_gone(db: Database, seen: Container[str], source: str) -> None:
    """Mark the items of a manifest that it no longer names, and no more what is named again."""
    # Films without a manifest are added one by one: what is not named again is not gone.
    rows = _rows(db, SELECT_NAMED, source)
    changes = [(int(key not in seen), key) for _, key, gone in rows if gone == (key in seen)]
    db.executemany("UPDATE item SET gone = ? WHERE key = ?", changes)


def _plan_again(journal: OpenJournal, key: str) -> None:
    """Plan an item with new content: no task was created for it, or a person wants it again."""
    failed = items.get(journal, key).state is ItemState.FAILED
    event = ItemEvent.RETRY if failed else ItemEvent.CHANGE
    items.move(journal, key, Transition(event, by="content"))


def _row_of(entry: ManifestEntry, home: Path | None, source: str) -> tuple[str, ...]:
    """What is stored of a new item, in the order of `NEW_ITEMS`."""
    total, base = payload_sum(entry.key, entry.payload), _base_of(entry, home)
    return entry.key, entry.payload, total, entry.digest, base, source, ItemState.PLANNED.value


def _update_base(journal: OpenJournal, entry: ManifestEntry, known: str) -> None:
    """Store where a known film's images are now: its manifest may have been moved."""
    base = _base_of(entry, journal.home)
    if known != base:
        journal.db.execute("UPDATE item SET base = ? WHERE key = ?", (base, entry.key))


def _base_of(entry: ManifestEntry, home: Path | None) -> str:
    return _stored_folder(entry.base, home) if entry.base else ""


@lru_cache(maxsize=64)
def _stored_folder(base: str, home: Path | None) -> str:
    """A folder as it is stored; cached, since the films of one manifest share theirs."""
    return stored_path(Path(base), home)


def _check_repeated_key(seen: dict[str, str], entry: ManifestEntry) -> None:
    """Refuse a key that an earlier entry has, and remember this one."""
    if entry.key in seen:
        raise ManifestConflictError(
            f"{entry.where}: the key {entry.key!r} was given before, at {seen[entry.key]}; "
            "say takes: 2 for two films of one storyboard"
        )
    seen[entry.key] = entry.where


def _may_change(journal: OpenJournal, key: str, failed: Collection[str] | None) -> bool:
    """Whether no task was ever created for an item, or it is one of the *failed* (None: any)."""
    item = items.get(journal, key)
    if item.state is ItemState.FAILED and (failed is None or key in failed):
        return True
    return item.may_change


def _conflict(journal: OpenJournal, entry: ManifestEntry) -> ManifestConflictError:
    state = items.get(journal, entry.key).state
    retry = ", or say `apikley batch retry --changed`" if state is ItemState.FAILED else ""
    return ManifestConflictError(
        f"{entry.where}: {entry.key!r} is in the journal with other content "
        f"({state}); give the changed film a new key{retry}"
    )
