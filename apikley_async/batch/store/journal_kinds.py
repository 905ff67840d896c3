"""Which journal a path names: a file of SQLite, or a database of PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from apikley_async._postgres import Dsn, is_dsn
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.opening import open_journal
from apikley_async.batch.store.postgres_journal import PostgresJournal
from apikley_async.batch.store.postgres_opening import copy_database, open_database
from apikley_async.batch.store.schema import Migrations
from apikley_async.batch.store.sqlite_journal import SqliteJournal
from apikley_async.errors import JournalError

__all__ = ["unopened"]


def unopened(
    path: str | os.PathLike[str] | Dsn,
    *,
    read_only: bool,
    adopt: bool,
    private: bool,
    migrations: Migrations,
) -> tuple[OpenJournal, Callable[[], None]]:
    """The journal that *path* names, and what opens it in its thread; see `Journal.open`."""
    dsn = dsn_of(path)
    if dsn is not None and adopt:
        raise JournalError(f"{dsn} is a database: only the copy of a file is adopted")
    if dsn is not None and not private:
        database = PostgresJournal(dsn, read_only=read_only)
        return database, partial(open_database, database)
    file = SqliteJournal(
        Path("journal.db" if isinstance(path, Dsn) or dsn is not None else path),
        read_only=read_only,
        migrations=migrations,
        adopting=adopt,
        private=private,
        copier=None if dsn is None else partial(copy_database, dsn),
    )
    return file, partial(open_journal, file)


def dsn_of(path: str | os.PathLike[str] | Dsn) -> Dsn | None:
    """The database that *path* names; None for a file."""
    if isinstance(path, Dsn):
        return path
    return Dsn.parse(path) if isinstance(path, str) and is_dsn(path) else None
