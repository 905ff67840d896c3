"""The door for ASGI servers and frameworks. It needs none of their libraries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from apikley_async.webhook.reception import PHRASES, Reception, kind_of
from apikley_async.webhook.verify import Letter

__all__ = ["ASGIApplication", "create_app"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class _GoneError(Exception):
    """The caller has hung up."""


def create_app(reception: Reception) -> ASGIApplication:
    """An application that takes callbacks at every path."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _take(reception, scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(reception, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await _say(send, {"type": "websocket.close", "code": 1008})
        else:
            raise ValueError(f"scope: http, lifespan or websocket, not {scope['type']!r}")

    return app


async def _live(reception: Reception, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await reception.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _take(reception: Reception, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    letter = Letter(scope["method"], scope["path"], headers)
    status = reception.refusal(letter)
    close = status is not None and status != 405
    if status is None:
        gone: list[bool] = []
        body = await reception.read(_pieces(receive, gone))
        if gone:
            return
        if isinstance(body, int):
            status, close = body, True
        else:
            status = await reception.receive(letter, body)
    # HTTP/2 and later know no such header: there the server closes single streams.
    last = close and str(scope.get("http_version", "1.1")).startswith("1")
    await _answer(send, status, last=last, empty=scope["method"] == "HEAD")


async def _pieces(receive: Receive, gone: list[bool]) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.append(True)
            raise _GoneError
        yield bytes(message.get("body", b""))
        more = bool(message.get("more_body", False))


async def _answer(send: Send, status: int, *, last: bool, empty: bool) -> None:
    said = PHRASES[status].encode()
    headers = [
        (b"content-type", kind_of(status).encode()),
        (b"content-length", str(len(said)).encode()),
        *([(b"allow", b"POST")] if status == 405 else []),
        *([(b"connection", b"close")] if last else []),
    ]
    await _say(send, {"type": "http.response.start", "status": status, "headers": headers})
    await _say(send, {"type": "http.response.body", "body": b"" if empty else said})


async def _say(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError:  # the caller has hung up, as some servers say it
        return
