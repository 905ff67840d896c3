"""Ten thousand films: planned and verified in seconds, run in the memory of a thousand.

APIKLEY_SCALE says how many; a few hundred without it. Virtual time, and no sockets: the service
is a transport that answers from a table, so that what grows is ours.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from batch.helpers import fast_limiter, open_batch

from apikley_async import Client, Environment
from apikley_async.batch import ItemState
from apikley_async.testing import LoopClock, Reply, Request, reply

COUNT = int(os.environ.get("APIKLEY_SCALE", "400"))

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(60 + COUNT // 10)]


class Service:
    """Accepts everything; half a minute later it is ready, and has words for a result."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        await asyncio.sleep(0.2)
        if not request.repeatable:
            assert on_sent is not None
            on_sent()
            return reply({"taskId": f"task_{next(self._numbers)}"})
        told = {"resultObject": {"words": "x" * 500}}
        return reply({"taskId": request.query["taskId"], "state": "success", "model": "words/1",
                      "resultJson": json.dumps(told), "creditsConsumed": 5})  # fmt: skip

    async def aclose(self) -> None:
        return


def resident() -> float:
    """Megabytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory is used")
async def test_ten_thousand_films(tmp_path: Path) -> None:
    """Planned in under 10 s, verified in under 1 s; from a tenth to the end under 20 MB. (M5)"""
    manifest = tmp_path / "films.jsonl"
    task = '{"key": "k%d", "task": {"model": "words/1", "input": {"prompt": "Number %d."}}}\n'
    manifest.write_text("".join(task % (number, number) for number in range(COUNT)))
    client = Client(
        environment=Environment(transport=Service(), clock=LoopClock(), rng=random.Random(1)),
        limiter=fast_limiter(),
    )
    async with client, open_batch(tmp_path / "b.db") as batch:
        began = time.perf_counter()
        await batch.add(manifest)
        planned = time.perf_counter() - began

        done, early = 0, 0.0
        began = time.perf_counter()
        async for item in batch.run(client, folder=tmp_path / "films", max_credits=9e9, prices=5):
            assert item.state is ItemState.DONE
            done += 1
            if done == COUNT // 10:
                early = resident()
        ran = time.perf_counter() - began
        grown = resident() - early

        began = time.perf_counter()
        faults = await batch.verify()
        verified = time.perf_counter() - began

    print(f"{COUNT} films: planned in {planned:.1f} s, run in {ran:.1f} s,"
          f" {grown:+.1f} MB, verified in {verified:.2f} s")  # fmt: skip
    assert (done, faults) == (COUNT, [])
    assert planned < 10
    assert verified < 1
    assert grown < 20
