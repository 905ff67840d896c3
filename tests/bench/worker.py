"""One contender in a process of its own: takes orders, a line of JSON each, and answers in JSON.

    python -m bench.worker bench.raw:films

An order is a `bench.films.Order`. With a *window* of seconds it is the last one: all jobs are in
flight when the cost of polls is taken for so long. The memory of a job is then what Python has
allocated where *traced* is true, else what the process has resident.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
from bench.films import Order
from bench.processes import use_core

WARM_UP = 50  # jobs before anything is measured: imports, caches, first connections
STEP = 0.25  # seconds between two looks at the service's counts
LOOKS = 12  # at what is allocated

Contender = Callable[[Order], Awaitable[None]]


async def tell(url: str, path: str) -> Any:
    """Ask the fake for something, without any HTTP library."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    method = "GET" if path.endswith("counts") else "POST"
    writer.write(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held(traced: bool) -> int:
    """Bytes that are in use now."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0] if traced else resident()


async def whole(contend: Contender, order: Order) -> dict[str, float]:
    """Run all jobs to their end; what a job costs."""
    await tell(order.url, "/bench/reset?after=0")
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await contend(order)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    films = (await tell(order.url, "/bench/counts"))["polled"]
    return {"cpu": cpu / order.jobs, "wall": wall / order.jobs, "films": films}


async def in_flight(
    contend: Contender, order: Order, window: float, *, traced: bool, finish: bool
) -> dict[str, float]:
    """Hold all jobs in flight; what a poll costs, and the memory of a job.

    Args:
        contend: the contender.
        order: what it is to do; its *interval* is that of the polls.
        window: seconds for which polls are counted.
        traced: whether memory is what Python has allocated, not what is resident.
        finish: whether all jobs are brought to their ends afterwards.
    """
    await tell(order.url, f"/bench/reset?after={10**9}")
    before = held(traced)
    running = asyncio.ensure_future(contend(order))
    polled = 0
    while polled < order.jobs and not running.done():
        await asyncio.sleep(STEP)
        polled = (await tell(order.url, "/bench/counts"))["polled"]
    memory = held(traced) - before
    for _ in range(LOOKS if traced else 0):  # the smallest: when the fewest are polling
        await asyncio.sleep(STEP)
        memory = min(memory, held(traced) - before)
    polls, cpu = (await tell(order.url, "/bench/counts"))["polls"], time.process_time()
    await asyncio.sleep(window)
    cpu = time.process_time() - cpu
    polls = (await tell(order.url, "/bench/counts"))["polls"] - polls
    await tell(order.url, "/bench/ready?after=0")
    if finish or running.done():
        await running
    return {"memory": memory / order.jobs, "poll": cpu / max(polls, 1), "polls": polls}


def main(name: str) -> None:
    use_core(last=False)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    module, _, function = name.partition(":")
    contend: Contender = getattr(importlib.import_module(module), function)

    def answer(figures: dict[str, float]) -> None:
        print(json.dumps(figures), file=answers, flush=True)

    async def hold(order: Order, window: float, traced: bool) -> None:
        answer(await in_flight(contend, order, window, traced=traced, finish=False))
        os._exit(0)  # ten thousand jobs need not be brought to their ends

    warm = False
    for line in sys.stdin:
        asked = json.loads(line)
        window, traced = asked.pop("window", None), asked.pop("traced", False)
        order = Order(**asked)
        if not warm:
            asyncio.run(whole(contend, attrs.evolve(order, jobs=WARM_UP, flight=10, interval=0.01)))
            gc.collect()
            gc.freeze()  # what the imports left is nobody's work
            warm = True
        if traced:
            tracemalloc.start()
        if window is None:
            answer(asyncio.run(whole(contend, order)))
        else:
            asyncio.run(hold(order, window, traced))


if __name__ == "__main__":
    main(sys.argv[1])
