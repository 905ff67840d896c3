"""A host of files on loopback, honest or not: raw sockets, so that nothing tidies up its lies.

A path is served by a list of turns, one a request, the last one for ever. A turn makes an
`Answer` from what was `Asked`; `honest` is what a good server does, and the other functions here
bend its answers.
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

__all__ = ["Answer", "Asked", "FileHost", "Turn", "Version", "film", "honest"]


@attrs.frozen
class Asked:
    """A request: its method, its path with the query, its headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def begins(self) -> int:
        """Where the range begins that is asked for; 0 when all of it is."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else 0


@attrs.frozen
class Answer:
    """What is sent, and how it ends.

    *body* is what belongs to it, *sent* how much of that leaves (all, unless told), *framing* how
    its end is told, *ending* what happens after it.
    """

    status: int = 200
    headers: dict[str, str] = attrs.Factory(dict)
    body: bytes = attrs.field(default=b"", repr=False)
    sent: int | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    length: int | None = None
    ending: Literal["keep", "close", "reset", "stall"] = "keep"
    pace: tuple[int, float] | None = None

    def but(self, **changes: object) -> Answer:
        """The same with *changes*; headers are added, and left out where they are empty."""
        headers = self.headers | changes.pop("headers", {})  # type: ignore[operator]
        kept = {name: value for name, value in headers.items() if value}
        return attrs.evolve(self, headers=kept, **changes)  # type: ignore[arg-type]


Turn: TypeAlias = Callable[[Asked], Answer]


@attrs.frozen
class Version:
    """The content of a file at some time, with what vouches for it."""

    data: bytes = attrs.field(repr=False)
    etag: str = '"v1"'
    kind: str = "video/mp4"


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def film(seed: int = 0, size: int = 20_000) -> bytes:
    """An MP4 as far as its boxes go: an index in front, and noise for a picture."""
    noise = random.Random(seed)
    start = box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", noise.randbytes(300))
    return start + box(b"mdat", noise.randbytes(size - len(start) - 8))


def honest(version: Version) -> Turn:
    """Serve a version as RFC 9110 has it: whole, or the rest of it to whoever has its start."""

    def turn(asked: Asked) -> Answer:
        headers = {"Content-Type": version.kind, "ETag": version.etag, "Accept-Ranges": "bytes"}
        whole = Answer(200, {k: v for k, v in headers.items() if v}, version.data)
        wanted = asked.headers.get("if-range", version.etag) == version.etag
        if "range" not in asked.headers or not wanted or version.etag.startswith("W/"):
            return whole
        begins, size = asked.begins, len(version.data)
        if begins >= size:
            return Answer(416, {"Content-Range": f"bytes */{size}"}, b"")
        told = {"Content-Range": f"bytes {begins}-{size - 1}/{size}"}
        return whole.but(status=206, headers=told, body=version.data[begins:])

    return turn


def bent(turn: Turn, **changes: object) -> Turn:
    """The answers of *turn*, changed."""
    return lambda asked: turn(asked).but(**changes)


def cut(turn: Turn, sent: int, ending: str = "close") -> Turn:
    """The answers of *turn*, of which only so many bytes arrive."""
    return bent(turn, sent=sent, ending=ending)


def says(status: int, body: bytes = b"", **headers: str) -> Turn:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _asked: Answer(status, named, body)


PAGE = b"<!doctype html><title>Your link has expired</title>" + b"<p>Sorry.</p>" * 20


class FileHost:
    """An HTTP server of the simplest kind; `requests` keeps what it was asked."""

    def __init__(self, *, ssl: tls.SSLContext | None = None) -> None:
        self.requests: list[Asked] = []
        self.connections = 0
        self.base = ""
        self.port = 0
        self._ssl = ssl
        self._turns: dict[str, list[Turn]] = {}
        self._talks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._greet, "127.0.0.1", 0, ssl=self._ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        self.base = f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def serve(self, path: str, turns: Turn | Iterable[Turn]) -> str:
        """Put *turns* under *path*; gives the URL."""
        self._turns[path] = [turns] if callable(turns) else list(turns)
        return self.base + path

    def asked(self, path: str) -> list[Asked]:
        """The requests for *path*."""
        return [asked for asked in self.requests if asked.path == path]

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            while await self._converse(reader, writer):
                pass
        except (OSError, EOFError, ValueError, asyncio.CancelledError):
            pass  # whoever talked to us is gone, or the host goes home
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; says whether the connection lives on."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _version = lines[0].split(" ")
        pairs = (line.partition(":") for line in lines[1:] if line)
        asked = Asked(method, path, {name.lower(): value.strip() for name, _, value in pairs})
        self.requests.append(asked)
        turns = self._turns.get(path) or [says(404)]
        turn = turns.pop(0) if len(turns) > 1 else turns[0]
        answer = turn(asked)
        await self._send(answer, writer)
        if answer.sent is not None:
            await asyncio.sleep(0.02)  # what was sent shall be read before the end is noticed
        if answer.ending == "stall":
            await reader.read()
        elif answer.ending == "reset":
            writer.transport.abort()
        return answer.ending == "keep" and answer.framing != "close"

    async def _send(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        headers = dict(answer.headers)
        if answer.framing == "length":
            length = len(answer.body) if answer.length is None else answer.length
            headers["Content-Length"] = str(length)
        elif answer.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {answer.status} Said\r\n{head}\r\n".encode())
        body = answer.body if answer.sent is None else answer.body[: answer.sent]
        step, pause = answer.pace or (64 * 1024, 0.0)
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            writer.write(chunk(piece) if answer.framing == "chunked" else piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
        if answer.framing == "chunked" and answer.sent is None:
            writer.write(chunk(b""))
        await writer.drain()


def chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
