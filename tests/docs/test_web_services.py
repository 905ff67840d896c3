"""The programs of docs/howto/web-services.md: served on real sockets, stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest
from forked_process import ForkedProcess
from page_programs import ProgramRunner
from pages import ROOT

from apikley_async.simulator import Constant, Fault, Simulator, Terms

HOWTO = ROOT / "docs" / "howto" / "web-services.md"
PROGRAMS = ("aiohttp_service.py", "fastapi_service.py")
LONG = 36_000  # seconds that a film takes which is not to be ready in a test

Open: TypeAlias = Callable[..., contextlib.AbstractAsyncContextManager["Service"]]

pytestmark = pytest.mark.timeout(120)


class Service:
    """A client of a served program, as a browser is one."""

    def __init__(self, session: aiohttp.ClientSession, process: ForkedProcess) -> None:
        self._session = session
        self.process = process

    async def post(self, scene: str, key: str | None = None) -> tuple[int, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        async with self._session.post("/films", json={"scene": scene}, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.status == 202 else text

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._session.get(path) as answer:
            return answer.status, await answer.json() if answer.status == 200 else None

    async def events(self, film_id: str) -> AsyncIterator[dict[str, Any]]:
        async with self._session.get(f"/films/{film_id}/events") as answer:
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    async def wait_for(self, film_id: str, *states: str) -> dict[str, Any]:
        """Ask again and again, as a client without events would."""
        async with asyncio.timeout(40):
            while True:
                _, film = await self.get(f"/films/{film_id}")
                if film["state"] in states:
                    return dict(film)
                await asyncio.sleep(0.05)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A film takes four seconds: the service is a hundred times as fast."""
    terms = Terms(duration=Constant(400))
    async with Simulator(terms, speed=100, hosts=["localhost"]) as simulator:
        yield simulator


@pytest.fixture
def served(simulator: Simulator, tmp_path: Path) -> Open:
    """Serve a program of the page; its table and its films stay when it ends."""
    programs = ProgramRunner(HOWTO, simulator, tmp_path)

    @contextlib.asynccontextmanager
    async def served(name: str) -> AsyncIterator[Service]:
        async with (
            programs.running(name, str(programs.port)) as process,
            aiohttp.ClientSession(programs.url) as session,
        ):
            yield Service(session, process)

    return served


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_client_that_disconnects_loses_no_film_and_a_second_one_follows_it(
    name: str, served: Open, simulator: Simulator, tmp_path: Path
) -> None:
    """202 and an id; states move although callbacks are on; the same key pays nothing again."""
    async with served(name) as service:
        status, film = await service.post("Snow on a roof.", "one")
        async with contextlib.aclosing(service.events("one")) as left:
            first = await anext(left)
        again = await service.post("Snow on a roof.", "one")
        events = [event async for event in service.events("one")]
        _, last = await service.get("/films/one")

    assert (status, film["id"], first["id"], again[0]) == (202, "one", "one", 202)
    states = [event["state"] for event in events]
    assert len(set(states) & {"waiting", "queuing", "generating"}) >= 1
    assert states[-2:] == ["success", "done"]
    assert events[-1] == last
    assert (tmp_path / "films" / last["file"]).stat().st_size > 0
    (paid,) = simulator.ledger.paid
    assert simulator.ledger.polls[paid.task_id] >= 2  # not only the one that the callback brings
    (called,) = simulator.ledger.callbacks
    assert (called.task_id, called.outcome, called.status) == (paid.task_id, "answered", 200)


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_restart_with_an_open_stream_takes_seconds_and_pays_nothing_again(
    name: str, served: Open, simulator: Simulator
) -> None:
    """The stream ends, the film does not: the next process re-attaches to it."""
    simulator.service.terms = Terms(duration=Constant(LONG))
    loop = asyncio.get_running_loop()
    async with served(name) as service:
        _, film = await service.post("Snow on a roof.")
        await service.wait_for(film["id"], "waiting", "queuing", "generating")
        async with contextlib.aclosing(service.events(film["id"])) as events:
            await anext(events)
            asked = loop.time()
            service.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(aiohttp.ClientPayloadError):  # uvicorn cuts it
                async for _ in events:
                    pass
            await asyncio.to_thread(service.process.wait)
            took = loop.time() - asked

    (paid,) = simulator.ledger.paid
    simulator.finish(paid.task_id)
    async with served(name) as service:
        seen = [event["state"] async for event in service.events(film["id"])]

    assert took < 15  # 3 by its settings, on a machine that is not busy
    assert seen[-1] == "done"
    assert len(simulator.ledger.paid) == 1


async def test_killed_while_a_submission_is_uncertain_its_callback_binds_it_after_the_restart(
    served: Open, simulator: Simulator
) -> None:
    """The token was on the disk before the request left: what was paid is found, and paid once."""
    simulator.service.terms = Terms(duration=Constant(LONG))
    simulator.script("create", [Fault.RESET_AFTER])
    async with served(PROGRAMS[0]) as service:
        _, film = await service.post("Snow on a roof.")
        await service.wait_for(film["id"], "uncertain")
        service.process.kill()
        await asyncio.to_thread(service.process.wait)

    (paid,) = simulator.ledger.paid
    async with served(PROGRAMS[0]) as service:
        simulator.finish(paid.task_id)
        last = await service.wait_for(film["id"], "done")

    assert last["file"] == f"{paid.task_id}.mp4"
    assert len(simulator.ledger.paid) == 1


@pytest.mark.parametrize("name", PROGRAMS)
async def test_what_is_not_accepted_is_refused_with_a_status_and_costs_nothing(
    name: str, served: Open, simulator: Simulator
) -> None:
    """A blank scene, another film of the same key, an unknown id; what the provider refuses."""
    simulator.script("create", [Fault.code(422)])
    async with served(name) as service:
        blank, _ = await service.post("")
        accepted, _ = await service.post("Snow on a roof.", "one")
        other, _ = await service.post("Rain on a tent.", "one")
        unknown = [(await service.get(f"/films/two{tail}"))[0] for tail in ("", "/events")]
        failed = await service.wait_for("one", "failed")

    assert [blank, accepted, other, *unknown] == [422, 202, 409, 404, 404]
    assert "(code 422)" in failed["error"]
    assert not simulator.ledger.paid
