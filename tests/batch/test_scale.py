"""Ten thousand films: the work for each is the same as for one of a few hundred.

Work is counted: statements and steps of SQLite, pieces of work for threads, function calls,
comparisons, bytes. None of these depends on how busy the machine is; how long it takes is measured
in `tests/bench`. APIKLEY_SCALE says how many films; a few hundred without it. Virtual time, and no
sockets: the service is a transport that answers from a table, so that what grows is ours.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch.helpers import fast_limiter, films, open_batch
from calls import counted_calls
from comparisons import ComparingLoop
from volume import volume

from apikley_async import Backoff, Client, Environment, _sqlite
from apikley_async.batch import Batch, ItemState
from apikley_async.batch.store.protocol import all_items
from apikley_async.testing import LoopClock, Reply, Request, reply

COUNT = int(os.environ.get("APIKLEY_SCALE", volume(160, 320)))
SAME = 1.25  # that a film's work may grow by, between the small number of films and the large one

pytestmark = pytest.mark.timeout(120 + COUNT // 5)


class Service:
    """Accepts everything; half a minute later it is ready, and has words for a result."""

    def __init__(self, *, ready: bool = True) -> None:
        self._numbers = itertools.count()
        self._ready = ready

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        await asyncio.sleep(0.2)
        if not request.repeatable:
            assert on_sent is not None
            on_sent()
            return reply({"taskId": f"task_{next(self._numbers)}"})
        reported = {"taskId": request.query["taskId"], "model": "words/1"}
        if not self._ready:
            return reply({**reported, "state": "generating"})
        words = {"resultObject": {"words": "x" * 500}}
        return reply({**reported, "state": "success", "resultJson": json.dumps(words),
                      "creditsConsumed": 5})  # fmt: skip

    async def aclose(self) -> None:
        return


class Work(Counter[str]):
    """How much was done since the last `take`: statements, steps, hops."""

    def take(self) -> dict[str, int]:
        done = dict(self)
        self.clear()
        return done


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Counts what journals ask of SQLite, and what the loop of the test gives to threads."""
    counted = Work()

    class CountingDatabase(_sqlite.Database):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            counted["statements"] += 1
            return super().execute(*args)

        def count(self) -> bool:
            counted["steps"] += _sqlite.EVERY
            return super().count()

    in_thread = asyncio.BaseEventLoop.run_in_executor

    def counting(loop: Any, executor: Any, call: Any, *args: Any) -> Any:
        counted["hops"] += 1
        return in_thread(loop, executor, call, *args)

    monkeypatch.setattr(_sqlite, "Database", CountingDatabase)
    monkeypatch.setattr(_sqlite, "EVERY", 50)
    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", counting)
    return counted


def resident() -> float:
    """Megabytes of this process that are in memory."""
    if sys.platform != "linux":  # only there /proc tells
        return 0.0
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def films_made(
    place: Path, count: int, work: Work
) -> tuple[dict[str, dict[str, int]], float]:
    """Plan, make, look up and check so many films: the work of each step, and the memory used."""
    place.mkdir()
    manifest, done = place / "films.jsonl", dict[str, dict[str, int]]()
    task = '{"key": "k%d", "task": {"model": "words/1", "input": {"prompt": "Number %d."}}}\n'
    manifest.write_text("".join(task % (number, number) for number in range(count)))
    client = Client(
        environment=Environment(transport=Service(), clock=LoopClock(), rng=random.Random(1)),
        limiter=fast_limiter(),
    )
    async with client, open_batch(place / "b.db") as batch:
        work.clear()
        await batch.add(manifest)
        done["plan"] = work.take()
        made, early = 0, 0.0
        async for item in batch.run(client, folder=place / "films", max_credits=9e9, prices=5):
            assert item.state is ItemState.DONE
            made += 1
            if made == count // 10:
                early = resident()
        grown = resident() - early
        assert made == count
        done["run"] = work.take()
        assert (await batch.status()).spent == 5 * count
        done["status"] = work.take()
        pages = all_items(batch.store, ItemState.DONE, ItemState.FAILED, page_size=4)
        finished = [item.key async for item in pages]
        assert finished == [f"k{number}" for number in range(count)]
        done["items"] = work.take()
        assert await batch.verify() == []
        done["verify"] = work.take()
    work.clear()
    async with open_batch(place / "b.db"):
        done["open"] = work.take()
    return done, grown


@pytest.mark.virtual
@pytest.mark.slow
async def test_the_work_for_a_film_does_not_grow(tmp_path: Path, work: Work) -> None:
    """Planned, made, looked up and verified in linear work; memory does not grow with it. (M5)"""
    few, many = COUNT // 4, COUNT
    small, _ = await films_made(tmp_path / "few", few, work)
    large, grown = await films_made(tmp_path / "many", many, work)

    print(f"{few} films: {small}\n{many} films: {large}, {grown:+.1f} MB")
    grows = [
        f"{step}: {small[step].get(kind, 0)} {kind} for {few}, {number} for {many}"
        for step, kinds in large.items()
        for kind, number in kinds.items()
        if number > SAME * many / few * small[step].get(kind, 0) + 1000
    ]
    assert not grows
    assert grown < 20
    # The journal's thread is asked four times for a film: intent, id, success and done. Besides,
    # the films are read ahead, 200 at a time.
    assert large["run"]["hops"] / many < 4.2
    assert large["run"]["statements"] / many < 40
    assert large["plan"]["statements"] / many < 8
    assert large["status"]["hops"] == small["status"]["hops"] < 5  # however many films
    assert large["status"]["steps"] / many < 100
    assert large["open"]["hops"] == 1


async def calls_of_breaking_off(place: Path, count: int) -> int:
    """How many functions are called from a cancel of so many films to the end of the run."""
    place.mkdir()
    client = Client(
        environment=Environment(
            transport=Service(ready=False), clock=LoopClock(), rng=random.Random(1)
        ),
        limiter=fast_limiter(),
        max_running=count,
        polling=Backoff(initial=0.1, maximum=0.1),
    )

    async def follow(batch: Batch) -> None:
        async for _ in batch.run(client, folder=place / "films", max_running=count):
            pass

    async with client, open_batch(place / "b.db") as batch:
        await batch.add(films(count))
        run = asyncio.create_task(follow(batch))
        await asyncio.sleep(5)
        assert (await batch.status()).counts == {ItemState.SUBMITTED: count}
        with counted_calls() as calls:
            run.cancel()
            await asyncio.wait({run})
    return calls.number


@pytest.mark.slow
def test_breaking_off_is_linear(tmp_path: Path) -> None:
    """Films that are polled, or wait for their poll, are left in linear work.

    A search in a queue of futures is one call, however long; so comparisons are counted as well.
    """
    work = []
    for count in (30, 120):
        with asyncio.Runner(loop_factory=ComparingLoop) as runner:
            calls = runner.run(calls_of_breaking_off(tmp_path / str(count), count))
            loop = runner.get_loop()
        assert isinstance(loop, ComparingLoop)
        work.append(calls + loop.compared)

    print(f"30 films: {work[0]} calls and comparisons, 120 films: {work[1]}")
    assert work[1] < 1.1 * 4 * work[0]
