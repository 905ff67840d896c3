"""Virtual time: what tests that wait for minutes rely on."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest
from aiohttp import web

from apikley_async import virtual
from apikley_async.virtual import Deadlock, VirtualLoop

pytestmark = pytest.mark.virtual

Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers on loopback sockets; each answers every path with one handler."""
    runners = []

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", handler)
        # Otherwise a handler outlives a client that has given up, and the test.
        runner = web.AppRunner(app, handler_cancellation=True)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}/"

    yield start

    for runner in runners:
        await runner.cleanup()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_waiting_takes_no_real_time() -> None:
    """Four minutes take less than a second, and are exactly four minutes."""
    started = time.monotonic()

    await asyncio.sleep(240)

    assert now() == 240
    assert time.monotonic() - started < 1


async def test_timers_fire_in_the_order_of_their_delays() -> None:
    """Whatever the order of the calls."""
    woken: list[tuple[float, float]] = []

    async def wait(delay: float) -> None:
        await asyncio.sleep(delay)
        woken.append((delay, now()))

    await asyncio.gather(*map(wait, (3, 0.1, 0.2, 1e-3, 86_400 * 3)))

    delays = (1e-3, 0.1, 0.2, 3, 86_400 * 3)
    assert [delay for delay, _ in woken] == list(delays)
    assert [when for _, when in woken] == pytest.approx(delays)


async def test_no_timer_fires_slightly_too_early() -> None:
    """Code that reads the clock again, and waits for the remainder, finds none."""
    loop = asyncio.get_running_loop()
    early = []
    for turn in range(500):
        done = asyncio.Event()
        deadline = loop.time() + turn / 7 + 1e-7

        def check(deadline: float = deadline, done: asyncio.Event = done) -> None:
            if loop.time() < deadline:
                early.append(deadline)
                loop.call_at(deadline, check)
            else:
                done.set()

        loop.call_at(deadline, check)
        await done.wait()

    assert early == []


async def test_an_idle_connection_is_closed_in_time(serve: Serve) -> None:
    """A server's own timers work for more than a day."""

    async def greet(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    address = await serve(greet)
    async with aiohttp.ClientSession() as session:
        for pause in (0.1, 1 / 3, 3630.7, 30 * 3600):
            async with session.get(address) as response:
                assert await response.text() == "hello"
            await asyncio.sleep(pause)


@pytest.mark.parametrize("repetition", range(3))
async def test_requests_over_sockets_take_exactly_their_virtual_time(
    serve: Serve, repetition: int
) -> None:
    """200 requests of one second with 1.2 s between them: 440 s, every time."""

    async def answer_late(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.json_response(await request.json())

    address = await serve(answer_late)
    answered = []
    # A request whose bytes the loop overlooked would time out here at once.
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.5)) as session:
        for turn in range(200):
            async with session.post(address, json=turn) as response:
                assert await response.json() == turn
            answered.append(now())
            await asyncio.sleep(1.2)

    assert answered == [pytest.approx(1 + 2.2 * turn) for turn in range(200)]


async def test_bodies_larger_than_a_socket_take_no_time(serve: Serve) -> None:
    """A megabyte each way, six at a time: the clock waits for them although timers are due."""
    body = bytes(1_000_000)

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    address = await serve(echo)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.1)) as session:

        async def send() -> None:
            async with session.post(address, data=body) as response:
                assert await response.read() == body

        await asyncio.gather(*(send() for _ in range(6)))
    ticking.cancel()

    assert ticks == 0


async def test_a_request_without_a_response_times_out(serve: Serve) -> None:
    """A silent server is not mistaken for data in transit."""

    async def stay_silent(request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    address = await serve(stay_silent)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        with pytest.raises(TimeoutError):
            await session.get(address)

    assert now() == pytest.approx(120)


async def test_the_clock_stands_still_while_a_thread_is_busy() -> None:
    """Work in an executor takes no virtual time, so no timeout can strike by accident."""
    async with asyncio.timeout(0.01):
        await asyncio.to_thread(time.sleep, 0.4)

    assert now() == 0


@pytest.mark.slow
async def test_work_that_takes_long_on_a_busy_machine_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call may be in one piece of C for minutes: it is at work while it gets some processor."""
    monkeypatch.setattr(virtual, "EXECUTOR_GRACE", 0.05)
    async with asyncio.timeout(0.01):
        await asyncio.to_thread(hashlib.pbkdf2_hmac, "sha256", b"word", b"salt", 1_000_000)

    assert now() == 0


async def test_a_call_that_only_waits_does_not_stop_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may wait for what comes later."""
    monkeypatch.setattr(virtual, "EXECUTOR_GRACE", 0.05)
    later = threading.Event()
    asyncio.get_running_loop().call_later(600, later.set)

    await asyncio.to_thread(later.wait)

    assert now() == 600


@pytest.mark.parametrize("work", [0, 0.02])
async def test_the_clock_waits_for_a_writer_thread(work: float) -> None:
    """A thread with a queue, such as a journal's, is waited for while it has work."""
    loop = asyncio.get_running_loop()
    jobs: queue.Queue[asyncio.Future[None] | None] = queue.Queue()

    def write() -> None:
        while (job := jobs.get()) is not None:
            time.sleep(work)
            loop.call_soon_threadsafe(job.set_result, None)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(20):
        job = loop.create_future()
        async with asyncio.timeout(1):
            jobs.put(job)
            await job
        await asyncio.sleep(30)
    jobs.put(None)
    writer.join()

    assert now() == 600


def test_a_deadlock_is_an_error() -> None:
    """It names the tasks that wait, instead of a hang."""

    async def wait_forever() -> None:
        await asyncio.sleep(5)
        await asyncio.get_running_loop().create_future()

    with (
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
        pytest.raises(Deadlock, match=r"(?s)At 5 s .*wait_forever") as caught,
    ):
        runner.run(wait_forever())

    assert "\n" in str(caught.value)


class SlowExecutor(ThreadPoolExecutor):
    """An executor that takes a moment to shut down, as on a busy machine."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        time.sleep(0.4)
        super().shutdown(wait, cancel_futures=cancel_futures)


def test_a_runner_waits_for_threads_to_end() -> None:
    """Meanwhile no virtual time passes, so Python's limit of five minutes is not reached."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        loop.set_default_executor(SlowExecutor())

        assert runner.run(asyncio.to_thread(threading.get_ident)) != threading.get_ident()

    assert loop.time() == 0
