"""The journal in PostgreSQL: what every store promises, and what a connection can suffer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from batch.conformance import StoreContract

from apikley_async import SystemClock
from apikley_async._postgres import Dsn, connect, upgrade
from apikley_async.batch import Journal, Store
from apikley_async.batch.store.postgres_schema import PART, VERSIONS

pytest.importorskip("psycopg", reason="the extra postgres is not installed")


class ClockOff(SystemClock):
    """The clock of a machine that is wrong."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def wall(self) -> float:
        return super().wall() + self.seconds


def set_up(dsn: str) -> str:
    place = Dsn.parse(dsn)
    with contextlib.closing(connect(place)) as connection:
        upgrade(connection, {PART: VERSIONS}, place)
    return dsn


@asynccontextmanager
async def journal(dsn: str, **options: object) -> AsyncIterator[Journal]:
    opened = await Journal.open(dsn, **options)  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        await opened.aclose()


class TestPostgresJournal(StoreContract):
    """The journal in a database is a store."""

    @pytest.fixture(autouse=True)
    def _place(self, postgres_dsn: str) -> None:
        self.dsn = set_up(postgres_dsn)

    def opened(self) -> AbstractAsyncContextManager[Journal]:
        return journal(self.dsn)

    @asynccontextmanager
    async def opened_by(
        self, machines: int, *, clocks_off: float = 0.0
    ) -> AsyncIterator[Sequence[Store]]:
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(journal(self.dsn, clock=ClockOff(n * clocks_off)))
                for n in range(machines)
            ]

    async def pass_time(self, store: Store, seconds: float) -> None:
        with contextlib.closing(connect(Dsn.parse(self.dsn))) as connection:
            connection.execute("UPDATE owner SET seen_at = seen_at - ?", (seconds,))
