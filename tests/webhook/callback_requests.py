"""What the tests of webhooks share: a signed callback, raw HTTP requests, and a listener."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

import uvicorn

from apikley_async import SystemClock
from apikley_async.webhook import ASGIApplication

WALL = 1_700_000_000
KEY = "canary-hmac-key-opens-nothing"
TOKEN = "0123456789abcdef" * 2
TASK = "task_1"
JSON = ("Content-Type", "application/json")
BODY = json.dumps({"code": 200, "data": {"taskId": TASK, "state": "success"}}).encode()


class FixedWallClock(SystemClock):
    """A clock whose wall time stands still, so that signatures stay valid."""

    def wall(self) -> float:
        return float(WALL)


def signature(key: str = KEY, task_id: str = TASK, stamp: str = str(WALL)) -> str:
    digest = hmac.digest(key.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def signature_headers(
    key: str = KEY, task_id: str = TASK, stamp: str = str(WALL)
) -> tuple[tuple[str, str], ...]:
    """The two headers of a valid signature."""
    signed = signature(key, task_id, stamp)
    return ("X-Webhook-Timestamp", stamp), ("X-Webhook-Signature", signed)


def raw_request(
    body: bytes = BODY,
    *headers: tuple[str, str],
    method: str = "POST",
    path: str = f"/{TOKEN}",
    length: str | None = None,
) -> bytes:
    """The bytes of a request; header values may hold any byte (latin-1)."""
    size = str(len(body)) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class HttpConnection:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_request(self, data: bytes, *, head: bool = False) -> tuple[int, bytes]:
        """Send a request; returns the status and the whole response."""
        await self.send(data)
        return await self.read_response(head=head)

    async def read_response(self, *, head: bool = False) -> tuple[int, bytes]:
        response = await self.reader.readuntil(b"\r\n\r\n")
        status = int(response.split(b" ", 2)[1])
        lines = response.lower().split(b"\r\n")
        sizes = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        if sizes and not head:
            response += await self.reader.readexactly(sizes[0])
        return status, response

    async def read_to_end(self) -> bytes:
        """What arrives until the server closes the connection, by whatever means."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def connect(port: int, **options: Any) -> AsyncIterator[HttpConnection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield HttpConnection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def send_request(port: int, data: bytes, *, head: bool = False) -> tuple[int, bytes]:
    """Send a request on a connection of its own; returns the status and the whole response."""
    async with asyncio.timeout(20), connect(port) as connection:
        return await connection.send_request(data, head=head)


async def status_of(port: int, data: bytes, *, head: bool = False) -> int:
    """Send a request on a connection of its own; returns the status."""
    status, _ = await send_request(port, data, head=head)
    return status


@contextlib.asynccontextmanager
async def uvicorn_of(app: ASGIApplication | Any, *, lifespan: Any = "on") -> AsyncIterator[int]:
    """Serve an ASGI application on a real socket; yields the port."""
    config = uvicorn.Config(app, log_level="critical", ws="none", lifespan=lifespan)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started:
                assert not serving.done(), serving
                await asyncio.sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


class RecordingListener:
    """A listener that knows some tokens, and records its calls."""

    def __init__(self, tokens: Iterable[str] = (TOKEN,)) -> None:
        self.tokens = set(tokens)
        self.calls: list[tuple[str, str]] = []

    async def __call__(self, token: str, task_id: str) -> bool:
        self.calls.append((token, task_id))
        return token in self.tokens

    @property
    def known(self) -> list[tuple[str, str]]:
        """The calls with a token that it knows."""
        return [call for call in self.calls if call[0] in self.tokens]
