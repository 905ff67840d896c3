"""The render queue: when a film is started, how long a task waits for it, what can go wrong."""

from __future__ import annotations

import asyncio
import json

import attrs
import pytest
from manual_clock import ManualClock

from apikley_async.simulator import (
    Constant,
    FixedRenderer,
    PlaceholderRenderer,
    Service,
    ServiceClock,
    SimulatedTask,
    Simulator,
    Terms,
)
from apikley_async.simulator.service.file_store import ResultFile
from apikley_async.simulator.video.render_queue import RenderQueue

BODY = {
    "model": "sora-2-pro-storyboard",
    "input": {"n_frames": "10", "shots": [{"Scene": "Rain.", "duration": 5}]},
}
FILM = b"\0\0\0\x10ftypisom\0\0\0\0"


@attrs.define
class GatedRenderer:
    """Renders once *allowed* is set."""

    requests: list = attrs.field(factory=list)
    allowed: asyncio.Event = attrs.field(factory=asyncio.Event)
    error: Exception | None = None

    async def render(self, request):
        self.requests.append(request)
        await self.allowed.wait()
        if self.error:
            raise self.error
        return FILM + request.seed.to_bytes(4, "big")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def make_queue(clock):
    """Make queues, each with a service whose films take a hundred seconds at least."""
    queues = []

    def make_queue(renderer, **terms):
        service = Service(
            Terms(duration=Constant(100), **terms),
            clock=ServiceClock(clock),
            renders=RenderQueue.renders_each(renderer),
        )
        queues.append(RenderQueue(service, renderer))
        return service, queues[-1]

    yield make_queue
    for queue in queues:
        await queue.aclose()


def start_task(service, queue):
    task = service.create(json.dumps(BODY).encode())
    assert isinstance(task, SimulatedTask)
    queue.start(task)
    return task


def state(service, task):
    return service.task(task.task_id).state(service.clock.now())


async def test_a_task_succeeds_when_its_film_is_rendered(make_queue, clock):
    """The renderer gets the whole request; until it is done the task is generating."""
    renderer = GatedRenderer()
    service, queue = make_queue(renderer)
    task = start_task(service, queue)
    await asyncio.sleep(0)
    clock.time += 100
    assert state(service, task) == "generating"

    renderer.allowed.set()
    film = await queue.result_bytes(ResultFile(task.serial, 1))

    assert state(service, task) == "success"
    (request,) = renderer.requests
    assert (request.shots, request.duration) == ((("Rain.", 5.0),), 10.0)
    assert request.aspect == "landscape"
    assert (request.task_id, request.seed) == (task.task_id, task.seed)
    assert film == FILM + task.seed.to_bytes(4, "big")


async def test_a_film_that_is_rendered_early_waits_for_the_duration(make_queue, clock):
    """The drawn duration is kept, however fast the renderer is."""
    renderer = GatedRenderer()
    renderer.allowed.set()
    service, queue = make_queue(renderer)
    task = start_task(service, queue)
    await queue.result_bytes(ResultFile(task.serial, 1))

    assert state(service, task) == "waiting"
    clock.time += 100
    assert state(service, task) == "success"


async def test_a_renderer_that_raises_makes_the_task_fail(make_queue, caplog):
    """At once, with code 500, and the error is logged."""
    renderer = GatedRenderer(error=OSError("no paint"))
    renderer.allowed.set()
    service, queue = make_queue(renderer)
    task = start_task(service, queue)
    await asyncio.sleep(0)

    assert state(service, task) == "fail"
    assert service.task(task.task_id).failure.code == "500"
    assert "no paint" in caplog.text


async def test_a_film_that_was_never_started_is_rendered_when_it_is_fetched(make_queue):
    """A task that was planned to fail has no film, until a script lets it succeed."""
    renderer = GatedRenderer()
    renderer.allowed.set()
    service, queue = make_queue(renderer, fail_rate=1.0)
    task = start_task(service, queue)
    service.finish(task.task_id)
    assert not renderer.requests

    assert (await queue.result_bytes(ResultFile(task.serial, 1))).startswith(FILM)


async def test_a_shared_film_needs_no_asyncio_task(make_queue):
    """And each copy names its task."""
    service, queue = make_queue(FixedRenderer(b"film"))
    before = asyncio.all_tasks()
    tasks = [start_task(service, queue) for _ in range(3)]
    assert asyncio.all_tasks() == before

    films = [await queue.result_bytes(ResultFile(task.serial, 1)) for task in tasks]
    assert len(set(films)) == 3
    assert all(f"{t.task_id} 1".encode() in f for t, f in zip(tasks, films, strict=True))


async def test_a_closed_queue_starts_nothing(make_queue):
    """Tasks that are created while the simulator closes get no film."""
    service, queue = make_queue(GatedRenderer())
    await queue.aclose()
    task = start_task(service, queue)

    with pytest.raises(ConnectionError):
        await queue.result_bytes(ResultFile(task.serial, 1))


async def test_an_interrupted_rendering_is_repeated():
    """When a simulator starts again, its tasks still wait for their films."""
    renderer = GatedRenderer()
    simulator = Simulator(Terms(duration=Constant(0)), renderer=renderer)
    task = simulator.service.create(json.dumps(BODY).encode())
    async with simulator:
        await asyncio.sleep(0)
    assert state(simulator.service, task) == "generating"

    renderer.allowed.set()
    async with simulator:
        await simulator.film(task.task_id)
    assert len(renderer.requests) == 2
    assert state(simulator.service, task) == "success"


def test_the_placeholder_is_shared_by_all_tasks():
    assert not RenderQueue.renders_each(PlaceholderRenderer())
    assert RenderQueue.renders_each(GatedRenderer())
