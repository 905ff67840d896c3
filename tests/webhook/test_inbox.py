"""The inbox: what was acknowledged is on disk, and every listener gets it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import signal
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from forked_process import started
from webhook.callback_requests import (
    BODY,
    JSON,
    KEY,
    TASK,
    TOKEN,
    FixedWallClock,
    RecordingListener,
    raw_request,
    send_request,
    signature_headers,
    status_of,
    uvicorn_of,
)

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
        stored, _ = await inbox.read_after(None)
    return [(each.token, each.task_id) for each in stored]


def run(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        return list(db.execute(statement))


async def called(listener: RecordingListener, count: int, *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while len(listener.calls) < count:  # noqa: ASYNC110 - the other side is a real process
            await asyncio.sleep(0.01)


# --- the file -------------------------------------------------------------------------------------


async def test_callbacks_are_read_in_the_order_they_were_added(path: Path) -> None:
    """After that, only new ones are read."""
    async with Inbox(path) as inbox:
        assert await inbox.read_after(None) == ([], (await inbox.read_after(None))[1])
        await inbox.add(TOKEN, "b")
        await inbox.add(OTHER, "a")
        first, position = await inbox.read_after(None)
        nothing, position = await inbox.read_after(position)
        await inbox.add(OTHER, "ü")
        last, _ = await inbox.read_after(position)

    assert [(each.token, each.task_id) for each in first] == [(TOKEN, "b"), (OTHER, "a")]
    assert nothing == []
    assert [each.task_id for each in last] == ["ü"]


async def test_it_is_private(path: Path) -> None:
    """Only its owner may read it, its log and its index (S5)."""
    async with Inbox(path) as inbox:
        await inbox.add(TOKEN, TASK)
        files = sorted(path.parent.iterdir())
        modes = {stat.S_IMODE(each.stat().st_mode) for each in files}

    assert [each.name for each in files] == ["inbox.db", "inbox.db-shm", "inbox.db-wal"]
    assert modes == {0o600}
    assert TOKEN not in repr(inbox)


async def test_each_commit_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a callback is on disk before it is acknowledged, power cut or not (W8)."""
    opened: list[list[str]] = []  # the statements of each connection
    connect = sqlite3.connect

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*args, **options)
        opened.append([])
        db.set_trace_callback(opened[-1].append)
        return db

    monkeypatch.setattr(sqlite3, "connect", traced)
    async with Inbox(path) as inbox:
        await inbox.add(TOKEN, TASK)

    inserting = next(trace for trace in opened if any("INTO callback" in sql for sql in trace))
    before = inserting[: next(i for i, sql in enumerate(inserting) if "INTO callback" in sql)]
    assert [sql for sql in before if "synchronous" in sql][-1] == "PRAGMA synchronous = FULL"
    assert run(path, "PRAGMA journal_mode") == [("wal",)]


async def test_a_callback_added_again_is_stored_once_and_becomes_the_newest(path: Path) -> None:
    """The service may call while a film is being made, and again when it is ready (W6)."""
    async with Inbox(path) as inbox:
        await inbox.add(TOKEN, TASK)
        await inbox.add(OTHER, TASK)
        _, position = await inbox.read_after(None)
        await inbox.add(TOKEN, TASK)
        again, _ = await inbox.read_after(position)

    assert [each.token for each in again] == [TOKEN]
    assert await content(path) == [(OTHER, TASK), (TOKEN, TASK)]


async def test_it_is_bounded_and_the_oldest_are_dropped(path: Path) -> None:
    """A callback that is added again displaces none."""
    async with Inbox(path, size=10) as inbox:
        for number in range(25):
            await inbox.add(TOKEN, str(number))
            await inbox.add(TOKEN, str(number))
        for _ in range(50):
            await inbox.add(TOKEN, "24")

    assert await content(path) == [(TOKEN, str(number)) for number in range(15, 25)]


async def test_many_callbacks_are_read_page_by_page(path: Path) -> None:
    async with Inbox(path) as inbox:
        await inbox.check()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        rows = [(TOKEN, f"task_{number}") for number in range(1234)]
        db.executemany("INSERT INTO callback (token, task_id) VALUES (?, ?)", rows)

    position, sizes = None, []
    async with Inbox(path) as inbox:
        while not sizes or sizes[-1]:
            stored, position = await inbox.read_after(position)
            sizes.append(len(stored))

    assert sizes == [500, 500, 234, 0]


async def test_it_may_be_closed_and_used_again(path: Path) -> None:
    """Closing twice is harmless, and an operation under way is finished first."""
    inbox = Inbox(path)
    await inbox.aclose()
    inbox.close()
    adding = asyncio.create_task(inbox.add(TOKEN, "a"))
    await asyncio.sleep(0)
    inbox.close()
    await adding
    await inbox.add(TOKEN, "b")
    await inbox.aclose()

    assert await content(path) == [(TOKEN, "a"), (TOKEN, "b")]


class LateLoop(asyncio.SelectorEventLoop):
    """Gives work to a thread when *before* has had the time to run in another one."""

    before: Callable[[], None]

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        other = threading.Thread(target=self.before)
        other.start()
        other.join(0.1)
        return super().run_in_executor(executor, func, *args)


def test_it_may_be_closed_in_another_thread_at_any_moment(path: Path) -> None:
    """What has begun is done, and what comes later opens it again."""
    inbox = Inbox(path)
    with asyncio.Runner(loop_factory=LateLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, LateLoop)
        loop.before = inbox.close
        for task_id in "abc":
            runner.run(inbox.add(TOKEN, task_id))
        loop.before = lambda: None
        runner.run(inbox.aclose())

    assert asyncio.run(content(path)) == [(TOKEN, task_id) for task_id in "abc"]


async def test_a_cancelled_add_is_atomic(path: Path) -> None:
    """The callback is stored or not; the next operation works."""
    async with Inbox(path) as inbox:
        for number in range(20):
            adding = asyncio.create_task(inbox.add(TOKEN, f"cancelled {number}"))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            adding.cancel()
            await asyncio.wait({adding})
        await inbox.add(TOKEN, "last")

    assert (await content(path))[-1] == (TOKEN, "last")
    assert run(path, "SELECT value FROM fact WHERE name = 'count'") == run(
        path, "SELECT count(*) FROM callback"
    )


@pytest.mark.parametrize("act", ["remove", "replace"])
async def test_a_removed_file_is_not_written_any_more(path: Path, act: str) -> None:
    """The next callback goes into a new file, not into the deleted one; readers follow."""
    async with Inbox(path) as writer, Inbox(path) as reader:
        await writer.add(TOKEN, "a")
        _, position = await reader.read_after(None)
        for each in path.parent.iterdir():
            each.unlink()
        if act == "replace":
            async with Inbox(path) as other:
                await other.add(TOKEN, "b")
        await writer.add(TOKEN, "c")
        stored, _ = await reader.read_after(position)

    assert [each.task_id for each in stored] == (["b", "c"] if act == "replace" else ["c"])


# --- files that are not an inbox ------------------------------------------------------------------


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
            await inbox.add(TOKEN, f"task_{number}")


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


def test_a_file_that_is_not_an_inbox_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    """Each operation raises a clear error, each time, and not a byte of the file changes."""
    failures = []
    for case, (make, fault) in NO_INBOX.items():
        path = tmp_path / case / "inbox.db"
        path.parent.mkdir()
        make(path)
        before = contents(path.parent)
        messages = asyncio.run(errors_of(path))
        after = {name: held for name, held in contents(path.parent).items() if name[-3:] != "shm"}
        if not all(re.search(fault, message) for message in messages) or after != before:
            failures.append((case, messages))

    assert failures == []


def contents(folder: Path) -> dict[str, bytes | bool]:
    return {path.name: path.is_file() and path.read_bytes() for path in folder.iterdir()}


async def errors_of(path: Path) -> list[str]:
    """The errors of every operation on a file that is not an inbox."""
    inbox = Inbox(path)
    messages = []
    for operation in (
        lambda: inbox.add(TOKEN, TASK),
        lambda: inbox.add(TOKEN, TASK),
        inbox.__aenter__,
        lambda: inbox.read_after(None),
    ):
        with pytest.raises(JournalError) as caught:
            await operation()
        messages.append(str(caught.value))
    await inbox.aclose()
    return messages


@pytest.mark.parametrize("kind", ["a link", "another user's"])
def test_an_inbox_of_another_user_is_refused(path: Path, kind: str) -> None:
    """A file or link that another user may have put there is neither written nor read."""
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
            await inbox.add(TOKEN, TASK)
        with pytest.raises(JournalError, match="without links"):
            await inbox.read_after(None)
        await inbox.aclose()

    asyncio.run(tried())


@pytest.mark.parametrize("name", ["inbox.db", "inbox.db-wal"])
async def test_a_pipe_in_place_of_an_inbox_does_not_block(path: Path, name: str) -> None:
    """SQLite would wait for it for ever, and the thread could not be ended."""
    if name != path.name:
        await _filled(path)
        path.with_name(name).unlink(missing_ok=True)
    os.mkfifo(path.with_name(name))

    with pytest.raises(JournalError, match=r"regular file"):
        async with Inbox(path):
            pass


async def test_an_inbox_is_made_on_a_disk_without_hard_links(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    await _filled(path)
    assert await content(path)
    assert not [*path.parent.glob(".inbox*")]


async def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
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
            await inbox.add(name * 32, f"task_{number}")
            print(number, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_several_processes_may_create_it_and_add_at_once(path: Path) -> None:
    """No callback is lost, and no draft of the file is left (W8)."""
    processes = [started(WRITER, path, name, 100) for name in "abc"]
    for process in processes:
        await asyncio.to_thread(process.communicate)

    stored = await content(path)
    assert [process.returncode for process in processes] == [0, 0, 0]
    for name in "abc":
        mine = [task_id for token, task_id in stored if token == name * 32]
        assert mine == [f"task_{number}" for number in range(100)]
    assert [each.name for each in path.parent.iterdir()] == ["inbox.db"]


async def test_acknowledged_callbacks_survive_a_killed_writer(path: Path) -> None:
    """SIGKILL at any moment: every acknowledged callback is read afterwards (W8)."""
    confirmed = 0
    for number, name in enumerate("abcd"):
        with contextlib.closing(started(WRITER, path, name, 100_000)) as process:
            assert process.stdout is not None
            for _ in range(20 + 17 * number):
                confirmed = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            confirmed = max([confirmed, *map(int, process.stdout.read().split())])

        stored = set(await content(path))
        async with Inbox(path) as inbox:
            position = None
            while True:
                more, position = await inbox.read_after(position)
                stored |= {(each.token, each.task_id) for each in more}
                if not more:
                    break
        assert {(name * 32, f"task_{each}") for each in range(confirmed + 1)} <= stored


# --- receivers and listeners in different processes -----------------------------------------------


@contextlib.asynccontextmanager
async def receiving(path: Path, how: str = "aiohttp") -> AsyncIterator[int]:
    """A receiver with a key, served by aiohttp or by ASGI; yields the port."""
    async with Inbox(path) as inbox:
        receiver = Receiver(inbox, hmac_keys=[KEY], clock=FixedWallClock())
        if how == "aiohttp":
            async with receiver.serve(port=0) as server:
                yield server.port
        else:
            async with uvicorn_of(receiver.asgi_app()) as port:
                yield port


@pytest.mark.parametrize("how", ["aiohttp", "asgi"])
async def test_a_receiver_stores_signed_callbacks_and_no_others(path: Path, how: str) -> None:
    """It knows no attempts, so any token is accepted, and stored before the answer (W7, W8)."""
    async with receiving(path, how) as port:
        assert await status_of(port, raw_request(BODY, JSON, *signature_headers())) == 200
        assert (
            await send_request(
                port, raw_request(BODY, JSON, *signature_headers(), path=f"/p/{OTHER}")
            )
        )[0] == 200
        assert (await send_request(port, raw_request(BODY, JSON, *signature_headers("another"))))[
            0
        ] == 401
        assert await status_of(port, raw_request(BODY, JSON)) == 401
        assert await status_of(port, raw_request(b"{}", JSON, *signature_headers())) == 400
        assert await content(path) == [(TOKEN, TASK), (OTHER, TASK)]


async def test_listeners_are_told_what_another_process_received(path: Path) -> None:
    """First all that is in the inbox, then what is new; each listener all of it (W7, W8)."""
    async with receiving(path) as port:
        assert await status_of(port, raw_request(BODY, JSON, *signature_headers())) == 200
        callback = Callback("https://hooks.test", inbox=path, limits=Limits(inbox_interval=0.02))
        first, second = RecordingListener(), RecordingListener(tokens=())
        ends = [callback.listen(first)]
        await called(first, 1)

        ends.append(callback.listen(second))
        await called(second, 1)
        assert (
            await send_request(
                port, raw_request(BODY, JSON, *signature_headers(), path=f"/{OTHER}")
            )
        )[0] == 200
        await asyncio.gather(called(first, 2), called(second, 2))

        for end in ends:
            end()
            end()
        again = RecordingListener()
        end = callback.listen(again)
        await called(again, 2)
        end()

    assert first.calls == second.calls == again.calls == [(TOKEN, TASK), (OTHER, TASK)]


@pytest.mark.virtual
async def test_an_inbox_is_read_twice_a_second(path: Path) -> None:
    """Counted by the clock that was handed in."""
    clock = LoopClock()
    callback, listener = (
        Callback("https://hooks.test", inbox=path, clock=clock),
        RecordingListener(),
    )
    end = callback.listen(listener)
    async with Inbox(path) as inbox:
        for number in range(4):
            await asyncio.sleep(1.9)
            await inbox.add(TOKEN, str(number))
            await asyncio.sleep(0.6)
            assert len(listener.calls) == number + 1
    end()


@pytest.mark.virtual
async def test_a_listener_that_hangs_or_fails_does_not_stop_the_inbox(path: Path) -> None:
    """The next callback is dispatched; the hanging call ends with the subscription."""
    async with Inbox(path) as inbox:
        for name in ("hangs", "fails", "works"):
            await inbox.add(TOKEN, name)
    seen: list[str] = []

    async def listener(token: str, task_id: str) -> bool:
        seen.append(task_id)
        if task_id == "hangs":
            await asyncio.get_running_loop().create_future()
        if task_id == "fails":
            raise RuntimeError(token)
        return True

    callback = Callback("https://hooks.test", inbox=path)
    end = callback.listen(listener)
    await asyncio.sleep(5)
    end()

    assert seen == ["hangs", "fails", "works"]


@pytest.mark.virtual
async def test_a_broken_inbox_is_logged_once_and_read_when_it_works_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Callbacks are hints: until then the program goes on without them."""
    caplog.set_level(logging.DEBUG)
    path.write_text("shopping list\n" * 99)
    callback, listener = Callback("https://hooks.test", inbox=path), RecordingListener()

    end = callback.listen(listener)
    await asyncio.sleep(10)
    path.unlink()
    async with Inbox(path) as inbox:
        await inbox.add(TOKEN, TASK)
    await asyncio.sleep(1)
    end()

    assert caplog.text.count("not an inbox of this program") == 1
    assert listener.calls == [(TOKEN, TASK)]


def test_listening_to_an_inbox_needs_a_running_loop(path: Path) -> None:
    """It raises at once and leaves nothing behind; without an inbox no loop is needed."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        Callback("https://hooks.test", inbox=path).listen(RecordingListener())
    Callback("https://hooks.test").listen(RecordingListener())()


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("trouble", ["damaged", "read only", "locked"])
async def test_a_callback_that_cannot_be_stored_gets_503(
    path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """So the service sends it again, and then it is no replay (W8, W12)."""
    limits = Limits(dispatch=0.2)
    async with Inbox(path) as inbox:
        receiver = Receiver(inbox, hmac_keys=[KEY], clock=FixedWallClock(), limits=limits)
        request = raw_request(BODY, JSON, *signature_headers())
        async with receiver.serve(port=0) as server:
            health = [await status_of(server.port, HEALTH)]
            if trouble != "locked":
                await inbox.aclose()
                good = path.read_bytes()
                # SQLite reads a file of a later format for writing, and does not write it.
                bad = {"damaged": b"list\n" * 99, "read only": good[:18] + b"\x03" + good[19:]}
                path.write_bytes(bad[trouble])
                refused = [await status_of(server.port, request) for _ in range(2)]
                health += [await status_of(server.port, HEALTH) for _ in range(2)]
                await inbox.aclose()
                path.write_bytes(good)
            else:
                with contextlib.closing(sqlite3.connect(path)) as db:
                    db.execute("BEGIN IMMEDIATE")
                    refused = [await status_of(server.port, request) for _ in range(2)]
                    db.rollback()
            async with asyncio.timeout(10):
                while await status_of(server.port, request) != 200:  # noqa: ASYNC110 - as the service does
                    await asyncio.sleep(0.05)
            health.append(await status_of(server.port, HEALTH))

    assert refused == [503, 503]
    assert health == ([200, 200] if trouble == "locked" else [200, 503, 503, 200])
    assert await content(path) == [(TOKEN, TASK)]
    assert caplog.text.count("callbacks cannot be stored") == (trouble != "locked")
    assert repr(receiver) == f"<Receiver signed, <Inbox {path}>>"
