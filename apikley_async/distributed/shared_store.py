"""Where the shared state is kept: one row of a table, stored only where nobody stored it meanwhile.

A step is two statements, each a transaction of its own: read the state and the database's time;
store what became of it, if its version is still the one that was read. Nothing is locked between
the two, so a process that is stopped just then holds nobody up. Who waits is woken by NOTIFY.
"""

from __future__ import annotations

import contextlib
import json
import random
import selectors
import socket

from apikley_async._postgres import (
    Connection,
    Dsn,
    Versions,
    check_version,
    connect,
    connection_error,
    database_error,
    is_lost,
    load_psycopg,
)
from apikley_async.distributed.shared_state import Outcome, SharedState, Work
from apikley_async.errors import Blame, JournalError

__all__ = ["LIMITER_TABLES", "PART", "AwayError", "SharedStore"]

# The row is written again and again: its old versions fit beside it.
FIRST = (
    "CREATE TABLE limiter (name TEXT PRIMARY KEY, version BIGINT NOT NULL DEFAULT 0,"
    " state JSONB NOT NULL DEFAULT '{}') WITH (fillfactor = 20)"
)
LIMITER_TABLES: Versions = ((FIRST,),)
PART = "limiter"  # of what we keep in the database

LISTEN = "LISTEN apikley_limiter"
# A step takes milliseconds; one that waits longer for somebody's lock is made again.
TIMEOUT = "SET statement_timeout TO '10s'"
READ = (
    "SELECT version, state, extract(epoch FROM clock_timestamp())::float8 AS now"
    " FROM limiter WHERE name = ?"
)
STORE = (
    "WITH stored AS (UPDATE limiter SET version = version + 1, state = ?::jsonb"
    " WHERE name = ? AND version = ? RETURNING name)"
    " SELECT CASE WHEN ? THEN pg_notify('apikley_limiter', name)::text END FROM stored"
)


class AwayError(JournalError):
    """The database cannot be reached now; what was asked for may be done, or not."""

    resumable = True
    blames = Blame.NETWORK


class SharedStore:
    """The state of one *name* in the database *dsn*. Blocks; used by one thread.

    Args:
        dsn: the database.
        name: which of its limiters.
        rng: for pauses and probes.
    """

    def __init__(self, dsn: Dsn, name: str, rng: random.Random) -> None:
        self._dsn = dsn
        self._name = name
        self._rng = rng
        self._db: Connection | None = None

    def exchange(self, work: Work) -> Outcome:
        """Do *work*, once however often it is asked for; connects if need be.

        Raises:
            AwayError: try again later, with the same batch.
            JournalError: this database cannot be used.
        """
        psycopg = load_psycopg()
        db = self._connected()
        try:
            while True:
                row = db.execute(READ, (self._name,)).fetchone()
                if row is None:  # somebody has removed it: it is made again with the connection
                    self.close()
                    raise AwayError(f"{self._dsn} has lost the limiter {self._name!r}")
                version, stored, now = row
                state = SharedState(stored, work.settings, rng=self._rng, now=now)
                outcome = state.do(work)
                if not outcome.changed:
                    return outcome
                values = (json.dumps(state.to_dict()), self._name, version, outcome.news)
                if db.execute(STORE, values).fetchone() is not None:
                    return outcome
        except psycopg.Error as error:
            self.close()
            raise self._refused(error) from None

    def wait(self, timeout: float | None, wake: socket.socket) -> bool:
        """Wait until *wake* can be read, or others have news, which it returns."""
        if self._has_news():
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            if self._db is not None:
                selector.register(self._db.raw.fileno(), selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(timeout)}
        if wake in ready:
            drain(wake)
        return bool(ready - {wake}) and self._has_news(probe=True)

    def _has_news(self, *, probe: bool = False) -> bool:
        """Whether others have told of something; with *probe*, whether the connection has ended."""
        if self._db is None:
            return False
        psycopg = load_psycopg()
        try:
            notices = [*self._db.raw.notifies(timeout=0)]
            if probe and not notices:  # then what can be read is its end
                self._db.run("SELECT 1")
        except psycopg.Error:
            self.close()
            return True
        own = self._db.raw.info.backend_pid
        return any(each.payload == self._name and each.pid != own for each in notices)

    def close(self) -> None:
        """Close the connection; the next exchange opens another."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def cut(self) -> None:
        """Break the connection, from another thread than the one that waits for an answer."""
        if (db := self._db) is not None:
            db.cut()

    def _connected(self) -> Connection:
        if self._db is not None:
            return self._db
        psycopg = load_psycopg()
        try:
            db = self._db = connect(self._dsn)
        except psycopg.Error as error:
            refused = connection_error(error, self._dsn)
            raise AwayError(refused.message) if refused.resumable else refused from None
        try:
            check_version(db, PART, LIMITER_TABLES, self._dsn)
            db.run(TIMEOUT, LISTEN)
            db.execute(
                "INSERT INTO limiter (name) VALUES (?) ON CONFLICT DO NOTHING", (self._name,)
            )
        except BaseException as error:
            self.close()
            if isinstance(error, psycopg.Error):
                raise self._refused(error) from None
            raise
        return db

    def _refused(self, error: Exception) -> JournalError:
        if is_lost(error):
            return AwayError(connection_error(error, self._dsn).message)
        return database_error(error, self._dsn)


def drain(wake: socket.socket) -> None:
    """Read all that has been written to wake us."""
    with contextlib.suppress(BlockingIOError):
        while wake.recv(4096):
            pass
