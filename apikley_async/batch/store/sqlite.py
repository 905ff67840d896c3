"""The journal: the store on the local disk, in SQLite.

A commit is on the disk when it returns (`synchronous=FULL`, write-ahead log). The owner holds a
lock, and an epoch in the journal: when there is a second owner, the first one's writes fail. After
an input or output error nothing more is written, so nothing more is sent. Only the id of a paid
task is tried again, and stored elsewhere if need be (`rescue`).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from apikley_async import Attempt, Clock, SystemClock
from apikley_async._sqlite import MORE_STEPS
from apikley_async.batch.states import ItemState
from apikley_async.batch.store import attempts, items, journal_file, local_disk, rescue
from apikley_async.batch.store.account import bind_account
from apikley_async.batch.store.journal_errors import JournalInUseError, journal_error
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.opening import open_journal
from apikley_async.batch.store.planning import plan, spool
from apikley_async.batch.store.protocol import (
    AttemptCost,
    ExpectedCallback,
    Item,
    LearnedValue,
    ManifestEntry,
    PlanResult,
    Transition,
)
from apikley_async.batch.store.schema import MIGRATIONS, Migrations, faults_of
from apikley_async.errors import ApikleyError, JournalError

__all__ = ["Journal"]

P = ParamSpec("P")
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("apikley_async.batch")

LOCK_INTERVAL = 0.25  # seconds between two attempts to take a lock that another process has
RETRY_DELAYS = (0.1, 0.4, 1.5)  # seconds before a paid task's id is stored again on a full disk


class Journal:
    """A batch in one SQLite file. `await Journal.open(path)` opens it.

    All work happens in one thread of its own, one piece after the other. A piece that has begun is
    finished, even when the caller is cancelled.

    Attributes:
        path: of the file, with links resolved.
        read_only: whether it is only read.
    """

    def __init__(self, journal: OpenJournal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._pid = os.getpid()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apikley-journal")
        self._closing: asyncio.Future[None] | None = None
        self._failure: JournalError | None = None
        self._disk_is_full = False

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        read_only: bool = False,
        wait: float = 0.0,
        adopt: bool = False,
        private: bool = False,
        migrations: Migrations = MIGRATIONS,
    ) -> Journal:
        """Open the journal, or make it.

        Items found `sending` were on their way when the last owner ended. They are `uncertain`
        from here on, unless their task's id was rescued.

        Args:
            path: of the file; its folder must exist.
            clock: time, handed in by tests.
            read_only: only read; another process may write meanwhile.
            wait: seconds to wait for another process to close it.
            adopt: take a copy for the newest journal although it is older than another one was,
                or has lost its log. Every planned film is `uncertain` from here on.
            private: leave the journal as it is, and open a copy that nobody else sees and that is
                removed when it is closed; an empty one where there is no journal yet. Another
                process may use the journal meanwhile.
            migrations: the schema's versions, handed in by tests.

        Raises:
            JournalError: it is in use, damaged, of another program or of a newer version, an older
                copy, or without its log after a crash. The file is left as it is.
        """
        clock = clock or SystemClock()
        journal = cls(
            OpenJournal(
                Path(path),
                read_only=read_only,
                migrations=migrations,
                adopting=adopt,
                private=private,
            ),
            clock,
        )
        deadline = clock.now() + wait
        try:
            while True:
                try:
                    await journal._run(open_journal)
                except JournalInUseError as error:
                    if clock.now() >= deadline:
                        raise journal_error(error.message) from None
                else:
                    return journal
                await clock.sleep(LOCK_INTERVAL)
        except BaseException:
            await journal.aclose()
            raise

    @property
    def path(self) -> Path:
        return self._journal.path

    @property
    def read_only(self) -> bool:
        return self._journal.read_only

    @property
    def home(self) -> Path:
        """The folder that paths in the journal are relative to."""
        return self._journal.home

    @property
    def journal_id(self) -> str:
        """The random id that it was made with."""
        return self._journal.journal_id

    @staticmethod
    def disk_fault(path: str | os.PathLike[str]) -> str | None:
        """Say why no journal can be kept at *path*, as far as the system says what disk it is."""
        return local_disk.disk_fault(Path(path))

    async def aclose(self) -> None:
        """Close it, in any case; what was acknowledged is on the disk."""
        if self._closing is None:
            loop = asyncio.get_running_loop()
            self._closing = loop.run_in_executor(self._thread, self._journal.close)
            self._thread.shutdown(wait=False)
        if not self._closing.done():
            await asyncio.shield(self._closing)

    # --- the protocol of a store -------------------------------------------------------------

    async def plan(
        self,
        entries: Iterable[ManifestEntry],
        *,
        source: str = "",
        allow_duplicates: bool = False,
        failed: Collection[str] | None = (),
    ) -> PlanResult:
        spooled = await asyncio.to_thread(spool, entries, self.path.parent)
        return await self._run(plan, spooled, source, allow_duplicates, failed)

    async def intend(self, key: str, token: str, fingerprint: str, reserved: float | None) -> None:
        await self._run(attempts.intend, key, token, fingerprint, reserved)

    async def settle(self, key: str, attempt: Attempt, transition: Transition) -> Item:
        try:
            return await self._run(attempts.settle, key, attempt, transition)
        except JournalError as error:
            if attempt.task_id is None:
                raise
            failure = error
        return await self._settle_paid(key, attempt, transition, failure)

    async def apply(self, key: str, transition: Transition) -> Item:
        return await self._run(attempts.apply, key, transition)

    async def rename(self, key: str, new: str, *, by: str = "") -> Item:
        return await self._run(items.rename, key, new, by)

    async def purge(self, payloads: Mapping[str, str], *, by: str = "") -> None:
        await self._run(items.purge, payloads, by)

    async def item(self, key: str) -> Item:
        return await self._run(items.get, key)

    async def items(
        self, states: Iterable[ItemState] | None = None, *, after: int = 0, count: int = 1000
    ) -> Sequence[Item]:
        chosen = None if states is None else [*states]
        return await self._run(items.listed, chosen, after, count)

    async def counts(self) -> Mapping[ItemState, int]:
        rows = await self._read("SELECT state, count(*) AS n FROM item GROUP BY state")
        return {ItemState(row["state"]): row["n"] for row in rows}

    async def attempt_costs(self) -> Sequence[AttemptCost]:
        rows = await self._read(
            "SELECT token, key, task_id IS NULL, reserved, credits FROM attempt"
            " WHERE task_id IS NOT NULL OR state IN ('intent', 'unknown', 'abandoned')"
        )
        return [
            AttemptCost(token, key, bool(uncertain), *amounts)
            for token, key, uncertain, *amounts in rows
        ]

    async def attempts(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        rows = await self._read(
            "SELECT * FROM attempt WHERE ? IS NULL OR key = ? ORDER BY began_at, n", key, key
        )
        return [dict(row) for row in rows]

    async def record_balance(self, balance: float) -> None:
        await self._run(_record_balance, balance)

    async def balances(self) -> Sequence[tuple[float, float]]:
        rows = await self._read("SELECT at, credits FROM balance ORDER BY at")
        return [(row["at"], row["credits"]) for row in rows]

    async def events(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        rows = await self._read(
            "SELECT * FROM event WHERE ? IS NULL OR key = ? ORDER BY seq", key, key
        )
        return [dict(row) for row in rows]

    async def keep_callback(self, token: str, task_id: str) -> None:
        await self._run(attempts.keep_callback, token, task_id)

    async def expected_callbacks(self) -> Sequence[ExpectedCallback]:
        rows = await self._read(
            "SELECT token, attempt.key, attempt.state, attempt.task_id, began_at AS at,"
            " (SELECT json_group_array(task_id) FROM inbox WHERE inbox.token = attempt.token)"
            " AS named FROM attempt JOIN item USING (key)"
            " WHERE attempt.state IN ('unknown', 'abandoned')"
            " OR (attempt.state IN ('accepted', 'resolved')"
            " AND item.state IN ('submitted', 'stalled')) ORDER BY began_at"
        )
        given_up = {"abandoned": ""}
        return [
            ExpectedCallback(
                row["token"],
                row["key"],
                given_up.get(row["state"], row["task_id"]),
                tuple(json.loads(row["named"])),
                self._age(row),
            )
            for row in rows
        ]

    async def recent_attempts(self, within: float) -> Sequence[tuple[float, bool]]:
        rows = await self._read(
            "SELECT coalesce(ended_at, began_at) AS at, state FROM attempt"
            " WHERE coalesce(ended_at, began_at) >= ? AND state != 'unsent'",
            self._clock.wall() - within,
        )
        return [(self._age(row), row["state"] in ("unknown", "intent")) for row in rows]

    def _age(self, row: sqlite3.Row) -> float:
        return max(0.0, self._clock.wall() - float(row["at"]))

    async def write_learned(self, name: str, value: str) -> None:
        await self._run(_write_learned, name, value)

    async def read_learned(self, name: str) -> LearnedValue | None:
        rows = await self._read("SELECT value, at FROM learned WHERE name = ?", name)
        return LearnedValue(rows[0]["value"], self._age(rows[0])) if rows else None

    async def salt(self) -> bytes:
        return bytes.fromhex(self._journal.journal_id)

    async def add_folder(self, folder: Path) -> None:
        await self._run(items.add_folder, folder)

    async def folders(self) -> Sequence[Path]:
        return [*self._journal.folders]

    async def bind(self, base_url: str, account: str) -> None:
        await self._run(bind_account, base_url, account)

    async def verify(self) -> Sequence[str]:
        return await self._run(lambda journal: faults_of(journal.db))

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the journal as it is at this moment into a new file that is complete by itself."""
        await self._run(lambda journal: journal_file.back_up(journal.db, Path(target)))

    # --- the id of a paid task, in spite of everything -----------------------------------------

    async def _settle_paid(
        self, key: str, attempt: Attempt, transition: Transition, failure: JournalError
    ) -> Item:
        """Store the task of an attempt again on a full disk, then elsewhere, and raise."""
        try:
            for delay in RETRY_DELAYS if self._disk_is_full else ():
                await self._clock.sleep(delay)
                with contextlib.suppress(JournalError):
                    return await self._run_in_thread(attempts.settle, key, attempt, transition)
        except asyncio.CancelledError:
            self._rescue(key, attempt)
            raise
        raise JournalError(
            f"{failure.message}; {key!r} is paid, its id is {self._rescue(key, attempt)}",
            task_id=attempt.task_id,
            resumable=failure.resumable,
            blames=failure.blames,
        )

    def _rescue(self, key: str, attempt: Attempt) -> str:
        """Store the id of a paid task where there is room, and log it; say where it is."""
        note = rescue.RescuedTask(key, attempt.token, attempt.task_id or "", self._clock.wall())
        file = rescue.write_note(self.path, self.journal_id, note)
        where = f"written down in {file}" if file else "written down nowhere: keep it"
        logger.critical("film %s of %r is paid; its id is %s", attempt.task_id, key, where)
        return where

    # --- the thread --------------------------------------------------------------------------

    async def _run(
        self, work: Callable[Concatenate[OpenJournal, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do *work* in the journal's thread, unless the journal has failed before."""
        if self._failure is not None:
            raise copy.copy(self._failure)
        return await self._run_in_thread(work, *args, **kwargs)

    async def _run_in_thread(
        self, work: Callable[Concatenate[OpenJournal, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._pid != os.getpid():
            raise JournalError(f"{self.path} was opened before a fork; open it in each process")
        now = self._clock.wall(), self._clock.now()
        loop = asyncio.get_running_loop()
        try:
            doing = loop.run_in_executor(
                self._thread,
                lambda: self._guarded(now, lambda: work(self._journal, *args, **kwargs)),
            )
        except RuntimeError:
            raise JournalError(f"{self.path} is closed") from None
        # A cancelled caller does not stop the piece of work: half a transaction is none, but its
        # answer would be lost, and with it the knowledge whether a POST may be sent.
        return await asyncio.shield(doing)

    def _guarded(self, now: tuple[float, float], work: Callable[[], T]) -> T:
        """Do *work* in the thread; errors of SQLite and of the system become `JournalError`."""
        self._journal.now = now
        error: Exception
        if self._journal.is_open:
            self._journal.db.begin()
        try:
            return work()
        except ApikleyError:
            raise
        except (sqlite3.Error, ValueError) as exc:  # a damaged file may give text that is not UTF-8
            error = self._failed(exc)
        except OSError as exc:
            error = journal_error(f"{self.path} cannot be written or read: {exc.strerror}", exc)
        raise error

    def _failed(self, exc: Exception) -> JournalError:
        """Say what is wrong and what to do; from here on every call raises that."""
        reason = str(exc) if isinstance(exc, sqlite3.Error) else "its content is not readable"
        number = exc.sqlite_errorcode & 0xFF if hasattr(exc, "sqlite_errorcode") else 0
        self._disk_is_full = number == sqlite3.SQLITE_FULL
        if self._disk_is_full or number in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            advice = "free some space and run again: nothing was sent meanwhile"
        elif number == sqlite3.SQLITE_BUSY:
            advice = "another program has locked it; end that, and run again"
        elif number == sqlite3.SQLITE_INTERRUPT:
            reason, advice = MORE_STEPS, "it is left as it is"
        else:
            advice = "keep the file, and run `apikley batch verify` on it"
        error = journal_error(f"{self.path} cannot be written or read: {reason}; {advice}", number)
        # A violated constraint is about one call; anything else may be about the whole file, whose
        # handle must not be trusted again after a failed write.
        if not isinstance(exc, sqlite3.IntegrityError):
            self._failure = error
        return error

    async def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return await self._run(lambda journal: journal.db.execute(query, values).fetchall())


def _record_balance(journal: OpenJournal, balance: float) -> None:
    with journal.transaction():
        journal.db.execute(
            "INSERT OR REPLACE INTO balance VALUES (?, ?)", (journal.now[0], balance)
        )


def _write_learned(journal: OpenJournal, name: str, value: str) -> None:
    with journal.transaction():
        journal.db.execute(
            "INSERT OR REPLACE INTO learned VALUES (?, ?, ?)", (name, value, journal.now[0])
        )
