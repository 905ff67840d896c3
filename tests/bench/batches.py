"""Part 6: a film of a batch, journal and file included; breaking off and counting many films.

    python -m bench.batches films 200 URL        prints the figures of one run as JSON
    python -m bench.batches broken 10000

A hop is a call that is handed to a thread. Breaking off needs no sockets: there the service is a
transport that accepts everything and never has a film ready.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.films import new_key
from bench.ours import storyboard
from bench.processes import run_module, service, use_core, workers
from bench.tables import Figure, Table, ratios

from apikley_async import Backoff, Client, Environment, RateLimiter
from apikley_async.batch import Batch, ItemState
from apikley_async.testing import Reply, Request, reply

__all__ = ["batches"]

FILM_SIZE = 64 * 1024
LONG = 600.0  # seconds between the polls of films that are never ready


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what is handed to threads."""

    hops = 0

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        self.hops += 1
        return super().run_in_executor(executor, func, *args)


class NeverReady:
    """Accepts everything; no film is ever ready."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        await asyncio.sleep(0)
        if not request.repeatable:
            assert on_sent is not None
            on_sent()
            return reply({"taskId": f"task_{next(self._numbers)}"})
        return reply({"taskId": request.query["taskId"], "state": "generating"})

    async def aclose(self) -> None:
        return


@asynccontextmanager
async def planned(folder: Path, count: int) -> AsyncIterator[Batch]:
    async with Batch.open(folder / "batch.db") as batch:
        await batch.add([(f"film-{number}", storyboard(number)) for number in range(count)])
        yield batch


async def films(count: int, url: str) -> dict[str, float]:
    """Make and save films; CPU and hops of one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    polling = Backoff(initial=0.01, factor=1.0, maximum=0.01)
    limiter = RateLimiter(100, 0)
    with tempfile.TemporaryDirectory() as name:
        async with (
            Client(new_key(), base_url=url, limiter=limiter, polling=polling) as client,
            planned(Path(name), count) as batch,
        ):
            cpu, hops, done = time.process_time(), loop.hops, 0
            async for item in batch.run(client, folder=Path(name) / "films"):
                assert item.files, item.cause
                done += 1
            cpu, hops = time.process_time() - cpu, loop.hops - hops
    assert done == count
    return {"cpu": cpu / count, "hops": hops / count}


async def broken(count: int) -> dict[str, float]:
    """Have *count* films in the making, break off, and ask how many there are."""
    transport = NeverReady()
    client = Client(
        new_key(),
        limiter=RateLimiter(100, 0),
        max_running=count,
        polling=Backoff(initial=LONG, factor=1.0, maximum=LONG),
        environment=Environment(transport=transport),
    )
    with tempfile.TemporaryDirectory() as name:
        async with client, planned(Path(name), count) as batch:
            run = batch.run(client, folder=Path(name) / "films", max_running=count)
            running = asyncio.ensure_future(anext(run))
            while (await batch.status()).counts.get(ItemState.SUBMITTED, 0) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            began = time.perf_counter()
            running.cancel()
            await asyncio.wait({running})
            await run.aclose()
            ended = time.perf_counter()
            await batch.status()
            return {"breaking": ended - began, "status": time.perf_counter() - ended}


def batches(rounds: int, scale: float) -> Iterator[Table]:
    """CPU and hops per film; the time to break off, and to count."""
    count, many = max(20, round(200 * scale)), max(100, round(10_000 * scale))
    found: dict[str, list[float]] = {"cpu": [], "hops": [], "raw": []}
    with service(FILM_SIZE) as url, workers({"raw": "bench.raw:films"}) as contenders:
        for _ in range(rounds):
            raw = contenders["raw"].measure(url=url, key=new_key(), jobs=count, flight=100)
            found["raw"].append(raw["cpu"])
            for name, value in run_module("bench.batches", "films", str(count), url).items():
                found[name].append(value)
    yield Table(
        f"A film of a batch, saved with {FILM_SIZE // 1024} KiB, {count} films",
        [
            Figure("CPU per film", [1000 * value for value in found["cpu"]], "ms", gate=4),
            Figure("CPU per film / a raw job", ratios(found["cpu"], found["raw"])),
            Figure("thread hops per film", found["hops"], gate=10),
        ],
    )
    sizes = (many // 10, many)
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(min(rounds, 3)):
        for size in sizes:
            for name, value in run_module("bench.batches", "broken", str(size)).items():
                times.setdefault((name, size), []).append(value)
    yield Table(
        "Many films of a batch in the making",
        [
            Figure(f"{words}, {size:,} films", times[name, size], "s", gate=gate)
            for name, words, gate in (
                ("breaking", "breaking off", None),
                ("status", "`status`", 0.1),
            )
            for size in sizes
        ],
    )


def main(kind: str, count: str, url: str = "") -> None:
    use_core(last=False)
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        figures = runner.run(films(int(count), url) if kind == "films" else broken(int(count)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
