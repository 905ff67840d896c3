"""Hints wake workers; lost or repeated ones do no harm, and the database may go away."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from postgres_server import PostgresServer

from apikley_async import SystemClock
from apikley_async._postgres import Dsn, Versions, connect, upgrade
from apikley_async.distributed import hints as hints_module
from apikley_async.distributed.hints import PART, Hints, hint_versions


@pytest.fixture
def dsn(shared_dsn: str) -> Dsn:
    return Dsn.parse(shared_dsn)


def jobs_of(dsn: Dsn) -> list[str]:
    with contextlib.closing(connect(dsn)) as db:
        return [row[0] for row in db.execute("SELECT task_name FROM procrastinate_jobs")]


@contextlib.asynccontextmanager
async def following(hints: Hints):
    task = asyncio.create_task(hints.follow())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def reached(heeded: list[int], count: int, *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while len(heeded) < count:  # noqa: ASYNC110 - the other side is a real server
            await asyncio.sleep(0.02)


async def test_a_hint_wakes_one_worker_at_once(dsn: Dsn) -> None:
    """Each hint is heeded once, by whoever is free; nothing is kept of it."""
    heeded: list[int] = []

    def worker(number: int) -> Hints:
        async def heed() -> None:
            heeded.append(number)
            await asyncio.sleep(0.05)

        return Hints(dsn, SystemClock(), heed=heed)

    async with following(worker(1)), following(worker(2)):
        await asyncio.sleep(0.5)
        await Hints(dsn, SystemClock()).wake(60)
        await reached(heeded, 8, seconds=4)

    assert len(heeded) == 8
    assert {*heeded} == {1, 2}
    assert jobs_of(dsn) == []


async def test_no_more_hints_than_are_of_use(dsn: Dsn) -> None:
    await Hints(dsn, SystemClock()).wake(0)
    assert jobs_of(dsn) == []
    await Hints(dsn, SystemClock()).wake(4000)
    assert len(jobs_of(dsn)) == hints_module.MOST_HINTS


@pytest.mark.leaves_tasks("procrastinate retrieves no error of what it did while the database went")
async def test_hints_come_again_after_the_database_was_away(
    dsn: Dsn, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="apikley_async")
    heeded: list[int] = []

    async def heed() -> None:
        heeded.append(1)

    async with following(Hints(dsn, SystemClock(), heed=heed)):
        await Hints(dsn, SystemClock()).wake(1)
        await reached(heeded, 1)
        await asyncio.to_thread(postgres_server.stop)
        await Hints(dsn, SystemClock()).wake(1)  # nobody hears it, and it raises nothing
        await asyncio.sleep(1)
        await asyncio.to_thread(postgres_server.start)
        await Hints(dsn, SystemClock()).wake(1)
        await reached(heeded, 2, seconds=30)


@pytest.mark.leaves_tasks("procrastinate retrieves no error of what it did at its end")
async def test_following_ends_when_it_is_cancelled_although_statements_fail(
    dsn: Dsn, postgres_server: PostgresServer
) -> None:
    """What procrastinate raises at its end, in the place of the cancellation, begins it no more."""
    heeded: list[int] = []

    async def heed() -> None:
        heeded.append(1)

    task = asyncio.create_task(Hints(dsn, SystemClock(), heed=heed).follow())
    await asyncio.sleep(0.5)
    await Hints(dsn, SystemClock()).wake(1)
    await reached(heeded, 1)
    database = dsn.parameters["dbname"]
    await asyncio.to_thread(
        postgres_server.execute, "ALTER SCHEMA apikley RENAME TO elsewhere", database
    )
    task.cancel()
    await asyncio.wait({task}, timeout=5)

    assert task.cancelled()


def test_its_tables_are_brought_up_to_date_one_migration_at_a_time(postgres_dsn: str) -> None:
    """A database that an older procrastinate was set up in gets what is missing, and no more."""
    where = Dsn.parse(postgres_dsn)
    whole = hint_versions(0)
    newest = len(whole)

    def known(number: int) -> Versions:
        return hint_versions(number)

    with contextlib.closing(connect(where)) as db:
        assert upgrade(db, {PART: whole}, where) == {PART: 0}
        assert upgrade(db, {PART: known(newest)}, where) == {PART: newest}

    assert [len(version) for version in known(newest)] == [0] * newest
    assert [len(version) for version in known(newest - 2)] == [0] * (newest - 2) + [1, 1]
    assert [len(version) for version in whole] == [0] * (newest - 1) + [1]
