"""The ASGI application without a server: it relies on no server to guard it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeAlias

import pytest
from webhook.callback_requests import BODY, TASK, TOKEN, RecordingListener

from apikley_async.webhook import Callback

Message: TypeAlias = dict[str, Any]


def unsigned() -> Callback:
    return Callback("https://hooks.test")


def scope(**changes: Any) -> Message:
    headers = [(b"content-type", b"application/json")]
    base = {"type": "http", "method": "POST", "path": f"/{TOKEN}", "http_version": "1.1"}
    return base | {"headers": headers} | changes


async def run_app(
    scope: Message, *script: Message | Awaitable[Message], callback: Callback | None = None
) -> list[Message]:
    """Run the application with the messages of a script; returns what it sent."""
    steps = iter(script)
    sent: list[Message] = []

    async def receive() -> Any:
        step = next(steps)
        return step if isinstance(step, dict) else await step

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await (callback or unsigned()).asgi_app()(scope, receive, send)
    return sent


def body_message(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


DISCONNECT: Message = {"type": "http.disconnect"}


async def test_a_disconnected_caller_is_harmless() -> None:
    """Before and within the body nothing is sent or dispatched; after it, sending may fail."""
    mine, listener = unsigned(), RecordingListener()
    end = mine.listen(listener)

    for script in ([DISCONNECT], [body_message(BODY[:5], more=True), DISCONNECT]):
        assert await run_app(scope(), *script, callback=mine) == []

    async def send(message: Any) -> None:
        raise OSError("disconnected")

    async def receive() -> Any:
        return body_message(BODY)

    await mine.asgi_app()(scope(), receive, send)
    end()
    assert listener.calls == [(TOKEN, TASK)]


async def test_a_body_in_chunks_is_one_body() -> None:
    """Down to single bytes, and empty chunks."""
    mine, listener = unsigned(), RecordingListener()
    end = mine.listen(listener)
    chunks = [body_message(bytes([byte]), more=True) for byte in BODY]

    sent = await run_app(scope(), *chunks, {"type": "http.request"}, callback=mine)

    end()
    assert sent[0]["status"] == 200
    assert listener.calls == [(TOKEN, TASK)]


@pytest.mark.virtual
async def test_a_slow_body_is_cut() -> None:
    """Five seconds for all of it, however many chunks arrive (W10)."""

    async def slowly() -> Message:
        await asyncio.sleep(2)
        return body_message(b" ", more=True)

    began = asyncio.get_running_loop().time()
    sent = await run_app(scope(), *(slowly() for _ in range(3)))

    assert asyncio.get_running_loop().time() - began == 5
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize(("version", "closes"), [("1.0", True), ("1.1", True), ("2", False)])
async def test_reading_stops_when_a_body_is_too_long(version: str, closes: bool) -> None:
    """413 at once; HTTP/2 and later have no `Connection: close` (W9)."""
    chunk = body_message(b"x" * 1_200_000, more=True)

    sent = await run_app(scope(http_version=version), chunk, chunk)

    assert sent[0]["status"] == 413
    assert ((b"connection", b"close") in sent[0]["headers"]) == closes


async def test_a_websocket_is_refused_and_an_unknown_scope_raises() -> None:
    sent = await run_app({"type": "websocket"}, {"type": "websocket.connect"})

    assert [message["type"] for message in sent] == ["websocket.close"]
    with pytest.raises(ValueError, match="scope: http, lifespan or websocket, not 'smtp'"):
        await run_app({"type": "smtp"})


async def test_the_lifespan_starts_and_shuts_down() -> None:
    begin, end = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}

    sent = await run_app({"type": "lifespan"}, begin, end)

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
