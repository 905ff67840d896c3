"""A paid task's id when the journal cannot be written: stored again, noted, bound."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sqlite3
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest
from batch.conformance import attempt, film
from batch.conftest import SmallDisk
from batch.helpers import (
    check_consistency,
    films,
    make_client,
    open_batch,
    run_batch,
    simulated_service,
    states,
)
from batch.test_journal import journal
from manual_callbacks import ManualCallbacks

from apikley_async import Verdict, _sqlite
from apikley_async._disk import user_id
from apikley_async.batch import ItemEvent, ItemState, Journal, Transition
from apikley_async.batch.store import locks
from apikley_async.batch.store.rescue import FoundNotes, RescuePlaces, read_notes
from apikley_async.errors import JournalError
from apikley_async.simulator import Fault

TASK = "task_1790000000001"

pytestmark = pytest.mark.virtual


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batch.db"


async def paid(owner: Journal, disk: type[SmallDisk], *, raw: str = "x" * 60_000) -> None:
    """Settle an accepted attempt whose answer needs room."""
    await owner.plan([film("a"), film("b")])
    await owner.intend("a", "t1", "print", 150.0)
    disk.pages = 1
    ended = attempt("t1", Verdict.ACCEPTED, TASK)
    object.__setattr__(ended, "raw", raw)
    await owner.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id=TASK))


async def test_a_disk_that_is_full_for_a_moment_loses_nothing(
    path: Path, disk: type[SmallDisk]
) -> None:
    """The id is tried again for two seconds; but the gate stays closed. (J2)"""
    async with journal(path) as owner:

        async def make_room() -> None:
            await asyncio.sleep(0.3)
            disk.pages = 1_000_000

        room = asyncio.create_task(make_room())
        await paid(owner, disk)
        await room

        with pytest.raises(JournalError, match="free some space"):
            await owner.intend("b", "t2", "print", None)
    async with journal(path) as owner:
        item = await owner.item("a")
        assert (item.state, item.task_id) == (ItemState.SUBMITTED, TASK)
        assert await owner.verify() == []


async def test_a_full_disk_leads_to_a_note_that_is_bound_later(
    path: Path, caplog: pytest.LogCaptureFixture, disk: type[SmallDisk]
) -> None:
    """Error and log hold the id, a private note keeps it, and the next opening binds it. (J2)"""
    async with journal(path) as owner:
        with pytest.raises(JournalError, match="'a' is paid, its id is written down in") as caught:
            await paid(owner, disk)
    note = path.with_name("batch.db.rescue.jsonl")
    [critical] = [r for r in caplog.records if r.levelno == logging.CRITICAL]

    assert caught.value.task_id == TASK
    assert TASK in critical.getMessage()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    said = json.loads(note.read_text())
    assert (said["key"], said["token"], said["task_id"]) == ("a", "t1", TASK)
    for _ in range(2):
        async with journal(path) as owner:
            item = await owner.item("a")
            assert (item.state, item.task_id) == (ItemState.SUBMITTED, TASK)
            assert await owner.verify() == []
        assert not note.exists()


async def test_where_nothing_can_be_written_another_folder_can(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: type[SmallDisk]
) -> None:
    """The folder for temporary files is the second place. (J2)"""
    path.with_name("batch.db.rescue.jsonl").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    async with journal(path) as owner:
        with pytest.raises(JournalError, match="elsewhere"):
            await paid(owner, disk)
    async with journal(path) as owner:
        assert (await owner.item("a")).task_id == TASK
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_where_no_note_can_be_written_the_error_holds_the_id(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: type[SmallDisk]
) -> None:
    """Then the id stands in the error and the log, and they say to keep it. (J2)"""
    path.with_name("batch.db.rescue.jsonl").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    async with journal(path) as owner:
        with pytest.raises(JournalError, match="keep it") as caught:
            await paid(owner, disk)
    assert caught.value.task_id == TASK


async def test_a_machine_without_a_place_for_temporary_files_is_no_obstacle(
    path: Path, monkeypatch: pytest.MonkeyPatch, disk: type[SmallDisk]
) -> None:
    """As a container whose only disk that can be written is the journal's."""

    def no_place() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no_place)
    async with journal(path) as owner:
        with pytest.raises(JournalError, match=r"batch\.db\.rescue\.jsonl"):
            await paid(owner, disk)
    async with journal(path) as owner:
        assert (await owner.item("a")).task_id == TASK
    if Path("/dev/shm").is_dir():
        async with journal(path, private=True) as copy:
            assert (await copy.item("a")).task_id == TASK


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"journal": "another", "key": "a", "token": "t1", "task_id": "x", "at": 1}',
        b'{"journal": "ID", "key": "a", "token": {}, "task_id": "x", "at": 1}',
        b'{"journal": "ID", "key": "a", "token": "unknown", "task_id": "x", "at": 1}',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"journal": "ID", "key": "a", "token": "t1", "task_id": "x", "at": 1' + b"0" * 400 + b"}",
        b'{"journal": "ID", "key": "a", "token": "t1", "task_id": "x", "at": NaN}',
        b'{"journal": "ID", "key": "a", "token": "t1", "task_id": "\\ud800", "at": 1}',
    ],
    ids=[
        *("empty", "cut", "list", "another", "odd", "unknown", "bytes", "deep", "late", "never"),
        "no text",
    ],
)
async def test_a_note_that_means_nothing_binds_nothing(path: Path, line: bytes) -> None:
    """Only a note about an uncertain attempt of this journal is believed."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)
        line = line.replace(b"ID", owner.journal_id.encode())
    note = path.with_name("batch.db.rescue.jsonl")
    note.write_bytes(line + b"\n")

    async with journal(path) as owner:
        assert (await owner.item("a")).state is ItemState.UNCERTAIN
        assert await owner.verify() == []
    assert note.exists()


def test_what_cannot_be_read_may_hold_a_note(tmp_path: Path) -> None:
    """It is not taken for an empty file, which could go: it may name a paid film. (J2)"""
    empty, unreadable = tmp_path / "empty", tmp_path / "unreadable"
    empty.touch()
    unreadable.mkdir()

    (found,) = read_notes(RescuePlaces("id", (empty, tmp_path / "missing", unreadable)))

    assert found == FoundNotes(unreadable, (), is_understood=False)


async def test_a_note_outlives_a_power_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch, disk: type[SmallDisk]
) -> None:
    """The note and its name are on the disk before the error is raised that speaks of it. (J2)"""
    synced, fsync = set(), os.fsync

    def noticed(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    async with journal(path) as owner:
        monkeypatch.setattr(os, "fsync", noticed)
        with pytest.raises(JournalError, match="written down in"):
            await paid(owner, disk)
        note = path.with_name("batch.db.rescue.jsonl")
        assert synced >= {note.stat().st_ino, path.parent.stat().st_ino}


def note_of(owner: Journal, key: str, token: str) -> str:
    said = {"journal": owner.journal_id, "key": key, "token": token, "task_id": TASK, "at": 1}
    return json.dumps(said) + "\n"


async def test_an_incomplete_note_is_ignored(
    path: Path, monkeypatch: pytest.MonkeyPatch, disk: type[SmallDisk]
) -> None:
    """A disk that takes a part only keeps no id: the error says so, and is the place. (J2)"""
    write = os.write
    async with journal(path) as owner:
        monkeypatch.setattr(os, "write", lambda handle, line: write(handle, line[:9]))
        with pytest.raises(JournalError, match="keep it"):
            await paid(owner, disk)


async def test_an_error_that_was_not_foreseen_leads_to_a_note(path: Path) -> None:
    """As of a number that the database does not take: what is paid is kept all the same. (J2)"""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)
        ended = attrs.evolve(attempt("t1", Verdict.ACCEPTED, TASK), code=2**70)
        with pytest.raises(OverflowError):
            await owner.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id=TASK))
    async with journal(path) as owner:
        assert (await owner.item("a")).task_id == TASK


async def test_the_task_of_a_callback_is_noted_on_a_full_disk(
    path: Path, disk: type[SmallDisk]
) -> None:
    """It is as paid as one that the answer names. A person's word is not noted. (J2)"""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)
        await owner.settle("a", attempt("t1", Verdict.UNCERTAIN), Transition(ItemEvent.UNCERTAIN))
        disk.pages = 1
        found = Transition(ItemEvent.RESOLVE, task_id=TASK, token="t1", cause="x" * 60_000)
        for transition in (attrs.evolve(found, token=""), found):
            with pytest.raises(JournalError) as caught:
                await owner.apply("a", transition)
            assert caught.value.task_id == (TASK if transition.token else None)
    async with journal(path) as owner:
        item = await owner.item("a")
        assert (item.state, item.task_id) == (ItemState.SUBMITTED, TASK)
        assert await owner.verify() == []


@pytest.mark.parametrize("fails", [False, True], ids=["slow", "broken"])
async def test_a_paid_film_is_noted_when_nobody_waits_for_a_disk_that_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Closing a client may cut that short: nobody would learn how it ended. (J2, C14)"""
    begun, answers = threading.Event(), threading.Event()
    answers.set()

    class HangingDisk(_sqlite.Database):
        def execute(self, sql: str, /, *values: Any) -> sqlite3.Cursor:
            if sql.startswith("BEGIN") and not answers.is_set():
                begun.set()
                answers.wait(30)
                if fails:
                    raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *values)

    monkeypatch.setattr(_sqlite, "Database", HangingDisk)
    note = path.with_name("batch.db.rescue.jsonl")
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)
        answers.clear()
        ended = attempt("t1", Verdict.ACCEPTED, TASK)
        settling = asyncio.create_task(
            owner.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id=TASK))
        )
        await asyncio.sleep(0)
        await asyncio.to_thread(begun.wait, 30)
        settling.cancel()
        await asyncio.wait({settling})
        assert TASK in note.read_text()
        answers.set()

    async with journal(path) as owner:
        item = await owner.item("a")
        assert (item.state, item.task_id) == (ItemState.SUBMITTED, TASK)
        assert await owner.verify() == []
    assert not note.exists()


async def paid_twice(owner: Journal, disk: type[SmallDisk]) -> None:
    """Settle two attempts of films, of which neither can be stored."""
    await owner.plan([film("b")])
    await owner.intend("b", "t2", "print", None)
    with pytest.raises(JournalError):
        await paid(owner, disk)
    ended = attrs.evolve(attempt("t2", Verdict.ACCEPTED, "task_2"), raw="x" * 60_000)
    with pytest.raises(JournalError, match=r"'b' is paid, .*batch\.db\.rescue\.jsonl"):
        await owner.settle("b", ended, Transition(ItemEvent.ACCEPT, task_id="task_2"))


async def test_a_note_that_is_cut_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: type[SmallDisk]
) -> None:
    """The disk takes a part of the first note: that goes elsewhere, and no second one is lost. (J2)

    The file is removed when the journal has what it says.
    """
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    write, notes = os.write, 0

    def short(handle: int, content: bytes) -> int:
        nonlocal notes
        notes += b'"journal"' in content
        return write(handle, content[:60] if notes == 1 else content)

    async with journal(path) as owner:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", short)
            await paid_twice(owner, disk)
    async with journal(path) as owner:
        found = {item.key: item.task_id for item in await owner.items((ItemState.SUBMITTED,))}
    assert found == {"a": TASK, "b": "task_2"}
    assert not [*tmp_path.rglob("*rescue*")]


@pytest.mark.parametrize(
    "left",
    ['{"journal": "ab', '{"journal": "another"}\n', "x" * 1_100_000],
    ids=["cut", "another", "long"],
)
async def test_what_a_full_disk_has_left_of_a_note_stays(
    path: Path, caplog: pytest.LogCaptureFixture, disk: type[SmallDisk], left: str
) -> None:
    """It may name a paid film, and spoils no note behind it. (J2)"""
    note = path.with_name("batch.db.rescue.jsonl")
    note.write_text(left)
    async with journal(path) as owner:
        await paid_twice(owner, disk)
    for _ in range(2):
        caplog.clear()
        async with journal(path) as owner:
            found = {item.key: item.task_id for item in await owner.items((ItemState.SUBMITTED,))}
        assert found == {"a": TASK, "b": "task_2"}
        assert note.read_text().startswith(left)
        assert "not all of it is a note" in caplog.text


async def test_every_paid_film_has_a_note(path: Path, disk: type[SmallDisk]) -> None:
    """Two answers came while nothing could be written: both ids are kept, and both bound. (J2)"""
    async with journal(path) as owner:
        await paid_twice(owner, disk)

    async with journal(path) as owner:
        found = {item.key: item.task_id for item in await owner.items((ItemState.SUBMITTED,))}
    assert found == {"a": TASK, "b": "task_2"}


async def test_a_note_is_neither_written_nor_read_through_a_link(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: type[SmallDisk]
) -> None:
    """The folder for temporary files belongs to all: a link there leads wherever they like."""
    victim, elsewhere = tmp_path / "victim", tmp_path / "elsewhere"
    path.with_name("batch.db.rescue.jsonl").symlink_to(victim)
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    async with journal(path) as owner:
        with pytest.raises(JournalError, match="elsewhere"):
            await paid(owner, disk)
    [note] = elsewhere.iterdir()
    note.rename(victim)

    async with journal(path) as owner:
        assert (await owner.item("a")).state is ItemState.UNCERTAIN
    assert victim.exists()


async def test_a_pipe_instead_of_a_note_does_not_block_the_journal(path: Path) -> None:
    """Nobody writes into it, and nobody need."""
    note = path.with_name("batch.db.rescue.jsonl")
    os.mkfifo(note)
    released = threading.Timer(5, lambda: os.open(note, os.O_WRONLY | os.O_NONBLOCK))
    released.start()

    async with journal(path) as owner:
        assert await owner.items() == []

    assert released.is_alive(), "only a writer has let it go"
    released.cancel()


@pytest.mark.skipif(user_id() != 0, reason="only root can give a file away")
async def test_a_note_that_another_user_has_written_binds_nothing(path: Path) -> None:
    """The folder for temporary files belongs to all: who could write there could name a film."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)
        note = path.with_name("batch.db.rescue.jsonl")
        note.write_text(note_of(owner, "a", "t1"))
    os.chown(note, 12345, -1)
    async with journal(path) as owner:
        item = await owner.item("a")
    assert (item.state, item.task_id) == (ItemState.UNCERTAIN, None)
    assert note.exists()

    os.chown(note, 0, -1)
    async with journal(path) as owner:
        assert (await owner.item("a")).task_id == TASK


async def test_a_note_about_a_film_that_was_given_up_binds_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A person has decided meanwhile: that stays, and the journal keeps what was bought besides."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)
        await owner.settle("a", attempt("t1", Verdict.UNCERTAIN), Transition(ItemEvent.UNCERTAIN))
        await owner.apply("a", Transition(ItemEvent.DROP, by="me"))
        note = path.with_name("batch.db.rescue.jsonl")
        note.write_text(note_of(owner, "a", "t1"))

    async with journal(path) as owner:
        item = await owner.item("a")
        [row] = await owner.attempts("a")
        assert (item.state, item.task_id, row["task_id"]) == (ItemState.DROPPED, None, TASK)
        assert await owner.verify() == []
    assert not note.exists()
    assert [r for r in caplog.records if r.levelno == logging.CRITICAL and TASK in r.getMessage()]


@pytest.mark.parametrize("hears", [False, True], ids=["no callbacks", "callbacks"])
async def test_what_was_paid_and_given_up_is_shown_by_the_next_run(
    tmp_path: Path, path: Path, hears: bool
) -> None:
    """A note came after a person's decision: nobody has to receive callbacks to learn it. (A18)"""
    callbacks: dict[str, object] = {"callback": ManualCallbacks()} if hears else {}
    async with simulated_service() as simulator, make_client(simulator) as client:
        simulator.script("create", [Fault.RESET_AFTER])
        async with open_batch(path) as batch:
            await batch.add(films(2))
            await run_batch(batch, client, folder=tmp_path, keys=["k0"])
            [charge] = simulator.ledger.paid
            [row] = await batch.store.attempts()
            journal_id = (await batch.store.salt()).hex()
            await batch.drop("k0")
        note = {"journal": journal_id, "key": "k0", "token": row["token"], "at": 1}
        note["task_id"] = charge.task_id
        path.with_name("batch.db.rescue.jsonl").write_text(json.dumps(note))

        for _ in range(2):
            async with make_client(simulator, **callbacks) as later, open_batch(path) as batch:
                await run_batch(batch, later, folder=tmp_path)
                assert [job.task_id for job in later.unclaimed] == [charge.task_id]
                assert await states(batch) == {"k0": ItemState.DROPPED, "k1": ItemState.DONE}
                assert await batch.verify() == []


async def test_a_note_about_a_task_of_another_film_binds_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal opens all the same, says what it read, and keeps the note for a person."""
    async with journal(path) as owner:
        await owner.plan([film("a"), film("b")])
        await owner.intend("a", "t1", "print", None)
        ended = attempt("t1", Verdict.ACCEPTED, TASK)
        await owner.settle("a", ended, Transition(ItemEvent.ACCEPT, task_id=TASK))
        await owner.intend("b", "t2", "print", None)
        note = path.with_name("batch.db.rescue.jsonl")
        note.write_text(note_of(owner, "b", "t2"))

    async with journal(path) as owner:
        found = {item.key: (item.state, item.task_id) for item in await owner.items()}
        assert found == {"a": (ItemState.SUBMITTED, TASK), "b": (ItemState.UNCERTAIN, None)}
    assert note.exists()
    [critical] = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert TASK in critical.getMessage()


async def test_a_former_owner_stores_the_task_that_it_was_waiting_for(
    tmp_path: Path, path: Path
) -> None:
    """Its owner lost it while the POST was out: the id is in the journal all the same. (J5)"""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.late(5)])
        async with make_client(simulator) as client, open_batch(path) as batch:
            await batch.add(films(1))
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path))
            await asyncio.sleep(2)
            thief = sqlite3.connect(path)
            with thief:
                thief.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            thief.close()
            with pytest.raises(JournalError, match="another owner"):
                await running
            item = await batch.item("k0")
        [charge] = simulator.ledger.paid
        assert (item.state, item.task_id) == (ItemState.SUBMITTED, charge.task_id)
        assert not path.with_name("batch.db.rescue.jsonl").exists()

        async with make_client(simulator) as client, open_batch(path) as batch:
            await run_batch(batch, client, folder=tmp_path)
            await check_consistency(simulator, batch, tmp_path)
            assert await states(batch) == {"k0": ItemState.DONE}


@pytest.mark.virtual
@pytest.mark.parametrize("decided", [False, True], ids=["undecided", "resubmitted"])
async def test_a_former_owner_hands_over_what_it_has_paid(
    tmp_path: Path, path: Path, decided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer comes when another one has the journal: it binds, or is bought besides. (A18)"""
    monkeypatch.setattr(locks, "lock_file", lambda handle: None)  # locks that hold nobody off
    async with (
        simulated_service() as simulator,
        make_client(simulator) as client,
        open_batch(path) as former,
    ):
        simulator.script("create", [Fault.late(5)])
        await former.add(films(1))
        running = asyncio.create_task(run_batch(former, client, folder=tmp_path))
        await asyncio.sleep(2)
        async with open_batch(path) as owner:
            assert await states(owner) == {"k0": ItemState.UNCERTAIN}
            if decided:
                await owner.resubmit("k0")
            await asyncio.wait({running})
            [charge] = simulator.ledger.paid

            bought = [job.task_id for job in client.unclaimed]
            if decided:
                assert (await owner.item("k0")).state is ItemState.PLANNED
                assert bought == [charge.task_id]
                assert running.exception() is None
                return
            assert bought == []
            assert isinstance(running.exception(), JournalError)  # it may not go on
            await run_batch(owner, client, folder=tmp_path)
            await check_consistency(simulator, owner, tmp_path)
            assert await states(owner) == {"k0": ItemState.DONE}


async def test_an_answer_after_the_journal_was_closed_is_noted(tmp_path: Path, path: Path) -> None:
    """It came after all patience, while the client was closing: the film is bound later. (C6)"""
    async with simulated_service() as simulator:
        simulator.script("create", [Fault.late(40)])
        async with make_client(simulator) as client, open_batch(path) as batch:
            await batch.add(films(1))
            running = asyncio.create_task(run_batch(batch, client, folder=tmp_path))
            await asyncio.sleep(5)
            batch.stop()
            await running
            assert (await batch.item("k0")).state is ItemState.SENDING
        async with make_client(simulator) as client, open_batch(path) as batch:
            await run_batch(batch, client, folder=tmp_path)
            await check_consistency(simulator, batch, tmp_path)
            assert await states(batch) == {"k0": ItemState.DONE}
