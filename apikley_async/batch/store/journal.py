"""The journal: a store in a database, which works in a thread of its own.

When the database fails, nothing more is written, so nothing more is sent. Only the id of a paid
task is tried again, and stored elsewhere if need be (`rescue`).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from apikley_async import Attempt, Clock, SystemClock
from apikley_async._disk import temporary_folder
from apikley_async._postgres import Dsn
from apikley_async.batch.states import ItemState, NoTransitionError
from apikley_async.batch.store import (
    attempts,
    claims,
    items,
    journal_file,
    local_disk,
    records,
    rescue,
    spending,
)
from apikley_async.batch.store.account import bind_account
from apikley_async.batch.store.journal_errors import JournalInUseError, journal_error
from apikley_async.batch.store.journal_kinds import unopened
from apikley_async.batch.store.open_journal import OpenJournal
from apikley_async.batch.store.planning import SpooledEntries, plan
from apikley_async.batch.store.rescue import RescuePlaces
from apikley_async.batch.store.schema import MIGRATIONS, Migrations, inconsistencies
from apikley_async.batch.store.sqlite_journal import SqliteJournal
from apikley_async.batch.store.values import (
    AttemptCost,
    Bounds,
    ExpectedCallback,
    Item,
    LearnedValue,
    ManifestEntry,
    Owner,
    PlanResult,
    Spending,
    Transition,
)
from apikley_async.errors import JournalError

__all__ = ["Journal"]

P = ParamSpec("P")
T = TypeVar("T")

logger: logging.Logger = logging.getLogger("apikley_async.batch")

LONG = 1.0  # seconds after which the id of a paid task is noted elsewhere too
CLOSING = 10.0  # seconds for the last pieces of work, until a silent database is waited for no more
LOCK_INTERVAL = 0.25  # seconds between two attempts to take a lock that another process has


class Journal:
    """A batch in a database. `await Journal.open(path)` opens one in a file of SQLite.

    All work happens in one thread of its own, one piece after the other. A piece that has begun is
    finished, even when the caller is cancelled.

    Attributes:
        read_only: whether it is only read.
    """

    def __init__(self, journal: OpenJournal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._pid = os.getpid()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apikley-journal")
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str] | Dsn,
        *,
        clock: Clock | None = None,
        read_only: bool = False,
        wait: float = 0.0,
        adopt: bool = False,
        private: bool = False,
        shared: bool = False,
        migrations: Migrations = MIGRATIONS,
    ) -> Journal:
        """Open the journal, or make it.

        Items found `sending` were on their way when the last owner ended. They are `uncertain`
        from here on, unless their task's id was rescued.

        Args:
            path: of the file; its folder must exist. Or the DSN of a database of PostgreSQL.
            clock: time, handed in by tests.
            read_only: only read; another process may write meanwhile.
            wait: seconds to wait for another process to close it, or for a database to answer.
            adopt: take a copy for the newest journal although it is older than another one was,
                or has lost its log. Every planned film is `uncertain` from here on.
            private: leave the journal as it is, and open a copy that nobody else sees and that is
                removed when it is closed; an empty one where there is no journal yet. Another
                process may use the journal meanwhile.
            shared: let its runs have leases, as those of many machines have in a database; for
                tests. Otherwise they live as long as it is open.
            migrations: the schema's versions, handed in by tests.

        Raises:
            JournalError: it is in use, damaged, of another program or of a newer version, an older
                copy, or without its log after a crash. The file is left as it is.
        """
        opened, opening = unopened(
            path, read_only=read_only, adopt=adopt, private=private, migrations=migrations
        )
        opened.shared = opened.shared or shared
        journal = cls(opened, clock or SystemClock())
        try:
            await journal._open(opening, wait)
        except BaseException:
            await journal.aclose()
            raise
        return journal

    async def _open(self, opening: Callable[[], None], wait: float) -> None:
        """Open it in its thread; what may pass is waited for, *wait* seconds at most."""
        deadline = self._clock.now() + wait
        while True:
            try:
                return await self._run(lambda _: opening())
            except JournalError as error:
                in_use = isinstance(error, JournalInUseError)
                may_pass = in_use or (self._journal.in_database and error.resumable)
                if not may_pass or self._clock.now() >= deadline:
                    raise journal_error(error.message) if in_use else error from None
            await self._clock.sleep(LOCK_INTERVAL)

    @property
    def path(self) -> Path:
        """Of the file, with links resolved."""
        return self._file.path

    @property
    def read_only(self) -> bool:
        return self._journal.read_only

    @property
    def shared(self) -> bool:
        """Whether other processes may make films of it at the same time."""
        return self._journal.shared

    @property
    def home(self) -> Path | None:
        """The folder that paths in the journal are relative to; None where they are absolute."""
        return self._journal.home

    @property
    def rescue_places(self) -> RescuePlaces:
        """Where notes about paid tasks go when the journal cannot be written."""
        return self._journal.rescue_places

    @property
    def journal_id(self) -> str:
        """The random id that it was made with."""
        return self._journal.journal_id

    @property
    def _file(self) -> SqliteJournal:
        """The journal as a file.

        Raises:
            JournalError: it is none.
        """
        if isinstance(self._journal, SqliteJournal):
            return self._journal
        raise JournalError(f"{self._journal.name} is a database: pg_dump makes a copy of it")

    @staticmethod
    def disk_fault(path: str | os.PathLike[str]) -> str | None:
        """Say why no journal can be kept at *path*, as far as the system says what disk it is."""
        return local_disk.disk_fault(Path(path))

    async def aclose(self) -> None:
        """Close it, in any case; what was acknowledged is on the disk."""
        if self._closing is None:
            self._journal.stop()
            loop = asyncio.get_running_loop()
            self._closing = loop.run_in_executor(self._thread, self._journal.close)
            self._thread.shutdown(wait=False)
            await asyncio.wait([self._closing], timeout=CLOSING)
            if not self._closing.done():
                self._journal.cut()
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
        folder = self._journal.home or temporary_folder() or Path()
        spooled = SpooledEntries(folder)
        try:
            await asyncio.to_thread(spooled.read, entries)
            return await self._run(plan, spooled, source, allow_duplicates, failed)
        except asyncio.CancelledError:
            spooled.abandon()
            raise
        finally:  # in its turn, since a caller who is cancelled leaves the work under way
            try:
                self._thread.submit(spooled.close)
            except RuntimeError:  # the journal is closed
                spooled.close()

    async def claim(
        self,
        owner: str,
        count: int,
        *,
        keys: Collection[str] | None = None,
        planned: bool = True,
    ) -> Sequence[Item]:
        chosen = None if keys is None else frozenset(keys)
        return await self._run(claims.claim, owner, count, chosen, planned)

    async def claimable(self) -> int:
        return await self._run(claims.claimable)

    async def owners(self, keys: Collection[str] | None = None) -> Sequence[Owner]:
        return await self._run(claims.owners, None if keys is None else frozenset(keys))

    async def release(self, owner: str, keys: Collection[str] | None = None) -> None:
        await self._run(claims.release, owner, None if keys is None else [*keys])

    async def beat(self, owner: str) -> Collection[str] | None:
        return await self._run(claims.beat, owner)

    async def intend(
        self,
        key: str,
        token: str,
        fingerprint: str,
        reserved: float | None,
        *,
        owner: str | None = None,
        digest: str | None = None,
        kind: int | str | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        await self._run(
            attempts.intend,
            key,
            token,
            fingerprint,
            reserved,
            owner=owner,
            digest=digest,
            kind=kind,
            bounds=bounds,
        )

    async def settle(self, key: str, attempt: Attempt, transition: Transition) -> Item:
        def work(journal: OpenJournal) -> Item:
            return attempts.settle(journal, key, attempt, transition)

        return await self._run_with_task(key, attempt.token, attempt.task_id, work)

    async def apply(self, key: str, transition: Transition) -> Item:
        def work(journal: OpenJournal) -> Item:
            return attempts.apply(journal, key, transition)

        return await self._run_with_task(key, transition.token, transition.task_id, work)

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
        return await self._run(records.counts)

    async def attempt_costs(self) -> Sequence[AttemptCost]:
        return await self._run(spending.costs)

    async def spending(self) -> Spending:
        return await self._run(spending.total)

    async def attempts(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        return await self._run(records.attempts_of, key)

    async def at_rest(self) -> int | None:
        return await self._run(records.at_rest)

    async def record_balance(self, balance: float, *, attempts: int | None = None) -> bool:
        return await self._run(records.record_balance, balance, attempts)

    async def balances(self) -> Sequence[tuple[float, float]]:
        return await self._run(records.balances)

    async def events(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        return await self._run(records.events_of, key)

    async def keep_callback(self, token: str, task_id: str) -> None:
        await self._run(attempts.keep_callback, token, task_id)

    async def expected_callbacks(self) -> Sequence[ExpectedCallback]:
        return await self._run(records.expected_callbacks)

    async def recent_attempts(self, within: float) -> Sequence[tuple[float, bool]]:
        return await self._run(records.recent_attempts, within)

    async def write_learned(self, name: str, value: str) -> None:
        await self._run(records.write_learned, name, value)

    async def read_learned(self, name: str) -> LearnedValue | None:
        return await self._run(records.read_learned, name)

    async def salt(self) -> bytes:
        return bytes.fromhex(self._journal.journal_id)

    async def add_folder(self, folder: Path) -> None:
        await self._run(items.add_folder, folder)

    async def folders(self) -> Sequence[Path]:
        return [*self._journal.folders]

    async def bind(self, base_url: str, account: str, *, taken_over: bool = False) -> None:
        await self._run(bind_account, base_url, account, taken_over=taken_over)

    async def verify(self) -> Sequence[str]:
        return await self._run(lambda journal: journal.faults() + inconsistencies(journal.db))

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the journal as it is at this moment into a new file that is complete by itself."""
        file = self._file
        await self._run(lambda _: journal_file.back_up(file.db, Path(target)))

    # --- the id of a paid task, in spite of everything -----------------------------------------

    async def _run_with_task(
        self, key: str, token: str, task_id: str | None, work: Callable[[OpenJournal], Item]
    ) -> Item:
        """Do *work*, which stores the task of an attempt if there is one, in spite of everything.

        The caller waits until the task is stored or noted:

        - as long as *work* takes. A database may be away for long, so after `LONG` seconds a note
          is written on this machine, and removed when the database has the task. A file gets no
          such note: it would wait for the same disk;
        - for less, if it is cancelled: a note is written at once, and *work* goes on in the thread;
        - a little longer where the disk is full: *work* is tried again after each of the journal's
          `retry_delays`;
        - no longer after any other error, which is raised once a note is written.

        A note that need not be removed here goes when the journal is opened again. Where the item
        was decided otherwise meanwhile, the caller keeps the task.
        """
        if not (token and task_id):
            return await self._run(work)
        paid = rescue.RescuedTask(key, token, task_id, self._clock.wall())
        try:
            return await self._store_task(paid, work)
        except NoTransitionError:
            raise
        except JournalError as error:
            failure = error
        except Exception:
            self._rescue(paid)
            raise
        return await self._store_task_again(paid, work, failure)

    async def _store_task(
        self, paid: rescue.RescuedTask, work: Callable[[OpenJournal], Item]
    ) -> Item:
        """Do *work* once; a note is written while that takes long, or if it is not waited for."""
        self._check()
        storing, note = self._in_thread(work), None
        try:
            timeout = LONG if self._journal.in_database else None
            done, _ = await asyncio.wait([storing], timeout=timeout)
            if not done:
                note = rescue.write_note(self._journal.rescue_places, paid)
                await asyncio.wait([storing])
        except asyncio.CancelledError:
            storing.add_done_callback(look_at)
            if not storing.done() or storing.exception() is not None:
                self._rescue(paid)
            raise
        item = storing.result()
        if note is not None:
            rescue.remove_notes([note])
        return item

    async def _store_task_again(
        self,
        paid: rescue.RescuedTask,
        work: Callable[[OpenJournal], Item],
        failure: JournalError,
    ) -> Item:
        """Do *work* again where that may help; then write a note, and raise *failure* with it."""
        try:
            for delay in self._journal.retry_delays:
                await self._clock.sleep(delay)
                with contextlib.suppress(JournalError):
                    return await self._run_in_thread(work)
        except asyncio.CancelledError:
            self._rescue(paid)
            raise
        raise JournalError(
            f"{failure.message}; {paid.key!r} is paid, its id is {self._rescue(paid)}",
            task_id=paid.task_id,
            resumable=failure.resumable,
            blames=failure.blames,
        )

    def _rescue(self, paid: rescue.RescuedTask) -> str:
        """Note the id of a paid task where there is room, and log it; say where it is."""
        file = rescue.write_note(self._journal.rescue_places, paid)
        where = f"written down in {file}" if file else "written down nowhere: keep it"
        logger.critical("film %s of %r is paid; its id is %s", paid.task_id, paid.key, where)
        return where

    # --- the thread --------------------------------------------------------------------------

    async def _run(
        self, work: Callable[Concatenate[OpenJournal, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do *work* in the journal's thread, unless the journal has failed before."""
        self._check()
        return await self._run_in_thread(work, *args, **kwargs)

    def _check(self) -> None:
        """Do nothing more with a journal that has failed.

        Raises:
            JournalError: its failure.
        """
        if self._journal.failure is not None:
            raise copy.copy(self._journal.failure)

    async def _run_in_thread(
        self, work: Callable[Concatenate[OpenJournal, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # A cancelled caller does not stop the piece of work: half a transaction is none, but its
        # answer would be lost, and with it the knowledge whether a POST may be sent.
        working = self._in_thread(work, *args, **kwargs)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            working.add_done_callback(look_at)
            raise

    def _in_thread(
        self, work: Callable[Concatenate[OpenJournal, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Begin *work* in the journal's thread."""
        journal = self._journal
        if self._pid != os.getpid():
            raise JournalError(f"{journal.name} was opened before a fork; open it in each process")
        now = self._clock.wall(), self._clock.now()
        loop = asyncio.get_running_loop()
        try:
            return loop.run_in_executor(
                self._thread, lambda: self._perform(now, lambda: work(journal, *args, **kwargs))
            )
        except RuntimeError:
            raise JournalError(f"{journal.name} is closed") from None

    def _perform(self, now: tuple[float, float], work: Callable[[], T]) -> T:
        self._journal.now = now
        return self._journal.perform(work)


def look_at(ended: asyncio.Future[Any]) -> None:
    """Look at an error that nobody waits for any more."""
    if not ended.cancelled():
        ended.exception()
