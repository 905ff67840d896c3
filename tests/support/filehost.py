"""A host of files on loopback, honest or not: raw sockets, so that nothing corrects what it does.

Each path has a list of responders, one per request, the last one for all that follow. A responder
makes a `FileResponse` from a `FileRequest`. `serve_file` does what a good server does; the other
functions alter its responses.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl as tls
import struct
from collections.abc import Callable, Iterable
from typing import Literal, Self, TypeAlias

import attrs

__all__ = [
    "FileHost",
    "FileRequest",
    "FileResponse",
    "FileVersion",
    "Responder",
    "film",
    "serve_file",
]


@attrs.frozen
class FileRequest:
    """A request.

    Attributes:
        method: GET, usually.
        path: with the query.
        headers: by their names in lower case.
    """

    method: str
    path: str
    headers: dict[str, str]

    @property
    def range_start(self) -> int:
        """Where the requested range starts; 0 when the whole file is requested."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@attrs.frozen
class FileResponse:
    """What is sent, and how it ends.

    Attributes:
        status, headers, body: of the response.
        sent: how many bytes of the body are sent; by default all.
        framing: what marks the end of the body.
        length: the Content-Length, where it is not that of the body.
        ending: what happens to the connection afterwards.
        pace: bytes per step, and the seconds between two steps.
    """

    status: int = 200
    headers: dict[str, str] = attrs.Factory(dict)
    body: bytes = attrs.field(default=b"", repr=False)
    sent: int | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    length: int | None = None
    ending: Literal["keep", "close", "reset", "stall"] = "keep"
    pace: tuple[int, float] | None = None

    def replace(self, **changes: object) -> FileResponse:
        """The same with *changes*; headers are added, or removed where they are empty."""
        headers = self.headers | changes.pop("headers", {})  # type: ignore[operator]
        kept = {name: value for name, value in headers.items() if value}
        return attrs.evolve(self, headers=kept, **changes)  # type: ignore[arg-type]


Responder: TypeAlias = Callable[[FileRequest], FileResponse]


@attrs.frozen
class FileVersion:
    """The content of a file at some time, with its ETag and type."""

    data: bytes = attrs.field(repr=False)
    etag: str = '"v1"'
    kind: str = "video/mp4"


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def film(seed: int = 0, size: int = 20_000) -> bytes:
    """An MP4 as far as its boxes go: an index, and noise for media data."""
    noise = random.Random(seed)
    front = box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", noise.randbytes(300))
    return front + box(b"mdat", noise.randbytes(size - len(front) - 8))


def serve_file(version: FileVersion) -> Responder:
    """Serve a version according to RFC 9110: whole, or the range that is requested."""

    def responder(request: FileRequest) -> FileResponse:
        headers = {"Content-Type": version.kind, "ETag": version.etag, "Accept-Ranges": "bytes"}
        whole = FileResponse(200, {k: v for k, v in headers.items() if v}, version.data)
        same = request.headers.get("if-range", version.etag) == version.etag
        if "range" not in request.headers or not same or version.etag.startswith("W/"):
            return whole
        start, size = request.range_start, len(version.data)
        if start >= size:
            return FileResponse(416, {"Content-Range": f"bytes */{size}"}, b"")
        content_range = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        return whole.replace(status=206, headers=content_range, body=version.data[start:])

    return responder


def altered(responder: Responder, **changes: object) -> Responder:
    """The responses of *responder* with *changes*."""
    return lambda request: responder(request).replace(**changes)


def truncated(responder: Responder, sent: int, ending: str = "close") -> Responder:
    """The responses of *responder*, cut off after *sent* bytes."""
    return altered(responder, sent=sent, ending=ending)


def respond_with(status: int, body: bytes = b"", **headers: str) -> Responder:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _asked: FileResponse(status, named, body)


PAGE = b"<!doctype html><title>Your link has expired</title>" + b"<p>Sorry.</p>" * 20


class FileHost:
    """A minimal HTTP server; `requests` keeps the requests that came."""

    def __init__(self, *, ssl: tls.SSLContext | None = None) -> None:
        self.requests: list[FileRequest] = []
        self.connections = 0
        self.base = ""
        self.port = 0
        self._ssl = ssl
        self._responders: dict[str, list[Responder]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve_connection, "127.0.0.1", 0, ssl=self._ssl
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.base = f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def serve(self, path: str, responders: Responder | Iterable[Responder]) -> str:
        """Serve *path* with *responders*; gives the URL."""
        self._responders[path] = [responders] if callable(responders) else list(responders)
        return self.base + path

    def requests_for(self, path: str) -> list[FileRequest]:
        """The requests for *path*."""
        return [request for request in self.requests if request.path == path]

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._serve_request(reader, writer):
                pass
        except (OSError, EOFError, ValueError, asyncio.CancelledError):
            pass  # the client is gone, or the host is closed
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; says whether the connection stays open."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _version = lines[0].split(" ")
        pairs = (line.partition(":") for line in lines[1:] if line)
        request = FileRequest(
            method, path, {name.lower(): value.strip() for name, _, value in pairs}
        )
        self.requests.append(request)
        responders = self._responders.get(path) or [respond_with(404)]
        responder = responders.pop(0) if len(responders) > 1 else responders[0]
        response = responder(request)
        await self._send(response, writer)
        if response.sent is not None:
            await asyncio.sleep(0.02)  # so that what was sent is read before the end
        if response.ending == "stall":
            await reader.read()
        elif response.ending == "reset":
            writer.transport.abort()
        return response.ending == "keep" and response.framing != "close"

    async def _send(self, response: FileResponse, writer: asyncio.StreamWriter) -> None:
        headers = dict(response.headers)
        if response.framing == "length":
            length = len(response.body) if response.length is None else response.length
            headers["Content-Length"] = str(length)
        elif response.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {response.status} Status\r\n{head}\r\n".encode())
        body = response.body if response.sent is None else response.body[: response.sent]
        step, pause = response.pace or (64 * 1024, 0.0)
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            writer.write(chunk(piece) if response.framing == "chunked" else piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
        if response.framing == "chunked" and response.sent is None:
            writer.write(chunk(b""))
        await writer.drain()


def chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
