"""The database that many machines share: set up, upgraded, and looked at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import attrs

from apikley_async._postgres import (
    Connection,
    Dsn,
    Versions,
    connect,
    connection_error,
    database_error,
    is_lost,
    load_psycopg,
    reason_of,
    upgrade,
    versions_in,
)
from apikley_async.batch.store import postgres_schema
from apikley_async.distributed import hints, inbox, shared_store
from apikley_async.errors import JournalError

__all__ = ["Upgrade", "set_up"]


NEEDED = (
    "set it up as the user who did so first, or, where nobody did, as one who may make a schema "
    "(GRANT CREATE ON DATABASE ... TO ...)"
)


@attrs.frozen
class Upgrade:
    """What setting up a database has changed.

    Attributes:
        database: its DSN, without a password.
        before: the versions of its parts before; 0 for a part that was not there.
        now: their versions now.
    """

    database: str
    before: Mapping[str, int]
    now: Mapping[str, int]


async def set_up(dsn: str | Dsn) -> Upgrade:
    """Make what a shared journal, limiter and inbox need, or bring it up to date.

    All of it lies in the schema `apikley` of the database. Several processes may do it at once.

    Args:
        dsn: of a database in UTF8, and of a user who may create a schema in it.

    Raises:
        JournalError: it cannot be reached, or was set up by a newer version of this package.
    """
    place = Dsn.parse(dsn)
    return await asyncio.to_thread(_set_up, place)


def _set_up(dsn: Dsn) -> Upgrade:
    psycopg = load_psycopg()
    try:
        with contextlib.closing(connect(dsn)) as connection:
            _check_encoding(connection, dsn)
            parts = _parts(versions_in(connection))
            before = upgrade(connection, parts, dsn)
    except psycopg.errors.InsufficientPrivilege as error:
        raise JournalError(f"{dsn} cannot be set up: {reason_of(error)}; {NEEDED}") from None
    except psycopg.Error as error:
        lost = is_lost(error)
        raise (connection_error if lost else database_error)(error, dsn) from None
    return Upgrade(dsn.name, before, {part: len(versions) for part, versions in parts.items()})


def _parts(known: Mapping[str, int]) -> dict[str, Versions]:
    return {
        postgres_schema.PART: postgres_schema.VERSIONS,
        shared_store.PART: shared_store.LIMITER_TABLES,
        inbox.PART: inbox.CALLBACK_TABLES,
        hints.PART: hints.hint_versions(known.get(hints.PART, 0)),
    }


def _check_encoding(connection: Connection, dsn: Dsn) -> None:
    row = connection.run("SELECT current_setting('server_encoding')")
    if row is not None and row[0] != "UTF8":
        raise JournalError(f"{dsn} stores text as {row[0]}: make a database in UTF8")
