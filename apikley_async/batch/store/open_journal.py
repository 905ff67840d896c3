"""An open journal, as the thread that works on it sees it: its tables, whatever holds them.

The functions that work on items and attempts are the same for every database. What differs between
databases, besides their SQL, is a method here.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from apikley_async.batch.store.database import Database
from apikley_async.batch.store.rescue import RescuePlaces
from apikley_async.errors import JournalError

__all__ = ["OpenJournal"]

T = TypeVar("T")


class OpenJournal(abc.ABC):
    """A journal's tables, which one thread uses. Every change happens within `transaction`.

    Attributes:
        name: what messages call it.
        shared: whether other processes may make films of it at the same time.
        in_database: whether it, or what it is a copy of, is in a database, which may be away.
        home: the folder that stored paths are relative to; None where they are absolute.
        read_only: whether it is only read.
        journal_id: the random id that it was made with.
        intents: how many attempts were made with it, lost ones included.
        lost: how many of them it has lost, since it was adopted; None when that is unknown.
        folders: where saved files may lie, in the order in which runs used them.
        now: wall and monotonic time of the current piece of work.
        failure: what has made it unusable; every further piece of work is refused with it.
        retry_delays: seconds before a paid task's id is stored again after a failure.
    """

    name: str
    shared: bool = False
    in_database: bool = False
    home: Path | None

    def __init__(self, *, read_only: bool) -> None:
        self.read_only = read_only
        self.journal_id = ""
        self.intents = 0
        self.lost: int | None = 0
        self.folders: dict[Path, None] = {}
        self.now: tuple[float, float] = (0.0, 0.0)
        self.failure: JournalError | None = None
        self.retry_delays: tuple[float, ...] = ()

    @property
    @abc.abstractmethod
    def db(self) -> Database:
        """Its tables."""

    @abc.abstractmethod
    def perform(self, work: Callable[[], T]) -> T:
        """Do a piece of work; the database's errors and the system's become `JournalError`."""

    @abc.abstractmethod
    def transaction(
        self, *, owner_only: bool = True, alone: bool = True
    ) -> AbstractContextManager[None]:
        """One durable change, undone completely when anything in it fails.

        Args:
            owner_only: whether it is refused when another process owns the journal by now.
            alone: whether no other transaction is under way meanwhile; what is one statement about
                one row need not wait for that.
        """

    @abc.abstractmethod
    def wall_time(self) -> float:
        """The time by the journal's clock, in seconds since 1970."""

    def lease_time(self) -> float:
        """The time by which leases are measured, in seconds; a clock that all owners share.

        It never jumps. That of a file begins with the process, as its owners do.
        """
        return self.now[1]

    @abc.abstractmethod
    def defer_references(self) -> None:
        """Check references between tables at the end of this transaction only."""

    @abc.abstractmethod
    def erase_old_text(self) -> AbstractContextManager[None]:
        """Leave nothing of what a change within removes in what the journal holds now."""

    @abc.abstractmethod
    def faults(self) -> list[str]:
        """What is wrong with the storage under the tables, as far as it can be checked."""

    @property
    @abc.abstractmethod
    def rescue_places(self) -> RescuePlaces:
        """Where notes about paid tasks go when the journal cannot be written."""

    def write_witness(self) -> None:  # noqa: B027 - most databases need none
        """Store the number of intents outside of the journal."""

    def checkpoint(self) -> None:  # noqa: B027 - most databases do it by themselves
        """Tidy up after a large change."""

    def stop(self) -> None:  # noqa: B027 - most databases are there at once, or never
        """Wait no longer for a database that is away. Any thread may call this."""

    def cut(self) -> None:  # noqa: B027 - a file always answers
        """Break off a statement that is not answered. Any thread may call this."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close everything that was opened, in any case."""
