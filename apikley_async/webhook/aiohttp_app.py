"""The door for aiohttp: an application to be mounted anywhere, or to be run alone."""

from __future__ import annotations

from aiohttp import hdrs, web

from apikley_async.webhook.reception import PHRASES, Reception, kind_of
from apikley_async.webhook.verify import Letter

__all__ = ["answer", "create_app"]


def create_app(reception: Reception) -> web.Application:
    """An application that takes callbacks at every path below its own."""

    async def take(request: web.Request) -> web.StreamResponse:
        letter = Letter(request.method, request.path, request.raw_headers)
        refused = reception.refusal(letter)
        if refused is not None:
            return answer(refused)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = await reception.read(request.content.iter_any())
        if isinstance(body, int):
            return answer(body, close=True)
        return answer(await reception.receive(letter, body))

    async def end(app: web.Application) -> None:
        await reception.aclose()

    app = web.Application()
    app.router.add_route(hdrs.METH_ANY, "/{path:.*}", take, expect_handler=_expected)
    app.on_cleanup.append(end)
    return app


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """Refuse nothing yet; what is expected is seen to before the body is read."""
    return None


def answer(status: int, *, close: bool = False) -> web.Response:
    """The answer of a status; it repeats nothing of the request."""
    headers = {hdrs.ALLOW: hdrs.METH_POST} if status == 405 else {}
    headers[hdrs.CONTENT_TYPE] = kind_of(status)
    said = web.Response(status=status, text=PHRASES.get(status, ""), headers=headers)
    if close:
        said.force_close()
    return said
