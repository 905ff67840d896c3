"""The journal on the disk: SQLite, one owner, one thread, nothing acknowledged that can be lost.

`synchronous=FULL` in WAL mode: a commit is on the disk when it returns. The owner holds a lock
and an epoch in the journal: a second owner makes the first one's writes fail. An input or output
error poisons the journal: nothing more is intended, so nothing more is sent. Only what a paid
submission has become is tried again, and if need be written down elsewhere (`_rescue`).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import attrs

from apikley_async import Attempt, Clock, SystemClock
from apikley_async._sqlite import MORE_STEPS, Database
from apikley_async.batch import rescue
from apikley_async.batch.planning import plan, read_out, refuse_name
from apikley_async.batch.rescue import Rescued
from apikley_async.batch.states import Event, NoStepError, State, after
from apikley_async.batch.store import journal_file as file
from apikley_async.batch.store.protocol import Charge, Entry, Expected, Item, Plan, Step
from apikley_async.batch.store.rows import (
    ATTEMPTS,
    ITEM,
    LOST_UNKNOWN,
    found_at,
    make_relative,
    payload_sum,
    place_of,
    read_item,
    spell_files,
    storable,
)
from apikley_async.batch.store.schema import (
    MIGRATIONS,
    PURGE,
    RENAME,
    Migrations,
    faults_of,
    migrate,
)
from apikley_async.batch.store.witness import Witness, check_newest
from apikley_async.errors import ApikleyError, JournalError

__all__ = ["Journal"]

T = TypeVar("T")

logger = logging.getLogger("apikley_async.batch")

RELATIVE = 4  # the version from which on places are relative to the journal
PAGES = 200  # of the log, some dozens of commits, until they are written into the main file
LOCK_INTERVAL = 0.25  # seconds between two tries to take a lock that another process has
MOST_NAMED = 8  # tasks for one attempt: one is its own, the rest are mistakes or worse
NEW_IN_ADOPTED = (
    "may have been sent: the journal was adopted, and attempts that it has lost are not accounted "
    "for. Resolve the film with its task's id, or resubmit it; what is certainly new may go into a "
    "journal of its own"
)
LATE = (0.1, 0.4, 1.5)  # pauses before a paid task's id is tried again on a full disk


class Journal:
    """One batch, written down in *path*. Use `await Journal.open(path)`."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        read_only: bool,
        migrations: Migrations,
        adopt: bool = False,
        private: bool = False,
    ) -> None:
        self.path: Path = path.resolve()  # one lock for one file, whatever it is called by
        self._home = self.path.parent  # what places are relative to
        self._origin = self.path if private else None  # what this is a private copy of
        self._room: tempfile.TemporaryDirectory[str] | None = None
        self.read_only = read_only
        self._clock = clock
        self._migrations = migrations
        self._pid = os.getpid()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apikley-journal")
        self._closing: asyncio.Future[None] | None = None
        self._adopting = adopt
        self._locks: list[int] = []
        self._witness: Witness | None = None
        self._owned = False
        self._intents = 0
        self._lost: int | None = 0  # attempts that are missing since an adoption
        self._journal_id = ""
        self._epoch = 0
        self._poison: JournalError | None = None
        self._full = False
        self._now = (0.0, 0.0)  # wall and monotonic time of what the thread is doing
        self._folders: dict[Path, None] = {}  # in which files may lie
        self._db: Database

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
        """Open or make the journal; *wait* so many seconds for another process to leave it.

        With *adopt*, a copy is taken for the newest journal although it is older than another
        one was, or has lost its log: every planned film is `uncertain` from here on.

        With *private*, the journal stays as it is, and a copy is opened that nobody else sees and
        that is gone when it is closed; it is empty where there is no journal yet. Another process
        may use the journal meanwhile.

        Items found `sending` were on their way when the last owner ended: they are `uncertain`
        from here on, unless their task's id was rescued.

        Raises:
            JournalError: in use, damaged, of another program, of a newer version, an older copy,
                or without its log after a crash. The file is left as it is.
        """
        clock = clock or SystemClock()
        journal = cls(
            Path(path),
            clock,
            read_only=read_only,
            migrations=migrations,
            adopt=adopt,
            private=private,
        )
        ends = clock.now() + wait
        try:
            while True:
                try:
                    await journal._run(journal._open)
                except file.InUseError as error:
                    if clock.now() >= ends:
                        raise file.hindered(error.message) from None
                else:
                    return journal
                await clock.sleep(LOCK_INTERVAL)
        except BaseException:
            await journal.aclose()
            raise

    @property
    def home(self) -> Path:
        """The folder that places in the journal are relative to."""
        return self._home

    @staticmethod
    def disk_fault(path: str | os.PathLike[str]) -> str | None:
        """Say why no journal can be kept at *path*, as far as the system tells of its disk."""
        return file.disk_fault(Path(path))

    async def aclose(self) -> None:
        """Close it, in any case; what was acknowledged is on the disk."""
        if self._closing is None:
            loop = asyncio.get_running_loop()
            self._closing = loop.run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)
        if not self._closing.done():
            await asyncio.shield(self._closing)

    # --- the protocol of a store -------------------------------------------------------------

    async def plan(
        self,
        entries: Iterable[Entry],
        *,
        source: str = "",
        allow_duplicates: bool = False,
        failed: Collection[str] | None = (),
    ) -> Plan:
        again = await asyncio.to_thread(read_out, entries, self.path.parent)
        return await self._run(self._plan, again, source, allow_duplicates, failed)

    async def intend(self, key: str, token: str, fingerprint: str, reserved: float | None) -> None:
        await self._run(self._intend, key, token, fingerprint, reserved)

    async def settle(self, key: str, attempt: Attempt, step: Step) -> Item:
        try:
            return await self._run(self._settle, key, attempt, step)
        except JournalError as error:
            if attempt.task_id is None:
                raise
            trouble = error
        return await self._settle_late(key, attempt, step, trouble)

    async def step(self, key: str, step: Step) -> Item:
        return await self._run(self._step, key, step)

    async def rename(self, key: str, new: str, *, by: str = "") -> Item:
        return await self._run(self._rename, key, new, by)

    async def purge(self, payloads: Mapping[str, str], *, by: str = "") -> None:
        await self._run(self._purge, payloads, by)

    async def item(self, key: str) -> Item:
        return await self._run(self._item, key)

    async def items(
        self, states: Iterable[State] | None = None, *, after: int = 0, count: int = 1000
    ) -> Sequence[Item]:
        return await self._run(self._items, None if states is None else [*states], after, count)

    async def counts(self) -> Mapping[State, int]:
        rows = await self._read("SELECT state, count(*) AS n FROM item GROUP BY state")
        return {State(row["state"]): row["n"] for row in rows}

    async def charges(self) -> Sequence[Charge]:
        rows = await self._read(
            "SELECT token, key, task_id IS NULL, reserved, credits FROM attempt"
            " WHERE task_id IS NOT NULL OR state IN ('intent', 'unknown', 'abandoned')"
        )
        return [Charge(token, key, bool(open_), *known) for token, key, open_, *known in rows]

    async def attempts(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        rows = await self._read(
            "SELECT * FROM attempt WHERE ? IS NULL OR key = ? ORDER BY began_at, n", key, key
        )
        return [dict(row) for row in rows]

    async def note_balance(self, balance: float) -> None:
        await self._run(self._note_balance, balance)

    async def balances(self) -> Sequence[tuple[float, float]]:
        rows = await self._read("SELECT at, credits FROM balance ORDER BY at")
        return [(row["at"], row["credits"]) for row in rows]

    async def events(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        rows = await self._read(
            "SELECT * FROM event WHERE ? IS NULL OR key = ? ORDER BY seq", key, key
        )
        return [dict(row) for row in rows]

    async def receive(self, token: str, task_id: str) -> None:
        await self._run(self._receive, token, task_id)

    async def expected(self) -> Sequence[Expected]:
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
            Expected(
                row["token"],
                row["key"],
                given_up.get(row["state"], row["task_id"]),
                tuple(json.loads(row["named"])),
                self._age(row),
            )
            for row in rows
        ]

    async def ends(self, within: float) -> Sequence[tuple[float, bool]]:
        rows = await self._read(
            "SELECT coalesce(ended_at, began_at) AS at, state FROM attempt"
            " WHERE coalesce(ended_at, began_at) >= ? AND state != 'unsent'",
            self._clock.wall() - within,
        )
        return [(self._age(row), row["state"] in ("unknown", "intent")) for row in rows]

    def _age(self, row: sqlite3.Row) -> float:
        return max(0.0, self._clock.wall() - float(row["at"]))

    async def salt(self) -> bytes:
        return bytes.fromhex(self._journal_id)

    async def keep_folder(self, folder: Path) -> None:
        await self._run(self._keep_folder, folder)

    async def folders(self) -> Sequence[Path]:
        return [*self._folders]

    async def bind(self, base_url: str, account: str) -> None:
        await self._run(self._bind, base_url, account)

    async def verify(self) -> Sequence[str]:
        return await self._run(lambda: faults_of(self._db))

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the journal as it is at this moment into a new file that stands for itself."""
        await self._run(lambda: file.back_up(self._db, Path(target)))

    # --- a paid task's id, in spite of everything ----------------------------------------------

    async def _settle_late(
        self, key: str, attempt: Attempt, step: Step, trouble: JournalError
    ) -> Item:
        """The film is paid, and could not be written down: try again for a while, then rescue."""
        try:
            for pause in LATE if self._full else ():
                await self._clock.sleep(pause)
                with contextlib.suppress(JournalError):
                    return await self._do(self._settle, key, attempt, step)
        except asyncio.CancelledError:
            self._rescue(key, attempt)
            raise
        told = f"{trouble.message}; {key!r} is paid, its id is {self._rescue(key, attempt)}"
        raise JournalError(
            told, task_id=attempt.task_id, resumable=trouble.resumable, blames=trouble.blames
        )

    def _rescue(self, key: str, attempt: Attempt) -> str:
        """Write a paid task's id down where there is room, and tell; say where."""
        note = Rescued(key, attempt.token, attempt.task_id or "", self._clock.wall())
        place = rescue.put(self.path, self._journal_id, note)
        told = f"written down in {place}" if place else "written down nowhere: keep it"
        logger.critical("film %s of %r is paid; its id is %s", attempt.task_id, key, told)
        return told

    def _bind_rescued(self, note: Rescued) -> bool:
        """Bind a paid task that was written down elsewhere; True when the journal has it."""
        cause = "the journal could not be written when the answer came"
        return self._bind_late(note.token, note.task_id, cause)

    def _bind_late(self, token: str, task_id: str, cause: str) -> bool:
        """Give a paid task to the attempt that bought it; False when there is none such."""
        known, owner = self._attempt(token), self._owner_of(task_id)
        if known is not None and (task_id == known["task_id"] or owner == known["key"]):
            return True
        if known is None or owner is not None:
            told = (
                "film %s was paid; its attempt is not in this journal, or it is %r: see client.job"
            )
            logger.critical(told, task_id, owner)
            return False
        if (known["item"], known["attempt"]) == (State.UNCERTAIN, "unknown"):
            step = Step(Event.RESOLVE, task_id=task_id, cause=cause, token=token)
            self._move(known["key"], step)
            self._db.execute(
                "UPDATE attempt SET state = 'resolved', task_id = ?, ended_at = ? WHERE token = ?",
                (task_id, self._now[0], token),
            )
            logger.warning("film %s of %r is bound: %s", task_id, known["key"], cause)
            return True
        self._db.execute(
            "UPDATE attempt SET task_id = coalesce(task_id, ?) WHERE token = ?", (task_id, token)
        )
        kept = self._db.execute(
            "INSERT OR IGNORE INTO inbox VALUES (?, ?, ?)", (token, task_id, self._now[0])
        )
        if kept.rowcount:
            told = "film %s was paid for %r, which was decided otherwise: see client.job"
            logger.critical(told, task_id, known["key"])
        return True

    def _attempt(self, token: str) -> sqlite3.Row | None:
        """An attempt, and where its item stands."""
        row: sqlite3.Row | None = self._db.execute(
            "SELECT item.key, item.state AS item, attempt.state AS attempt, attempt.task_id"
            " FROM attempt JOIN item USING (key) WHERE token = ?",
            (token,),
        ).fetchone()
        return row

    def _owner_of(self, task_id: str) -> str | None:
        row = self._db.execute("SELECT key FROM item WHERE task_id = ?", (task_id,)).fetchone()
        return None if row is None else str(row["key"])

    # --- the thread --------------------------------------------------------------------------

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do *work* in the journal's own thread: one thing at a time, never cut in two."""
        if self._poison is not None:
            raise copy.copy(self._poison)
        return await self._do(work, *arguments)

    async def _do(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._pid != os.getpid():
            raise JournalError(f"{self.path} was opened before a fork; open it in each process")
        now = self._clock.wall(), self._clock.now()
        loop = asyncio.get_running_loop()
        try:
            doing = loop.run_in_executor(self._thread, self._guarded, now, work, *arguments)
        except RuntimeError:
            raise JournalError(f"{self.path} is closed") from None
        return await asyncio.shield(doing)

    def _guarded(self, now: tuple[float, float], work: Callable[..., T], *arguments: Any) -> T:
        self._now = now
        error: Exception
        if hasattr(self, "_db"):
            self._db.begin()
        try:
            return work(*arguments)
        except ApikleyError:
            raise
        except (sqlite3.Error, ValueError) as exc:  # a damaged file gives text that is none
            error = self._trouble(exc)
        except OSError as exc:
            error = file.hindered(f"{self.path} cannot be written or read: {exc.strerror}", exc)
        raise error

    def _trouble(self, exc: Exception) -> JournalError:
        """Say what is wrong, and what to do; from here on the gate is closed."""
        told = str(exc) if isinstance(exc, sqlite3.Error) else "its content is not readable"
        number = exc.sqlite_errorcode & 0xFF if hasattr(exc, "sqlite_errorcode") else 0
        self._full = number == sqlite3.SQLITE_FULL
        if self._full or number in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            way_out = "free some space and run again: nothing was sent meanwhile"
        elif number == sqlite3.SQLITE_BUSY:
            way_out = "another program has locked it; end that, and run again"
        elif number == sqlite3.SQLITE_INTERRUPT:
            told, way_out = MORE_STEPS, "it is left as it is"
        else:
            way_out = "keep the file, and run `apikley batch verify` on it"
        error = file.hindered(f"{self.path} cannot be written or read: {told}; {way_out}", number)
        if not isinstance(exc, sqlite3.IntegrityError):
            self._poison = error
        return error

    async def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return await self._run(lambda: self._db.execute(query, values).fetchall())

    @contextlib.contextmanager
    def _transaction(self, *, of_the_owner: bool = True) -> Iterator[None]:
        """One durable change, undone whole when anything in it fails."""
        if self.read_only:
            raise JournalError(f"{self.path} is open for reading only")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            [epoch] = self._db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            if of_the_owner and int(epoch) != self._epoch:
                raise file.hindered(f"{self.path} has another owner now; nothing was written")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    # --- opening and closing -----------------------------------------------------------------

    def _open(self) -> None:
        if self._origin is not None:
            self._copy(self._origin)
        elif not self.read_only:
            file.refuse_network(self.path)
            self._locks.append(file.take_lock(self.path))
        if not self.path.exists():
            if self.read_only:
                raise JournalError(f"{self.path}: there is no such journal")
            file.make(self.path, self._migrations)
        file.refuse_special(self.path)
        if (
            not (self.read_only or self._origin)
            and (lock := file.lock_inode(self.path)) is not None
        ):
            self._locks.append(lock)
        has_log = file.has_log(self.path)  # before SQLite makes one
        self._db = file.connect(self.path, read_only=self.read_only)
        version = file.check(self._db, self.path, self._migrations)
        facts = file.facts_in(self._db)
        self._journal_id, self._epoch = facts.journal_id, facts.epoch
        self._intents, self._lost = facts.intents, facts.lost
        if not self.read_only:
            if self._locks:
                file.note_owner(self._locks[0], self._journal_id)
            file.make_lasting(self._db)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {PAGES}")
            if self._origin is None:  # a private copy was judged by where it came from
                self._check_newest(log_is_lost=facts.begun and not has_log)
            self._own(version)
            self._db.execute("PRAGMA wal_checkpoint(FULL)")  # the mark is in the main file
        elif version < len(self._migrations):
            told = "was written by an older version; run the batch once to bring it up to date"
            raise JournalError(f"{self.path} {told}")
        for [place] in self._db.execute("SELECT path FROM folder ORDER BY rowid LIMIT 1000"):
            self._folders[found_at(place, self._home)] = None

    def _copy(self, origin: Path) -> None:
        """Make a private copy, which is refused where the journal itself would be."""
        self._room = tempfile.TemporaryDirectory(prefix="apikley-", ignore_cleanup_errors=True)
        room = Path(self._room.name).resolve()
        self.path = room / "journal.db"
        if not origin.exists():
            file.refuse_lost(origin)
            file.refuse_gone(origin)
            return
        facts = file.copy_privately(origin, self.path, self._migrations)
        seen, had_log = Witness(facts.journal_id).read(), file.has_log(origin)
        with contextlib.suppress(JournalError):
            log_is_lost = facts.begun and not had_log
            check_newest(origin, (facts.epoch, facts.intents), seen, log_is_lost=log_is_lost)
            return
        # Its owner may have gone on meanwhile: what was seen judges a copy that was taken after it.
        self.path = room / "second.db"
        facts = file.copy_privately(origin, self.path, self._migrations)
        log_is_lost = facts.begun and not (had_log or file.has_log(origin))
        check_newest(origin, (facts.epoch, facts.intents), seen, log_is_lost=log_is_lost)

    def _check_newest(self, *, log_is_lost: bool) -> None:
        """Refuse an older copy, and what a crash has left without its log, unless adopted."""
        self._witness = Witness(self._journal_id)
        seen = self._witness.read()
        if self._adopting:
            self._epoch = max(self._epoch, seen[0] if seen else 0)
            if seen is None:
                self._lost = None
            elif self._lost is not None:
                self._lost += max(0, seen[1] - self._intents)
            return
        check_newest(self.path, (self._epoch, self._intents), seen, log_is_lost=log_is_lost)
        self._witness.write(self._epoch, self._intents)  # before the mark, which it vouches for

    def _own(self, version: int) -> None:
        """Bring the tables up to date, take the next epoch, and face what was left `sending`."""
        if version < len(self._migrations):
            file.keep_copy(self._db, self.path, version)
        self._db.execute("BEGIN IMMEDIATE")
        migrate(self._db, self._migrations)
        if version < RELATIVE <= len(self._migrations):
            make_relative(self._db, self._home)
        self._epoch += 1
        facts = (("epoch", str(self._epoch)), ("begun", "1"))
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts)
        left = self._db.execute(
            "SELECT item.key, coalesce(token, '') AS token FROM item LEFT JOIN attempt"
            " ON attempt.key = item.key AND attempt.state = 'intent' WHERE item.state = 'sending'"
        ).fetchall()
        told = "the last run ended while the submission was out"
        for row in left:
            self._move(row["key"], Step(Event.CRASH, cause=told, token=row["token"]))
        self._db.execute(
            "UPDATE attempt SET state = 'unknown', cause = 'interrupted', ended_at = ?"
            " WHERE state = 'intent'",
            (self._now[0],),
        )
        notes = rescue.notes_of(self._origin or self.path, self._journal_id)
        bound = {place: [self._bind_rescued(n) for n in told] for place, told in notes.items()}
        if self._adopting:
            self._adopt()
        self._db.execute("COMMIT")
        self._owned = True
        if self._adopting:
            self._witness_doubts()
        if self._origin is None:
            rescue.remove(place for place, fates in bound.items() if all(fates))

    def _adopt(self) -> None:
        """Whatever is planned here may have been sent, for all that this copy knows."""
        lost = LOST_UNKNOWN if self._lost is None else str(self._lost)
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('lost', ?)", (lost,))
        told = "may have been sent: the journal was adopted without its newest part"
        planned = self._db.execute("SELECT key FROM item WHERE state = 'planned'").fetchall()
        for [key] in planned:
            self._doubt(key, told)

    def _doubt(self, key: str, cause: str) -> None:
        """Make a planned item uncertain, with an attempt that stands for the lost one."""
        token = f"adopted{secrets.token_hex(12)}"
        self._db.execute(
            "INSERT INTO attempt (token, key, n, state, fingerprint, began_at, ended_at, cause)"
            " VALUES (?, ?, (SELECT count(*) + 1 FROM attempt WHERE key = ?), 'unknown', '',"
            " ?, ?, 'adopted')",
            (token, key, key, self._now[0], self._now[0]),
        )
        self._move(key, Step(Event.ADOPT, cause=cause, token=token))

    def _misses_attempts(self) -> bool:
        """Whether attempts were lost that no film of an adopted journal accounts for yet."""
        if not self._lost:
            return self._lost is None
        query = "SELECT count(*) FROM attempt WHERE token GLOB 'adopted*' AND state = 'resolved'"
        return bool(self._lost > self._db.execute(query).fetchone()[0])

    def _witness_doubts(self) -> None:
        """Count the attempts that stand for lost ones, here and in the witness."""
        self._intents = file.facts_in(self._db).intents
        if self._witness is not None:
            self._witness.write(self._epoch, self._intents)

    def _close(self) -> None:
        db = getattr(self, "_db", None)
        if db is not None:
            with contextlib.suppress(sqlite3.Error, ValueError):
                if self._owned:
                    db.execute(
                        "DELETE FROM meta WHERE name = 'begun' AND EXISTS"
                        " (SELECT 1 FROM meta WHERE name = 'epoch' AND CAST(value AS INTEGER) = ?)",
                        (self._epoch,),
                    )
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
        if self._witness is not None:
            self._witness.close()
        while self._locks:
            os.close(self._locks.pop())
        if self._room is not None:
            self._room.cleanup()

    # --- work that runs in the thread --------------------------------------------------------

    def _plan(
        self,
        entries: Generator[Entry | None],
        source: str,
        allow_duplicates: bool,
        failed: Collection[str] | None,
    ) -> Plan:
        doubted: list[str] = []
        with contextlib.closing(entries), self._transaction():
            planned = plan(
                self._db,
                entries,
                home=self._home,
                source=source,
                allow_duplicates=allow_duplicates,
                failed=failed,
                change=self._change,
                begun=doubted.append if self._misses_attempts() else None,
            )
            for key in doubted:
                self._doubt(key, NEW_IN_ADOPTED)
        if doubted:
            self._witness_doubts()
            told = "%d films of %s are uncertain, as %r: each %s"
            logger.warning(told, len(doubted), self.path, doubted[0], NEW_IN_ADOPTED)
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return planned

    def _change(self, key: str) -> None:
        """Plan an item with new content: nothing was created for it, or a person wants it again."""
        event = Event.RETRY if self._item(key).state is State.FAILED else Event.CHANGE
        self._move(key, Step(event, cause="", by="content"))

    def _intend(self, key: str, token: str, fingerprint: str, reserved: float | None) -> None:
        with self._transaction():
            known = self._attempt(token)
            if known is not None and (known["key"], known["attempt"]) == (key, "intent"):
                return
            if known is not None:
                raise NoStepError(f"attempt {token} of {known['key']!r} is {known['attempt']}")
            self._move(key, Step(Event.INTEND, token=token))
            self._db.execute(
                "INSERT INTO attempt (token, key, n, state, fingerprint, reserved, began_at) VALUES"
                " (?, ?, (SELECT count(*) + 1 FROM attempt WHERE key = ?), 'intent', ?, ?, ?)",
                (token, key, key, fingerprint, reserved, self._now[0]),
            )
        self._intents += 1
        if self._witness is not None:
            self._witness.write(self._epoch, self._intents)

    def _receive(self, token: str, task_id: str) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO inbox SELECT token, ?, ? FROM attempt WHERE token = ?"
                " AND (SELECT count(*) FROM inbox WHERE inbox.token = attempt.token) < ?",
                (storable(task_id), self._now[0], token, MOST_NAMED),
            )

    def _note_balance(self, balance: float) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO balance VALUES (?, ?)", (self._now[0], balance)
            )

    def _settle(self, key: str, attempt: Attempt, step: Step) -> Item:
        with self._transaction(of_the_owner=False):
            known = self._attempt(attempt.token)
            if known is None or known["key"] != key:
                raise KeyError(f"{key!r} has no attempt {attempt.token}")
            if known["attempt"] != "intent":
                if attempt.task_id is not None:
                    self._bind_late(attempt.token, attempt.task_id, "the answer came late")
                return self._item(key)
            owner = attempt.task_id and self._owner_of(attempt.task_id)
            if owner:  # this attempt's own task is unknown then
                cause = f"the answer names {attempt.task_id}, the task of {owner!r}"
                step = Step(Event.DOUBT, cause=cause)
                attempt = attrs.evolve(attempt, task_id=None, cause=cause)
            self._move(key, attrs.evolve(step, token=attempt.token))
            self._db.execute(
                "UPDATE attempt SET state = ?, ended_at = ?, http = ?, code = ?, task_id = ?,"
                " raw = ?, cause = ? WHERE token = ?",
                (
                    ATTEMPTS[step.event],
                    self._now[0],
                    attempt.http,
                    attempt.code,
                    attempt.task_id,
                    storable(attempt.raw),
                    storable(attempt.cause),
                    attempt.token,
                ),
            )
        return self._item(key)

    def _step(self, key: str, step: Step) -> Item:
        with self._transaction():
            known, state = self._attempt(step.token), ATTEMPTS.get(step.event)
            made = known is not None and (known["key"], known["attempt"]) == (key, state)
            if known is not None and made and step.task_id in (None, known["task_id"]):
                return self._item(key)  # the same again
            self._move(key, step)
            if state is not None:
                done = self._db.execute(
                    "UPDATE attempt SET state = ?, task_id = coalesce(?, task_id)"
                    " WHERE key = ? AND state = 'unknown' AND ? IN ('', token)",
                    (state, step.task_id, key, step.token),
                )
                if step.token and not done.rowcount:
                    raise NoStepError(f"attempt {step.token} of {key!r} is uncertain no more")
        return self._item(key)

    def _move(self, key: str, step: Step) -> None:
        """The one place where an item changes its state, on the condition that it may."""
        row = self._db.execute("SELECT state FROM item WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        before = State(row["state"])
        following = after(before, step.event)
        if step.task_id is not None and self._owner_of(step.task_id) not in (None, key):
            raise JournalError(f"{step.task_id} is the task of {self._owner_of(step.task_id)!r}")
        for saved in step.files:
            self._note_folder(saved.path.parent)
        buys_again = step.event in (Event.RETRY, Event.RESUBMIT)
        self._db.execute(
            "UPDATE item SET state = :to, cause = :cause,"
            " task_id = CASE WHEN :again THEN NULL ELSE coalesce(:task_id, task_id) END,"
            " fail_code = :fail_code, fail_message = :fail_message,"
            " credits = CASE WHEN :again THEN NULL ELSE coalesce(:credits, credits) END,"
            " result = coalesce(:result, result),"
            " success_at = coalesce(:success_at, success_at), files = coalesce(:files, files)"
            " WHERE key = :key AND state = :before",
            {
                "to": following,
                "cause": storable(step.cause),
                "again": buys_again,
                "task_id": step.task_id,
                "fail_code": storable(step.fail_code),
                "fail_message": storable(step.fail_message),
                "credits": step.credits,
                "result": storable(step.result) or None,
                "success_at": step.success_at and step.success_at.timestamp(),
                "files": spell_files(step.files, self._home) if step.files else None,
                "key": key,
                "before": before,
            },
        )
        if step.credits is not None:
            self._db.execute(
                "UPDATE attempt SET credits = ?"
                " WHERE key = ? AND task_id = (SELECT task_id FROM item WHERE key = ?)",
                (step.credits, key, key),
            )
        self._note_event(
            key, step.event, before, following, cause=step.cause, by=step.by, token=step.token
        )

    def _note_event(
        self,
        key: str,
        event: str,
        before: State,
        following: State,
        *,
        cause: str = "",
        by: str = "",
        token: str = "",
    ) -> None:
        self._db.execute(
            'INSERT INTO event (at, mono, key, event, "from", "to", cause, by, token)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*self._now, key, event, before, following, storable(cause), by, token or None),
        )

    def _rename(self, key: str, new: str, by: str) -> Item:
        item = self._item(key)
        if item.state is State.SENDING:
            raise NoStepError(f"{key!r} is being sent")
        with self._transaction():
            refuse_name(self._db, new, besides=key)
            self._db.execute("PRAGMA defer_foreign_keys = ON")
            self._db.execute(
                "UPDATE item SET key = ?, payload_sum = ? WHERE key = ?",
                (new, payload_sum(new, item.payload), key),
            )
            self._db.execute("UPDATE attempt SET key = ? WHERE key = ?", (new, key))
            self._db.execute("UPDATE event SET key = ? WHERE key = ?", (new, key))
            self._note_event(new, RENAME, item.state, item.state, cause=f"it was {key}", by=by)
        return self._item(new)

    def _purge(self, payloads: Mapping[str, str], by: str) -> None:
        self._db.execute("PRAGMA secure_delete = ON")
        with self._transaction():
            for key, payload in payloads.items():
                item = self._item(key)
                said = json.loads(item.result) if item.result else None
                if isinstance(said, dict):
                    said.pop("content", None)
                self._db.execute(
                    "UPDATE item SET payload = ?, payload_sum = ?, result = ?, cause = NULL,"
                    " fail_message = NULL WHERE key = ?",
                    (payload, payload_sum(key, payload), said and json.dumps(said), key),
                )
                # Causes may repeat words of the prompt: what was compared, what was refused.
                self._db.execute(
                    "UPDATE attempt SET raw = NULL, cause = NULL WHERE key = ?", (key,)
                )
                self._db.execute("UPDATE event SET cause = NULL WHERE key = ?", (key,))
                self._note_event(key, PURGE, item.state, item.state, by=by)
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _item(self, key: str) -> Item:
        row = self._db.execute(f"{ITEM} WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return self._read_item(row)

    def _read_item(self, row: sqlite3.Row) -> Item:
        return read_item(row, self._home, self._folders)

    def _keep_folder(self, folder: Path) -> None:
        folder = found_at(place_of(folder.absolute(), self._home), self._home)
        if [*self._folders][-1:] == [folder]:
            return
        with self._transaction():
            self._db.execute("DELETE FROM folder WHERE path = ?", (place_of(folder, self._home),))
            self._folders.pop(folder, None)
            self._note_folder(folder)

    def _note_folder(self, folder: Path) -> None:
        place = place_of(folder, self._home)
        if (found := found_at(place, self._home)) not in self._folders:
            self._db.execute("INSERT OR IGNORE INTO folder VALUES (?)", (place,))
            self._folders[found] = None

    def _items(self, states: list[State] | None, behind: int, count: int) -> list[Item]:
        marks = ", ".join("?" * len(states or ()))
        chosen = "1" if states is None else f"state IN ({marks})"
        rows = self._db.execute(
            f"{ITEM} WHERE {chosen} AND ord > ? ORDER BY ord LIMIT ?",
            (*(states or ()), behind, count),
        )
        return [self._read_item(row) for row in rows]

    def _bind(self, base_url: str, account: str) -> None:
        known = dict(
            self._db.execute("SELECT name, value FROM meta WHERE name IN ('base_url', 'account')")
        )
        given = {"base_url": base_url, "account": account}
        for name, told in (("base_url", "another address"), ("account", "another key")):
            if name in known and known[name] != given[name]:
                raise JournalError(
                    f"{self.path} was written with {told}: its tasks would not be found. Use the "
                    "one it was begun with, or another journal"
                )
        if known.keys() != given.keys() and self._has_bought():
            raise JournalError(
                f"{self.path} holds attempts, and does not say with which key and address they "
                "were made: base_url or account is missing in its meta table. It was altered, and "
                "is left as it is; bring back a copy"
            )
        if not known:
            with self._transaction():
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", given.items())

    def _has_bought(self) -> bool:
        """Whether it holds attempts; those that an adoption has made up were sent by nobody."""
        [has] = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM attempt WHERE token NOT GLOB 'adopted*') OR EXISTS"
            " (SELECT 1 FROM item WHERE task_id IS NOT NULL AND key NOT IN"
            " (SELECT key FROM attempt))"
        ).fetchone()
        return bool(has)
