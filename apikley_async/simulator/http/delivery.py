"""Puts an `Answer` on the wire: whole, in pieces, too late or not at all.

The only room of the simulator that knows what a connection is.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from email.utils import formatdate

from aiohttp import web

from apikley_async import Clock
from apikley_async.simulator.faults.catalogue import Delivery, Fault
from apikley_async.simulator.service.responses import Answer

__all__ = ["Courier"]

CHUNK = 64 * 1024
PAUSE = 0.01
"""Seconds between chunks that never end: virtual time has to pass, or nothing else gets a turn."""

DRIPS = 10
DRIBBLE_PAUSE = 5.0


class Courier:
    """Delivers answers until it is told that the simulator closes; then nothing waits any more."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every wait."""
        self._closing.set()

    async def pause(self, seconds: float) -> bool:
        """Let *seconds* of the caller's time pass; False when the simulator closes before."""
        if seconds > 0 and not self._closing.is_set():
            await self._clock.sleep(seconds, self._closing)
        return not self._closing.is_set()

    async def deliver(
        self, request: web.Request, answer: Answer, fault: Fault, *, date: float
    ) -> web.StreamResponse:
        """Send *answer* in the way that *fault* says; *date* is the Unix time to be told."""
        late = fault.seconds > 0 and fault.delivery is not Delivery.DRIP
        if late and not await self.pause(fault.seconds):
            return _broken(request, reset=True)
        head = dict(_head(answer, date))
        match fault.delivery:
            case Delivery.WHOLE:
                return web.Response(status=answer.status, body=answer.body, headers=head)
            case Delivery.HANG:
                await self._closing.wait()
                return _broken(request, reset=True)
            case Delivery.RESET:
                return _broken(request, reset=True)
            case Delivery.CLOSE:
                return _broken(request)
            case Delivery.GARBAGE:
                return _raw(request, b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            case Delivery.DRIBBLE:
                return await self._dribble(request)
            case Delivery.CUT_UNFRAMED:
                return _raw(request, _unframed(answer, head))
        response = web.StreamResponse(status=answer.status, headers=head)
        try:
            return await self._stream(request, response, answer.body, fault)
        except ConnectionError:  # the caller has had enough of it
            return response

    async def _dribble(self, request: web.Request) -> web.StreamResponse:
        """Send one byte of a header after the other, until the caller has had enough of it."""
        data = b"HTTP/1.1 200 OK\r\nX-Slow: "
        while (transport := request.transport) is not None and not transport.is_closing():
            transport.write(data)
            data = b"."
            if not await self.pause(DRIBBLE_PAUSE):
                break
        return _broken(request, reset=True)

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, body: bytes, fault: Fault
    ) -> web.StreamResponse:
        match fault.delivery:
            case Delivery.CUT:
                # An empty body has to promise something, or its loss would not show.
                response.content_length = len(body) or 1
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
                return _broken(request, response)
            case Delivery.CUT_CHUNKED:
                response.enable_chunked_encoding()
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
                return _broken(request, response)
            case Delivery.ENDLESS:
                response.enable_chunked_encoding()
                await response.prepare(request)
                while await self.pause(PAUSE):
                    await response.write((body or b"\0") * (CHUNK // (len(body) or 1) + 1))
                return _broken(request, response, reset=True)
        response.content_length = len(body)
        await response.prepare(request)
        size = max(1, -(-len(body) // DRIPS))
        for start in range(0, len(body), size):
            if not await self.pause(fault.seconds / DRIPS):
                return _broken(request, response, reset=True)
            await response.write(body[start : start + size])
        return response


def _head(answer: Answer, date: float) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", answer.content_type),
        ("Date", formatdate(int(date), usegmt=True)),
        *answer.headers,
    )


def _unframed(answer: Answer, head: dict[str, str]) -> bytes:
    """Half a body that only the end of the connection ends, so that it looks complete."""
    lines = [f"HTTP/1.1 {answer.status} OK", *(f"{k}: {v}" for k, v in head.items())]
    body = answer.body
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body[: len(body) // 2]


def _raw(request: web.Request, data: bytes) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.write(data)
    return _broken(request)


def _broken(
    request: web.Request, response: web.StreamResponse | None = None, *, reset: bool = False
) -> web.StreamResponse:
    """Close the connection; the response that comes back cannot go anywhere any more."""
    transport = request.transport
    if transport is None:
        pass  # the caller was quicker
    elif reset:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Zero seconds of lingering make the kernel send RST instead of a polite FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    return response or web.Response()
