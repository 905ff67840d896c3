"""Sends a response over its connection: whole, in pieces, late or not at all.

The only module of the simulator that touches a connection.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from email.utils import formatdate

from aiohttp import web

from apikley_async import Clock
from apikley_async.simulator.faults.catalogue import Fault, ResponseDelivery
from apikley_async.simulator.service.responses import ServiceResponse

__all__ = ["ResponseSender"]

CHUNK = 64 * 1024
PAUSE = 0.01
"""Seconds between chunks of an endless body. Without them no virtual time would ever pass."""

DRIP_PARTS = 10
"""How many parts a slow response is sent in."""

DRIBBLE_PAUSE = 5.0
"""Seconds between the bytes of a header that never ends."""


class ResponseSender:
    """Sends responses until it is closed; then every wait ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every wait."""
        self._closing.set()

    async def pause(self, seconds: float) -> bool:
        """Wait *seconds* of the caller's time; False when the simulator closes before that."""
        if seconds > 0 and not self._closing.is_set():
            await self._clock.sleep(seconds, self._closing)
        return not self._closing.is_set()

    async def send(
        self, request: web.Request, response: ServiceResponse, fault: Fault, *, date: float
    ) -> web.StreamResponse:
        """Send *response* in the way of *fault*. *date* is the Unix time for its `Date` header."""
        late = fault.delay > 0 and fault.delivery is not ResponseDelivery.DRIP
        if late and not await self.pause(fault.delay):
            return _disconnect(request, reset=True)
        headers = dict(_headers(response, date))
        match fault.delivery:
            case ResponseDelivery.WHOLE:
                return web.Response(status=response.status, body=response.body, headers=headers)
            case ResponseDelivery.HANG:
                await self._closing.wait()
                return _disconnect(request, reset=True)
            case ResponseDelivery.RESET:
                return _disconnect(request, reset=True)
            case ResponseDelivery.CLOSE:
                return _disconnect(request)
            case ResponseDelivery.GARBAGE:
                return _send_raw(request, b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            case ResponseDelivery.DRIBBLE:
                return await self._dribble(request)
            case ResponseDelivery.CUT_UNFRAMED:
                return _send_raw(request, _half_unframed(response, headers))
        stream = web.StreamResponse(status=response.status, headers=headers)
        try:
            return await self._stream(request, stream, response.body, fault)
        except ConnectionError:  # the caller has disconnected
            return stream

    async def _dribble(self, request: web.Request) -> web.StreamResponse:
        """Send one byte of a header after the other, until the caller disconnects."""
        data = b"HTTP/1.1 200 OK\r\nX-Slow: "
        while (transport := request.transport) is not None and not transport.is_closing():
            transport.write(data)
            data = b"."
            if not await self.pause(DRIBBLE_PAUSE):
                break
        return _disconnect(request, reset=True)

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, body: bytes, fault: Fault
    ) -> web.StreamResponse:
        match fault.delivery:
            case ResponseDelivery.CUT:
                # An empty body needs an announced length too, or the cut would not show.
                response.content_length = len(body) or 1
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
                return _disconnect(request, response)
            case ResponseDelivery.CUT_CHUNKED:
                response.enable_chunked_encoding()
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
                return _disconnect(request, response)
            case ResponseDelivery.ENDLESS:
                response.enable_chunked_encoding()
                await response.prepare(request)
                while await self.pause(PAUSE):
                    await response.write((body or b"\0") * (CHUNK // (len(body) or 1) + 1))
                return _disconnect(request, response, reset=True)
        response.content_length = len(body)
        await response.prepare(request)
        size = max(1, -(-len(body) // DRIP_PARTS))
        for start in range(0, len(body), size):
            if not await self.pause(fault.delay / DRIP_PARTS):
                return _disconnect(request, response, reset=True)
            await response.write(body[start : start + size])
        return response


def _headers(response: ServiceResponse, date: float) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", response.content_type),
        ("Date", formatdate(int(date), usegmt=True)),
        *response.headers,
    )


def _half_unframed(response: ServiceResponse, headers: dict[str, str]) -> bytes:
    """Half a body that ends when the connection does, so that it looks complete."""
    lines = [f"HTTP/1.1 {response.status} OK", *(f"{k}: {v}" for k, v in headers.items())]
    body = response.body
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body[: len(body) // 2]


def _send_raw(request: web.Request, data: bytes) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.write(data)
    return _disconnect(request)


def _disconnect(
    request: web.Request, response: web.StreamResponse | None = None, *, reset: bool = False
) -> web.StreamResponse:
    """Close the connection. What is returned satisfies aiohttp and is never sent."""
    transport = request.transport
    if transport is None:
        pass  # the caller has disconnected already
    elif reset:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # With a linger time of zero the kernel sends RST instead of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    return response or web.Response()
