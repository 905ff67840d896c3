"""What a database looks like to the functions that work on a journal's tables.

Their SQL is what SQLite and PostgreSQL both understand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, TypeAlias

__all__ = ["Cursor", "Database", "Parameters", "Row", "marks"]

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]


class Row(Protocol):
    """A row of an answer; its values are found by name and by position."""

    def __getitem__(self, name: Any, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def keys(self) -> Iterable[str]: ...


class Cursor(Protocol):
    """The answer to a statement."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """A connection; the marks in a statement are `?`, or `:name`."""

    def execute(self, statement: str, values: Parameters = ..., /) -> Cursor: ...
    def executemany(self, statement: str, values: Iterable[Any], /) -> Cursor: ...
    def insert(self, into: str, rows: Sequence[Sequence[Any]], /) -> None:
        """Insert many rows into *into*, "table (columns)", as fast as the database can."""
        ...


def marks(values: Sized) -> str:
    """A mark for each value, as `IN (...)` needs them; without values it finds nothing."""
    return ", ".join("?" * len(values)) or "NULL"
