"""The simulator as a whole: it starts, waits, ends and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from random import Random

import aiohttp
import pytest
from aiohttp import web

from apikley_async.simulator import Constant, Fault, FixedRenderer, RandomFaults, Simulator, Terms

CREATE = "/api/v1/jobs/createTask"
BODY = {
    "model": "sora-2-pro-storyboard",
    "input": {"n_frames": "10", "shots": [{"Scene": "Rain.", "duration": 5}]},
}


def simulator(terms=None, **options):
    return Simulator(terms or Terms(), renderer=options.pop("renderer", FixedRenderer()), **options)


async def create(simulator, session, *, timeout=None):
    headers = {"Authorization": f"Bearer {simulator.api_key}"}
    async with (
        asyncio.timeout(timeout),
        session.post(simulator.base_url + CREATE, json=BODY, headers=headers) as answer,
    ):
        return await answer.json(content_type=None)


def others():
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_before_it_runs_it_has_no_url():
    """Reading it raises."""
    idle = simulator()

    with pytest.raises(RuntimeError, match="no URL"):
        _ = idle.base_url
    assert "stopped" in repr(idle)


async def test_two_simulators_are_independent():
    """Each has two ports, a service and a ledger of its own."""
    async with simulator() as one, simulator() as two, aiohttp.ClientSession() as session:
        await create(one, session)

        assert len({one.base_url, one.files_url, two.base_url, two.files_url}) == 4
        assert (len(one.ledger.paid), len(two.ledger.paid)) == (1, 0)


async def test_it_can_be_started_again_with_its_service():
    """Closing twice is harmless; starting twice is not."""
    again = simulator()
    async with again, aiohttp.ClientSession() as session:
        await create(again, session)
        with pytest.raises(RuntimeError, match="already"):
            await again.start()
    await again.aclose()

    async with again, aiohttp.ClientSession() as session:
        await create(again, session)
    assert len(again.ledger.paid) == 2


async def test_a_port_in_use_is_an_error_that_leaves_nothing_open():
    """The socket that was open is closed again."""
    async with simulator() as one:
        port = int(one.base_url.rpartition(":")[2])
        other = simulator(port=port)
        with pytest.raises(OSError, match="address"):
            await other.start()
        assert "stopped" in repr(other)


@pytest.mark.parametrize(
    "fault", [Fault.HANG, Fault.HANG_AFTER, Fault.late(3600), Fault.queued(3600), Fault.slow(3600)]
)
async def test_it_closes_while_requests_hang(fault):
    """At once, and no asyncio task and no socket is left; the caller sees a lost connection."""
    arrived = asyncio.Event()

    def steps():
        arrived.set()
        yield fault

    async with aiohttp.ClientSession() as session:
        async with simulator() as hanging:
            hanging.script("create", steps())
            waiting = asyncio.create_task(create(hanging, session))
            await arrived.wait()
        with pytest.raises(aiohttp.ClientError):
            await waiting
    assert not others()


async def test_it_closes_while_films_are_rendered():
    """Rendering is cancelled and awaited."""
    ended = []

    class Slow:
        async def render(self, request):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(request.task_id)

    async with aiohttp.ClientSession() as session, simulator(renderer=Slow()) as rendering:
        await create(rendering, session)
        await asyncio.sleep(0)
    assert len(ended) == 1
    assert not others()


async def test_no_socket_is_left_open(recwarn):
    """Not even after connections were cut in every possible way."""
    script = [Fault.RESET, Fault.CLOSE, Fault.CUT, Fault.CUT_CHUNKED, Fault.GARBAGE]
    async with aiohttp.ClientSession() as session, simulator() as cutting:
        cutting.script("create", [*script, Fault.CUT_UNFRAMED])
        for _ in range(6):
            with pytest.raises((aiohttp.ClientError, ValueError)):
                await create(cutting, session)

    gc.collect()
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


@pytest.mark.virtual
async def test_responses_can_be_late_and_slow():
    """In the caller's seconds, whatever the speed."""
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session, simulator(speed=60) as slow:
        slow.script("create", [Fault.late(30), Fault.slow(40)])
        begin = loop.time()

        await create(slow, session)
        assert 30 <= loop.time() - begin < 31
        await create(slow, session)
        assert 70 <= loop.time() - begin < 72


@pytest.mark.virtual
async def test_a_queued_request_is_processed_although_the_caller_has_gone():
    """The task is created and paid five minutes later."""
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session, simulator() as queueing:
        queueing.script("create", [Fault.queued(300)])
        with pytest.raises(TimeoutError):
            await create(queueing, session, timeout=60)
        assert not queueing.ledger.paid

        await asyncio.sleep(300)
        (charge,) = queueing.ledger.paid
        assert 299 < charge.at < 302
        assert loop.time() < 400


@pytest.mark.virtual
async def test_three_minutes_take_no_real_time():
    """A film is polled in virtual time over real sockets."""
    terms = Terms(duration=Constant(180))
    quick = simulator(terms)
    headers = {"Authorization": f"Bearer {quick.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session, quick:
        task_id = (await create(quick, session))["data"]["taskId"]
        url = f"{quick.base_url}/api/v1/jobs/recordInfo?taskId={task_id}"
        states = []
        while "success" not in states:
            await asyncio.sleep(15)
            async with session.get(url) as answer:
                states.append((await answer.json())["data"]["state"])

    assert len(states) == 12


async def test_equal_seeds_give_equal_faults():
    """Equal requests then have equal charges; and random faults can be ended."""
    mix = {Fault.RESET: 0.2, Fault.RESET_AFTER: 0.2, Fault.code(500): 0.2}

    async def history():
        async with (
            aiohttp.ClientSession() as session,
            simulator(
                Terms(limit=None), faults=RandomFaults(seed=5, create=mix), rng=Random(5)
            ) as running,
        ):
            outcomes = []
            for n in range(40):
                if n == 30:
                    running.faults = None
                try:
                    outcomes.append((await create(running, session))["code"])
                except aiohttp.ClientError:
                    outcomes.append("lost")
            return outcomes, len(running.ledger.paid), [f.fault for f in running.ledger.faults]

    outcomes, paid, faults = await history()
    assert (outcomes, paid, faults) == await history()
    assert outcomes[30:] == [200] * 10
    assert {200, 500, "lost"} == set(outcomes)
    assert paid == 40 - len(faults) + faults.count("reset, after")


async def test_the_ledger_counts_requests_by_time():
    """The busiest window is what a rate limiter must bound."""
    async with aiohttp.ClientSession() as session, simulator(Terms(limit=2)) as busy:
        for _ in range(5):
            await create(busy, session)

        assert busy.ledger.busiest_window(10) == 5
        assert busy.ledger.busiest_window(1e-9) == 1
        assert [c.outcome for c in busy.ledger.creations].count("created") == 2
        assert "2 paid" in repr(busy.ledger)


async def test_it_needs_no_arguments():
    """Then it serves the film that ships with the package."""
    terms = Terms(duration=Constant(0))
    async with Simulator(terms) as plain, aiohttp.ClientSession() as session:
        task_id = (await create(plain, session))["data"]["taskId"]
        async with session.get(plain.result_urls(task_id)[0]) as answer:
            film = await answer.read()

    assert film[4:8] == b"ftyp"
    assert task_id.encode() in film


# --- in a thread ----------------------------------------------------------------------------------


def test_a_plain_with_serves_it_from_a_thread_and_ends_both():
    """It can be used again, and its asynchronous methods are awaited in any loop."""
    threads = threading.active_count()

    async def one_film():
        async with aiohttp.ClientSession() as session:
            task_id = (await create(served, session))["data"]["taskId"]
        served.finish(task_id)
        return await served.film(task_id)

    served = simulator(renderer=FixedRenderer(b"film"))
    for _ in range(2):
        with served as entered:
            assert entered is served
            with asyncio.Runner() as runner:
                assert runner.run(one_film()).startswith(b"film")
        assert "stopped" in repr(served)
    assert len(served.ledger.paid) == 2
    assert threading.active_count() == threads


def test_what_another_thread_changes_wakes_what_waits_for_it():
    """A task that is ended from outside has its callback sent at once, not when it was due."""
    called = threading.Event()

    async def receive(request):
        called.set()
        return web.json_response({})

    async def main():
        app = web.Application()
        app.router.add_post("/{token}", receive)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {served.api_key}"}
            body = BODY | {"callBackUrl": url}
            async with session.post(served.base_url + CREATE, json=body, headers=headers) as reply:
                task_id = (await reply.json())["data"]["taskId"]
        served.finish(task_id)
        await asyncio.to_thread(called.wait, 20)
        await runner.cleanup()

    due_in_ten_hours = simulator(Terms(duration=Constant(36_000)), hosts=["localhost"])
    with due_in_ten_hours as served, asyncio.Runner() as runner:
        runner.run(main())
    assert called.is_set()


def test_what_fails_in_the_thread_is_raised_and_leaves_no_thread():
    threads = threading.active_count()
    with simulator() as one:
        port = int(one.base_url.rpartition(":")[2])
        with pytest.raises(OSError, match="address"), simulator(port=port):
            pass
        with pytest.raises(KeyError):
            one.finish("no such task")
    assert threading.active_count() == threads
