"""The journal's file: made, checked, copied, and kept before an upgrade.

No file is written to unless it is certainly a journal of this program. A new journal gets its name
only when it is complete, so what a crash leaves half made is never taken for a damaged journal.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sqlite3
import tempfile
from pathlib import Path

from apikley_async._disk import create_private, link_if_free, private_folder, sync_folder
from apikley_async._sqlite import (
    connect,
    make_lasting,
    read_ids,
    refuse_special,
    schema_fault,
    size_of,
)
from apikley_async.batch.store.database import Database
from apikley_async.batch.store.journal_errors import journal_error
from apikley_async.batch.store.rows import JournalFacts, read_facts
from apikley_async.batch.store.schema import APPLICATION, Migrations, migrate
from apikley_async.errors import JournalError

__all__ = [
    "back_up",
    "cannot_write_beside",
    "check_journal",
    "check_no_log_left",
    "connect",
    "copies_folder",
    "copy_privately",
    "facts_in",
    "has_log",
    "keep_copy",
    "make_journal",
    "make_lasting",
    "refuse_special",
]


COPIES = 5  # tries to copy files that another process writes


def make_journal(path: Path, migrations: Migrations) -> None:
    """Make an empty journal, readable by its owner only: prompts are personal data.

    The caller holds the lock, so nobody else uses the draft.
    """
    check_no_log_left(path)
    draft = path.with_name(f"{path.name}.new")
    for left in (draft, path.with_name(f"{draft.name}-journal")):
        left.unlink(missing_ok=True)
    create_private(draft)
    with contextlib.closing(connect(draft)) as db:
        make_lasting(db)
        db.execute("BEGIN IMMEDIATE")
        migrate(db, migrations)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        facts = (("journal_id", secrets.token_hex(16)), ("epoch", "0"))
        db.executemany("INSERT INTO meta VALUES (?, ?)", facts)
        db.execute("COMMIT")
    draft.rename(path)
    sync_folder(path.parent)


def check_no_log_left(path: Path) -> None:
    """Refuse to make a journal where one is gone that has left its log behind.

    Raises:
        JournalError: the log of another journal is there.
    """
    if has_log(path):
        log = path.with_name(f"{path.name}-wal")
        raise JournalError(
            f"{path} is gone, but {log.name} is still there, with what was written last; bring the "
            f"journal back, or, if you are sure, remove {log.name} too"
        )


def has_log(path: Path) -> bool:
    """Whether the write-ahead log of a journal that was not closed lies beside it."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def check_journal(db: sqlite3.Connection, path: Path, migrations: Migrations) -> int:
    """The version of a journal's tables, after checks that it is ours and not damaged.

    Raises:
        JournalError: it is empty, of another program, of a newer version, altered or damaged.
    """
    newest = len(migrations)
    if path.stat().st_size == 0:
        raise JournalError(
            f"{path} is empty: a journal that was lost, or none. It is left as it is; "
            "bring back a copy, or name another file"
        )
    if (ids := read_ids(db)) is None:
        raise JournalError(f"{path} is not a journal of this program; it is left as it is")
    application, version = ids
    if application != APPLICATION:
        raise JournalError(f"{path} is a database of another program; it is left as it is")
    if version > newest:
        raise JournalError(
            f"{path} was written by a newer version (schema {version}, here {newest}); "
            "upgrade this package"
        )
    expected = tuple(statement for script in migrations[: max(0, version)] for statement in script)
    # Before any statement that could run what the file brings along, such as a trigger or a view.
    if (fault := schema_fault(db, expected)) is not None:
        raise JournalError(
            f"{path} is not as this program makes journals: {fault}. It is left as it is"
        )
    [verdict] = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise JournalError(
            f"{path} is damaged ({verdict}); it is left as it is. Bring back a copy, or "
            "recover what can be read with sqlite3's .recover into a new file"
        )
    return int(version)


def facts_in(db: Database) -> JournalFacts:
    """What a journal says of itself."""
    [intents] = db.execute("SELECT count(*) FROM attempt").fetchone()
    return read_facts(db.execute("SELECT name, value FROM meta LIMIT 100").fetchall(), intents)


def copy_privately(path: Path, copy: Path, migrations: Migrations) -> JournalFacts:
    """Copy a journal, log included, to a private place; give what the journal says of itself.

    The journal may be in use, and may lie on a disk that cannot be written.
    """
    refuse_special(path)
    create_private(copy)
    if not copied_at_rest(path, copy):
        try:
            with contextlib.closing(connect(path, read_only=True)) as db:
                check_journal(db, path, migrations)
                with contextlib.closing(connect(copy)) as target:
                    db.backup(target)
        except sqlite3.OperationalError as exc:
            if not cannot_write_beside(exc):
                raise
            copy_with_log(path, copy)
    with contextlib.closing(connect(copy)) as db:
        check_journal(db, path, migrations)
        return facts_in(db)


def cannot_write_beside(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite may mean that it cannot write beside a file that it only reads.

    A disk that is read only or full, or one that fails: then a copy fails as well.
    """
    return error.sqlite_errorcode & 0xFF in (
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
    )


def copy_with_log(path: Path, copy: Path) -> None:
    """Copy a journal and its log, where SQLite cannot read the log: it would write beside it.

    The log first: what is moved into the main file meanwhile is in both then. Where either has
    changed on a disk that is only full, it is done again.
    """
    log, log_copy = (each.with_name(f"{each.name}-wal") for each in (path, copy))
    for _ in range(COPIES):
        before = stamps_of(path, log)
        log_copy.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(log, log_copy)
        shutil.copyfile(path, copy)
        if stamps_of(path, log) == before:
            return


def stamps_of(*paths: Path) -> list[tuple[int, int, int] | None]:
    """What shows that a file was written: one for each of *paths*, None where it is gone."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            about = path.stat()
        except FileNotFoundError:
            stamps.append(None)
        else:
            stamps.append((about.st_ino, about.st_size, about.st_mtime_ns))
    return stamps


def copies_folder(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A private folder with room for two copies of a journal."""
    return private_folder(2 * size_of(path))


def copied_at_rest(path: Path, copy: Path) -> bool:
    """Copy a journal that was closed; False when it is open, or was opened meanwhile.

    Nothing is left beside the journal, as opening it with SQLite would.
    """
    log = path.with_name(f"{path.name}-wal")
    before = stamps_of(path)
    if log.exists():
        return False
    shutil.copyfile(path, copy)
    return stamps_of(path) == before and not log.exists()


def keep_copy(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Keep the journal as it is, as `<name>.v<version>`, before its tables are upgraded."""
    copy = path.with_name(f"{path.name}.v{version}")
    copy.unlink(missing_ok=True)  # of an upgrade that was interrupted
    create_private(copy)
    db.execute("VACUUM INTO ?", (str(copy),))


def back_up(db: sqlite3.Connection, target: Path) -> None:
    """Copy a journal as it is at this moment into one complete file, which was closed well.

    Raises:
        JournalError: *target* exists, or cannot be written.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        create_private(draft)
        with contextlib.closing(connect(draft)) as copy:
            db.backup(copy)
            make_lasting(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("DELETE FROM meta WHERE name = 'begun'")
        if not link_if_free(draft, target):
            raise JournalError(f"{target} exists; a backup replaces nothing")
    except OSError as exc:
        raise journal_error(f"{target} cannot be written: {exc.strerror}", exc) from None
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(target.parent)
