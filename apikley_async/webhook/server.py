"""A server of our own for those who have none: it listens on this machine, and cuts who dawdles.

Every connection has seconds for each request, from its first byte to the last of the answer, and
no server in front of it is needed for that. Nothing of a request is logged, malformed or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl as tls
from collections.abc import AsyncIterator
from typing import Any, cast

import attrs
from aiohttp import web

from apikley_async.webhook.aiohttp_app import answer, create_app
from apikley_async.webhook.reception import Reception
from apikley_async.webhook.request_limits import Limits

__all__ = ["Server", "serve"]

logger = logging.getLogger("apikley_async")


@attrs.frozen
class Server:
    """A server that runs: where it listens."""

    host: str
    port: int


@contextlib.asynccontextmanager
async def serve(
    reception: Reception, limits: Limits, *, host: str, port: int, ssl: tls.SSLContext | None
) -> AsyncIterator[Server]:
    """Take callbacks on *host* and *port* for as long as the `async with` lasts."""
    runner = web.AppRunner(create_app(reception), access_log=None, shutdown_timeout=limits.hear)
    await runner.setup()
    lines: set[Line] = set()
    try:
        loop = asyncio.get_running_loop()
        manager = cast("web.Server", runner.server)
        door = await loop.create_server(
            functools.partial(Line, manager, loop=loop, lines=lines, limits=limits),
            host,
            port,
            ssl=ssl,
            ssl_handshake_timeout=limits.idle if ssl else None,
            ssl_shutdown_timeout=limits.hear if ssl else None,
        )
        try:
            yield Server(host, door.sockets[0].getsockname()[1])
        finally:
            door.close()
    finally:
        await runner.cleanup()
        for line in [*lines]:
            line.cut()
        await asyncio.sleep(0)


class Line(web.RequestHandler):
    """One connection. It is closed at once where there are too many *lines* already."""

    __slots__ = ("_between", "_end", "_limits", "_lines", "_wire")

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        lines: set[Line],
        limits: Limits,
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.idle,
            lingering_time=0,
            access_log=None,  # type: ignore[arg-type] # None is documented, for none
            auto_decompress=False,
        )
        self._lines = lines
        self._limits = limits
        self._wire: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None
        self._between = True  # no byte of the next request has come yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast("asyncio.Transport", transport)
        if len(self._lines) >= self._limits.connections:
            wire.abort()
            return
        self._lines.add(self)
        self._wire = wire
        super().connection_made(transport)
        self._give_time()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lines.discard(self)
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._between:
            self._between = False
            self._give_time()
        super().data_received(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        self._between = True
        self._give_time()
        return finished

    def cut(self) -> None:
        """End it now, whatever still waits to be sent or read."""
        if self._wire is not None:
            self._wire.abort()

    def _give_time(self) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(self._limits.request, self.cut)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP: without what aiohttp would repeat of it."""
        logger.debug("a request was refused: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        return answer(status, close=True)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Say that a connection broke: without the request that is in the traceback."""
        logger.debug("a connection broke: %s", type(kw.get("exc_info")).__name__)
