"""`SharedLimiter` on a real PostgreSQL server, in real time: spans are short, and so are leases."""

from __future__ import annotations

import asyncio
import bisect
import concurrent.futures
import contextlib
import gc
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import pytest
from distributed.processes import start
from forked_process import ForkedProcess
from postgres_server import PostgresServer

from apikley_async import Client, Limiter, Shot, Storyboard, _postgres
from apikley_async._rate import ending_of
from apikley_async.distributed import SharedLimiter
from apikley_async.distributed.shared_state import Ended, Holder, Work
from apikley_async.distributed.shared_store import SharedStore
from apikley_async.errors import (
    ClientClosedError,
    JournalError,
    RateLimitError,
    SubmissionUncertainError,
    UnreachableError,
)
from apikley_async.simulator import Simulator, Terms

pytest.importorskip("psycopg", reason="the extra postgres is not installed")
pytestmark = pytest.mark.timeout(120)

PER = 0.5
Make = Callable[..., SharedLimiter]


@pytest.fixture
def dsn(shared_dsn: str) -> str:
    return shared_dsn


@pytest.fixture
async def make(dsn: str) -> AsyncIterator[Make]:
    """Makes limiters, and closes them in the end."""
    made = list[SharedLimiter]()

    def limiter(limit: int = 4, per: float = PER, **values: object) -> SharedLimiter:
        made.append(SharedLimiter(dsn, limit, per, **values))  # type: ignore[arg-type]
        return made[-1]

    yield limiter
    for each in made:
        await each.aclose()


def most_in_a_span(times: list[float], per: float) -> int:
    times = sorted(times)
    return max(bisect.bisect_left(times, at + per) - n for n, at in enumerate(times))


async def attempt(limiter: Limiter, hold: float = 0.005, error: Exception | None = None) -> float:
    """Make an attempt; when it was sent."""
    with contextlib.suppress(RateLimitError, UnreachableError, SubmissionUncertainError):
        async with limiter.slot():
            sent = time.monotonic()
            await asyncio.sleep(hold)
            if error is not None:
                raise error
    return sent


# --- the rate -------------------------------------------------------------------------------------


async def test_no_span_holds_too_many_attempts_of_three_limiters(make: Make) -> None:
    """And nearly as many as may be: 120 at 20 per half a second."""
    limiters = [make(20) for _ in range(3)]
    sent = await asyncio.gather(*(attempt(limiters[n % 3]) for n in range(120)))

    assert most_in_a_span(sent, PER) <= 20
    assert max(sent) - min(sent) <= 5 * PER * 1.5  # ideal is 5 spans; the machine may be busy


@pytest.mark.parametrize("window", ["sliding", "fixed"])
async def test_a_service_refuses_nothing_at_all_of_its_limit(
    make: Make, window: Literal["sliding", "fixed"]
) -> None:
    """Two clients with a limiter each, as two processes have: 60 at the service's own limit."""
    terms = Terms(limit=10, per=10.0, window=window)
    async with Simulator(terms, speed=10 / PER) as simulator, contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                Client(simulator.api_key, base_url=simulator.base_url, limiter=make(10))
            )
            for _ in range(2)
        ]
        board = Storyboard([Shot("A cat.")])
        jobs = await asyncio.gather(*(clients[n % 2].submit(board) for n in range(60)))

        assert len({job.task_id for job in jobs}) == 60
        assert len(simulator.ledger.throttled) == 0


async def test_processes_share_the_rate(dsn: str) -> None:
    """Three processes, one of them killed midway: no span holds more than the limit."""
    values = {"count": 20, "hold": 0.01, "limit": 10, "per": PER, "lease": 1.0}
    started = [start(dsn, **values) for _ in range(3)]
    first = await asyncio.to_thread(lines_of, started[0], 3)
    started[0].kill()
    texts = [(await asyncio.to_thread(each.communicate, timeout=60))[0] for each in started]
    sent = (
        sent_in(first + texts[0].splitlines()),
        *(sent_in(text.splitlines()) for text in texts[1:]),
    )

    assert [len(times) for times in sent[1:]] == [20, 20]
    assert most_in_a_span([*itertools.chain(*sent)], PER) <= 10


def lines_of(process: ForkedProcess, count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def sent_in(lines: list[str]) -> list[float]:
    return [float(line.split()[1]) for line in lines if line.startswith("sent ")]


async def test_an_attempt_that_was_never_sent_gives_its_permit_back_at_once(make: Make) -> None:
    limiter, other = make(1, 30.0), make(1, 30.0)
    for _ in range(5):
        await attempt(limiter, error=UnreachableError("nobody there"))

    async with asyncio.timeout(10):
        await attempt(other)


# --- pauses and learning --------------------------------------------------------------------------


async def test_a_refusal_of_one_is_a_pause_for_all_within_a_second(make: Make) -> None:
    """Those who wait already are no exception."""
    one, other = make(4), make(4)
    await asyncio.gather(*(attempt(other) for _ in range(4)))
    waiting = [asyncio.create_task(attempt(other)) for _ in range(24)]  # for three seconds
    await attempt(one, error=RateLimitError("too many", retry_after=3.0))
    refused = time.monotonic()

    sent = await asyncio.gather(*waiting)
    assert not [at for at in sent if refused + 1 < at < refused + 2.8]
    assert max(sent) >= refused + 2.8


async def test_what_one_learns_binds_all(make: Make) -> None:
    """The service takes 5 of our 10: both limiters know it, and few are refused."""
    one, other = make(10), make(10)
    terms = Terms(limit=5, per=10.0, window="sliding")
    async with Simulator(terms, speed=10 / PER) as simulator:
        clients = [
            Client(simulator.api_key, base_url=simulator.base_url, limiter=each)
            for each in (one, other)
        ]
        async with clients[0], clients[1]:
            board = Storyboard([Shot("A cat.")])
            await asyncio.gather(*(clients[n % 2].submit(board) for n in range(50)))

        assert len(simulator.ledger.throttled) <= 5 + 50 / 20 + 1  # the first burst, 1 in 20
    assert one.takes is not None
    assert one.takes <= 6
    assert abs(one.takes - (other.takes or 0)) <= 2


# --- processes that die ---------------------------------------------------------------------------


async def test_the_permit_of_a_killed_process_is_back_after_its_lease_and_not_before(
    make: Make, dsn: str
) -> None:
    """Kill -9 in mid-attempt; the lease is 1.5 s, the span 0.5 s."""
    process = start(dsn, count=1, hold=60.0, limit=1, per=PER, lease=1.5)
    await asyncio.to_thread(lines_of, process, 1)
    await asyncio.sleep(2)  # it lives for longer than a lease
    limiter = make(1, lease=1.5)
    waiting = asyncio.create_task(attempt(limiter))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    killed = time.monotonic()
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.communicate)

    back = await waiting - killed
    assert 0.6 + PER <= back <= 1.0 + PER + 3.0  # the last sign of life is some time ago


async def test_a_process_that_is_stopped_holds_nobody_up(make: Make, dsn: str) -> None:
    """SIGSTOP: others take what is free; what it held is theirs after its lease."""
    process = start(dsn, count=2, hold=60.0, limit=3, per=PER, lease=1.0)
    await asyncio.to_thread(lines_of, process, 2)
    process.send_signal(signal.SIGSTOP)
    try:
        limiter = make(3, lease=1.0)
        async with asyncio.timeout(15):
            await attempt(limiter)
            await asyncio.gather(*(attempt(limiter, 1.0) for _ in range(3)))
    finally:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.communicate)


# --- running films --------------------------------------------------------------------------------


async def test_running_films_are_bounded_over_all_limiters(make: Make) -> None:
    limiters = [make(max_running=2), make(max_running=2)]
    running = most = 0

    async def film(limiter: SharedLimiter) -> None:
        nonlocal running, most
        async with limiter.running_slot():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1

    await asyncio.gather(*(film(limiters[n % 2]) for n in range(10)))
    assert most == 2


async def test_how_long_uncertain_films_keep_all_running_slots_is_known(make: Make) -> None:
    """A batch then waits for none of them with what is paid already."""
    limiter = make(max_running=1)
    assert limiter.running_free_in == 0
    with pytest.raises(SubmissionUncertainError):
        async with limiter.running_slot():
            raise SubmissionUncertainError("no answer")
    await attempt(limiter)

    assert 1700 < limiter.running_free_in <= 1800


async def test_without_a_bound_any_number_of_films_may_run(make: Make) -> None:
    limiter = make()
    async with limiter.running_slot(), limiter.running_slot(), limiter.running_slot():
        pass


# --- cancelling -----------------------------------------------------------------------------------


async def test_cancelled_waiters_leak_no_permit(make: Make) -> None:
    """Cancelled before, while and just after their permit is granted: all permits are there."""
    limiter = make(2, 0.0, max_running=2)

    async def use() -> None:
        async with limiter.running_slot(), limiter.slot():
            await asyncio.sleep(0.002)

    for round_ in range(40):
        tasks = [asyncio.create_task(use()) for _ in range(4)]
        await asyncio.sleep(round_ * 0.0005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async with asyncio.timeout(10), contextlib.AsyncExitStack() as all_of_them:
        for take in (limiter.running_slot, limiter.slot) * 2:
            await all_of_them.enter_async_context(take())


async def test_a_permit_for_somebody_who_is_gone_is_given_back(make: Make, dsn: str) -> None:
    """It is granted while the loop is busy, and a cancel comes before the loop hears of it."""
    limiter = make(1, 0.0)
    async with asyncio.timeout(10):
        await attempt(limiter)
        waiting = asyncio.create_task(attempt(limiter))
        await asyncio.sleep(0)
        while not stored(dsn)["permits"]:
            pass  # without a turn of the loop
        waiting.cancel()
        await attempt(limiter)
    assert waiting.cancelled()


async def test_closing_ends_waiters_and_a_later_use_opens_it_again(make: Make) -> None:
    limiter = make(1, 0.0)
    async with limiter.slot():
        waiting = asyncio.create_task(attempt(limiter))
        await asyncio.sleep(0.1)
        await limiter.aclose()
        with pytest.raises(ClientClosedError):
            await waiting

    async with asyncio.timeout(10):
        await attempt(limiter)


class Meddling(asyncio.SelectorEventLoop):
    """A loop in which something else happens when a thread first calls into it."""

    act: Callable[[], object] | None = None

    def call_soon_threadsafe(self, *args: Any, **values: Any) -> Any:
        if threading.current_thread().name == "apikley shared limiter":
            act, self.act = self.act, None
            if act is not None:
                act()
        return super().call_soon_threadsafe(*args, **values)


def test_a_use_that_begins_while_the_thread_ends_is_not_forgotten(dsn: str) -> None:
    """It comes when all who waited were told of the end, and before the thread has ended."""
    limiter = SharedLimiter(dsn, 1, 0.0)
    loop, other = Meddling(), asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    late = list[concurrent.futures.Future[float]]()

    def come() -> None:
        late.append(asyncio.run_coroutine_threadsafe(attempt(limiter), other))
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), other).result(10)  # now it waits

    async def main() -> None:
        async with limiter.slot():
            waiting = asyncio.create_task(attempt(limiter))
            await asyncio.sleep(0.1)
            loop.act = come
            await limiter.aclose()
            with pytest.raises(ClientClosedError):
                await waiting
            with pytest.raises(ClientClosedError):
                await asyncio.wait_for(asyncio.wrap_future(late[0]), 20)
        await limiter.aclose()

    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()
        other.close()


async def test_closing_ends_although_the_database_is_silent(
    dsn: str, postgres_server: PostgresServer
) -> None:
    """As on a stalled disk: what was not given back is free when its lease is over."""
    limiter = SharedLimiter(dsn, 1, 30.0)
    async with limiter.slot():
        pass
    with postgres_server.silent(dsn):
        waiting = asyncio.create_task(attempt(limiter))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(20):
            await limiter.aclose()
            with pytest.raises(ClientClosedError):
                await waiting


async def test_a_closed_client_leaves_nothing_behind(make: Make) -> None:
    """Closed while submissions wait for a permit: the next client begins at once."""
    limiter = make(2, 30.0)
    async with Simulator() as simulator:
        client = Client(simulator.api_key, base_url=simulator.base_url, limiter=limiter)
        async with client:
            await asyncio.gather(*(attempt(limiter) for _ in range(1)))
            waiting = [
                asyncio.create_task(client.submit(Storyboard([Shot("A cat.")]))) for _ in range(5)
            ]
            await asyncio.sleep(0.3)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(each, Exception) for each in ended) == 4
    assert repr(limiter).endswith("0 in use here>")


# --- event loops ----------------------------------------------------------------------------------


def test_it_works_in_one_loop_after_another_and_in_two_at_once(dsn: str) -> None:
    limiter = SharedLimiter(dsn, 4, PER)

    async def some() -> list[float]:
        return await asyncio.gather(*(attempt(limiter) for _ in range(6)))

    sent = asyncio.run(some())
    others = list[float]()
    thread = threading.Thread(target=lambda: others.extend(asyncio.run(some())))
    thread.start()
    sent += asyncio.run(some())
    thread.join()
    asyncio.run(limiter.aclose())

    assert most_in_a_span(sent + others, PER) <= 4


def test_a_permit_in_use_in_a_closed_loop_comes_back(dsn: str) -> None:
    limiter = SharedLimiter(dsn, 1, PER)
    slot = limiter.slot()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(slot.__aenter__())
    loop.close()

    async def main() -> None:
        async with asyncio.timeout(10):
            await attempt(limiter)
        await limiter.aclose()

    asyncio.run(main())
    del slot
    gc.collect()


async def test_a_limiter_that_nobody_holds_ends_its_thread(dsn: str) -> None:
    limiter = SharedLimiter(dsn, 4, PER)
    await attempt(limiter)
    known = [each for each in threading.enumerate() if each.name == "apikley shared limiter"]
    assert known
    del limiter
    gc.collect()

    for each in known:
        await asyncio.to_thread(each.join, 20)
        assert not each.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_has_a_connection_of_its_own(dsn: str) -> None:
    """As under a server that loads the application before it forks."""
    program = f"""
import asyncio, os
from apikley_async.distributed import SharedLimiter
limiter = SharedLimiter({dsn!r}, 2, 0.0)
async def use():
    async with limiter.slot():
        pass
asyncio.run(use())
child = os.fork()
asyncio.run(use())
if child:
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(use())
    print("both")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "both\n", done.stderr


# --- the database ---------------------------------------------------------------------------------


class Interrupted(random.Random):
    """A source of chance that lets something else happen when it is first used."""

    act: Callable[[], object] | None = None

    def uniform(self, a: float, b: float) -> float:
        act, self.act = self.act, None
        if act is not None:
            act()
        return super().uniform(a, b)


def test_a_step_that_another_one_has_overtaken_is_made_anew(dsn: str) -> None:
    """Somebody takes a permit between our reading and our storing: it is theirs."""
    where, rng = _postgres.Dsn.parse(dsn), Interrupted(1)
    one, other = (SharedStore(where, "default", each) for each in (rng, random.Random(1)))
    settings = Holder(4, 30.0)
    taken = one.exchange(
        Work(holder="one", settings=settings, lease=60.0, batch=1, permits=("one-1",))
    )
    theirs = Work(holder="other", settings=settings, lease=60.0, batch=1, permits=("other-1",))
    rng.act = lambda: other.exchange(theirs)
    ended = Ended("one-1", ending_of(RateLimitError("too many")), 0.0, taken.granted["one-1"])
    one.exchange(Work(holder="one", settings=settings, lease=60.0, batch=2, ends=(ended,)))

    assert stored(dsn)["permits"] == ["other-1"]
    assert stored(dsn)["gate"]["refusals"] == 1
    for each in (one, other):
        each.close()


def stored(dsn: str) -> dict[str, Any]:
    """What the database keeps."""
    connection = _postgres.connect(_postgres.Dsn.parse(dsn))
    row = connection.run("SELECT state FROM limiter")
    connection.close()
    assert row is not None
    state: dict[str, Any] = row[0]
    return state


async def test_a_process_that_was_stopped_before_it_sent_takes_another_permit(
    make: Make, dsn: str
) -> None:
    """Its lease might be over when it sends: what it was granted before is given back."""
    limiter = make(1, 30.0, lease=0.4)
    async with limiter:
        waiting = asyncio.create_task(attempt(limiter, hold=1.0))
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - granted meanwhile, and not seen
        await asyncio.sleep(0.5)
        assert [use.partition("-")[2] for use in stored(dsn)["permits"]] == ["2"]
        await waiting


async def test_while_the_database_is_away_nothing_is_sent_and_then_all_goes_on(
    make: Make, dsn: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An attempt that is out ends as usual; the log has one warning for each change."""
    limiter = make(4)
    async with limiter.slot():
        await asyncio.to_thread(postgres_server.stop)
        try:
            waiting = [asyncio.create_task(attempt(limiter)) for _ in range(8)]
            await asyncio.sleep(1)
            assert not any(task.done() for task in waiting)
        finally:
            away_until = time.monotonic()
            await asyncio.to_thread(postgres_server.start)

    async with asyncio.timeout(20):
        sent = await asyncio.gather(*waiting)
    assert min(sent) > away_until
    assert most_in_a_span(sent, PER) <= 4
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "nothing is sent until it is back" in warnings[0]
    assert "is back after" in warnings[1]


async def test_what_ended_while_the_database_was_away_is_given_back_later(
    make: Make, postgres_server: PostgresServer
) -> None:
    limiter = make(1, 0.0)
    async with limiter.slot():
        await asyncio.to_thread(postgres_server.stop)
    await asyncio.sleep(0.2)
    await asyncio.to_thread(postgres_server.start)

    async with asyncio.timeout(20):
        await attempt(limiter)


async def test_connections_that_break_again_and_again_break_no_span(
    make: Make, dsn: str, postgres_server: PostgresServer
) -> None:
    """Broken off before, during and after a step: what was done is done once, nothing is lost."""
    limiters = [make(6, max_running=3), make(6, max_running=3)]
    name = name_in(dsn)
    query = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def use(limiter: SharedLimiter) -> float:
        async with limiter.running_slot():
            return await attempt(limiter)

    async def break_off() -> None:
        for _ in range(12):
            await asyncio.sleep(0.05)
            await asyncio.to_thread(postgres_server.execute, query, name)

    async with asyncio.timeout(60):
        sent, _ = await asyncio.gather(
            asyncio.gather(*(use(limiters[n % 2]) for n in range(48))), break_off()
        )
    assert most_in_a_span(sent, PER) <= 6
    for each in limiters:
        await each.aclose()
    left = stored(dsn)
    assert (left["permits"], left["running"], left["holders"]) == ([], [], {})
    assert left["passed"] == 48


async def test_a_database_that_is_away_is_not_asked_by_each_who_comes() -> None:
    """Two hundred come within a second: it is tried again now and then, not for each of them."""
    connections = 0

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        limiter = SharedLimiter(f"postgresql://me@127.0.0.1:{port}/films")
        coming = []
        for _ in range(200):
            coming.append(asyncio.create_task(attempt(limiter)))
            await asyncio.sleep(0.005)
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        await limiter.aclose()

    assert 1 <= connections <= 20


async def test_who_waits_is_woken_when_another_process_gives_back(make: Make) -> None:
    """And does not wait until it asks again on its own."""
    one, other = make(1, 30.0), make(1, 30.0)
    waited = 0.0
    for _ in range(4):
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(contextlib.suppress(UnreachableError))
            await held.enter_async_context(one.slot())
            waiting = asyncio.create_task(attempt(other, error=UnreachableError("nobody there")))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            raise UnreachableError("nobody there")
        waited += await waiting - began

    assert waited < 2.0


async def test_a_database_that_was_never_set_up_is_one_clear_sentence(postgres_dsn: str) -> None:
    async with asyncio.timeout(20):
        limiter = SharedLimiter(postgres_dsn)
        with pytest.raises(JournalError, match="not set up yet: run `apikley db init"):
            async with limiter.slot():
                pass
        with pytest.raises(JournalError, match="not set up yet"):
            await limiter.__aenter__()
        await limiter.aclose()


async def test_a_database_that_is_not_there_is_said_and_its_password_is_not() -> None:
    limiter = SharedLimiter("postgresql://me:canary-word@127.0.0.1:9/none")
    assert "canary-word" not in repr(limiter)
    with pytest.raises(JournalError, match="cannot be reached") as raised:
        async with asyncio.timeout(40):
            await attempt(limiter)
    assert "canary-word" not in str(raised.value)
    await limiter.aclose()


# --- the rest -------------------------------------------------------------------------------------


async def test_waiting_asks_the_database_seldom(
    make: Make, dsn: str, postgres_server: PostgresServer
) -> None:
    """Five wait for two permits that are in use: a few statements a second."""
    limiter, other = make(2, 0.0), make(2, 0.0)
    async with limiter.slot(), limiter.slot():
        waiting = [asyncio.create_task(attempt(other)) for _ in range(5)]
        await asyncio.sleep(1.5)
        before = commits(postgres_server, dsn)
        await asyncio.sleep(4)
        assert commits(postgres_server, dsn) - before <= 4 * 5
    await asyncio.gather(*waiting)


def commits(server: PostgresServer, dsn: str) -> int:
    query = f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{name_in(dsn)}'"  # noqa: S608
    return int(server.execute(query))


def name_in(dsn: str) -> str:
    return dsn.split("@/")[1].partition("?")[0]


async def test_names_are_limiters_of_their_own(make: Make) -> None:
    one, other = make(1, 30.0), make(1, 30.0, name="another key")
    async with asyncio.timeout(10):
        await attempt(one)
        await attempt(other)


async def test_it_is_a_limiter_and_its_repr_a_status_line(make: Make) -> None:
    limiter = make()
    assert isinstance(limiter, Limiter)
    assert repr(limiter).startswith("<SharedLimiter 'default' of postgresql://")
    async with limiter.slot():
        assert repr(limiter).endswith("1 in use here>")
    limiter.remember([(1.0, False)] * 4)  # the database remembers
    async with asyncio.timeout(10):
        await attempt(limiter)


def test_nonsense_is_refused_at_once(postgres_dsn: str) -> None:
    for values in (
        {"limit": 0},
        {"limit": 2.5},
        {"limit": True},
        {"per": -1},
        {"per": float("nan")},
        {"max_running": 0},
        {"lease": 0},
        {"name": ""},
    ):
        with pytest.raises(ValueError, match=next(iter(values))):
            SharedLimiter(postgres_dsn, **values)  # type: ignore[arg-type]
    with pytest.raises(JournalError, match="not a DSN"):
        SharedLimiter("campaign.db")
