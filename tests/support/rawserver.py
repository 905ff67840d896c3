"""A server that a test directs, byte by byte: it resets, hangs, breaks off and talks nonsense.

Hand-written on asyncio streams, so that nothing repairs what a test wants broken. It lives in the
test's own loop (a virtual one too), keeps a tally of everything it received, and ends with its
`async with`.

    async with RawServer(resets) as server:
        ...                                  # every request is answered with a reset
        assert len(server.created) == 1      # createTask arrived once
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self, TypeAlias

import attrs
from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = [
    "Act",
    "Line",
    "Names",
    "RawServer",
    "ReceivedRequest",
    "answers",
    "breaks_off",
    "closes",
    "envelope",
    "hangs",
    "in_turn",
    "reserved_port",
    "resets",
    "says",
    "service",
]


@attrs.frozen
class ReceivedRequest:
    """One request, as far as it could be read."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = attrs.field(repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def json(self) -> Any:
        return json.loads(self.body)


@attrs.frozen
class Line:
    """One connection, seen from the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Hang up with RST: what was not read or not delivered is lost."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Act: TypeAlias = Callable[[Line, ReceivedRequest], Awaitable[None]]
"""What the server does with one request. It answers, or not; afterwards it listens on."""


class RawServer:
    """Listens on loopback; does *act* for each request, or *greet* before anything is read.

    Attributes:
        requests: everything received, in its order.
        connections: how many were accepted.
        bytes_received: how many bytes came, parsed or not.
        tasks: one for each connection that is open.
        idle: set when the last one has ended; other threads may wait for it.
    """

    def __init__(
        self,
        act: Act | None = None,
        *,
        ssl: ssl.SSLContext | None = None,
        greet: Callable[[Line], Awaitable[None]] | None = None,
        port: int = 0,
    ) -> None:
        self.act = act or service()
        self.requests: list[ReceivedRequest] = []
        self.connections = 0
        self.bytes_received = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.idle = threading.Event()
        self._ssl = ssl
        self._port = port
        self._greet = greet
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    @property
    def created(self) -> list[ReceivedRequest]:
        """The requests that cost money."""
        return [received for received in self.requests if received.path.endswith("/createTask")]

    @property
    def looks(self) -> list[ReceivedRequest]:
        return [received for received in self.requests if received.path.endswith("/recordInfo")]

    @property
    def open_lines(self) -> int:
        return len(self.tasks)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, ssl=self._ssl, limit=2**20
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def quiet(self) -> None:
        """Wait until every connection has ended at the server's side too."""
        while self.tasks:
            await asyncio.wait(set(self.tasks))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.idle.clear()
        task = asyncio.get_running_loop().create_task(self._attend(Line(reader, writer)))
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not self.tasks:
            self.idle.set()

    async def _attend(self, line: Line) -> None:
        try:
            if self._greet is not None:
                await self._greet(line)
                return
            while not line.writer.is_closing():
                received = await self._hear(line)
                if received is None:
                    return
                self.requests.append(received)
                await self.act(line, received)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            line.writer.close()
            with contextlib.suppress(OSError):
                await line.writer.wait_closed()

    async def _hear(self, line: Line) -> ReceivedRequest | None:
        head = await line.reader.readuntil(b"\r\n\r\n")
        self.bytes_received += len(head)
        first, *rest = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _version = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _colon, value in (field.partition(":") for field in rest)
        }
        body = await line.reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await line.reader.readline(), 16):
                body += await line.reader.readexactly(size)
                await line.reader.readline()
            await line.reader.readline()
        self.bytes_received += len(body)
        return ReceivedRequest(method, target, headers, body)


# --- acts ----------------------------------------------------------------------------------------


def envelope(data: Any = None, *, code: int = 200, msg: str = "success") -> bytes:
    """The service's usual frame."""
    return json.dumps({"code": code, "msg": msg, "data": data}).encode()


def answers(
    body: bytes = b"", status: int = 200, *, kind: str = "application/json", **headers: str
) -> Act:
    """Answer properly; header names are written with underscores."""
    named = {"Content-Type": kind, "Content-Length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return says(f"HTTP/1.1 {status} Such\r\n{head}\r\n".encode("latin-1") + body)


def says(data: bytes) -> Act:
    """Say exactly that, and keep the line open."""

    async def act(line: Line, _request: ReceivedRequest) -> None:
        await line.say(data)

    return act


def breaks_off(data: bytes) -> Act:
    """Say that, then hang up politely."""

    async def act(line: Line, _request: ReceivedRequest) -> None:
        await line.say(data)
        line.writer.close()

    return act


async def resets(line: Line, _request: ReceivedRequest) -> None:
    line.reset()


async def closes(line: Line, _request: ReceivedRequest) -> None:
    line.writer.close()


async def hangs(line: Line, _request: ReceivedRequest) -> None:
    """Say nothing, until the other side hangs up."""
    await line.reader.read()


def in_turn(*acts: Act) -> Act:
    """One act after the other; the last one for everything that follows."""
    left = list(acts)

    async def act(line: Line, received: ReceivedRequest) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(line, received)

    return act


def service(**paths: Act) -> Act:
    """A service that works: films are ready at the first look. *paths* replaces single answers.

    The keywords are the last words of the paths: `createTask=resets`.
    """
    numbers: Iterator[int] = iter(range(1, 10**9))

    async def act(line: Line, received: ReceivedRequest) -> None:
        name = received.path.rsplit("/", 1)[-1].replace("-", "_")
        if name in paths:
            await paths[name](line, received)
        elif name == "createTask":
            await answers(envelope({"taskId": f"task_{next(numbers)}"}))(line, received)
        elif name == "recordInfo":
            task_id = received.target.rpartition("taskId=")[2]
            links = json.dumps({"resultUrls": ["https://results.test/film.mp4"]})
            data = {"taskId": task_id, "state": "success", "resultJson": links}
            await answers(envelope(data))(line, received)
        elif name == "credit":
            await answers(envelope(640.25))(line, received)
        elif name == "file_stream_upload":
            await answers(envelope({"fileUrl": "https://files.test/image.png"}))(line, received)
        else:
            await answers(envelope(code=404, msg="no such path"), 404)(line, received)

    return act


class Names(AbstractResolver):
    """A DNS that answers from a script: an error, an error after 15 s, then this machine."""

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        turn = self.script.pop(0) if self.script else ""
        if turn == "late error":
            await asyncio.sleep(15)
        if turn:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        return


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port of this machine at which nobody listens, until the test does, as often as it likes.

    Without a socket that is bound to it, the system may give it to any other process meanwhile, for
    a connection that leaves, too. Servers share it, as long as it does not listen.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]
