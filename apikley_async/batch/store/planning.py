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

import attrs

from apikley_async._text import fold_name
from apikley_async.batch.states import ItemEvent, ItemState
from apikley_async.batch.store import adoption, items
from apikley_async.batch.store.database import Database, marks
from apikley_async.batch.store.journal_errors import journal_error
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.rows import SELECT_ITEM, payload_sum, stored_path
from apikley_async.batch.store.values import ManifestEntry, PlanResult, Transition
from apikley_async.errors import ManifestConflictError

__all__ = ["SpooledEntries", "plan"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

MOST_IN_MEMORY = 1024**2  # bytes of entries; more of them wait in a file without a name
NEW_IN_ADOPTED = (
    "may have been sent: the journal was adopted, and attempts that it has lost are not accounted "
    "for. Resolve the film with its task's id, or resubmit it; what is certainly new may go into a "
    "journal of its own"
)


class SpooledEntries:
    """Entries that were read to their end, and are given again as often as they are asked for.

    Args:
        entries: read once. Blocks.
        folder: for the file that holds what does not fit into memory.
    """

    def __init__(self, entries: Iterable[ManifestEntry], folder: Path) -> None:
        # Closed by `close`: they are read in another thread, and more than once.
        self._file = tempfile.SpooledTemporaryFile(max_size=MOST_IN_MEMORY, dir=str(folder))  # noqa: SIM115
        try:
            for entry in entries:
                line = json.dumps(attrs.astuple(entry, recurse=False)).encode()
                self._write(line + b"\n", folder)
        except BaseException:
            self.close()
            raise

    def _write(self, line: bytes, folder: Path) -> None:
        try:
            self._file.write(line)
        except OSError as exc:
            message = f"{folder} has no room for what is to be planned: {exc.strerror}"
            raise journal_error(message, exc) from None

    def __iter__(self) -> Iterator[ManifestEntry]:
        self._file.seek(0)
        for line in self._file:
            yield ManifestEntry(*json.loads(line))

    def close(self) -> None:
        self._file.close()


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
    new = known = changed = 0
    seen: dict[str, str] = {}  # the place of each key
    # Read at once: an item is asked for once, and nobody else writes until all are stored.
    contents: dict[str, tuple[str, str]] = {
        key: (digest, base)
        for key, digest, base in db.execute("SELECT key, digest, base FROM item").fetchall()
    }
    names = {fold_name(key): key for key in contents}
    for entry in entries:
        _check_repeated_key(seen, entry)
        digest, base = contents.get(entry.key) or (None, "")
        # A digest of any version: an upgrade of this package must not make a paid film look new.
        if digest is not None and entry.matches(digest):
            known += 1
            _update_base(journal, entry, base)
            continue
        if digest is None:
            _check_file_name(names, entry)
        elif not _may_change(journal, entry.key, failed):
            raise _conflict(journal, entry)
        if not allow_duplicates:
            _check_duplicate(db, entry)
        _write(journal, entry, source)
        if digest is None:
            new += 1
        else:
            _plan_again(journal, entry.key)
            changed += 1
        if on_planned is not None:
            on_planned(entry.key)
    _mark_gone(db, seen, source)
    [gone] = db.execute(
        "SELECT count(*) FROM item WHERE gone = 1 AND source = ?", (source,)
    ).fetchone()
    if gone:  # it is not made any more, also by a run that has claimed it
        db.execute("UPDATE item SET owner = NULL WHERE gone = 1 AND state = 'planned'")
    return PlanResult(new, known, gone, changed)


def _mark_gone(db: Database, seen: Container[str], source: str) -> None:
    """Mark the items of a manifest that it no longer names, and no more what is named again."""
    # Films without a manifest are added one by one: what is not named again is not gone.
    rows = db.execute(
        "SELECT key, gone FROM item WHERE gone = 1 OR (source = ? AND source != '')", (source,)
    ).fetchall()
    changes = [(int(key not in seen), key) for key, gone in rows if gone == (key in seen)]
    db.executemany("UPDATE item SET gone = ? WHERE key = ?", changes)


def _plan_again(journal: OpenJournal, key: str) -> None:
    """Plan an item with new content: no task was created for it, or a person wants it again."""
    failed = items.get(journal, key).state is ItemState.FAILED
    event = ItemEvent.RETRY if failed else ItemEvent.CHANGE
    items.move(journal, key, Transition(event, by="content"))


def _write(journal: OpenJournal, entry: ManifestEntry, source: str) -> None:
    """Insert a new item, or replace the content of an existing one."""
    journal.db.execute(
        "INSERT INTO item (key, payload, payload_sum, digest, base, source, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET payload = excluded.payload,"
        " payload_sum = excluded.payload_sum, digest = excluded.digest, base = excluded.base,"
        " source = excluded.source",
        (
            entry.key,
            entry.payload,
            payload_sum(entry.key, entry.payload),
            entry.digest,
            _base_of(entry, journal.home),
            source,
            ItemState.PLANNED,
        ),
    )


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


def _check_file_name(names: dict[str, str], entry: ManifestEntry) -> None:
    """Refuse a key whose file is another item's where letter case or Unicode form is ignored."""
    other = names.setdefault(fold_name(entry.key), entry.key)
    if other != entry.key:
        raise ManifestConflictError(
            f"{entry.where}: {entry.key!r} names the same file as {other!r} on many disks; "
            "give it another key"
        )


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


def _check_duplicate(db: Database, entry: ManifestEntry) -> None:
    """Refuse content that another item has: it would be paid twice."""
    digests = (entry.digest, *entry.former)
    other = db.execute(
        f"{SELECT_ITEM} WHERE digest IN ({marks(digests)}) AND state != 'dropped'", digests
    ).fetchone()
    if other is not None:
        raise ManifestConflictError(
            f"{entry.where}: {entry.key!r} has the same content as {other['key']!r}: it would "
            "be paid twice; say takes: 2, or allow duplicates"
        )
