"""The shared inbox: what a receiver anywhere has acknowledged reaches every client."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import AsyncIterator

import pytest
from postgres_server import PostgresServer
from webhook.callback_requests import (
    BODY,
    JSON,
    TASK,
    TOKEN,
    FixedWallClock,
    RecordingListener,
    raw_request,
    status_of,
)

from apikley_async import JournalError, SystemClock
from apikley_async._postgres import Dsn, connect
from apikley_async.distributed.inbox import SharedInbox
from apikley_async.webhook import Callback, Limits, Notification, Receiver

OTHER = "f" * 32


@pytest.fixture
def dsn(shared_dsn: str) -> str:
    return shared_dsn


async def stored(dsn: str) -> list[Notification]:
    async with SharedInbox(dsn) as inbox:
        found, _ = await inbox.read_after(None)
    return found


async def called(listener: RecordingListener, count: int, *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while len(listener.calls) < count:  # noqa: ASYNC110 - the other side is a real server
            await asyncio.sleep(0.01)


async def test_callbacks_are_read_in_the_order_they_were_added(dsn: str) -> None:
    """After that, only new ones are read; one that is added again is stored once, as the newest."""
    async with SharedInbox(dsn) as inbox:
        await inbox.add(TOKEN, "b")
        await inbox.add(OTHER, "a")
        first, position = await inbox.read_after(None)
        nothing, position = await inbox.read_after(position)
        await inbox.add(TOKEN, "b")
        last, _ = await inbox.read_after(position)

    assert first == [Notification(TOKEN, "b"), Notification(OTHER, "a")]
    assert (nothing, last) == ([], [Notification(TOKEN, "b")])
    assert await stored(dsn) == [Notification(OTHER, "a"), Notification(TOKEN, "b")]


async def test_it_is_bounded_and_the_oldest_are_dropped(dsn: str) -> None:
    async with SharedInbox(dsn, size=3) as inbox:
        for number in range(10):
            await inbox.add(TOKEN, str(number))

    assert await stored(dsn) == [Notification(TOKEN, str(number)) for number in (7, 8, 9)]


async def test_many_callbacks_are_read_page_by_page(dsn: str) -> None:
    with contextlib.closing(connect(Dsn.parse(dsn))) as db:
        db.run(
            "INSERT INTO callback (token, task_id) SELECT 'token', n::text"
            " FROM generate_series(1, 1200) AS n"
        )
    pages: list[list[Notification]] = []
    position = None
    async with SharedInbox(dsn) as inbox:
        while not pages or pages[-1]:
            page, position = await inbox.read_after(position)
            pages.append(page)

    assert [len(page) for page in pages] == [500, 500, 200, 0]
    assert [each.task_id for page in pages for each in page] == [str(n) for n in range(1, 1201)]


async def test_nothing_is_missed_by_a_reader_while_many_add(dsn: str) -> None:
    """Numbers come in the order of commits: none appears behind one that was read already."""
    writers = [SharedInbox(dsn) for _ in range(4)]

    async def add(writer: SharedInbox, name: int) -> None:
        for number in range(30):
            await writer.add(f"{name}", f"{number}")

    seen: list[Notification] = []
    async with SharedInbox(dsn) as inbox:
        adding = asyncio.gather(*(add(writer, name) for name, writer in enumerate(writers)))
        position = None
        while not adding.done() or len(seen) < 120:
            found, position = await inbox.read_after(position)
            seen += found
            if adding.done() and not found:
                break
        await adding
    for writer in writers:
        await writer.aclose()

    assert len(seen) == len({(each.token, each.task_id) for each in seen}) == 120


# --- receivers and clients in different processes ------------------------------------------------


@contextlib.asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[RecordingListener]:
    """A client's callbacks, in the place of a client."""
    listener = RecordingListener()
    inbox = SharedInbox(dsn)
    callback = Callback("https://hooks.test", inbox=inbox)
    end = callback.listen(listener)
    await callback.catch_up()
    try:
        yield listener
    finally:
        end()
        await inbox.aclose()


async def test_a_receiver_anywhere_reaches_clients_everywhere_at_once(dsn: str) -> None:
    """The database tells them: they need not wait for the next read, five seconds later."""
    async with SharedInbox(dsn) as inbox, listening(dsn) as one, listening(dsn) as another:
        receiver = Receiver(inbox, clock=FixedWallClock())
        async with receiver.serve(port=0) as server:
            await asyncio.sleep(0.3)  # the listeners are connected, and have nothing to read
            assert await status_of(server.port, raw_request(BODY, JSON)) == 200
            await asyncio.gather(called(one, 1, seconds=3), called(another, 1, seconds=3))

    assert one.calls == another.calls == [(TOKEN, TASK)]


async def test_what_came_before_is_caught_up_with(dsn: str) -> None:
    async with SharedInbox(dsn) as inbox:
        await inbox.add(TOKEN, TASK)

    async with listening(dsn) as listener:
        assert listener.calls == [(TOKEN, TASK)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_the_database_may_go_away_and_come_back(
    dsn: str, postgres_server: PostgresServer, how: signal.Signals
) -> None:
    """Meanwhile a receiver answers 503, so that the service sends the callback again."""
    async with SharedInbox(dsn) as inbox, listening(dsn) as listener:
        receiver = Receiver(inbox, clock=FixedWallClock(), limits=Limits(dispatch=20))
        async with receiver.serve(port=0) as server:
            await asyncio.to_thread(postgres_server.stop, how)
            try:
                assert await status_of(server.port, raw_request(BODY, JSON)) == 503
            finally:
                await asyncio.to_thread(postgres_server.start)
            assert await status_of(server.port, raw_request(BODY, JSON)) == 200
            await called(listener, 1)

    assert listener.calls == [(TOKEN, TASK)]


@pytest.mark.parametrize("made_anew", [True, False])
async def test_a_table_that_was_emptied_is_read_from_its_beginning(
    dsn: str, made_anew: bool
) -> None:
    """By hand, or because an older copy was restored; who waits is not kept busy by old numbers."""
    async with SharedInbox(dsn) as inbox:
        for number in range(9):
            await inbox.add(TOKEN, f"task-{number}")
        _, position = await inbox.read_after(None)
        clock = SystemClock()
        await inbox.wait(None, 5, clock)  # it has heard of the newest
        with contextlib.closing(connect(Dsn.parse(dsn))) as db:
            db.run("TRUNCATE callback RESTART IDENTITY")
            if made_anew:
                db.run("UPDATE callback_inbox SET name = 'another'")
        await inbox.add(OTHER, TASK)

        found, position = await inbox.read_after(position)
        assert found == [Notification(OTHER, TASK)]
        began = clock.now()
        for _ in range(2):  # the news of what was just read may come late, once
            await inbox.wait(position, 5, clock)
        assert clock.now() - began > 4


async def test_it_may_be_closed_and_used_again(dsn: str) -> None:
    inbox = SharedInbox(dsn)
    await inbox.add(TOKEN, "one")
    inbox.close()
    await inbox.add(TOKEN, "two")
    await inbox.aclose()
    await inbox.aclose()

    assert [each.task_id for each in await stored(dsn)] == ["one", "two"]


async def test_waiting_ends_with_the_loop_of_its_caller(dsn: str) -> None:
    """A cancelled wait leaves nothing behind but the listener, which `aclose` ends."""
    inbox = SharedInbox(dsn)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await inbox.wait(None, 0.5, SystemClock())
    await inbox.aclose()


async def test_closing_ends_although_the_database_is_silent(
    dsn: str, postgres_server: PostgresServer
) -> None:
    inbox = SharedInbox(dsn)
    await inbox.add(TOKEN, "one")
    with postgres_server.silent(dsn):
        adding = asyncio.create_task(inbox.add(TOKEN, "two"))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(20):
            await inbox.aclose()
    await adding

    assert [each.task_id for each in await stored(dsn)][:1] == ["one"]


def test_it_may_be_used_in_two_loops_at_once(dsn: str, postgres_server: PostgresServer) -> None:
    """Each has one connection that listens, however often they take turns."""
    inbox, clock = SharedInbox(dsn), SystemClock()

    async def use() -> None:
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await inbox.wait(None, 5.0, clock)

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    connections = postgres_server.execute(query, dsn.split("@/")[1].partition("?")[0])
    for thread in threads:
        thread.join()
    inbox.close()

    assert int(connections) <= 2 + 1  # this question has one, too


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_a_receiver_is_healthy_again_without_a_callback(
    dsn: str, postgres_server: PostgresServer
) -> None:
    """A load balancer sends it none as long as it is not."""
    async with SharedInbox(dsn) as inbox:
        receiver = Receiver(inbox, clock=FixedWallClock(), limits=Limits(dispatch=20))
        async with receiver.serve(port=0) as server:
            health = [await status_of(server.port, HEALTH)]
            await asyncio.to_thread(postgres_server.stop)
            try:
                assert await status_of(server.port, raw_request(BODY, JSON)) == 503
                health.append(await status_of(server.port, HEALTH))
            finally:
                await asyncio.to_thread(postgres_server.start)
            health.append(await status_of(server.port, HEALTH))

    assert health == [200, 503, 200]


@pytest.mark.parametrize("trouble", ["a standby", "a user without rights"])
async def test_a_receiver_whose_database_takes_no_callbacks_is_not_healthy(
    dsn: str, postgres_server: PostgresServer, trouble: str
) -> None:
    """Reading it would work."""
    database = dsn.split("@/")[1].partition("?")[0]
    standby = f"ALTER DATABASE {database} SET default_transaction_read_only TO on"
    reader = (
        f"CREATE ROLE {database}_reader LOGIN",
        f"GRANT USAGE ON SCHEMA apikley TO {database}_reader",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA apikley TO {database}_reader",
    )
    for statement in (standby,) if trouble == "a standby" else reader:
        postgres_server.execute(statement, database)
    user = "apikley" if trouble == "a standby" else f"{database}_reader"
    async with contextlib.AsyncExitStack() as stack:
        inbox = SharedInbox(dsn.replace("apikley@", f"{user}@"))
        stack.push_async_callback(inbox.aclose)
        server = await stack.enter_async_context(
            Receiver(inbox, clock=FixedWallClock(), limits=Limits(dispatch=20)).serve(port=0)
        )
        assert await status_of(server.port, raw_request(BODY, JSON)) == 503
        assert [await status_of(server.port, HEALTH) for _ in range(2)] == [503, 503]


async def test_a_database_without_the_table_is_refused(postgres_dsn: str) -> None:
    with pytest.raises(JournalError, match=r"not set up yet: run `apikley db init .*` once"):
        await SharedInbox(postgres_dsn).check()


async def test_a_password_is_not_shown(dsn: str) -> None:
    secret = "do-not-show-this"
    inbox = SharedInbox(dsn.replace("apikley@", f"apikley:{secret}@"))

    assert secret not in repr(inbox)
    assert repr(inbox).startswith("<SharedInbox postgresql://apikley@")
