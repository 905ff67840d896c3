"""A journal in PostgreSQL, as the thread that works on it sees it: its tables, and a lock.

Whoever writes holds one lock of the database, so writers come one after the other, as in a file.
Time is the database's. Each transaction stores its number, so that it happens once although its
connection may break at any moment: who has lost the answer to a COMMIT finds out whether it has
happened, and does the whole piece of work again if it has not. While the database is away, work
waits, so nothing is sent.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from apikley_async._postgres import (
    APPLICATION,
    SCHEMA,
    Connection,
    Dsn,
    Versions,
    check_version,
    connect,
    connection_error,
    database_error,
    is_lost,
    load_psycopg,
    reason_of,
    takes_no_writes,
)
from apikley_async.batch.store.database import Cursor, Parameters
from apikley_async.batch.store.journal_errors import (
    damaged,
    journal_error,
    not_unicode_error,
    old_text_error,
)
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.postgres_schema import PART, VERSIONS
from apikley_async.batch.store.rescue import RescuePlaces
from apikley_async.batch.store.rows import JOURNAL_ID
from apikley_async.errors import ApikleyError, JournalError

__all__ = ["PostgresJournal"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("apikley_async.batch")

WRITER_LOCK = 2
LOCK = f"SELECT pg_advisory_xact_lock({APPLICATION}, {WRITER_LOCK})"
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
CHECK = (
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,"
    " current_setting('server_encoding'), extract(epoch FROM clock_timestamp())::float8"
)
SELECT_NUMBER = "SELECT number FROM session WHERE id = ?"
STORE_NUMBER = (
    "INSERT INTO session (id, number, at) VALUES (:session, :number, :at)"
    " ON CONFLICT (id) DO UPDATE SET number = excluded.number, at = excluded.at; COMMIT"
)
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between two attempts to connect again
KEPT = 30 * 86400  # seconds for which the number of a last transaction is kept
MOST_FAILURES = 30  # one after the other, of connections that were made; then it is an error
REFUSAL = 6  # for how many of them a statement counts that the server itself has ended
PURGED = "item, attempt, event"
TABLE_FILES = (
    "SELECT pg_relation_filenode('item'), pg_relation_filenode('attempt'),"
    " pg_relation_filenode('event')"
)
SNAPSHOT = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # Who copies a large table is busy with it for some seconds, and only a purge waits for that.
    "SET LOCAL idle_in_transaction_session_timeout TO '60s'",
)
NOTHING = "nothing was written"
UNSURE = "what was being written may be there, or not"


class _AgainError(Exception):
    """A transaction did not happen: the whole piece of work is done again."""


class Tables:
    """The tables of a journal, as the functions that work on them see them."""

    def __init__(self, journal: PostgresJournal) -> None:
        self._journal = journal

    def execute(self, statement: str, values: Parameters = (), /) -> Cursor:
        cursor: Cursor = self._journal.send(lambda sending: sending.execute(statement, values))
        return cursor

    def insert(self, into: str, rows: Sequence[Sequence[Any]], /) -> None:
        self._journal.send(lambda sending: sending.insert(into, rows))

    def executemany(self, statement: str, rows: Iterable[Any], /) -> Cursor:
        cursor: Cursor = self._journal.send(lambda sending: sending.executemany(statement, rows))
        return cursor


class PostgresJournal(OpenJournal):
    """A journal's tables in a database, and a connection that comes back.

    Args:
        dsn: where the database is.
        read_only: whether it is only read.
        versions: of the tables, handed in by tests.
    """

    shared = True
    in_database = True
    home: Path | None = None

    def __init__(self, dsn: Dsn, *, read_only: bool = False, versions: Versions = VERSIONS) -> None:
        super().__init__(read_only=read_only)
        self.name: str = dsn.name
        self._dsn = dsn
        self._versions = versions
        self._errors: Any = load_psycopg().Error
        self._connection: Connection | None = None
        self._tables = Tables(self)
        self._session = secrets.token_hex(16)
        self._number = 0  # of its last transaction that has certainly happened
        self._committed_at = 0.0  # when that one began, by the database's clock
        self._failures = 0  # of statements, since a piece of work was done
        self._reason = ""  # for the last of them
        self._began_at: float | None = None  # within a transaction: when it began
        self._stopping = threading.Event()
        self._has_given_up = False

    @property
    def db(self) -> Tables:
        return self._tables

    # --- connecting --------------------------------------------------------------------------

    def connect(self) -> Connection:
        """Connect for the first time, and check what is there. Runs in the journal's thread.

        Raises:
            JournalError: it cannot be reached or used.
        """
        self._lose()  # the one of an opening that broke off
        try:
            self._connection = connection = connect(self._dsn)
            self._check(connection)
        except self._errors as error:
            self._lose()
            raise self._error_of(error) from None
        except BaseException:
            self._lose()
            raise
        return connection

    def _error_of(self, error: Exception) -> JournalError:
        """What the error of a connection that is not made again means."""
        return (connection_error if is_lost(error) else database_error)(error, self._dsn)

    def _check(self, connection: Connection) -> None:
        """Refuse a database that is not set up, a standby, and another journal than before."""
        check_version(connection, PART, self._versions, self._dsn)
        [standby, encoding, now] = connection.run(CHECK) or (False, "", 0.0)
        if standby and not self.read_only:
            raise takes_no_writes(self._dsn)
        if encoding != "UTF8":
            raise JournalError(f"{self.name} stores text as {encoding}; make a database in UTF8")
        row = connection.execute("SELECT value FROM meta WHERE name = 'journal_id'").fetchone()
        found = "" if row is None else str(row[0])
        if not JOURNAL_ID.fullmatch(found):
            raise damaged("journal_id is not one")
        if self.journal_id not in ("", found):
            raise JournalError(f"{self.name} is another journal than before; {NOTHING} there")
        self.journal_id = found
        row = connection.execute(SELECT_NUMBER, (self._session,)).fetchone()
        if row is None and now - self._committed_at > KEPT:
            return  # it was removed for its age
        if self._number > (0 if row is None else row[0]):
            raise JournalError(
                f"{self.name} has lost what was written last: it was restored, or a standby took "
                "over that had not received it. Films that were paid may look as if they were not: "
                "find them in the provider's list before you go on"
            )

    def _lose(self) -> None:
        """Give up a connection that failed."""
        connection, self._connection = self._connection, None
        self._began_at = None
        if connection is not None:
            with contextlib.suppress(self._errors):
                connection.close()

    def _come_back(self, written: str = NOTHING) -> Connection:
        """Connect again, however long that takes.

        Args:
            written: what is known meanwhile of what was to be written.

        Raises:
            JournalError: the journal is being closed, or is not the one it was.
        """
        delay, said = FIRST_DELAY, ""
        while True:
            if self._has_given_up:
                why = f" ({said})" if said else ""
                raise journal_error(f"{self.name} is away{why}; {written}")
            try:
                self._connection = found = connect(self._dsn)
                self._check(found)
            except (self._errors, JournalError) as error:
                self._lose()
                if isinstance(error, JournalError) and not error.resumable:
                    self.failure: JournalError | None = error
                    raise
                if not said:
                    said = reason_of(error)
                    logger.warning("%s is away, so nothing is sent: %s", self.name, said)
            else:
                if said:
                    logger.warning("%s is back", self.name)
                if not self._has_given_up:  # it was cut before it could be seen
                    return found
            if self._stopping.wait(delay):
                self._has_given_up = True  # also for all that is still to be done
            delay = min(LONGEST_DELAY, 2 * delay)

    def _fail(self, error: Exception) -> None:
        """Give up the connection of a statement that failed, and pause where that goes on.

        Most often the connection broke, and the next one is as good as any.
        """
        connection, self._reason = self._connection, reason_of(error)
        refused = connection is not None and not connection.raw.broken
        self._lose()
        self._failures += REFUSAL if refused else 1
        if self._failures > REFUSAL:
            self._stopping.wait(min(LONGEST_DELAY, FIRST_DELAY * self._failures))

    def _check_failures(self, written: str = NOTHING) -> None:
        """Do not try the same for ever, where it is that which breaks the connections.

        Raises:
            JournalError: it has failed too often, one time after the other.
        """
        if self._failures >= MOST_FAILURES:
            self._failures = 0
            raise journal_error(f"{self.name} ends this each time: {self._reason}; {written}")

    def stop(self) -> None:
        self._stopping.set()

    def cut(self) -> None:
        self._has_given_up = True  # what is broken off is not done again
        if (connection := self._connection) is not None:
            connection.cut()

    # --- pieces of work ----------------------------------------------------------------------

    def send(self, statement: Callable[[Connection], T]) -> T:
        """Send a statement; outside of a transaction it is sent until it was answered.

        So a piece of work whose transaction has happened is not done again.
        """
        while True:
            try:
                return statement(self._connection or self._come_back())
            except self._errors as error:
                if self._began_at is not None or not is_lost(error):
                    raise
                self._fail(error)
            self._check_failures()

    def perform(self, work: Callable[[], T]) -> T:
        error: Exception
        while True:
            try:
                done = work()
            except ApikleyError:
                raise
            except _AgainError:
                self._check_failures()
            except self._errors as exc:
                if not is_lost(exc):
                    error = database_error(exc, self._dsn)
                    break
                self._fail(exc)
                self._check_failures()
            except UnicodeEncodeError as exc:
                error = not_unicode_error(self.name, exc)
                break
            except ValueError:
                error = JournalError(f"{self.name} cannot be read: its content is not readable")
                break
            else:
                self._failures = 0
                return done
        raise error

    @contextlib.contextmanager
    def transaction(self, *, owner_only: bool = True, alone: bool = True) -> Iterator[None]:
        if self.read_only:
            raise JournalError(f"{self.name} is open for reading only")
        first = ("BEGIN", LOCK, CLOCK) if alone else ("BEGIN", CLOCK)
        row = self.send(lambda connection: connection.run(*first))
        self._began_at = float(row[0]) if row else 0.0
        self.now: tuple[float, float] = (self._began_at, self.now[1])
        folders = dict(self.folders)
        try:
            yield
            self._commit()
        except BaseException:
            self.folders = folders
            if self._connection is not None:
                with contextlib.suppress(self._errors):
                    self._connection.run("ROLLBACK")
            raise
        finally:
            self._began_at = None

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Connect, and read the journal as it is at one moment. Runs in the journal's thread.

        Raises:
            JournalError: it cannot be reached or used, or not until the end.
        """
        connection = self.connect()
        try:
            connection.run(*SNAPSHOT)
            yield connection
        except self._errors as error:
            raise self._error_of(error) from None
        finally:
            self._lose()

    def _commit(self) -> None:
        """Commit, and be certain of it.

        Raises:
            _AgainError: nothing has happened.
        """
        number, began_at = self._number + 1, self._began_at or 0.0
        try:
            values = {"session": self._session, "number": number, "at": began_at}
            self.send(lambda sending: sending.execute_script(STORE_NUMBER, values))
        except self._errors as error:
            if not is_lost(error):
                raise
            self._fail(error)
            if not self._has_committed(number):
                raise _AgainError from None
        self._number, self._committed_at = number, began_at

    def _has_committed(self, number: int) -> bool:
        """Whether the transaction of that number has happened.

        The lock is taken for this: the server may not have noticed yet that the connection broke,
        and may still be about to commit.
        """
        while True:
            try:
                connection = self._connection or self._come_back(UNSURE)
                connection.run("BEGIN", LOCK)
                row = connection.execute(SELECT_NUMBER, (self._session,)).fetchone()
                connection.run("COMMIT")
            except self._errors as error:
                if not is_lost(error):
                    raise
                self._fail(error)
                self._check_failures(UNSURE)
            else:
                return row is not None and bool(row[0] >= number)

    # --- what differs between databases ------------------------------------------------------

    def wall_time(self) -> float:
        if self._began_at is not None:
            return self._began_at
        return float(self.db.execute(CLOCK).fetchone()[0])

    def lease_time(self) -> float:
        return self.wall_time()

    def defer_references(self) -> None:
        self.db.execute("SET CONSTRAINTS ALL DEFERRED")

    @contextlib.contextmanager
    def erase_old_text(self) -> Iterator[None]:
        before = self.db.execute(TABLE_FILES).fetchone()
        yield
        self.db.execute(f"VACUUM (FULL) {PURGED}")  # writes them anew, without what was
        # Of a user who may not do that the server only warns.
        after = self.db.execute(TABLE_FILES).fetchone()
        if any(map(operator.eq, before, after)):
            why = (
                "this user may not write them anew. Let the user who ran `apikley db init` purge "
                f"again, or say VACUUM (FULL) {PURGED}, in the schema {SCHEMA}"
            )
            raise old_text_error(self.name, why)

    def faults(self) -> list[str]:
        return []  # the server's own business: checksums, amcheck

    @property
    def rescue_places(self) -> RescuePlaces:
        return RescuePlaces.of_machine(self.journal_id)

    def close(self) -> None:
        self._lose()
