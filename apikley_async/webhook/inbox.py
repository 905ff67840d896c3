"""Callbacks on the disk: kept by whoever receives them, read by whoever waits for them.

A small SQLite file between processes. What is kept is on the disk when `keep` returns. A file
that is damaged, or is another program's, is left as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from apikley_async._disk import check_own, make_private, sync_folder, take_name
from apikley_async._sqlite import MORE_STEPS, Database, connect, make_lasting, schema_fault
from apikley_async.errors import Blame, JournalError
from apikley_async.webhook.verify import Heard

__all__ = ["PAGE", "Inbox", "Place"]

T = TypeVar("T")

PAGE = 500
MOST = 100_000
APPLICATION = 0x41506B49  # "APkI", so that an inbox is known from other databases
VERSION = 1
TABLES = (
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT",
    """CREATE TABLE callback (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        token TEXT NOT NULL,
        task_id TEXT NOT NULL,
        UNIQUE (token, task_id)
    ) STRICT""",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)

Place: TypeAlias = tuple[str, int]
"""How far an inbox was read: which one it was, and the last row."""


class Inbox:
    """Callbacks in a file at *path*, made when it is first used; it may be used again once closed.

    Any number of processes may keep and read. It holds *most* callbacks; then the oldest go. One
    that is kept again counts as new.
    """

    def __init__(self, path: str | os.PathLike[str], *, most: int = MOST) -> None:
        self.path: Path = Path(path)
        self._most = most
        self._desk: tuple[ThreadPoolExecutor, _File] | None = None

    async def check(self) -> None:
        """Open the file; `JournalError` when it is no inbox, or a damaged one."""
        await self._run(_File.check)

    async def keep(self, token: str, task_id: str) -> None:
        """Put a verified callback on the disk: it is there when this returns."""
        await self._run(_File.keep, token, task_id)

    async def after(self, place: Place | None) -> tuple[list[Heard], Place]:
        """The next callbacks after *place*, at most 500, and the place behind them."""
        return await self._run(_File.after, place)

    def close(self) -> None:
        """Close the file as soon as what is being done with it is done."""
        desk, self._desk = self._desk, None
        if desk is not None:
            thread, file = desk
            thread.submit(file.close)
            thread.shutdown(wait=False)

    async def aclose(self) -> None:
        """Close the file, and wait for that."""
        desk, self._desk = self._desk, None
        if desk is not None:
            thread, file = desk
            await asyncio.get_running_loop().run_in_executor(thread, file.close)
            thread.shutdown(wait=False)

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

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do *work* in the file's own thread: one thing at a time, never cut in two."""
        if self._desk is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix="apikley-inbox")
            self._desk = thread, _File(self.path, self._most)
        thread, file = self._desk
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(thread, _guarded, file, work, *arguments))

    def __repr__(self) -> str:
        return f"<Inbox {self.path}>"


def _guarded(file: _File, work: Callable[..., T], *arguments: Any) -> T:
    trouble: object
    try:
        return work(file, *arguments)
    except JournalError:
        file.close()
        raise
    except sqlite3.Error as exc:
        interrupted = getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
        trouble = MORE_STEPS if interrupted else exc
    except OSError as exc:
        trouble = exc.strerror
    file.close()  # it is looked at anew before it is used again
    raise JournalError(
        f"{file.path} cannot be written or read: {trouble}", resumable=True, blames=Blame.NETWORK
    )


class _File:
    """The file itself, as its thread sees it."""

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self._most = most
        self._db: Database | None = None
        self._name = ""
        self._node = (0, 0)

    def check(self) -> None:
        self._opened()

    def keep(self, token: str, task_id: str) -> None:
        db = self._opened()
        db.execute("BEGIN IMMEDIATE")
        pair = (token, task_id)
        again = db.execute("DELETE FROM callback WHERE token = ? AND task_id = ?", pair).rowcount
        db.execute("INSERT INTO callback (token, task_id) VALUES (?, ?)", pair)
        if not again:
            db.execute("UPDATE fact SET value = value + 1 WHERE name = 'count'")
            self._drop_the_oldest(db)
        db.execute("COMMIT")

    def _drop_the_oldest(self, db: sqlite3.Connection) -> None:
        [count] = db.execute("SELECT value FROM fact WHERE name = 'count'").fetchone()
        if count > self._most:
            db.execute(
                "DELETE FROM callback WHERE seq IN (SELECT seq FROM callback ORDER BY seq LIMIT ?)",
                (count - self._most,),
            )
            db.execute("UPDATE fact SET value = ? WHERE name = 'count'", (self._most,))

    def after(self, place: Place | None) -> tuple[list[Heard], Place]:
        db = self._opened()
        seq = place[1] if place is not None and place[0] == self._name else 0
        query = "SELECT seq, token, task_id FROM callback WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = db.execute(query, (seq, PAGE)).fetchall()
        kept = [Heard(token, task_id) for _, token, task_id in rows]
        return kept, (self._name, rows[-1][0] if rows else seq)

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.rollback()
            db.close()

    # --- opening ------------------------------------------------------------------------------

    def _opened(self) -> Database:
        """The database; another one if the file was removed or replaced meanwhile."""
        if self._db is not None and not self._is_still_there():
            self.close()
        db = self._db or self._open()
        db.begin()
        return db

    def _is_still_there(self) -> bool:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._node

    def _open(self) -> Database:
        if not os.path.lexists(self.path):
            self._make()
        found = self.path.lstat()  # not by opening it: closing would let go of SQLite's locks
        check_own(found, self.path, links=2)  # while it is made it bears its draft's name too
        if not found.st_size:
            raise JournalError(f"{self.path} is empty: an inbox that was lost, or none")
        self._node = (found.st_dev, found.st_ino)
        db = self._db = connect(self.path)
        self._recognise(db)
        make_lasting(db)
        return db

    def _recognise(self, db: sqlite3.Connection) -> None:
        try:
            [application] = db.execute("PRAGMA application_id").fetchone()
            [version] = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                raise
            told = f"{self.path} is not an inbox of this program; it is left as it is"
            raise JournalError(told) from None
        if application != APPLICATION:
            raise JournalError(f"{self.path} is another database, no inbox; it is left as it is")
        if version > VERSION:
            raise JournalError(f"{self.path} was written by a newer version; upgrade this package")
        if (fault := schema_fault(db, TABLES[:2])) is not None:
            raise JournalError(
                f"{self.path} is not as this program makes inboxes: {fault}. It is left as it is"
            )
        [verdict] = db.execute("PRAGMA quick_check(1)").fetchone()
        facts = dict(db.execute("SELECT name, value FROM fact").fetchmany(3))
        if verdict == "ok" and (
            not isinstance(facts.get("name"), str) or not isinstance(facts.get("count"), int)
        ):
            verdict = "its name or count is missing"
        if verdict != "ok":
            raise JournalError(
                f"{self.path} is damaged ({verdict}); it is left as it is. It holds only hints: "
                "move it away, and a new one will be made"
            )
        self._name = facts["name"]

    def _make(self) -> None:
        """Make an empty inbox under another name, and give it its own when it is whole.

        Several processes may do so at once: the first one wins, the others use what it made.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists() and log.stat().st_size and not self.path.exists():
            told = f"{self.path} is gone, but {log.name} is there: bring it back, or remove both"
            raise JournalError(told)
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        make_private(draft)
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
            take_name(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(self.path.parent)
