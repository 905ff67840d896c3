"""The inbox: what was answered is on the disk, and whoever waits for it hears it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from webhook.post import BODY, JSON, KEY, TASK, TOKEN, Ear, Noon, ask, raw, signing, uvicorn_of

from apikley_async import JournalError
from apikley_async._disk import user_id
from apikley_async.testing import LoopClock
from apikley_async.webhook import Callback, Inbox, Limits, Receiver

ROOT = Path(__file__).resolve().parents[2]
OTHER = "f" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.db"


async def content(path: Path) -> list[tuple[str, str]]:
    async with Inbox(path) as inbox:
        kept, _ = await inbox.after(None)
    return [(each.token, each.task_id) for each in kept]


def run(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        return list(db.execute(statement))


async def told(ear: Ear, count: int, *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while len(ear.told) < count:  # noqa: ASYNC110 - the other side is a real process
            await asyncio.sleep(0.01)


# --- the file -------------------------------------------------------------------------------------


async def test_what_is_kept_is_read_in_its_order(path: Path) -> None:
    """And once read, only what is new."""
    async with Inbox(path) as inbox:
        assert await inbox.after(None) == ([], (await inbox.after(None))[1])
        await inbox.keep(TOKEN, "b")
        await inbox.keep(OTHER, "a")
        first, place = await inbox.after(None)
        nothing, place = await inbox.after(place)
        await inbox.keep(OTHER, "ü")
        last, _ = await inbox.after(place)

    assert [(each.token, each.task_id) for each in first] == [(TOKEN, "b"), (OTHER, "a")]
    assert nothing == []
    assert [each.task_id for each in last] == ["ü"]


async def test_it_is_private_and_made_to_last(path: Path) -> None:
    """Nobody else reads it, its log or its index; each commit is on the disk (W8, S5)."""
    async with Inbox(path) as inbox:
        await inbox.keep(TOKEN, TASK)
        assert inbox._desk is not None
        thread, file = inbox._desk
        loop = asyncio.get_running_loop()
        mode, full = await loop.run_in_executor(
            thread,
            lambda: [
                file._opened().execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous")
            ],
        )
        files = sorted(path.parent.iterdir())
        modes = {stat.S_IMODE(each.stat().st_mode) for each in files}

    assert (mode, full) == ("wal", 2)
    assert [each.name for each in files] == ["inbox.db", "inbox.db-shm", "inbox.db-wal"]
    assert modes == {0o600}
    assert TOKEN not in repr(inbox)


async def test_what_is_kept_again_is_there_once_and_is_new_again(path: Path) -> None:
    """A task may be told of in the making, and again when it is ready (W6)."""
    async with Inbox(path) as inbox:
        await inbox.keep(TOKEN, TASK)
        await inbox.keep(OTHER, TASK)
        _, place = await inbox.after(None)
        await inbox.keep(TOKEN, TASK)
        again, _ = await inbox.after(place)

    assert [each.token for each in again] == [TOKEN]
    assert await content(path) == [(OTHER, TASK), (TOKEN, TASK)]


async def test_it_is_bounded_and_the_oldest_go(path: Path) -> None:
    """However often one is kept again, it pushes nobody out."""
    async with Inbox(path, most=10) as inbox:
        for number in range(25):
            await inbox.keep(TOKEN, str(number))
            await inbox.keep(TOKEN, str(number))
        for _ in range(50):
            await inbox.keep(TOKEN, "24")

    assert await content(path) == [(TOKEN, str(number)) for number in range(15, 25)]


async def test_more_than_a_page_is_read_page_by_page(path: Path) -> None:
    async with Inbox(path) as inbox:
        await inbox.check()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        rows = [(TOKEN, f"task_{number}") for number in range(1234)]
        db.executemany("INSERT INTO callback (token, task_id) VALUES (?, ?)", rows)

    place, sizes = None, []
    async with Inbox(path) as inbox:
        while not sizes or sizes[-1]:
            kept, place = await inbox.after(place)
            sizes.append(len(kept))

    assert sizes == [500, 500, 234, 0]


async def test_it_may_be_closed_and_used_again(path: Path) -> None:
    """Closing is harmless, also twice, and what is being done is done before it."""
    inbox = Inbox(path)
    await inbox.aclose()
    inbox.close()
    keeping = asyncio.create_task(inbox.keep(TOKEN, "a"))
    await asyncio.sleep(0)
    inbox.close()
    await keeping
    await inbox.keep(TOKEN, "b")
    await inbox.aclose()

    assert await content(path) == [(TOKEN, "a"), (TOKEN, "b")]


async def test_a_cancelled_keeping_is_whole(path: Path) -> None:
    """It is in there or not; the next one is not disturbed."""
    async with Inbox(path) as inbox:
        for number in range(20):
            keeping = asyncio.create_task(inbox.keep(TOKEN, f"cancelled {number}"))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            keeping.cancel()
            await asyncio.wait({keeping})
        await inbox.keep(TOKEN, "last")

    assert (await content(path))[-1] == (TOKEN, "last")
    assert run(path, "SELECT value FROM fact WHERE name = 'count'") == run(
        path, "SELECT count(*) FROM callback"
    )


@pytest.mark.parametrize("act", ["remove", "replace"])
async def test_a_file_that_was_removed_is_not_written_to_any_more(path: Path, act: str) -> None:
    """What is kept then is in a new one, not in one without a name; readers follow."""
    async with Inbox(path) as writer, Inbox(path) as reader:
        await writer.keep(TOKEN, "a")
        _, place = await reader.after(None)
        for each in path.parent.iterdir():
            each.unlink()
        if act == "replace":
            async with Inbox(path) as other:
                await other.keep(TOKEN, "b")
        await writer.keep(TOKEN, "c")
        kept, _ = await reader.after(place)

    assert [each.task_id for each in kept] == (["b", "c"] if act == "replace" else ["c"])


# --- what is no inbox -----------------------------------------------------------------------------


def _foreign(path: Path) -> None:
    run(path, "CREATE TABLE songs (name)")


def _journal(path: Path) -> None:
    run(path, "CREATE TABLE item (key)")
    run(path, f"PRAGMA application_id = {0x41506B6C}")


def _damaged(path: Path) -> None:
    asyncio.run(_filled(path))
    held = bytearray(path.read_bytes())
    held[4096 * 2 : 4096 * 6] = os.urandom(4096 * 4)
    path.write_bytes(held)


async def _filled(path: Path) -> None:
    async with Inbox(path) as inbox:
        for number in range(300):
            await inbox.keep(TOKEN, f"task_{number}")


def _newer(path: Path) -> None:
    asyncio.run(_filled(path))
    run(path, "PRAGMA user_version = 2")


NO_INBOX = {
    "no database": (lambda path: path.write_text("shopping list\n" * 99), "not an inbox"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "another's": (_foreign, "another database, no inbox"),
    "a journal": (_journal, "another database, no inbox"),
    "damaged": (_damaged, "damaged|malformed"),
    "newer": (_newer, "newer version"),
    "a folder": (lambda path: path.mkdir(), "cannot be written or read"),
    "a lost one": (lambda path: path.with_name("inbox.db-wal").write_bytes(b"x" * 99), "is gone"),
}


@pytest.mark.parametrize("case", NO_INBOX)
def test_what_is_no_inbox_is_left_as_it_is(path: Path, case: str) -> None:
    """A clear error, each time, and not a byte of it is changed."""
    make, fault = NO_INBOX[case]
    make(path)
    before = {each: each.is_file() and each.read_bytes() for each in path.parent.iterdir()}

    async def tried() -> None:
        inbox = Inbox(path)
        for _ in range(2):
            with pytest.raises(JournalError, match=fault):
                await inbox.keep(TOKEN, TASK)
        with pytest.raises(JournalError, match=fault):
            async with inbox:
                pass
        with pytest.raises(JournalError, match=fault):
            await inbox.after(None)
        await inbox.aclose()

    asyncio.run(tried())

    after = {each: each.is_file() and each.read_bytes() for each in path.parent.iterdir()}
    assert {each: held for each, held in after.items() if not each.name.endswith("shm")} == before


@pytest.mark.parametrize("kind", ["a link", "another user's"])
def test_an_inbox_that_is_not_ours_is_left_alone(path: Path, kind: str) -> None:
    """What another user has put there is neither written to nor believed."""
    if kind == "a link":
        asyncio.run(_filled(path.with_name("theirs.db")))
        path.symlink_to(path.with_name("theirs.db"))
    elif user_id() == 0:
        asyncio.run(_filled(path))
        os.chown(path, 12345, -1)
    else:
        pytest.skip("only root can give a file away")

    async def tried() -> None:
        inbox = Inbox(path)
        with pytest.raises(JournalError, match="without links"):
            await inbox.keep(TOKEN, TASK)
        with pytest.raises(JournalError, match="without links"):
            await inbox.after(None)
        await inbox.aclose()

    asyncio.run(tried())


@pytest.mark.parametrize("name", ["inbox.db", "inbox.db-wal"])
async def test_a_pipe_in_an_inboxs_place_holds_nobody(path: Path, name: str) -> None:
    """SQLite would wait at it for good, and the thread could not be ended."""
    if name != path.name:
        await _filled(path)
        path.with_name(name).unlink(missing_ok=True)
    os.mkfifo(path.with_name(name))

    with pytest.raises(JournalError, match=r"regular file"):
        async with Inbox(path):
            pass


async def test_an_inbox_is_made_on_a_disk_without_links(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    await _filled(path)
    assert await content(path)
    assert not [*path.parent.glob(".inbox*")]


async def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nowhere"):
        async with Inbox(tmp_path / "nowhere" / "inbox.db"):
            pass


# --- several processes ----------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from apikley_async.webhook import Inbox

async def main(path, name, count):
    async with Inbox(path) as inbox:
        for number in range(count):
            await inbox.keep(name * 32, f"task_{number}")
            print(number, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


async def test_several_processes_may_make_it_and_write_at_once(path: Path) -> None:
    """None loses a callback, and nobody's draft is left (W8)."""
    processes = [writer(path, name, 100) for name in "abc"]
    for process in processes:
        await asyncio.to_thread(process.communicate)

    kept = await content(path)
    assert [process.returncode for process in processes] == [0, 0, 0]
    for name in "abc":
        mine = [task_id for token, task_id in kept if token == name * 32]
        assert mine == [f"task_{number}" for number in range(100)]
    assert [each.name for each in path.parent.iterdir()] == ["inbox.db"]


async def test_what_was_confirmed_survives_the_death_of_its_writer(path: Path) -> None:
    """SIGKILL at any moment: every callback that was answered is read by the next (W8)."""
    confirmed = 0
    for number, name in enumerate("abcd"):
        with writer(path, name, 100_000) as process:
            assert process.stdout is not None
            for _ in range(20 + 17 * number):
                confirmed = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            confirmed = max([confirmed, *map(int, process.stdout.read().split())])

        kept = set(await content(path))
        async with Inbox(path) as inbox:
            place = None
            while True:
                more, place = await inbox.after(place)
                kept |= {(each.token, each.task_id) for each in more}
                if not more:
                    break
        assert {(name * 32, f"task_{each}") for each in range(confirmed + 1)} <= kept


# --- received here, heard there -------------------------------------------------------------------


@contextlib.asynccontextmanager
async def receiving(path: Path, how: str = "aiohttp") -> AsyncIterator[int]:
    """A receiver with a key, behind one door or the other."""
    async with Inbox(path) as inbox:
        receiver = Receiver(inbox, hmac_keys=[KEY], clock=Noon())
        if how == "aiohttp":
            async with receiver.serve(port=0) as server:
                yield server.port
        else:
            async with uvicorn_of(receiver.asgi_app()) as port:
                yield port


@pytest.mark.parametrize("how", ["aiohttp", "asgi"])
async def test_a_receiver_keeps_what_is_signed_and_nothing_else(path: Path, how: str) -> None:
    """It knows no tokens, so each that could be one is kept before it is answered (W7, W8)."""
    async with receiving(path, how) as port:
        assert (await ask(port, raw(BODY, JSON, *signing())))[0] == 200
        assert (await ask(port, raw(BODY, JSON, *signing(), path=f"/p/{OTHER}")))[0] == 200
        assert (await ask(port, raw(BODY, JSON, *signing("another"))))[0] == 401
        assert (await ask(port, raw(BODY, JSON)))[0] == 401
        assert (await ask(port, raw(b"{}", JSON, *signing())))[0] == 400
        assert await content(path) == [(TOKEN, TASK), (OTHER, TASK)]


async def test_a_callback_hears_what_another_process_received(path: Path) -> None:
    """All that lies there at the start, then what is new; each listener all of it (W7, W8)."""
    async with receiving(path) as port:
        assert (await ask(port, raw(BODY, JSON, *signing())))[0] == 200
        callback = Callback("https://hooks.test", inbox=path, limits=Limits(poll=0.02))
        first, second = Ear(), Ear(tokens=())
        ends = [callback.listen(first)]
        await told(first, 1)

        ends.append(callback.listen(second))
        await told(second, 1)
        assert (await ask(port, raw(BODY, JSON, *signing(), path=f"/{OTHER}")))[0] == 200
        await asyncio.gather(told(first, 2), told(second, 2))

        for end in ends:
            end()
            end()
        again = Ear()
        end = callback.listen(again)
        await told(again, 2)
        end()

    assert first.told == second.told == again.told == [(TOKEN, TASK), (OTHER, TASK)]


@pytest.mark.virtual
async def test_an_inbox_is_looked_into_twice_a_second(path: Path) -> None:
    """By the clock that was handed in."""
    clock = LoopClock()
    callback, ear = Callback("https://hooks.test", inbox=path, clock=clock), Ear()
    end = callback.listen(ear)
    async with Inbox(path) as inbox:
        for number in range(4):
            await asyncio.sleep(1.9)
            await inbox.keep(TOKEN, str(number))
            await asyncio.sleep(0.6)
            assert len(ear.told) == number + 1
    end()


@pytest.mark.virtual
async def test_a_listener_who_hangs_or_breaks_does_not_stop_the_inbox(path: Path) -> None:
    """The next callback is passed on all the same; the hanging one ends with the listening."""
    async with Inbox(path) as inbox:
        for name in ("hangs", "breaks", "goes"):
            await inbox.keep(TOKEN, name)
    seen: list[str] = []

    async def hear(token: str, task_id: str) -> bool:
        seen.append(task_id)
        if task_id == "hangs":
            await asyncio.get_running_loop().create_future()
        if task_id == "breaks":
            raise RuntimeError(token)
        return True

    callback = Callback("https://hooks.test", inbox=path)
    end = callback.listen(hear)
    await asyncio.sleep(5)
    end()

    assert seen == ["hangs", "breaks", "goes"]


@pytest.mark.virtual
async def test_an_inbox_in_trouble_is_told_once_and_read_when_it_is_mended(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Callbacks are hints: the program goes on without them meanwhile."""
    caplog.set_level(logging.DEBUG)
    path.write_text("shopping list\n" * 99)
    callback, ear = Callback("https://hooks.test", inbox=path), Ear()

    end = callback.listen(ear)
    await asyncio.sleep(10)
    path.unlink()
    async with Inbox(path) as inbox:
        await inbox.keep(TOKEN, TASK)
    await asyncio.sleep(1)
    end()

    assert caplog.text.count("not an inbox of this program") == 1
    assert ear.told == [(TOKEN, TASK)]


def test_an_inbox_needs_a_loop_to_be_heard(path: Path) -> None:
    """Said at once; nothing is left behind, and without an inbox there is no need."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        Callback("https://hooks.test", inbox=path).listen(Ear())
    Callback("https://hooks.test").listen(Ear())()


@pytest.mark.parametrize("trouble", ["damaged", "locked"])
async def test_what_cannot_be_kept_is_not_answered_with_200(
    path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503, so that the service calls again; and then it is no replay (W8, W12)."""
    limits = Limits(hear=0.2)
    async with Inbox(path) as inbox:
        receiver = Receiver(inbox, hmac_keys=[KEY], clock=Noon(), limits=limits)
        request = raw(BODY, JSON, *signing())
        async with receiver.serve(port=0) as server:
            if trouble == "damaged":
                inbox.close()
                good = path.read_bytes()
                await asyncio.sleep(0.1)
                for each in path.parent.iterdir():
                    each.unlink()
                path.write_text("shopping list\n" * 99)
                refused = [(await ask(server.port, request))[0] for _ in range(2)]
                path.write_bytes(good)
            else:
                with contextlib.closing(sqlite3.connect(path)) as db:
                    db.execute("BEGIN IMMEDIATE")
                    refused = [(await ask(server.port, request))[0] for _ in range(2)]
                    db.rollback()
            async with asyncio.timeout(10):
                while (await ask(server.port, request))[0] != 200:  # noqa: ASYNC110 - as it does
                    await asyncio.sleep(0.05)

    assert refused == [503, 503]
    assert await content(path) == [(TOKEN, TASK)]
    assert caplog.text.count("callbacks are not kept") == (trouble == "damaged")
    assert repr(receiver) == f"<Receiver signed, {path}>"
