"""What the tests of callbacks share: letters, keys, a clock that stands, and raw HTTP."""

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


class Noon(SystemClock):
    """The calendar stands still; everything else goes on."""

    def wall(self) -> float:
        return float(WALL)


def signature(key: str = KEY, task_id: str = TASK, stamp: str = str(WALL)) -> str:
    digest = hmac.digest(key.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def signing(
    key: str = KEY, task_id: str = TASK, stamp: str = str(WALL)
) -> tuple[tuple[str, str], ...]:
    """The two headers of a true signature."""
    signed = signature(key, task_id, stamp)
    return ("X-Webhook-Timestamp", stamp), ("X-Webhook-Signature", signed)


def raw(
    body: bytes = BODY,
    *headers: tuple[str, str],
    method: str = "POST",
    path: str = f"/{TOKEN}",
    length: str | None = None,
) -> bytes:
    """A request as it travels; header values may hold any byte (latin-1)."""
    size = str(len(body)) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Pen:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, *, head: bool = False) -> tuple[int, bytes]:
        """Send a request, and give the status and the whole answer."""
        await self.send(data)
        return await self.answer(head=head)

    async def answer(self, *, head: bool = False) -> tuple[int, bytes]:
        said = await self.reader.readuntil(b"\r\n\r\n")
        status = int(said.split(b" ", 2)[1])
        lines = said.lower().split(b"\r\n")
        sizes = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        if sizes and not head:
            said += await self.reader.readexactly(sizes[0])
        return status, said

    async def rest(self) -> bytes:
        """What comes until the other side hangs up, however it does so."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def line(port: int, **options: Any) -> AsyncIterator[Pen]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield Pen(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(port: int, data: bytes, *, head: bool = False) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    async with asyncio.timeout(20), line(port) as pen:
        return await pen.ask(data, head=head)


@contextlib.asynccontextmanager
async def uvicorn_of(app: ASGIApplication | Any, *, lifespan: Any = "on") -> AsyncIterator[int]:
    """Serve an ASGI application on a real socket; give the port."""
    config = uvicorn.Config(app, log_level="critical", ws="none", lifespan=lifespan)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as door:
        serving = asyncio.create_task(server.serve(sockets=[door]))
        try:
            while not server.started:
                assert not serving.done(), serving
                await asyncio.sleep(0.01)
            yield door.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


class Ear:
    """A listener who knows some tokens, and keeps what he is told."""

    def __init__(self, tokens: Iterable[str] = (TOKEN,)) -> None:
        self.tokens = set(tokens)
        self.told: list[tuple[str, str]] = []

    async def __call__(self, token: str, task_id: str) -> bool:
        self.told.append((token, task_id))
        return token in self.tokens

    @property
    def heard(self) -> list[tuple[str, str]]:
        """What was about a token he knows."""
        return [each for each in self.told if each[0] in self.tokens]
