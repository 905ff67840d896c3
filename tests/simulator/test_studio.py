"""Where films are made: when it begins, how long it takes, and what comes of it."""

from __future__ import annotations

import asyncio
import json

import attrs
import pytest

from apikley_async.simulator import (
    Constant,
    OneFilm,
    Placeholder,
    Simulator,
    Task,
    Terms,
    World,
    WorldTime,
)
from apikley_async.simulator.service.hosted_files import Place
from apikley_async.simulator.video.queue import Studio

BODY = {
    "model": "sora-2-pro-storyboard",
    "input": {"n_frames": "10", "shots": [{"Scene": "Rain.", "duration": 5}]},
}


class HandClock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.time = 1000.0

    def now(self):
        return self.time

    def wall(self):
        return 1_790_000_000.0 + self.time

    async def sleep(self, delay, wake=None):
        self.time += delay


@attrs.define
class Painter:
    """Makes a film when it is let."""

    orders: list = attrs.field(factory=list)
    allowed: asyncio.Event = attrs.field(factory=asyncio.Event)
    error: Exception | None = None

    async def film(self, task):
        self.orders.append(task)
        await self.allowed.wait()
        if self.error:
            raise self.error
        return b"\0\0\0\x10ftypisom\0\0\0\0" + task.seed.to_bytes(4, "big")


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
async def open_studio(clock):
    """Open studios, each with a world whose films take a hundred seconds at least."""
    studios = []

    def open_studio(films, **terms):
        renders = Studio.renders(films)
        world = World(
            Terms(duration=Constant(100), **terms), time=WorldTime(clock), renders=renders
        )
        studios.append(Studio(world, films))
        return world, studios[-1]

    yield open_studio
    for studio in studios:
        await studio.aclose()


def order(world, studio):
    task = world.create(json.dumps(BODY).encode())
    assert isinstance(task, Task)
    studio.begin(task)
    return task


def state(world, task):
    return world.task(task.task_id).state(world.time.now())


async def test_a_success_waits_for_its_film(open_studio, clock):
    """The painter is told all it needs; until it is done the task goes on generating."""
    painter = Painter()
    world, studio = open_studio(painter)
    task = order(world, studio)
    await asyncio.sleep(0)
    clock.time += 100
    assert state(world, task) == "generating"

    painter.allowed.set()
    film = await studio.bytes_of(Place(task.serial, 1))

    assert state(world, task) == "success"
    (told,) = painter.orders
    assert (told.shots, told.duration, told.aspect) == ((("Rain.", 5.0),), 10.0, "landscape")
    assert (told.task_id, told.seed) == (task.task_id, task.seed)
    assert film == b"\0\0\0\x10ftypisom\0\0\0\0" + task.seed.to_bytes(4, "big")


async def test_a_film_that_is_early_waits_for_its_time(open_studio, clock):
    """The drawn duration is kept, however quick the painter is."""
    painter = Painter()
    painter.allowed.set()
    world, studio = open_studio(painter)
    task = order(world, studio)
    await studio.bytes_of(Place(task.serial, 1))

    assert state(world, task) == "waiting"
    clock.time += 100
    assert state(world, task) == "success"


async def test_a_broken_painter_lets_the_task_fail_and_is_logged(open_studio, caplog):
    """With code 500, at once."""
    painter = Painter(error=OSError("no paint"))
    painter.allowed.set()
    world, studio = open_studio(painter)
    task = order(world, studio)
    await asyncio.sleep(0)

    assert state(world, task) == "fail"
    assert world.task(task.task_id).failure.code == "500"
    assert "no paint" in caplog.text


async def test_a_film_that_nobody_asked_for_is_made_when_it_is_fetched(open_studio):
    """A task that was fated to fail has none, until a script lets it succeed."""
    painter = Painter()
    painter.allowed.set()
    world, studio = open_studio(painter, fail_rate=1.0)
    task = order(world, studio)
    world.finish(task.task_id)
    assert not painter.orders

    assert (await studio.bytes_of(Place(task.serial, 1))).startswith(b"\0\0\0\x10ftyp")


async def test_a_film_for_everybody_costs_no_work(open_studio):
    """No asyncio task runs for it, and each copy names its owner."""
    world, studio = open_studio(OneFilm(b"film"))
    before = asyncio.all_tasks()
    tasks = [order(world, studio) for _ in range(3)]
    assert asyncio.all_tasks() == before

    films = [await studio.bytes_of(Place(task.serial, 1)) for task in tasks]
    assert len(set(films)) == 3
    assert all(f"{t.task_id} 1".encode() in f for t, f in zip(tasks, films, strict=True))


async def test_a_closed_studio_begins_nothing(open_studio):
    """What comes in while the simulator closes is left alone."""
    world, studio = open_studio(Painter())
    await studio.aclose()
    task = order(world, studio)

    with pytest.raises(ConnectionError):
        await studio.bytes_of(Place(task.serial, 1))


async def test_an_interrupted_rendering_is_taken_up_again():
    """When a simulator starts again, its world still waits for the films it was promised."""
    painter = Painter()
    simulator = Simulator(Terms(duration=Constant(0)), films=painter)
    task = simulator.world.create(json.dumps(BODY).encode())
    async with simulator:
        await asyncio.sleep(0)
    assert state(simulator.world, task) == "generating"

    painter.allowed.set()
    async with simulator:
        await simulator.film(task.task_id)
    assert len(painter.orders) == 2
    assert state(simulator.world, task) == "success"


def test_the_placeholder_serves_everybody():
    """It needs no work of its own either."""
    assert not Studio.renders(Placeholder())
    assert Studio.renders(Painter())
