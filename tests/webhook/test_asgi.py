"""The ASGI door without a server: what no server in front of it can be relied on for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeAlias

import pytest
from webhook.post import BODY, TASK, TOKEN, Ear

from apikley_async.webhook import Callback

Message: TypeAlias = dict[str, Any]


def unsigned() -> Callback:
    return Callback("https://hooks.test")


def scope(**changes: Any) -> Message:
    headers = [(b"content-type", b"application/json")]
    base = {"type": "http", "method": "POST", "path": f"/{TOKEN}", "http_version": "1.1"}
    return base | {"headers": headers} | changes


async def played(
    scope: Message, *script: Message | Awaitable[Message], callback: Callback | None = None
) -> list[Message]:
    """Run the application with messages from a script; give what it sent."""
    steps = iter(script)
    sent: list[Message] = []

    async def receive() -> Any:
        step = next(steps)
        return step if isinstance(step, dict) else await step

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await (callback or unsigned()).asgi_app()(scope, receive, send)
    return sent


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


async def test_a_caller_who_hangs_up_is_harmless() -> None:
    """Before, within and after the body: nothing is sent to him, nothing is heard."""
    mine, ear = unsigned(), Ear()
    end = mine.listen(ear)

    for script in ([GONE], [part(BODY[:5], more=True), GONE]):
        assert await played(scope(), *script, callback=mine) == []

    async def deaf(message: Any) -> None:
        raise OSError("gone")

    async def receive() -> Any:
        return part(BODY)

    await mine.asgi_app()(scope(), receive, deaf)
    end()
    assert ear.told == [(TOKEN, TASK)]


async def test_a_body_in_pieces_is_one_body() -> None:
    """Down to single bytes, and empty pieces."""
    mine, ear = unsigned(), Ear()
    end = mine.listen(ear)
    pieces = [part(bytes([byte]), more=True) for byte in BODY]

    sent = await played(scope(), *pieces, {"type": "http.request"}, callback=mine)

    end()
    assert sent[0]["status"] == 200
    assert ear.told == [(TOKEN, TASK)]


@pytest.mark.virtual
async def test_a_body_that_dawdles_is_cut() -> None:
    """Five seconds for all of it, however many pieces come (W10)."""

    async def slowly() -> Message:
        await asyncio.sleep(2)
        return part(b" ", more=True)

    began = asyncio.get_running_loop().time()
    sent = await played(scope(), *(slowly() for _ in range(3)))

    assert asyncio.get_running_loop().time() - began == 5
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize(("version", "closes"), [("1.0", True), ("1.1", True), ("2", False)])
async def test_a_body_that_is_too_long_is_not_read_to_its_end(version: str, closes: bool) -> None:
    """413 as soon as it is; later versions of HTTP know no `Connection: close` (W9)."""
    piece = part(b"x" * 1_200_000, more=True)

    sent = await played(scope(http_version=version), piece, piece)

    assert sent[0]["status"] == 413
    assert ((b"connection", b"close") in sent[0]["headers"]) == closes


async def test_a_websocket_is_refused_and_anything_else_is_unknown() -> None:
    sent = await played({"type": "websocket"}, {"type": "websocket.connect"})

    assert [message["type"] for message in sent] == ["websocket.close"]
    with pytest.raises(ValueError, match="scope: http, lifespan or websocket, not 'smtp'"):
        await played({"type": "smtp"})


async def test_a_life_begins_and_ends() -> None:
    begin, end = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}

    sent = await played({"type": "lifespan"}, begin, end)

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
