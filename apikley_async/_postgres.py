"""PostgreSQL, reached with care: where a database is, how it is connected to, what went wrong.

A password never leaves a `Dsn`: not into a message, a title or a `repr`. psycopg is imported only
when a database is named; the extra `postgres` installs it. All that this package keeps in a
database lies in the schema `apikley`, in parts that are upgraded one by one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias
from urllib.parse import quote, urlencode

import attrs

from apikley_async._text import one_line
from apikley_async.errors import Blame, JournalError, MissingExtraError

__all__ = [
    "APPLICATION",
    "SCHEMA",
    "SESSION",
    "Connection",
    "Dsn",
    "NamedRow",
    "Versions",
    "check_version",
    "connect",
    "connection_error",
    "database_error",
    "is_dsn",
    "is_lost",
    "load_psycopg",
    "options",
    "reason_of",
    "takes_no_writes",
    "translate",
    "upgrade",
    "versions_in",
]

SCHEMA = "apikley"
# How a DSN begins: libpq's two forms, and what resembles them, which is refused as a DSN. A path
# would be shown, and made, and a DSN may hold a password.
DSN = re.compile(r"\s* (?: [^/.\s][^/]+:// | postgres\w*: | \w+\s*= )", re.VERBOSE)
PORTS = re.compile(r"[\d,]*")
SECRETS = frozenset(
    {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)
IN_PATH = frozenset({"user", "dbname"})  # of a DSN; anything else is in its query
LONGEST_REASON = 200
APPLICATION = 0x41506B6C  # "APkl": the first half of our advisory locks
UPGRADE_LOCK = 1

# How long nothing may come back before a connection counts as lost. A name that has several
# addresses is given the time once for each.
DEFAULTS: Mapping[str, Any] = {
    "connect_timeout": 5,  # seconds
    "keepalives": 1,
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
    "application_name": "apikley",
    "client_encoding": "UTF8",
}

SESSION = (
    # What takes long has its reasons; cut off, it would be sent again, and take as long again.
    "SET statement_timeout TO 0",
    "SET lock_timeout TO 0",
    f"SET search_path TO {SCHEMA}",
    "SET client_min_messages TO warning",
    "SET default_transaction_isolation TO 'read committed'",
    # A process that was stopped within a transaction holds nobody else up for longer.
    "SET idle_in_transaction_session_timeout TO '5s'",
    """SELECT set_config(name, '0', false) FROM pg_settings
        WHERE name IN ('transaction_timeout', 'idle_session_timeout')""",
    "SET tcp_keepalives_idle TO 10",
    "SET tcp_keepalives_interval TO 5",
    "SET tcp_keepalives_count TO 3",
    # What is acknowledged must be on the server's disk, whatever its settings say.
    """SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off'""",
)
"""Settings of every connection of ours. They are set once it is there: poolers refuse options."""


def is_dsn(text: object) -> bool:
    """Whether *text* names a database, as `postgresql://...` does, or is meant to.

    A file with such a name is `./NAME`.
    """
    return isinstance(text, str) and DSN.match(text) is not None


def load_psycopg() -> Any:
    """The module `psycopg`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("psycopg")
    except ImportError:
        raise MissingExtraError.of("A journal in PostgreSQL needs psycopg", "postgres") from None


@attrs.frozen
class Dsn:
    """Where a database is.

    Attributes:
        name: what may be shown: everything but a password. It is a DSN itself.
        has_password: whether a password was given.
        parameters: for `psycopg.connect`; not shown.
    """

    name: str
    has_password: bool = attrs.field(repr=False)
    parameters: Mapping[str, Any] = attrs.field(repr=False, eq=False)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: str | Dsn) -> Dsn:
        """Read a DSN, which `libpq` describes: `postgresql://user@host:port/database?...`.

        One that was read already is given back.

        Raises:
            JournalError: it is none. The message does not repeat it: it may hold a password.
            MissingExtraError: psycopg is not installed.
        """
        if isinstance(text, Dsn):
            return text
        psycopg = load_psycopg()
        try:
            given = psycopg.conninfo.conninfo_to_dict(text.strip())
        except psycopg.Error:
            raise JournalError(
                "this is not a DSN of PostgreSQL: postgresql://user@host/database, with the "
                "password in ~/.pgpass, or postgresql://?service=NAME (a file with such a name is "
                "./NAME)"
            ) from None
        shown = {name: str(value) for name, value in given.items() if name not in SECRETS}
        # libpq ends a password at the first of them, and takes the rest for a host or a database.
        misplaced = "@" in shown.get("host", "") + shown.get("dbname", "")
        if misplaced or not PORTS.fullmatch(shown.get("port", "")):
            raise JournalError(
                "this DSN of PostgreSQL is not what it seems: in a password, @ is written as %40, "
                "/ as %2F and : as %3A; better, the password is in ~/.pgpass"
            )
        return cls(name_of(shown), bool(SECRETS & given.keys()), {**DEFAULTS, **given})


def name_of(parameters: Mapping[str, str]) -> str:
    """A DSN of *parameters*, none of which is a secret."""
    query = {name: value for name, value in parameters.items() if name not in IN_PATH}
    host, port = query.get("host", ""), query.get("port", "")
    if host and re.fullmatch(r"[\w.-]+", host) and re.fullmatch(r"\d*", port):
        del query["host"]
        query.pop("port", None)
        address = f"{host}:{port}" if port else host
    else:  # a socket's folder, several hosts, an address of IPv6
        address = ""
    user = f"{quote(parameters['user'], safe='')}@" if "user" in parameters else ""
    path = f"/{quote(parameters['dbname'], safe='')}" if "dbname" in parameters else ""
    ending = f"?{urlencode(query, safe='/:,', quote_via=quote)}" if query else ""
    return f"postgresql://{user}{address}{path}{ending}"


# --- connections ----------------------------------------------------------------------------------


class NamedRow(tuple[Any, ...]):
    """A row of an answer; its values are found by name and by position."""

    __slots__ = ()
    names: ClassVar[Mapping[str, int]]

    def __getitem__(self, name: Any) -> Any:
        return super().__getitem__(self.names[name] if isinstance(name, str) else name)

    def keys(self) -> Iterable[str]:
        return self.names.keys()


def named_rows(cursor: Any) -> Callable[[Sequence[Any]], NamedRow]:
    """Make rows that know the names of their columns, as psycopg wants it."""
    return row_class(tuple(column.name for column in cursor.description or ()))


@lru_cache(maxsize=256)
def row_class(columns: tuple[str, ...]) -> type[NamedRow]:
    """The class of rows that have *columns*; making one takes longer than a short statement."""
    names = {name: number for number, name in enumerate(columns)}
    return type("Row", (NamedRow,), {"__slots__": (), "names": names})


class Connection:
    """A connection whose statements are written as for SQLite: the marks are `?`, or `:name`.

    Outside of `BEGIN` and `COMMIT` each statement is a transaction of its own. Values travel beside
    it, so its text, which servers log and list, shows no prompt and no link.
    """

    def __init__(self, connection: Any) -> None:
        self.raw = connection

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = (), /) -> Any:
        return self.raw.execute(translate(statement), values)

    def execute_script(self, statements: str, values: Mapping[str, Any]) -> Any:
        """Execute several statements in one round trip; the server may log their values."""
        cursor = load_psycopg().ClientCursor(self.raw)
        return cursor.execute(translate(statements), values)

    def executemany(self, statement: str, rows: Iterable[Any], /) -> Any:
        cursor = self.raw.cursor()
        cursor.executemany(translate(statement), rows)
        return cursor

    def insert(self, into: str, rows: Iterable[Sequence[Any]], /) -> None:
        """Insert rows into *into*, "table (columns)", four times as fast as with statements."""
        with self.raw.cursor().copy(f"COPY {into} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def run(self, *statements: str) -> NamedRow | None:
        """Run statements without values in one round trip; the first row of the last answer."""
        cursor = self.raw.execute("; ".join(statements))
        while cursor.nextset():
            pass
        row: NamedRow | None = cursor.fetchone() if cursor.description else None
        return row

    def close(self) -> None:
        self.raw.close()

    def cut(self) -> None:
        """Break the connection, from another thread than the one that waits for an answer."""
        gone = contextlib.suppress(OSError, load_psycopg().Error)
        with gone, socket.socket(fileno=os.dup(self.raw.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)


MARKS = re.compile(r"""'[^']*' | "[^"]*" | :: | \? | :[a-z_]+ | %""", re.VERBOSE)


@lru_cache(maxsize=512)
def translate(statement: str) -> str:
    """A statement with marks for SQLite, with marks for psycopg."""

    def translated(found: re.Match[str]) -> str:
        mark = found[0]
        if mark == "?":
            return "%s"
        if mark[0] == ":" and mark != "::":
            return f"%({mark[1:]})s"
        return mark.replace("%", "%%")

    return MARKS.sub(translated, statement)


def options(dsn: Dsn) -> dict[str, Any]:
    """The arguments of `psycopg.connect`, and of its twin for asyncio.

    Run `SESSION` on the connection first.
    """
    return {**dsn.parameters, "autocommit": True, "prepare_threshold": None}


def connect(dsn: Dsn) -> Connection:
    """Connect. Blocks.

    Raises:
        psycopg.Error: that was not possible; `connection_error` says why.
    """
    psycopg = load_psycopg()
    raw = psycopg.connect(**options(dsn), row_factory=named_rows)
    connection = Connection(raw)
    try:
        connection.run(*SESSION)
    except BaseException:
        connection.close()
        raise
    return connection


# --- errors ---------------------------------------------------------------------------------------

REFUSED = re.compile(
    r"authentication failed|no password supplied|password is required|role .* does not exist",
    re.IGNORECASE,
)
RIGHTS = (  # what a user needs who has not set the database up
    "USAGE ON SCHEMA",
    "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA",
    "USAGE ON ALL SEQUENCES IN SCHEMA",
)
NO_DATABASE = re.compile(r"database .* does not exist", re.IGNORECASE)
NO_ENTRY = re.compile(r"pg_hba\.conf", re.IGNORECASE)
TLS = re.compile(r"certificate|not support SSL|SSL support|sslmode", re.IGNORECASE)
QUOTED = re.compile(r"""\"[^"]*\" | '[^']*'""", re.VERBOSE)
NO_SERVICE = re.compile(r"definition of service|service file", re.IGNORECASE)


def connection_error(error: Exception, dsn: Dsn) -> JournalError:
    """Say why a database cannot be connected to; resumable where it may be there again later."""
    reason = reason_of(error)
    said = QUOTED.sub("", reason)  # a host may be named as what is looked for
    if isinstance(error, load_psycopg().errors.ReadOnlySqlTransaction):
        return database_error(error, dsn)
    if REFUSED.search(said):
        advice = (
            "the server refuses this user or password. Put the password into ~/.pgpass "
            "(host:port:database:user:password, readable by you only), or into PGPASSWORD"
        )
    elif NO_DATABASE.search(said):
        advice = "there is no such database: make it with createdb, then run `apikley db init`"
    elif NO_SERVICE.search(said):
        advice = "the service is not defined in ~/.pg_service.conf"
    elif NO_ENTRY.search(said):
        advice = "the server lets nobody in from here: see its pg_hba.conf"
    elif TLS.search(said):
        advice = "TLS failed: see sslmode and sslrootcert of the DSN"
    else:
        return JournalError(
            f"{dsn} cannot be reached: {reason}. Nothing was sent",
            resumable=True,
            blames=Blame.NETWORK,
        )
    return JournalError(f"{dsn} cannot be used: {advice} ({reason})")


def database_error(error: Exception, dsn: Dsn) -> JournalError:
    """Say what a database has answered to a statement of ours."""
    psycopg = load_psycopg()
    errors = psycopg.errors
    if isinstance(error, errors.InsufficientPrivilege):
        user = dsn.parameters.get("user", "USER")
        grants = (f"GRANT {rights} {SCHEMA} TO {user}" for rights in RIGHTS)
        advice = f"let the user who ran `apikley db init` say: {'; '.join(grants)}"
    elif isinstance(error, errors.ReadOnlySqlTransaction):
        return takes_no_writes(dsn)
    elif isinstance(error, errors.DiskFull | errors.OutOfMemory | errors.TooManyConnections):
        return JournalError(
            f"{dsn} cannot be used now: {reason_of(error)}. Nothing was sent meanwhile",
            resumable=True,
            blames=Blame.NETWORK,
        )
    elif isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        advice = "what this program keeps there was altered; `apikley db check` looks at it"
    else:
        advice = "`apikley db check` looks at it"
    return JournalError(f"{dsn} cannot be used: {reason_of(error)}; {advice}")


def takes_no_writes(dsn: Dsn) -> JournalError:
    """For a standby, or a database that is set to read only; it may be the primary soon."""
    return JournalError(
        f"{dsn} takes no writes: it is a standby, or set to read only. Name the primary",
        resumable=True,
        blames=Blame.NETWORK,
    )


def is_lost(error: BaseException) -> bool:
    """Whether a statement failed because its connection did, or may simply be tried again.

    Whoever tries again counts, and pauses: it may fail each time.
    """
    psycopg = load_psycopg()
    errors = psycopg.errors
    if isinstance(error, errors.DeadlockDetected | errors.SerializationFailure):
        return True
    if isinstance(error, errors.IdleInTransactionSessionTimeout):  # this process was stopped
        return True
    if isinstance(error, errors.ReadOnlySqlTransaction):  # a standby takes over
        return True
    if isinstance(error, errors.DiskFull | errors.OutOfMemory | errors.ConfigurationLimitExceeded):
        return False
    if str(getattr(error, "sqlstate", "")).startswith(
        "54"
    ):  # it is too long for the server, and stays so
        return False
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


STOOD_STILL = (
    "this process stood still for more than 5 s within a transaction (suspended, or its machine is "
    "overloaded), so the server has undone that and ended the connection"
)
MEANINGS = {  # of what libpq and servers say while nobody answers
    "idle.in.transaction": STOOD_STILL,
    "administrator command": "the server is being stopped, or has ended the connection",
    "database system is (starting|shutting)": "the server is being stopped or started",
    "server closed the connection": "the server has closed the connection",
}


def reason_of(error: Exception) -> str:
    """Why a database does not answer, in words; else what libpq says, on one line.

    That names hosts and users, never a password.
    """
    for pattern, meaning in MEANINGS.items():
        if re.search(pattern, str(error), re.IGNORECASE):
            return meaning
    if not str(error):
        timed_out = isinstance(error, TimeoutError)
        return "it has not answered in time" if timed_out else type(error).__name__
    said = re.sub(r"\n\s+Is the server running[^\n]*", "", str(error))
    said = re.sub(r"connection (failed|is bad): ", "", said)
    return one_line(said, LONGEST_REASON).rstrip(".")


# --- what we keep there ---------------------------------------------------------------------------

Versions: TypeAlias = tuple[tuple[str, ...], ...]
"""The statements that make each version of a part out of the one before."""


def versions_in(connection: Connection) -> dict[str, int]:
    """The version of each part that the database has; empty without our schema."""
    row = connection.run(f"SELECT to_regclass('{SCHEMA}.version') IS NOT NULL")
    if row is None or not row[0]:
        return {}
    rows: Iterator[NamedRow] = iter(connection.execute("SELECT part, number FROM version"))
    return {str(part): int(number) for part, number in rows}


def upgrade(connection: Connection, parts: Mapping[str, Versions], dsn: Dsn) -> dict[str, int]:
    """Make our schema, or bring each of *parts* to its newest version; the versions before.

    One transaction, under a lock: several may do it at once, and one that is interrupted changes
    nothing.

    Raises:
        JournalError: a part is of a newer version than this program's.
    """
    connection.run("BEGIN", f"SELECT pg_advisory_xact_lock({APPLICATION}, {UPGRADE_LOCK})")
    try:
        before = versions_in(connection)
        for part, versions in parts.items():
            refuse_newer(before.get(part, 0), versions, dsn)
        connection.run(
            f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
            "CREATE TABLE IF NOT EXISTS version (part TEXT PRIMARY KEY, number INTEGER NOT NULL)",
        )
        for part, versions in parts.items():
            for statements in versions[before.get(part, 0) :]:
                connection.run(*statements)
            connection.execute(
                "INSERT INTO version (part, number) VALUES (?, ?)"
                " ON CONFLICT (part) DO UPDATE SET number = excluded.number",
                (part, len(versions)),
            )
        connection.run("COMMIT")
    except BaseException:
        if not connection.raw.broken:
            connection.run("ROLLBACK")
        raise
    return {part: before.get(part, 0) for part in parts}


def refuse_newer(number: int, versions: Versions, dsn: Dsn) -> None:
    if number > len(versions):
        raise JournalError(
            f"{dsn} was set up by a newer version (schema {number}, here {len(versions)}); "
            "upgrade this package"
        )


def check_version(connection: Connection, part: str, versions: Versions, dsn: Dsn) -> None:
    """Refuse a database whose *part* is not of this program's version.

    Raises:
        JournalError: it was never set up, or by an older or newer version.
    """
    number, set_up = versions_in(connection).get(part), f"apikley db init {shlex.quote(dsn.name)}"
    if number is None:
        raise JournalError(f"{dsn} is not set up yet: run `{set_up}` once")
    refuse_newer(number, versions, dsn)
    if number < len(versions):
        raise JournalError(
            f"{dsn} was set up by an older version (schema {number}, here {len(versions)}): run "
            f"`{set_up}` once, when nothing of the older version works on it"
        )
