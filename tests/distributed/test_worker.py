"""Workers share a journal: every film is made once, whoever comes, goes or is woken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from batch.helpers import key_of_request
from postgres_server import PostgresServer

from apikley_async import Backoff, Client, ClientClosedError, JournalError, Shot, Storyboard
from apikley_async.batch import Batch, Item, ItemState, Journal, MoreWork
from apikley_async.distributed import SharedInbox, SharedLimiter, Worker, wake_workers
from apikley_async.simulator import Constant, Fault, Simulator, Terms
from apikley_async.webhook import Callback, Receiver

FAST = Backoff(initial=0.05, maximum=0.2)


@pytest.fixture
def dsn(shared_dsn: str) -> str:
    return shared_dsn


def films(count: int, start: int = 0) -> list[tuple[str, Storyboard]]:
    keys = [f"film-{number}" for number in range(start, start + count)]
    return [(key, Storyboard([Shot(f"The scene of {key}.")], duration=15)) for key in keys]


async def add(dsn: str, count: int, start: int = 0) -> None:
    async with Batch.open(dsn) as batch:
        await batch.add(films(count, start))


@contextlib.asynccontextmanager
async def service(**terms: object) -> AsyncIterator[Simulator]:
    quick = {"duration": Constant(0.2), "limit": None, "callbacks": "none", **terms}
    async with Simulator(Terms(**quick)) as simulator:  # type: ignore[arg-type]
        yield simulator


@contextlib.asynccontextmanager
async def worker(
    dsn: str, simulator: Simulator, folder: Path, *, url: str | None = None, **options: object
) -> AsyncIterator[tuple[Worker, list[Item]]]:
    """A worker with a client and a limiter of its own; and what it has done."""
    limiter = SharedLimiter(dsn, limit=200, per=1.0)
    callback = None if url is None else Callback(url, inbox=SharedInbox(dsn))
    client = Client(
        simulator.api_key,
        base_url=simulator.base_url,
        limiter=limiter,
        polling=FAST,
        callback=callback,
    )
    seen: list[Item] = []
    async with limiter, client:
        working = Worker(dsn, client, folder=folder, **options)  # type: ignore[arg-type]

        async def work() -> None:
            async for item in working.items():
                seen.append(item)  # noqa: PERF401 - one by one: the test looks at it meanwhile

        task = asyncio.create_task(work())
        try:
            yield working, seen
            if task.done():
                await task
        finally:
            working.stop()
            await task


async def until(done: Callable[[], bool], *, seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110 - the other side is a real server
            await asyncio.sleep(0.02)


async def states(dsn: str) -> Counter[ItemState]:
    async with Batch.open(dsn, read_only=True) as batch:
        assert not await batch.store.verify()
        return Counter([item.state async for item in batch.items()])


def paid(simulator: Simulator) -> Counter[str]:
    return Counter(key_of_request(charge.body) for charge in simulator.ledger.paid)


async def test_two_workers_make_every_film_once(dsn: str, tmp_path: Path) -> None:
    """Each makes some of them: it claims a few ahead, and leaves the others."""
    await add(dsn, 40)
    async with (
        service() as simulator,
        worker(dsn, simulator, tmp_path / "one", max_running=4) as (_, first),
        worker(dsn, simulator, tmp_path / "two", max_running=4) as (_, second),
    ):
        await until(lambda: len(first) + len(second) >= 40)
        assert paid(simulator) == dict.fromkeys([key for key, _ in films(40)], 1)

    assert {item.key for item in first}.isdisjoint(item.key for item in second)
    assert min(len(first), len(second)) >= 5
    assert await states(dsn) == {ItemState.DONE: 40}


async def test_a_worker_that_waits_is_woken_by_a_hint(dsn: str, tmp_path: Path) -> None:
    """Otherwise it looks for work every five seconds."""
    async with service() as simulator, worker(dsn, simulator, tmp_path) as (_, seen):
        await asyncio.sleep(1)
        await add(dsn, 3)
        await wake_workers(dsn, 3)
        await until(lambda: len(seen) == 3, seconds=3)

    assert await states(dsn) == {ItemState.DONE: 3}


async def test_films_that_are_added_without_a_hint_are_found(dsn: str, tmp_path: Path) -> None:
    async with service() as simulator, worker(dsn, simulator, tmp_path) as (_, seen):
        await asyncio.sleep(1)
        await add(dsn, 3)
        await until(lambda: len(seen) == 3, seconds=12)


async def test_a_stopped_worker_gives_back_what_it_has_not_ended(dsn: str, tmp_path: Path) -> None:
    """Another one goes on at once, without waiting for a lease to end, and pays nothing again."""
    await add(dsn, 20)
    async with service(duration=Constant(2)) as simulator:
        async with worker(dsn, simulator, tmp_path, max_running=10) as (working, first):
            await until(lambda: len(simulator.ledger.paid) == 10)
            working.stop()
        assert first == []
        assert (await states(dsn)).total() == 20

        async with worker(dsn, simulator, tmp_path) as (_, second):
            await until(lambda: len(second) == 20, seconds=30)
        assert set(paid(simulator).values()) == {1}

    assert await states(dsn) == {ItemState.DONE: 20}


@pytest.mark.leaves_tasks("procrastinate retrieves no error of what it did while the database went")
async def test_a_worker_that_is_stopped_while_it_begins_ends(dsn: str, tmp_path: Path) -> None:
    """Its journal is being opened then, and there is no run to stop yet."""
    await add(dsn, 1)
    async with service() as simulator, Client(simulator.api_key) as client:
        beginning = Worker(dsn, client, folder=tmp_path)
        working = asyncio.create_task(beginning.run())
        for _ in range(10):  # turns of the loop; a connection takes far longer
            await asyncio.sleep(0)
        beginning.stop()
        async with asyncio.timeout(30):
            await working

    assert await states(dsn) == {ItemState.PLANNED: 1}


class LastLook:
    """A destination; something happens while a run tries it, before it begins."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.looked = asyncio.Event()
        self._then = then

    async def exists(self, name: str) -> bool:
        if not self.looked.is_set():
            await asyncio.to_thread(self._then)
            self.looked.set()
        return False

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, content_type: str
    ) -> str | None:
        raise AssertionError


@pytest.mark.parametrize("away_from", ["the beginning", "its preparation on"])
@pytest.mark.leaves_tasks("procrastinate retrieves no error of what it did while the database went")
async def test_a_worker_is_stopped_soon_although_the_database_is_away(
    dsn: str, tmp_path: Path, postgres_server: PostgresServer, away_from: str
) -> None:
    """Whatever it waits for: its journal, what is known of costs, or its next try."""
    await add(dsn, 1)
    async with service() as simulator:
        client = Client(simulator.api_key, base_url=simulator.base_url)
        place = LastLook(postgres_server.stop if away_from == "its preparation on" else int)
        async with client:
            working = Worker(dsn, client, destination=place)
            if away_from == "the beginning":
                await asyncio.to_thread(postgres_server.stop)
            try:
                running = asyncio.create_task(working.run())
                if away_from == "its preparation on":
                    await place.looked.wait()
                await asyncio.sleep(1)
                working.stop()
                async with asyncio.timeout(1.9):  # nothing waits 2 s for a last hint
                    await running
            finally:
                await asyncio.to_thread(postgres_server.start)
        assert simulator.ledger.creations == []

    assert await states(dsn) == {ItemState.PLANNED: 1}


async def test_a_user_with_the_rights_that_an_error_names_can_work(
    dsn: str, tmp_path: Path, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Hints included."""
    database = dsn.partition("@/")[2].partition("?")[0]
    postgres_server.execute(f"CREATE ROLE {database}_worker LOGIN", database)
    limited = dsn.replace("apikley@", f"{database}_worker@")
    with pytest.raises(JournalError) as refused:
        await Journal.open(limited)
    grants = re.findall("GRANT [^;.]+", refused.value.message)
    assert len(grants) == 3
    for grant in grants:
        postgres_server.execute(grant, database)

    async with service() as simulator, worker(limited, simulator, tmp_path) as (_, seen):
        await asyncio.sleep(1)
        await add(dsn, 2)
        await wake_workers(limited, 2)
        await until(lambda: len(seen) == 2, seconds=12)
    assert [each for each in caplog.records if "hints" in each.getMessage()] == []
    assert await states(dsn) == {ItemState.DONE: 2}


OUR_TABLES = """
    SELECT string_agg(relname, ', ') FROM pg_class WHERE relnamespace = 'apikley'::regnamespace
        AND relkind = 'r' AND relname NOT LIKE 'procrastinate%'
"""


async def test_a_worker_whose_user_may_not_use_hints_works_without(
    dsn: str, tmp_path: Path, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It says once what is missing, and looks for films by itself."""
    database = dsn.partition("@/")[2].partition("?")[0]
    named = postgres_server.execute(OUR_TABLES, database).strip()
    for statement in (
        f"CREATE ROLE {database}_worker LOGIN",
        f"GRANT USAGE ON SCHEMA apikley TO {database}_worker",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {named} TO {database}_worker",
    ):
        postgres_server.execute(statement, database)
    await add(dsn, 2)
    limited = dsn.replace("apikley@", f"{database}_worker@")
    async with service() as simulator, worker(limited, simulator, tmp_path) as (_, seen):
        await until(lambda: len(seen) == 2, seconds=12)
        await asyncio.sleep(4)

    said = [each.getMessage() for each in caplog.records if "hints" in each.getMessage()]
    assert len(said) == 1
    assert "permission denied for" in said[0]
    assert await states(dsn) == {ItemState.DONE: 2}


async def test_a_worker_outlives_the_database(
    dsn: str, tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """Nothing is sent meanwhile; films in the making are polled on, and all is stored later."""
    await add(dsn, 30)
    async with service(duration=Constant(1)) as simulator:
        async with worker(dsn, simulator, tmp_path, max_running=12) as (_, seen):
            await until(lambda: len(seen) >= 5)
            await asyncio.to_thread(postgres_server.stop)
            await asyncio.sleep(1.5)
            sent = len(simulator.ledger.creations)
            await asyncio.sleep(1.5)
            assert len(simulator.ledger.creations) == sent
            await asyncio.to_thread(postgres_server.start)
            await until(lambda: len(seen) == 30)
        assert set(paid(simulator).values()) == {1}

    assert await states(dsn) == {ItemState.DONE: 30}


async def test_workers_share_one_bound(dsn: str, tmp_path: Path) -> None:
    """What they spend together stays below it, although each of them could spend all of it."""
    await add(dsn, 40)
    bounds = {"max_credits": 270 * 10, "prices": 270}
    async with service() as simulator:
        async with (
            worker(dsn, simulator, tmp_path / "one", **bounds) as (first, _),
            worker(dsn, simulator, tmp_path / "two", **bounds) as (second, _),
        ):
            await until(lambda: first.stopped is not None and second.stopped is not None)
        assert len(simulator.ledger.paid) == 10
    assert "270" in str(first.stopped) or "credits" in str(first.stopped)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.code(455), "under maintenance"),
        (Fault.code(402), "Credits insufficient"),
        (Fault.code(401), "Unauthorized"),
    ],
)
async def test_a_worker_outlives_a_service_that_tells_no_balance(
    dsn: str, tmp_path: Path, fault: Fault, said: str
) -> None:
    """It goes on when the balance is known, and sends nothing before."""
    await add(dsn, 2)
    bounds = {"min_balance": 10, "prices": 270}
    async with service() as simulator:
        simulator.script("credits", [fault])
        async with worker(dsn, simulator, tmp_path, **bounds) as (working, seen):
            await until(lambda: working.stopped is not None)
            assert said in str(working.stopped)
            assert simulator.ledger.creations == []
            await until(lambda: len(seen) == 2)

    assert await states(dsn) == {ItemState.DONE: 2}


async def test_a_worker_whose_client_was_closed_ends(dsn: str, tmp_path: Path) -> None:
    async with service() as simulator:
        async with Client(simulator.api_key, base_url=simulator.base_url) as client:
            working = Worker(dsn, client, folder=tmp_path, min_balance=10, prices=270)
        with pytest.raises(ClientClosedError):
            async with asyncio.timeout(20):
                await working.run()


async def test_a_database_that_is_not_set_up_is_refused(postgres_dsn: str, tmp_path: Path) -> None:
    async with service() as simulator:
        with pytest.raises(JournalError, match="not set up yet: run `apikley db init"):
            async with worker(postgres_dsn, simulator, tmp_path):
                await asyncio.sleep(5)


# --- a run without an end, in a file ------------------------------------------------------------


async def test_a_run_waits_for_more_until_it_is_stopped(tmp_path: Path) -> None:
    """A batch in a file may be one, too."""
    more = MoreWork(interval=0.1)
    async with service() as simulator:
        client = Client(simulator.api_key, base_url=simulator.base_url, polling=FAST)
        async with client, Batch.open(tmp_path / "films.db") as batch:
            await batch.add(films(2))
            seen = []
            async for item in batch.run(client, folder=tmp_path / "films", more=more):
                seen.append(item.key)
                if len(seen) == 2:
                    await batch.add(films(2, start=2))
                    more.wake()
                if len(seen) == 4:
                    batch.stop()

    assert sorted(seen) == [f"film-{number}" for number in range(4)]


# --- the command ---------------------------------------------------------------------------------


async def test_the_command_works_until_sigterm(dsn: str, tmp_path: Path) -> None:
    """It ends well: what it was sending is answered, and the rest is given back."""
    await add(dsn, 5)
    async with service() as simulator:
        words = ("--journal", dsn, "-o", str(tmp_path / "films"), "--base-url", simulator.base_url)
        process = subprocess.Popen(  # noqa: ASYNC220 - it lives as long as the test wants
            [sys.executable, "-m", "apikley_async", "worker", *words, "--json", "--limit", "50"],
            env={**os.environ, "APIKLEY_API_KEY": simulator.api_key},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            await until(lambda: len([*tmp_path.glob("films/*.mp4")]) == 5)
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            out, err = await asyncio.to_thread(process.communicate, timeout=20)
        finally:
            process.kill()

    assert process.returncode == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["event"] == "working"
    assert events[-1] == {**events[-1], "event": "end", "exit_code": 0}
    assert Counter(event["event"] for event in events)["saved"] == 5
    assert simulator.api_key not in out + err


async def test_the_first_runs_of_a_journal_may_begin_at_once(dsn: str) -> None:
    """Each says whose journal it is; with another account than the first it is refused."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(Batch.open(dsn)) for _ in range(6)]
        await asyncio.gather(*(batch.store.bind("https://one.test", "one") for batch in opened))
        with pytest.raises(JournalError, match="another key"):
            await opened[0].store.bind("https://one.test", "another")


async def test_a_worker_resolves_by_callback_what_another_one_has_left_uncertain(
    dsn: str, tmp_path: Path
) -> None:
    """The receiver is anywhere; the callback waits in the database for who can use it."""
    await add(dsn, 1)
    inbox = SharedInbox(dsn)
    receiver = Receiver(inbox)
    async with inbox, receiver.serve(port=0) as server:
        url = f"http://127.0.0.1:{server.port}/hooks"
        async with Simulator(
            Terms(duration=Constant(1), limit=None), hosts=["localhost"]
        ) as simulator:
            simulator.script("create", [Fault.RESET_AFTER])
            async with worker(dsn, simulator, tmp_path, url=url) as (working, _):
                await until(lambda: len(simulator.ledger.paid) == 1)
                working.stop()
            assert await states(dsn) == {ItemState.UNCERTAIN: 1}
            async with worker(dsn, simulator, tmp_path, url=url) as (_, seen):
                await until(lambda: bool(seen))
            assert len(simulator.ledger.paid) == 1

    assert await states(dsn) == {ItemState.DONE: 1}
