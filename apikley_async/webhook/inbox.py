"""The inbox: callbacks on disk, added by one process and read by another.

It is a small SQLite file. A callback is on disk when `Inbox.add` returns. A file that is damaged,
or belongs to another program, is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from apikley_async import Clock
from apikley_async._disk import check_own, create_private, link_if_free, sync_folder
from apikley_async._sqlite import (
    MORE_STEPS,
    Database,
    connect,
    make_lasting,
    read_ids,
    schema_fault,
)
from apikley_async.errors import Blame, JournalError
from apikley_async.webhook.inbox_thread import InboxThread
from apikley_async.webhook.verify import Notification

__all__ = ["MAX_CALLBACKS", "PAGE", "CallbackInbox", "Inbox", "Position"]

T = TypeVar("T")

PAGE = 500  # callbacks that one read returns at most
MAX_CALLBACKS = 100_000
APPLICATION_ID = 0x41506B49  # "APkI": tells an inbox from other databases
VERSION = 1
TABLES = (
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT",
    """CREATE TABLE callback (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        token TEXT NOT NULL,
        task_id TEXT NOT NULL,
        UNIQUE (token, task_id)
    ) STRICT""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

Position: TypeAlias = tuple[str, int]
"""How far an inbox was read: the name of the file's content, and the number of the last row."""


@runtime_checkable
class CallbackInbox(Protocol):
    """Where receivers put callbacks, and clients in other processes find them. Provisional.

    `Inbox` is one in a file; `apikley_async.distributed.SharedInbox` one in a database.
    """

    async def check(self) -> None:
        """Open it, unless it is open, and try whether it takes callbacks.

        Raises:
            JournalError: it cannot be used now.
        """
        ...

    async def add(self, token: str, task_id: str) -> None:
        """Add a verified callback; it is stored for good when this returns.

        Raises:
            JournalError: it cannot be stored.
        """
        ...

    async def read_after(self, position: Position | None) -> tuple[list[Notification], Position]:
        """Read the callbacks after a position: at most 500, and the position after them.

        Args:
            position: what the read before returned; None for the beginning.

        Raises:
            JournalError: nothing can be read now.
        """
        ...

    async def wait(self, position: Position | None, interval: float, clock: Clock) -> None:
        """Wait until the next read is worth while.

        Args:
            position: what the last read has returned.
            interval: seconds to wait where nothing tells of news.
            clock: the time.
        """
        ...

    def close(self) -> None:
        """Close it, without waiting; it opens again when it is used again."""
        ...


class Inbox:
    """Callbacks in a file. Any number of processes may add to it and read it at the same time.

    The file is made when it is first used. A closed inbox opens again when it is used again.

    Args:
        path: the file.
        size: how many callbacks it holds; then the oldest are dropped. A callback that is added
            again becomes the newest.
    """

    def __init__(self, path: str | os.PathLike[str], *, size: int = MAX_CALLBACKS) -> None:
        self.path: Path = Path(path)
        self._thread = InboxThread(lambda: _InboxFile(self.path, size))

    async def check(self) -> None:
        """Open the file, and try whether a callback can be stored; nothing is.

        Raises:
            JournalError: it is not an inbox, it is damaged, or it cannot be written.
        """
        await self._thread.run(_InboxFile.check)

    async def add(self, token: str, task_id: str) -> None:
        """Add a verified callback; it is on disk when this returns.

        Raises:
            JournalError: the file cannot be written, or is not an inbox.
        """
        await self._thread.run(_InboxFile.add, token, task_id)

    async def read_after(self, position: Position | None) -> tuple[list[Notification], Position]:
        """Read the callbacks after a position: at most 500, and the position after them.

        Args:
            position: what the read before returned; None for the beginning. In a file that has
                been replaced since, reading begins again.

        Raises:
            JournalError: the file cannot be read, or is not an inbox.
        """
        return await self._thread.run(_InboxFile.read_after, position)

    async def wait(self, position: Position | None, interval: float, clock: Clock) -> None:
        """Wait for *interval* seconds: a file tells nobody when it has changed."""
        await clock.sleep(interval)

    def close(self) -> None:
        """Close the file as soon as the operations under way are done; does not wait."""
        self._thread.close()

    async def aclose(self) -> None:
        """Close the file, and wait until it is closed."""
        await self._thread.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self.check()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Inbox {self.path}>"


class _InboxFile:
    """The file, used by one thread. Every method blocks."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        self._db: Database | None = None
        self._name = ""  # random, written when the file was made: tells a replaced file
        self._inode = (0, 0)

    def perform(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Run an operation; every error becomes a `JournalError` and closes the file."""
        reason: object
        try:
            return operation(self, *arguments)
        except JournalError:
            self.close()
            raise
        except sqlite3.Error as exc:
            interrupted = getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
            reason = MORE_STEPS if interrupted else exc
        except OSError as exc:
            reason = exc.strerror
        self.close()  # the next operation opens and checks it again
        raise JournalError(
            f"{self.path} cannot be written or read: {reason}", resumable=True, blames=Blame.NETWORK
        )

    def check(self) -> None:
        # What is written is what `add` writes: so a full disk is seen, and a file that is only
        # read.
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO callback (token, task_id) VALUES ('', '')")
        db.execute("DELETE FROM callback WHERE token = ''")
        db.execute("COMMIT")

    def add(self, token: str, task_id: str) -> None:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        # Deleted and inserted, not left alone: with a new number, readers get it again.
        pair = (token, task_id)
        again = db.execute("DELETE FROM callback WHERE token = ? AND task_id = ?", pair).rowcount
        db.execute("INSERT INTO callback (token, task_id) VALUES (?, ?)", pair)
        if not again:
            db.execute("UPDATE fact SET value = value + 1 WHERE name = 'count'")
            self._drop_oldest(db)
        db.execute("COMMIT")

    def _drop_oldest(self, db: sqlite3.Connection) -> None:
        # The number is kept in a row of its own: counting would read the whole table each time.
        [count] = db.execute("SELECT value FROM fact WHERE name = 'count'").fetchone()
        if count > self._size:
            db.execute(
                "DELETE FROM callback WHERE seq IN (SELECT seq FROM callback ORDER BY seq LIMIT ?)",
                (count - self._size,),
            )
            db.execute("UPDATE fact SET value = ? WHERE name = 'count'", (self._size,))

    def read_after(self, position: Position | None) -> tuple[list[Notification], Position]:
        db = self._connection()
        seq = position[1] if position is not None and position[0] == self._name else 0
        query = "SELECT seq, token, task_id FROM callback WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = db.execute(query, (seq, PAGE)).fetchall()
        notifications = [Notification(token, task_id) for _, token, task_id in rows]
        return notifications, (self._name, rows[-1][0] if rows else seq)

    def cut(self) -> None:
        """Nothing: a file that is locked is waited for some seconds at most."""

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.rollback()
            db.close()

    # --- opening ------------------------------------------------------------------------------

    def _connection(self) -> Database:
        """The open database. If the file was removed or replaced, that of the file there now."""
        if self._db is not None and not self._is_same_file():
            self.close()
        db = self._db or self._open()
        db.begin()
        return db

    def _is_same_file(self) -> bool:
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def _open(self) -> Database:
        if not os.path.lexists(self.path):
            self._create()
        # By `lstat` and not by opening it: closing a descriptor of ours would drop SQLite's
        # locks on the file. While it is being made it also has the name of its draft: two links.
        status = self.path.lstat()
        check_own(status, self.path, links=2)
        if not status.st_size:
            raise JournalError(f"{self.path} is empty: an inbox whose content is lost, or none")
        self._inode = (status.st_dev, status.st_ino)
        db = self._db = connect(self.path)
        self._check_content(db)
        make_lasting(db)
        return db

    def _check_content(self, db: sqlite3.Connection) -> None:
        """Refuse a database that is not an inbox, is from a newer version, or is damaged."""
        if (ids := read_ids(db)) is None:
            raise JournalError(f"{self.path} is not an inbox of this program; it is left unchanged")
        application, version = ids
        if application != APPLICATION_ID:
            raise JournalError(f"{self.path} is another database, no inbox; it is left unchanged")
        if version > VERSION:
            raise JournalError(f"{self.path} was written by a newer version; upgrade this package")
        if (fault := schema_fault(db, TABLES[:2])) is not None:
            raise JournalError(
                f"{self.path} does not have the tables of an inbox: {fault}. It is left unchanged"
            )
        [result] = db.execute("PRAGMA quick_check(1)").fetchone()
        facts = dict(db.execute("SELECT name, value FROM fact").fetchmany(3))
        if result == "ok" and (
            not isinstance(facts.get("name"), str) or not isinstance(facts.get("count"), int)
        ):
            result = "its name or count is missing"
        if result != "ok":
            raise JournalError(
                f"{self.path} is damaged ({result}); it is left unchanged. It holds only hints: "
                "move it away, and a new one is made"
            )
        self._name = facts["name"]

    def _create(self) -> None:
        """Make an empty inbox under another name, and link it to its own name when it is whole.

        Several processes may do so at once: the first one wins, the others use its file.
        """
        # SQLite would play the log of a lost database into the new one.
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size and not self.path.exists():
            raise JournalError(
                f"{self.path} is gone, but {log.name} is there: restore it, or remove both"
            )
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        create_private(draft)
        try:
            with contextlib.closing(connect(draft)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                make_lasting(db)
                db.execute("BEGIN IMMEDIATE")
                for statement in TABLES:
                    db.execute(statement)
                facts = (("name", secrets.token_hex(16)), ("count", 0))
                db.executemany("INSERT INTO fact VALUES (?, ?)", facts)
                db.execute("COMMIT")
            link_if_free(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(self.path.parent)
