"""The journal on the disk: SQLite, one owner, one thread, nothing acknowledged that can be lost.

`synchronous=FULL` in WAL mode: a commit is on the disk when it returns. The owner holds a lock
on a file beside the journal (SQLite's own locks vanish when anyone in the process opens and
closes the file again) and an epoch in it: a second owner makes the first one's writes fail. An
input or output error poisons the journal: nothing more is written, so nothing more is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from apikley_async import Attempt, Clock, SystemClock
from apikley_async.batch._schema import APPLICATION, MIGRATIONS, VERSION, faults_of
from apikley_async.batch._states import Event, State, after
from apikley_async.batch._store import Charge, Entry, File, Item, Plan, Step
from apikley_async.errors import ApikleyError, JournalError, ManifestConflictError

__all__ = ["Journal"]

T = TypeVar("T")

HEADER = b"SQLite format 3\x00"
FULL = ("database or disk is full", "disk i/o error", "readonly database")


class Journal:
    """One batch, written down in *path*. Use `await Journal.open(path)`."""

    def __init__(self, path: Path, clock: Clock, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._clock = clock
        self._pid = os.getpid()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apikley-journal")
        self._lock: int | None = None
        self._epoch = 0
        self._poison: JournalError | None = None
        self._db: sqlite3.Connection

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], *, clock: Clock | None = None, read_only: bool = False
    ) -> Journal:
        """Open or make the journal.

        Items found `sending` were on their way when the last owner ended: they are `uncertain`
        from here on.

        Raises:
            JournalError: in use, damaged, of another program, or of a newer version. The file
                is left as it is.
        """
        journal = cls(Path(path), clock or SystemClock(), read_only=read_only)
        try:
            await journal._run(journal._open)
        except BaseException:
            await journal.aclose()
            raise
        return journal

    async def aclose(self) -> None:
        """Close it; what was acknowledged is on the disk."""
        with contextlib.suppress(RuntimeError):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    # --- the protocol of a store -------------------------------------------------------------

    async def plan(
        self, entries: Iterable[Entry], *, source: str = "", allow_duplicates: bool = False
    ) -> Plan:
        return await self._run(self._plan, entries, source, allow_duplicates)

    async def intend(self, key: str, token: str, fingerprint: str, reserved: float | None) -> None:
        await self._run(self._intend, key, token, fingerprint, reserved)

    async def settle(self, key: str, attempt: Attempt, step: Step) -> Item:
        return await self._run(self._settle, key, attempt, step)

    async def step(self, key: str, step: Step) -> Item:
        return await self._run(self._step, key, step)

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
            "SELECT token, attempt.key, attempt.state, reserved, credits FROM attempt"
            " LEFT JOIN item ON item.task_id = attempt.task_id"
            " WHERE attempt.state IN ('intent', 'accepted', 'unknown', 'resolved', 'abandoned')"
        )
        return [
            Charge(
                row["token"],
                row["key"],
                row["state"] not in ("accepted", "resolved"),
                row["reserved"],
                row["credits"],
            )
            for row in rows
        ]

    async def attempts(self, key: str) -> Sequence[Mapping[str, Any]]:
        rows = await self._read("SELECT * FROM attempt WHERE key = ? ORDER BY began_at, n", key)
        return [dict(row) for row in rows]

    async def events(self, key: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The history, oldest first; of one item or of all."""
        rows = await self._read(
            "SELECT * FROM event WHERE ?1 IS NULL OR key = ?1 ORDER BY seq", key
        )
        return [dict(row) for row in rows]

    async def ends(self, since: float) -> Sequence[tuple[float, bool]]:
        rows = await self._read(
            "SELECT coalesce(ended_at, began_at) AS at, state FROM attempt"
            " WHERE coalesce(ended_at, began_at) >= ? AND state != 'unsent'",
            since,
        )
        return [(row["at"], row["state"] in ("unknown", "intent")) for row in rows]

    async def salt(self) -> bytes:
        [row] = await self._read("SELECT value FROM meta WHERE name = 'journal_id'")
        return bytes.fromhex(row["value"])

    async def bind(self, base_url: str, account: str) -> None:
        await self._run(self._bind, base_url, account)

    async def verify(self) -> Sequence[str]:
        return await self._run(lambda: faults_of(self._db))

    # --- the thread --------------------------------------------------------------------------

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do *work* in the journal's own thread: one thing at a time, never cut in two."""
        if self._pid != os.getpid():
            raise JournalError(f"{self.path} was opened before a fork; open it in each process")
        if self._poison is not None:
            raise self._poison_again()
        loop = asyncio.get_running_loop()
        try:
            doing = loop.run_in_executor(self._thread, self._guarded, work, *arguments)
        except RuntimeError:
            raise JournalError(f"{self.path} is closed") from None
        return await doing

    def _guarded(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return work(*arguments)
        except ApikleyError:
            raise
        except (sqlite3.Error, ValueError) as exc:  # a damaged file gives text that is none
            told = plain_text(exc)
            full = any(word in told.casefold() for word in FULL)
            way_out = (
                "free some space and run again: nothing was sent meanwhile"
                if full
                else "keep the file, and run `apikley batch verify` on it"
            )
            error = JournalError(f"{self.path} cannot be written or read: {told}; {way_out}")
            if not isinstance(exc, sqlite3.IntegrityError):
                self._poison = error
        raise error

    def _poison_again(self) -> JournalError:
        return JournalError(self._poison.message if self._poison else "")

    async def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return await self._run(lambda: self._db.execute(query, values).fetchall())

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        """One durable change, by the owner only; undone whole when anything in it fails."""
        if self.read_only:
            raise JournalError(f"{self.path} is open for reading only")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            [epoch] = self._db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
            if int(epoch) != self._epoch:
                raise JournalError(f"{self.path} has another owner now; nothing was written")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    # --- opening and closing -----------------------------------------------------------------

    def _open(self) -> None:
        if not self.read_only:
            self._take_lock()
        fresh = self._check_file()
        if fresh and self.read_only:
            raise JournalError(f"{self.path}: there is no such journal")
        if fresh:
            # Private from the first moment: prompts are personal data.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        mode = "ro" if self.read_only else "rw"
        self._db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=5,
        )
        self._db.row_factory = sqlite3.Row
        self._check_content(fresh)
        if not self.read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            if sys.platform == "darwin":
                self._db.execute("PRAGMA fullfsync = ON")
                self._db.execute("PRAGMA checkpoint_fullfsync = ON")
        self._db.execute("PRAGMA foreign_keys = ON")
        if not self.read_only:
            self._own(fresh)

    def _take_lock(self) -> None:
        place = self.path.with_name(self.path.name + ".lock")
        try:
            self._lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise JournalError(f"{self.path} cannot be made: {exc.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._lock, 32).decode(errors="replace").strip() or "unknown"
            raise JournalError(
                f"{self.path} is in use by process {owner}; wait for it or stop it"
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{self._pid}\n".encode())

    def _check_file(self) -> bool:
        """Look before SQLite does: True when there is no file yet."""
        try:
            with self.path.open("rb") as file:
                head = file.read(len(HEADER))
        except FileNotFoundError:
            return True
        except OSError as exc:
            raise JournalError(f"{self.path} cannot be read: {exc.strerror}") from None
        if not head:
            raise JournalError(
                f"{self.path} is empty: a journal that was lost, or none. It is left as it is; "
                "bring back a copy, or name another file"
            )
        if head != HEADER:
            raise JournalError(f"{self.path} is not a journal of this program; it is left as it is")
        return False

    def _check_content(self, fresh: bool) -> None:
        [application] = self._db.execute("PRAGMA application_id").fetchone()
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        if fresh:
            return
        if application != APPLICATION:
            raise JournalError(f"{self.path} is a database of another program; it is left as it is")
        if version > VERSION:
            raise JournalError(
                f"{self.path} was written by a newer version (schema {version}, here {VERSION}); "
                "upgrade this package"
            )
        [verdict] = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise JournalError(
                f"{self.path} is damaged ({verdict}); it is left as it is. Bring back a copy, or "
                "recover what can be read with sqlite3's .recover into a new file"
            )

    def _own(self, fresh: bool) -> None:
        """Bring the schema up to date, take the next epoch, and face what was left `sending`."""
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        self._db.execute("BEGIN IMMEDIATE")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            for statement in script:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {number}")
        if fresh or version == 0:
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(
                "INSERT INTO meta VALUES ('journal_id', ?), ('epoch', '0')",
                (secrets.token_hex(16),),
            )
        self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'epoch'")
        [epoch] = self._db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        self._epoch = int(epoch)
        left = self._db.execute("SELECT key FROM item WHERE state = 'sending'").fetchall()
        for row in left:
            told = "the last run ended while the submission was out"
            self._move(row["key"], Step(Event.CRASH, cause=told))
        self._db.execute(
            "UPDATE attempt SET state = 'unknown', cause = 'interrupted', ended_at = ?"
            " WHERE state = 'intent'",
            (self._clock.wall(),),
        )
        self._db.execute("COMMIT")

    def _close(self) -> None:
        db = getattr(self, "_db", None)
        if db is not None:
            with contextlib.suppress(sqlite3.Error, ValueError):
                if not self.read_only and self._poison is None:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- work that runs in the thread --------------------------------------------------------

    def _plan(self, entries: Iterable[Entry], source: str, allow_duplicates: bool) -> Plan:
        new = known = 0
        with self._transaction():
            self._db.execute("CREATE TEMP TABLE IF NOT EXISTS seen (key PRIMARY KEY, place)")
            self._db.execute("DELETE FROM seen")
            for entry in entries:
                self._note_seen(entry)
                if self._is_known(entry):
                    known += 1
                    continue
                if not allow_duplicates:
                    self._refuse_twin(entry)
                self._db.execute(
                    "INSERT INTO item (key, payload, payload_sum, digest, base, source, state)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        entry.key,
                        entry.payload,
                        payload_sum(entry.key, entry.payload),
                        entry.digest,
                        entry.base,
                        source,
                        State.PLANNED,
                    ),
                )
                new += 1
            self._db.execute(
                "UPDATE item SET gone = key NOT IN (SELECT key FROM seen)"
                " WHERE source = ? OR key IN (SELECT key FROM seen)",
                (source,),
            )
            [gone] = self._db.execute(
                "SELECT count(*) FROM item WHERE gone AND source = ?", (source,)
            ).fetchone()
        return Plan(new, known, gone)

    def _note_seen(self, entry: Entry) -> None:
        twin = self._db.execute("SELECT place FROM seen WHERE key = ?", (entry.key,)).fetchone()
        if twin is not None:
            raise ManifestConflictError(
                f"{entry.where}: the key {entry.key!r} was given before, at {twin['place']}; "
                "say takes: 2 for two films of one storyboard"
            )
        self._db.execute("INSERT INTO seen VALUES (?, ?)", (entry.key, entry.where))

    def _is_known(self, entry: Entry) -> bool:
        row = self._db.execute(
            "SELECT digest, state FROM item WHERE key = ?", (entry.key,)
        ).fetchone()
        if row is None:
            return False
        if row["digest"] != entry.digest:
            raise ManifestConflictError(
                f"{entry.where}: {entry.key!r} is in the journal with other content "
                f"({row['state']}); give the changed film a new key"
            )
        return True

    def _refuse_twin(self, entry: Entry) -> None:
        twin = self._db.execute(
            "SELECT key FROM item WHERE digest = ? AND state != 'dropped'", (entry.digest,)
        ).fetchone()
        if twin is not None:
            raise ManifestConflictError(
                f"{entry.where}: {entry.key!r} has the same content as {twin['key']!r}: it would "
                "be paid twice; say takes: 2, or allow duplicates"
            )

    def _intend(self, key: str, token: str, fingerprint: str, reserved: float | None) -> None:
        with self._transaction():
            self._move(key, Step(Event.INTEND))
            self._db.execute(
                "INSERT INTO attempt (token, key, n, state, fingerprint, reserved, began_at) VALUES"
                " (?, ?, (SELECT count(*) + 1 FROM attempt WHERE key = ?2), 'intent', ?, ?, ?)",
                (token, key, fingerprint, reserved, self._clock.wall()),
            )

    def _settle(self, key: str, attempt: Attempt, step: Step) -> Item:
        with self._transaction():
            self._move(key, step)
            self._db.execute(
                "UPDATE attempt SET state = ?, ended_at = ?, http = ?, code = ?, task_id = ?,"
                " raw = ?, cause = ? WHERE token = ?",
                (
                    ATTEMPTS[step.event],
                    attempt.ended_at,
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
            self._move(key, step)
            if (state := ATTEMPTS.get(step.event)) is not None:
                self._db.execute(
                    "UPDATE attempt SET state = ?, task_id = coalesce(?, task_id)"
                    " WHERE key = ? AND state = 'unknown'",
                    (state, step.task_id, key),
                )
        return self._item(key)

    def _move(self, key: str, step: Step) -> None:
        """The one place where an item changes its state, on the condition that it may."""
        row = self._db.execute("SELECT state FROM item WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        before = State(row["state"])
        following = after(before, step.event)
        buys_again = step.event in (Event.RETRY, Event.RESUBMIT)
        self._db.execute(
            "UPDATE item SET state = :to, cause = :cause,"
            " task_id = CASE WHEN :again THEN NULL ELSE coalesce(:task_id, task_id) END,"
            " fail_code = :fail_code, fail_message = :fail_message,"
            " credits = coalesce(:credits, credits), result = coalesce(:result, result),"
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
                "files": spell_files(step.files) if step.files else None,
                "key": key,
                "before": before,
            },
        )
        self._db.execute(
            'INSERT INTO event (at, mono, key, event, "from", "to", cause, by)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._clock.wall(),
                self._clock.now(),
                key,
                step.event,
                before,
                following,
                storable(step.cause),
                step.by,
            ),
        )

    def _item(self, key: str) -> Item:
        row = self._db.execute(f"{ITEM} WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return read_item(row)

    def _items(self, states: list[State] | None, behind: int, count: int) -> list[Item]:
        chosen = [*State] if states is None else states
        marks = ", ".join("?" * len(chosen))
        rows = self._db.execute(
            f"{ITEM} WHERE state IN ({marks}) AND ord > ? ORDER BY ord LIMIT ?",
            (*chosen, behind, count),
        )
        return [read_item(row) for row in rows]

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
        if not known:
            with self._transaction():
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", given.items())


ATTEMPTS: Mapping[Event, str] = {
    Event.ACCEPT: "accepted",
    Event.THROTTLE: "refused",
    Event.POSTPONE: "refused",
    Event.REFUSE: "refused",
    Event.UNSENT: "unsent",
    Event.DOUBT: "unknown",
    Event.RESOLVE: "resolved",
    Event.RESUBMIT: "abandoned",
    Event.DROP: "abandoned",
}
"""What an event makes of the attempt it is about."""

ITEM = "SELECT *, (SELECT count(*) FROM attempt WHERE attempt.key = item.key) AS attempts FROM item"


def payload_sum(key: str, payload: str) -> str:
    """What shows that a film's words are still those that were planned."""
    return hashlib.sha256(f"{key}\n{payload}".encode()).hexdigest()[:16]


def plain_text(error: Exception) -> str:
    return str(error) if isinstance(error, sqlite3.Error) else "its content is not readable"


def read_item(row: sqlite3.Row) -> Item:
    if row["payload_sum"] != payload_sum(row["key"], row["payload"]):
        raise JournalError(f"the journal is damaged: {row['key']!r:.80} is not as it was planned")
    files = json.loads(row["files"]) if row["files"] else []
    at = row["success_at"]
    return Item(
        key=row["key"],
        state=State(row["state"]),
        order=row["ord"],
        payload=row["payload"],
        base=row["base"],
        task_id=row["task_id"],
        cause=row["cause"] or "",
        fail_code=row["fail_code"] or "",
        fail_message=row["fail_message"] or "",
        credits=row["credits"],
        files=tuple(File(Path(f["path"]), f["size"], f["sha256"]) for f in files),
        attempts=row["attempts"],
        result=row["result"] or "",
        success_at=None if at is None else datetime.fromtimestamp(at, UTC),
        gone=bool(row["gone"]),
    )


def spell_files(files: tuple[File, ...]) -> str:
    return json.dumps([{"path": str(f.path), "size": f.size, "sha256": f.sha256} for f in files])


def storable(text: str) -> str:
    """Foreign text as SQLite takes it: without lone surrogates."""
    return text.encode(errors="replace").decode()
