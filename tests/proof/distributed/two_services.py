"""Two web services with one key and no queue: is the service's limit used, and never exceeded?

  two_services.py                      400 films, fixed and sliding windows, one second for ten
  two_services.py --runs 5 --seed 7    five runs of each, seeds 7 to 11
  two_services.py --speed 1            at the service's own pace: 400 films take 200 seconds

In the middle of a run one of the two is killed with SIGKILL. What it had not answered is asked of
the other one. Exits with 1 when anything was refused, a film is missing, or more were bought than
the killed process can have had in hand.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import aiohttp
import attrs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from postgres_server import PostgresServer  # noqa: E402 - behind the paths

from apikley_async.distributed import set_up  # noqa: E402
from apikley_async.simulator import Simulator, Terms  # noqa: E402

LIMIT, PER, LEASE = 20, 10.0, 60.0  # of the service; seconds
AT_ONCE = 60  # requests that wait at the two services
Window = Literal["sliding", "fixed"]


@attrs.frozen
class Figures:
    """What came of a run.

    Attributes:
        answered: films whose id was answered.
        bought: films that the service has made.
        refused: submissions that the service has refused.
        lost: requests that the killed process had not answered.
        seconds: from the first film to the last.
        ideal: the same for one who knows when the next one is accepted.
        statements: of the database, for each film.
    """

    answered: int
    bought: int
    refused: int
    lost: int
    seconds: float
    ideal: float
    statements: float

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        faults = [f"{self.refused} refused"] if self.refused else []
        if not self.answered <= self.bought <= self.answered + self.lost:
            faults.append(f"{self.answered} answered, {self.lost} lost, {self.bought} bought")
        return faults

    def __str__(self) -> str:
        return (
            f"{self.answered} answered, {self.bought} bought, {self.lost} lost with a process, "
            f"{self.refused} refused; {self.seconds:.1f} s, ideal {self.ideal:.1f} s; "
            f"{self.statements:.1f} statements a film"
        )


async def run(
    server: PostgresServer, *, count: int, speed: float, window: Window, seed: int
) -> Figures:
    """Have *count* films submitted by two services, one of which is killed midway."""
    rng, dsn = random.Random(seed), server.create_database()
    await set_up(dsn)
    terms = Terms(limit=LIMIT, per=PER, window=window, max_running=None)  # the rate is what counts
    async with Simulator(terms, speed=speed, rng=random.Random(seed)) as simulator:
        async with contextlib.AsyncExitStack() as stack:
            values = {
                "dsn": dsn,
                "base_url": simulator.base_url,
                "api_key": simulator.api_key,
                "limit": LIMIT,
                "per": PER / speed,
                "lease": LEASE / speed,
            }
            services = [await stack.enter_async_context(service(values)) for _ in range(2)]
            before = commits(server, dsn)
            answered, lost = await submit_all(services, count, rng)
        await asyncio.sleep(1.5)  # the server's counters lag behind
        created = [each.at for each in simulator.ledger.created]
        return Figures(
            answered=answered,
            bought=len(created),
            refused=len(simulator.ledger.throttled),
            lost=lost,
            seconds=(max(created) - min(created)) / speed,
            ideal=(len(created) - 1) // LIMIT * PER / speed,
            statements=(commits(server, dsn) - before) / len(created),
        )


def commits(server: PostgresServer, dsn: str) -> int:
    name = dsn.split("@/")[1].partition("?")[0]
    query = f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'"  # noqa: S608
    return int(server.execute(query))


@attrs.frozen(eq=False)
class Service:
    """A web service in a process of its own."""

    process: asyncio.subprocess.Process
    url: str


@contextlib.asynccontextmanager
async def service(values: dict[str, object]) -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "web_service.py"), json.dumps(values)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield Service(process, f"http://127.0.0.1:{port}/films")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def submit_all(services: list[Service], count: int, rng: random.Random) -> tuple[int, int]:
    """Have all films submitted; how many were answered, and how many requests were lost."""
    living, answered, lost = [*services], 0, 0
    kill_at = rng.randint(count // 3, count * 2 // 3)
    left = iter(range(count))

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal answered, lost
        for number in left:
            while True:
                asked = rng.choice(living)
                try:
                    async with session.post(asked.url, data=f"A cat, number {number}.") as answer:
                        assert answer.status == 202, await answer.text()
                except aiohttp.ClientConnectionError:
                    lost += 1
                    continue
                break
            answered += 1
            if answered == kill_at:
                victim = living.pop()
                victim.process.kill()

    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(AT_ONCE)))
    return answered, lost


async def main(words: argparse.Namespace) -> int:
    faults = 0
    windows: tuple[Window, ...] = ("sliding", "fixed")
    with PostgresServer.temporary() as server:
        for seed in range(words.seed, words.seed + words.runs):
            for window in windows:
                began = time.monotonic()
                figures = await run(
                    server, count=words.count, speed=words.speed, window=window, seed=seed
                )
                faults += len(figures.faults)
                took = time.monotonic() - began
                print(f"seed {seed}, {window}: {figures}; {took:.0f} s", flush=True)
                for fault in figures.faults:
                    print(f"  FAULT: {fault}", flush=True)
    return 1 if faults else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=400, help="films of a run")
    parser.add_argument("--speed", type=float, default=10.0, help="seconds of the service in one")
    parser.add_argument("--runs", type=int, default=1, help="runs of each kind of window")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
