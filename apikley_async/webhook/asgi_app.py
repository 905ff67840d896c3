"""The ASGI application, for ASGI servers and frameworks. It imports none of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from apikley_async.webhook.handler import RESPONSE_TEXTS, CallbackHandler, content_type
from apikley_async.webhook.verify import CallbackRequest

__all__ = ["ASGIApplication", "create_app"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class _DisconnectedError(Exception):
    """The caller has closed the connection."""


def create_app(handler: CallbackHandler) -> ASGIApplication:
    """An application that takes callbacks at every path."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _handle_http(handler, scope, receive, send)
        elif scope["type"] == "lifespan":
            await _handle_lifespan(handler, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await _send_if_connected(send, {"type": "websocket.close", "code": 1008})
        else:
            raise ValueError(f"scope: http, lifespan or websocket, not {scope['type']!r}")

    return app


async def _handle_lifespan(handler: CallbackHandler, receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await handler.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _handle_http(
    handler: CallbackHandler, scope: Scope, receive: Receive, send: Send
) -> None:
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    callback = CallbackRequest(scope["method"], scope["path"], headers)
    status = handler.refusal_status(callback)
    close = status is not None and status != 405
    if status is None:
        disconnected: list[bool] = []
        body = await handler.read_body(_body_chunks(receive, disconnected))
        if disconnected:
            return
        if isinstance(body, int):
            status, close = body, True
        else:
            status = await handler.handle(callback, body)
    # HTTP/2 and later do not have this header: there the server closes a single stream.
    close = close and str(scope.get("http_version", "1.1")).startswith("1")
    await _send_response(send, status, close=close, head=scope["method"] == "HEAD")


async def _body_chunks(receive: Receive, disconnected: list[bool]) -> AsyncIterator[bytes]:
    """The body as it arrives; a disconnect is noted, since `read_body` takes it for a bad body."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            disconnected.append(True)
            raise _DisconnectedError
        yield bytes(message.get("body", b""))
        more = bool(message.get("more_body", False))


async def _send_response(send: Send, status: int, *, close: bool, head: bool) -> None:
    """Send the response for a status; *close* the connection after it, no body after HEAD."""
    body = RESPONSE_TEXTS[status].encode()
    headers = [
        (b"content-type", content_type(status).encode()),
        (b"content-length", str(len(body)).encode()),
        *([(b"allow", b"POST")] if status == 405 else []),
        *([(b"connection", b"close")] if close else []),
    ]
    await _send_if_connected(
        send, {"type": "http.response.start", "status": status, "headers": headers}
    )
    await _send_if_connected(send, {"type": "http.response.body", "body": b"" if head else body})


async def _send_if_connected(send: Send, message: Message) -> None:
    try:
        await send(message)
    except OSError:  # some servers raise it when the caller has disconnected
        return
