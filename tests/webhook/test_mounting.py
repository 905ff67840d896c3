"""Mounted in other applications: below prefixes, in frameworks, and as the how-to shows."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from page_programs import UVICORN, ProgramRunner
from pages import ROOT
from starlette.applications import Starlette
from starlette.routing import Mount
from webhook.callback_requests import (
    BODY,
    JSON,
    TASK,
    TOKEN,
    RecordingListener,
    raw_request,
    send_request,
    uvicorn_of,
)

from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.webhook import Callback

if TYPE_CHECKING:
    from fastapi import FastAPI

HOWTO = ROOT / "docs" / "howto" / "callbacks.md"


@contextlib.asynccontextmanager
async def aiohttp_of(app: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def sub_app(callback: Callback) -> web.Application:
    app, inner = web.Application(), web.Application()
    inner.add_subapp("/films", callback.aiohttp_app())
    app.add_subapp("/apikley", inner)
    return app


def in_fastapi(callback: Callback) -> FastAPI:
    app: FastAPI = importlib.import_module("fastapi").FastAPI()  # a second of imports
    app.mount("/apikley/films", callback.asgi_app())
    return app


def in_starlette(callback: Callback) -> Starlette:
    inner = Starlette(routes=[Mount("/films", app=callback.asgi_app())])
    return Starlette(routes=[Mount("/apikley", app=inner)])


MOUNTS: dict[str, Callable[[Callback], contextlib.AbstractAsyncContextManager[int]]] = {
    "aiohttp": lambda callback: aiohttp_of(callback.aiohttp_app()),
    "aiohttp, below a prefix": lambda callback: aiohttp_of(sub_app(callback)),
    "uvicorn": lambda callback: uvicorn_of(callback.asgi_app()),
    "uvicorn, no lifespan": lambda callback: uvicorn_of(callback.asgi_app(), lifespan="off"),
    "FastAPI": lambda callback: uvicorn_of(in_fastapi(callback)),
    "Starlette": lambda callback: uvicorn_of(in_starlette(callback)),
}


@pytest.mark.parametrize("mount", MOUNTS)
async def test_it_can_be_mounted_anywhere(mount: str) -> None:
    """The rules are the same below any prefix."""
    callback, listener = Callback("https://hooks.test/apikley/films"), RecordingListener()
    end = callback.listen(listener)
    path = f"/apikley/films/{TOKEN}"

    async with MOUNTS[mount](callback) as port:
        statuses = [
            (await send_request(port, request))[0]
            for request in (
                raw_request(BODY, JSON, path=path),
                raw_request(BODY, path=path),
                raw_request(b"x" * 2_200_000, JSON, path=path),
                raw_request(b"[", JSON, path=path),
                raw_request(b"", method="GET", path=path),
                raw_request(BODY, JSON, path="/apikley/films/callback"),
            )
        ]

    end()
    assert statuses == [200, 200, 413, 400, 405, 404]
    assert listener.calls == [(TOKEN, TASK)] * 2


async def test_other_routes_of_the_application_are_not_affected() -> None:
    """Only paths below the prefix are ours."""
    app = in_fastapi(Callback("https://hooks.test"))
    app.get("/health")(lambda: "well")

    async with uvicorn_of(app) as port:
        assert (await send_request(port, raw_request(b"", method="GET", path="/health")))[0] == 200
        assert (await send_request(port, raw_request(BODY, JSON, path=f"/elsewhere/{TOKEN}")))[
            0
        ] == 404


# --- the how-to -----------------------------------------------------------------------------------


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[ProgramRunner]:
    terms = Terms(duration=Constant(200))
    async with Simulator(terms, speed=100, hosts=["localhost"]) as simulator:
        yield ProgramRunner(HOWTO, simulator, tmp_path)


def check(simulator: Simulator, output: str) -> None:
    """One film was paid, its callback was accepted, and its URL was printed."""
    (paid,) = simulator.ledger.paid
    (called,) = simulator.ledger.callbacks
    assert (called.task_id, called.outcome, called.status) == (paid.task_id, "answered", 200)
    assert re.search(r"http://\S+\.mp4", output)


async def test_the_standalone_program_works(programs: ProgramRunner) -> None:
    check(programs.simulator, await programs.run("alone.py"))


async def test_the_receiver_and_the_reader_work(programs: ProgramRunner) -> None:
    async with programs.running(*UVICORN, str(programs.port), "receiver:app"):
        check(programs.simulator, await programs.run("reader.py"))
