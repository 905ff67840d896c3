"""What the tests of runs share: films, a world in virtual time, and how its books are checked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

from apikley_async import Backoff, Client, Environment, RateLimiter, Shot, Storyboard
from apikley_async.batch import Batch, Item, ItemState
from apikley_async.simulator import Constant, Fault, RandomFaults, Simulator, Terms
from apikley_async.testing import LoopClock

KEY = "a-key-that-opens-nothing"  # the same in every world
SELDOM = Backoff(initial=20)  # seconds: a poll is most of what a film in virtual time costs
END_STATES = {
    ItemState.DONE,
    ItemState.FAILED,
    ItemState.REJECTED,
    ItemState.UNCERTAIN,
    ItemState.EXPIRED,
}


def board(key: str, duration: int = 10) -> Storyboard:
    return Storyboard([Shot(f"The scene of {key}.", 5)], duration=duration)


def films(count: int) -> list[tuple[str, Storyboard]]:
    return [(f"k{number}", board(f"k{number}")) for number in range(count)]


def simulated_service(
    terms: Terms | None = None, *, faults: RandomFaults | None = None, seed: int = 7
) -> Simulator:
    terms = terms or Terms(duration=Constant(60))
    return Simulator(terms, api_key=KEY, faults=faults, clock=LoopClock(), rng=random.Random(seed))


def make_client(simulator: Simulator, *, seed: int | None = None, **options: object) -> Client:
    """A client with chance of its own: no two lives make the same tokens. It polls seldom."""
    if seed is None:
        seed = len(simulator.ledger.creations)
    return Client(
        simulator.api_key,
        base_url=simulator.base_url,
        environment=Environment(clock=LoopClock(), rng=random.Random(seed)),
        **{"polling": SELDOM, **options},  # type: ignore[arg-type]
    )


def fast_limiter(limit: int = 1000) -> RateLimiter:
    """A limiter that is not what the test is about."""
    return RateLimiter(limit, 0.1, clock=LoopClock(), rng=random.Random(2))


def open_batch(path: Path, **options: bool) -> Batch:
    return Batch.open(path, clock=LoopClock(), **options)


async def run_batch(batch: Batch, client: Client, **options: object) -> list[Item]:
    return [item async for item in batch.run(client, **options)]  # type: ignore[arg-type]


async def states(batch: Batch) -> dict[str, ItemState]:
    return {item.key: item.state async for item in batch.items()}


def key_of_request(body: object) -> str:
    """The key of the film that a paid request asks for."""
    reported: str = body["input"]["shots"][0]["Scene"]  # type: ignore[index]
    return reported.removeprefix("The scene of ").removesuffix(".")


async def check_consistency(simulator: Simulator, batch: Batch, folder: Path) -> None:
    """Ledger, journal and folder agree with each other. (I1, I2, I3, I11, I12)"""
    items = {item.key: item async for item in batch.items()}
    uncertain = {key for key, item in items.items() if item.state is ItemState.UNCERTAIN}
    paid: dict[str, list[str]] = {key: [] for key in items}
    for charge in simulator.ledger.paid:
        paid[key_of_request(charge.body)].append(charge.task_id)

    for key, tasks in paid.items():
        assert len(tasks) <= 1, f"{key} was paid {len(tasks)} times"
        if tasks and items[key].task_id != tasks[0]:
            assert key in uncertain, f"{key} was paid as {tasks[0]} and is {items[key].state}"
    assert len(simulator.ledger.paid) <= len(items) + len(uncertain)

    done = {key: item for key, item in items.items() if item.state is ItemState.DONE}
    for item in done.values():
        [file] = item.files
        assert file.path == folder / f"{item.key}.mp4"
        bytes_of = await asyncio.to_thread(file.path.read_bytes)
        assert bytes_of == await simulator.film(item.task_id or "")
    assert {path.name for path in folder.glob("*.mp4")} == {f"{key}.mp4" for key in done}
    assert await batch.verify() == []
    assert not simulator.ledger.leaks


def evenly(share: float, faults: Iterable[Fault]) -> dict[Fault, float]:
    """Each of *faults* equally often, *share* in all."""
    chosen = list(faults)
    return {fault: share / len(chosen) for fault in chosen}
