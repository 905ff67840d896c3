"""Callbacks in the shared database: a receiver in any process serves clients in all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from apikley_async import Clock
from apikley_async._postgres import (
    SESSION,
    Connection,
    Dsn,
    Versions,
    check_version,
    connect,
    connection_error,
    database_error,
    is_lost,
    load_psycopg,
    options,
)
from apikley_async.errors import JournalError
from apikley_async.webhook import Notification, Position
from apikley_async.webhook.inbox import MAX_CALLBACKS, PAGE
from apikley_async.webhook.inbox_thread import InboxThread

__all__ = ["CALLBACK_TABLES", "PART", "SharedInbox"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("apikley_async")

PART = "callbacks"  # of what we keep in the database
CHANNEL = "apikley_callback"
LOCK = 0x41506B49  # "APkI": one writer at a time, so that numbers come in the order of commits
SLOW_INTERVAL = 5.0  # seconds between two reads at most, although the database tells of news
SHORTEST = 0.05  # seconds between two reads, whatever it tells
SILENCE = 30.0  # seconds without news after which the connection is tried
RECONNECTS = (0.1, 0.5, 1.0, 2.0)  # seconds before each connecting anew, then always the last
TRIES = 2  # for one operation: the first may find a connection that was lost meanwhile

CALLBACK_TABLES: Versions = (
    (
        """CREATE TABLE callback (
            seq bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            token text NOT NULL,
            task_id text NOT NULL,
            UNIQUE (token, task_id)
        )""",
        "CREATE TABLE callback_inbox (name text PRIMARY KEY)",
        "INSERT INTO callback_inbox VALUES (gen_random_uuid()::text)",
    ),
)


class SharedInbox:
    """Callbacks in a PostgreSQL database: `Receiver(inbox)` here, `Callback(inbox=)` anywhere.

    Any number of processes may add to it and read it at the same time; who reads is woken by the
    database. Callbacks are hints: while the database is away, receivers answer 503, so that the
    service sends them again, and jobs are polled as without callbacks. It opens when it is first
    used, and again when it is used after `close`.

    Args:
        dsn: of the database, as for `Batch.open`; `apikley db init` has made its tables.
        size: how many callbacks it holds; then the oldest are dropped. A callback that is added
            again becomes the newest.
    """

    def __init__(self, dsn: str | Dsn, *, size: int = MAX_CALLBACKS) -> None:
        self._dsn = Dsn.parse(dsn)
        self._thread = InboxThread(lambda: _Table(self._dsn, size))
        self._listeners: dict[asyncio.AbstractEventLoop, _Listener] = {}

    async def check(self) -> None:
        """Open the database, and try whether a callback can be stored; nothing is.

        Raises:
            JournalError: it cannot be reached or written, or has no table for callbacks.
        """
        await self._thread.run(_Table.check)

    async def add(self, token: str, task_id: str) -> None:
        """Add a verified callback; it is committed when this returns.

        Raises:
            JournalError: the database cannot be reached, or refuses.
        """
        await self._thread.run(_Table.add, token, task_id)

    async def read_after(self, position: Position | None) -> tuple[list[Notification], Position]:
        """Read the callbacks after a position: at most 500, and the position after them.

        Args:
            position: what the read before returned; None for the beginning. In a database that
                was made anew or restored since, reading begins again.

        Raises:
            JournalError: the database cannot be reached.
        """
        return await self._thread.run(_Table.read_after, position)

    async def wait(self, position: Position | None, interval: float, clock: Clock) -> None:
        """Wait until the database tells of a new callback; five seconds, or *interval*, at most."""
        loop = asyncio.get_running_loop()
        if (listener := self._listeners.get(loop)) is None:
            for other in [*self._listeners]:
                if other.is_closed():  # and what listened in it is gone
                    self._listeners.pop(other, None)
            listener = self._listeners[loop] = _Listener(self._dsn, loop)
        await listener.wait(position, max(interval, SLOW_INTERVAL), clock)

    def close(self) -> None:
        """Close the connections as soon as the operations under way are done; does not wait."""
        self._close_listeners()
        self._thread.close()

    async def aclose(self) -> None:
        """Close the connections, and wait until they are closed; a silent database is cut off."""
        here = self._listeners.get(asyncio.get_running_loop())
        self._close_listeners()
        if here is not None:
            await here.wait_closed()
        await self._thread.aclose()

    def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.close()

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
        return f"<SharedInbox {self._dsn}>"


class _Table:
    """The table, used by one thread. Every method blocks."""

    def __init__(self, dsn: Dsn, size: int) -> None:
        self._dsn = dsn
        self._size = size
        self._db: Connection | None = None

    def perform(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Run an operation, once more where its connection was lost; each may be repeated."""
        for left in reversed(range(TRIES)):
            try:
                return operation(self, *arguments)
            except load_psycopg().Error as error:
                self.close()
                if left and is_lost(error):
                    continue
                raise database_error(error, self._dsn) from None
            except JournalError:
                self.close()
                raise
        raise AssertionError  # the last try returns or raises

    def check(self) -> None:
        # Added, and undone: so a standby is seen, a full disk, and a user without the rights.
        add = "INSERT INTO callback (token, task_id) VALUES ('', '')"
        self._connection().run("BEGIN", add, "ROLLBACK")

    def add(self, token: str, task_id: str) -> None:
        db = self._connection()
        # Deleted and inserted, not left alone: with a new number, readers get it again.
        db.execute_script(
            "BEGIN; SELECT pg_advisory_xact_lock(:lock);"
            " DELETE FROM callback WHERE token = :token AND task_id = :task_id;"
            " INSERT INTO callback (token, task_id) VALUES (:token, :task_id);"
            " DELETE FROM callback WHERE seq <= (SELECT max(seq) FROM callback) - :size;"
            " SELECT pg_notify(:channel, max(seq)::text) FROM callback;"
            " COMMIT",
            {
                "token": token,
                "task_id": task_id,
                "size": self._size,
                "lock": LOCK,
                "channel": CHANNEL,
            },
        )

    def read_after(self, position: Position | None) -> tuple[list[Notification], Position]:
        db = self._connection()
        [name, newest] = db.execute(
            "SELECT name, (SELECT coalesce(max(seq), 0) FROM callback) FROM callback_inbox"
        ).fetchone()
        # A table that was emptied or restored may count from another number than before.
        known = position is not None and position[0] == name and position[1] <= newest
        seq = position[1] if position is not None and known else 0
        query = "SELECT seq, token, task_id FROM callback WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = db.execute(query, (seq, PAGE)).fetchall()
        notifications = [Notification(token, task_id) for _, token, task_id in rows]
        return notifications, (name, rows[-1][0] if rows else seq)

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(load_psycopg().Error):
                db.close()

    def cut(self) -> None:
        if (db := self._db) is not None:
            db.cut()

    def _connection(self) -> Connection:
        if self._db is None:
            try:
                self._db = connect(self._dsn)
            except load_psycopg().Error as error:
                raise connection_error(error, self._dsn) from None
            check_version(self._db, PART, CALLBACK_TABLES, self._dsn)
        return self._db


class _Listener:
    """Hears from the database that there are new callbacks, in one event loop."""

    def __init__(self, dsn: Dsn, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dsn = dsn
        self._newest = 0
        self._waiting: dict[asyncio.Event, None] = {}
        self._task = loop.create_task(self._listen(), name="apikley shared inbox")

    async def wait(self, position: Position | None, longest: float, clock: Clock) -> None:
        """Wait until there is something behind *position*, *longest* seconds at most."""
        await clock.sleep(SHORTEST)
        if position is not None and self._newest > position[1]:
            return
        event = asyncio.Event()
        self._waiting[event] = None
        try:
            await clock.sleep(longest, event)
        finally:
            del self._waiting[event]

    def close(self) -> None:
        """End it, from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed, and the task with it
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def wait_closed(self) -> None:
        await asyncio.wait({self._task})

    async def _listen(self) -> None:
        """Listen, and connect again whenever that has ended; who waits reads on meanwhile."""
        failures = 0
        while True:
            try:
                async for number in self._numbers():
                    failures = 0
                    self._newest = number  # lower than before in a database that was restored
                    for event in self._waiting:
                        event.set()
            except (load_psycopg().Error, OSError, ValueError) as error:
                logger.debug("the shared inbox does not listen: %s", type(error).__name__)
            await asyncio.sleep(RECONNECTS[min(failures, len(RECONNECTS) - 1)])
            failures += 1

    async def _numbers(self) -> AsyncGenerator[int, None]:
        """The number of the newest callback: first that of now, then of each that is added."""
        psycopg = load_psycopg()
        async with await psycopg.AsyncConnection.connect(**options(self._dsn)) as db:
            await db.execute("; ".join((*SESSION, f"LISTEN {CHANNEL}")))
            while True:
                cursor = await db.execute("SELECT coalesce(max(seq), 0) FROM callback")
                [newest] = await cursor.fetchone()
                yield newest
                async for notice in db.notifies(timeout=SILENCE):
                    yield int(notice.payload)
