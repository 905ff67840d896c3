"""A server of our own, for programs without one: it limits connections and cuts slow clients.

Every connection has a number of seconds for each request, from its first byte to the last byte
of the response, so no server is needed in front of it for that. Nothing of a request is logged,
malformed or not.

The deadlines are kept by an `asyncio.Protocol` that stands between the transport and aiohttp.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias, cast

import attrs
from aiohttp import web

from apikley_async.webhook.aiohttp_app import create_app, response_of
from apikley_async.webhook.handler import CallbackHandler
from apikley_async.webhook.limits import Limits

__all__ = ["Server", "serve"]

logger: logging.Logger = logging.getLogger("apikley_async")

# aiohttp logs what it cannot parse, and its tracebacks, with parts of the request, in which a
# token may stand. It can only be kept from that by a logger that logs nothing.
SILENT = logging.getLogger("apikley_async.webhook.aiohttp")
SILENT.disabled = True

Handle: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@attrs.frozen
class Server:
    """A running server: the address it listens on."""

    host: str
    port: int


@contextlib.asynccontextmanager
async def serve(
    handler: CallbackHandler,
    limits: Limits,
    *,
    healthy: Callable[[], Awaitable[bool]],
    host: str,
    port: int,
    ssl: tls.SSLContext | None,
) -> AsyncIterator[Server]:
    """Take callbacks on *host* and *port* for as long as the `async with` lasts."""
    app = create_app(handler, healthy)
    app.middlewares.append(_report_sent_response)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=limits.dispatch)
    await runner.setup()
    connections: set[Connection] = set()
    try:
        # Not by `web.TCPSite`, which would connect the transport to aiohttp without us in between.
        listening = await asyncio.get_running_loop().create_server(
            lambda: Connection(_new_http(runner, limits), connections, limits),
            host,
            port,
            ssl=ssl,
            ssl_handshake_timeout=limits.idle if ssl else None,
            ssl_shutdown_timeout=limits.dispatch if ssl else None,
        )
        try:
            yield Server(host, listening.sockets[0].getsockname()[1])
        finally:
            listening.close()
    finally:
        await runner.cleanup()
        # aiohttp has closed what it knows to be idle. A client that reads nothing would keep its
        # connection open for ever.
        for connection in [*connections]:
            connection.abort()
        await asyncio.sleep(0)  # `connection_lost` is called before the loop may be closed


def _new_http(runner: web.AppRunner, limits: Limits) -> _QuietRequestHandler:
    """What reads the requests of one connection."""
    return _QuietRequestHandler(
        cast("web.Server", runner.server),
        loop=asyncio.get_running_loop(),
        keepalive_timeout=limits.idle,
        lingering_time=0,  # of a refused body nothing more is read
        access_log=None,  # type: ignore[arg-type] # None is documented, for no log
        logger=SILENT,
        auto_decompress=False,  # a small body could become a large one
    )


class Connection(asyncio.Protocol):
    """One connection: passes everything on to *http*, and aborts when a request takes too long.

    It is closed at once if *connections* already holds as many as *limits* allow.
    """

    def __init__(
        self, http: asyncio.Protocol, connections: set[Connection], limits: Limits
    ) -> None:
        self._http = http
        self._connections = connections
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._between_requests = True  # no byte of the next request has arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= self._limits.connections:
            self._transport.abort()
            return
        self._connections.add(self)
        self._http.connection_made(transport)
        self._restart_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self in self._connections:  # else it was refused, and aiohttp never knew it
            self._connections.remove(self)
            self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self not in self._connections:
            return
        # Only the first byte of a request restarts the deadline: a client that sends a byte now
        # and then would never reach it otherwise.
        if self._between_requests:
            self._between_requests = False
            self._restart_deadline()
        self._http.data_received(data)

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def response_sent(self) -> None:
        """The last byte of a response was handed to the transport: the next request may begin."""
        self._between_requests = True
        self._restart_deadline()

    def abort(self) -> None:
        """Close the connection now, whatever still waits to be sent or read."""
        if self._transport is not None:
            self._transport.abort()

    def _restart_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._limits.request, self.abort)


@web.middleware
async def _report_sent_response(request: web.Request, handler: Handle) -> web.StreamResponse:
    """Send the response here, and let the connection know; aiohttp does not send it again."""
    response = await handler(request)
    await response.prepare(request)
    await response.write_eof()
    transport = request.transport
    connection = None if transport is None else transport.get_protocol()
    if isinstance(connection, Connection):
        connection.response_sent()
    return response


class _QuietRequestHandler(web.RequestHandler):
    """aiohttp's handler of a connection, which repeats nothing of a request that it cannot parse.

    `handle_error` is not documented, but it is the only place where that answer can be changed:
    no middleware or signal sees a request that is not HTTP. Left alone, it answers with the
    malformed line, in which a token may stand.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer with a fixed text."""
        logger.debug("a request was refused: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        return response_of(status, close=True)
