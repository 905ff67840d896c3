"""The aiohttp application: mount it anywhere, or run it alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from apikley_async.webhook.handler import RESPONSE_TEXTS, CallbackHandler, content_type
from apikley_async.webhook.verify import CallbackRequest

__all__ = ["create_app", "response_of"]


def create_app(
    handler: CallbackHandler, healthy: Callable[[], Awaitable[bool]] | None = None
) -> web.Application:
    """An application that takes callbacks at every path below its own.

    Args:
        handler: judges and dispatches them.
        healthy: what `GET /healthz` is answered by; None where the application is mounted in
            somebody's server, which has its own.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        callback = CallbackRequest(request.method, request.path, request.raw_headers)
        refused = handler.refusal_status(callback)
        if refused is not None:
            return response_of(refused)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = await handler.read_body(request.content.iter_any())
        if isinstance(body, int):
            return response_of(body, close=True)
        return response_of(await handler.handle(callback, body))

    async def close(app: web.Application) -> None:
        await handler.aclose()

    async def answer_health(request: web.Request) -> web.StreamResponse:
        is_healthy = healthy is None or await healthy()
        return web.Response(status=200 if is_healthy else 503, text="ok" if is_healthy else "")

    app = web.Application()
    if healthy is not None:
        app.router.add_get("/healthz", answer_health)
    app.router.add_route(hdrs.METH_ANY, "/{path:.*}", handle, expect_handler=_accept_any_expect)
    app.on_cleanup.append(close)
    return app


async def _accept_any_expect(request: web.Request) -> web.StreamResponse | None:
    """Refuse nothing here: `Expect` is answered when the head has been verified."""
    return None


def response_of(status: int, *, close: bool = False) -> web.Response:
    """The response for a status; it repeats nothing of the request."""
    headers = {hdrs.ALLOW: hdrs.METH_POST} if status == 405 else {}
    headers[hdrs.CONTENT_TYPE] = content_type(status)
    response = web.Response(status=status, text=RESPONSE_TEXTS.get(status, ""), headers=headers)
    if close:
        response.force_close()
    return response
