"""What the limiter learns is kept with the journal: a hint for the next run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from batch.helpers import films, open_batch, run_batch

from apikley_async import Client, Environment, RateLimiter
from apikley_async.batch import Journal, ServicePace
from apikley_async.testing import FakeClock, LoopClock, Reply, Request, reply

pytestmark = pytest.mark.virtual


class Service:
    """Takes so many submissions in all, refuses as many, and takes the rest."""

    def __init__(self, takes: int = 10**6) -> None:
        self.takes = takes
        self.refuses = 3 if takes < 10**6 else 0
        self.created = 0

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        if request.repeatable:
            text = '{"resultObject": {"words": "x"}}'
            return reply({"taskId": request.query["taskId"], "state": "success",
                          "model": "sora-2", "resultJson": text, "creditsConsumed": 5})  # fmt: skip
        assert on_sent is not None
        on_sent()
        if self.created >= self.takes and self.refuses:
            self.refuses -= 1
            return reply(None, code=429)
        self.created += 1
        return reply({"taskId": f"task_sora_{self.created:012}"})

    async def aclose(self) -> None:
        return


def client(service: Service, limiter: RateLimiter) -> Client:
    return Client(
        "key-of-a-test",
        base_url="http://127.0.0.1:1",
        environment=Environment(transport=service, clock=LoopClock(), rng=random.Random(1)),
        limiter=limiter,
    )


def limiter() -> RateLimiter:
    return RateLimiter(8, 10.0, clock=LoopClock(), rng=random.Random(2))


async def learned_by_a_run(path: Path, service: Service, mine: RateLimiter) -> None:
    async with client(service, mine) as customer, open_batch(path) as batch:
        await batch.add(films(12))
        await run_batch(batch, customer, folder=path.parent / "films")


async def test_the_next_run_begins_with_what_was_learned(tmp_path: Path) -> None:
    """Five of eight passed: five is in the journal, in its status, and in the next limiter."""
    path = tmp_path / "b.db"
    await learned_by_a_run(path, Service(takes=5), limiter())
    async with open_batch(path, read_only=True) as batch:
        assert (await batch.status()).pace == ServicePace(5, 10.0)
    assert str(ServicePace(5, 10.0)) == "the service takes 5 per 10 s"

    following = limiter()
    async with client(Service(), following) as customer, open_batch(path) as batch:
        await run_batch(batch, customer, folder=tmp_path / "films")

    assert following.takes == 5


async def test_where_the_limit_is_right_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    mine = limiter()
    await learned_by_a_run(path, Service(), mine)

    async with open_batch(path, read_only=True) as batch:
        assert (await batch.status()).pace is None
    assert mine.takes is None


@pytest.mark.slow
async def test_a_hint_is_only_a_hint(tmp_path: Path) -> None:
    """Old, odd, of another span or for a limiter that knows better: it is left aside."""
    hints = {
        "not JSON": "five",
        "no object": "[5]",
        "no number": '{"takes": "5", "per": 10}',
        "no slot": '{"takes": 0, "per": 10}',
        "no span": '{"takes": 5, "per": 0}',
        "another span": '{"takes": 5, "per": 60}',
        "more than the limit": '{"takes": 500, "per": 10}',
        "nested": "[" * 5000,
        "nothing": '{"takes": null, "per": 10.0}',
    }
    believed = {}
    for number, (kind, value) in enumerate(hints.items()):
        path = tmp_path / f"{number}.db"
        store = await Journal.open(path)
        await store.write_learned("pace", value)
        await store.aclose()
        mine = limiter()
        await learned_by_a_run(path, Service(), mine)
        if mine.takes is not None:
            believed[kind] = mine.takes

    assert believed == {}


async def test_a_hint_of_yesterday_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    store = await Journal.open(path, clock=FakeClock(wall=1_000_000.0))
    await store.write_learned("pace", '{"takes": 5, "per": 10.0}')
    assert await store.read_learned("pace") is not None
    await store.aclose()
    mine = limiter()
    async with client(Service(), mine) as customer, open_batch(path) as batch:
        await batch.add(films(2))
        await run_batch(batch, customer, folder=tmp_path / "films")

    assert mine.takes is None
