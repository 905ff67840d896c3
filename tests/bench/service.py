"""A fast fake of the service, and of the peers' services, in a process and on a core of its own.

    python -m bench.service [BYTES]     prints its port, and ends when its standard input does

Answers are made once and only filled with the task's id. Nothing is checked and nothing is
delayed: what is measured is the client. `POST /bench/ready?after=N` lets each task be ready at
its poll after *N* others, `/bench/reset?after=N` also forgets all tasks. `GET /bench/counts` says
how many were created, how often they were polled, and how many of them at least once. With a
number of bytes it serves the films too, each as large.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter

import attrs
from bench.dialects import DIALECTS, PLACEHOLDER, Dialect, Shape
from bench.films import HOST, task_id
from bench.processes import use_core
from filehost import film

BACKLOG = 4096
NOT_FOUND = b'{"code":404,"msg":"no such path","data":null}'


@attrs.frozen
class Filled:
    """An answer that is whole but for the task's id, which may stand in several places."""

    pieces: tuple[bytes, ...]

    @classmethod
    def of(cls, shape: Shape, url: str, host: str, status: int = 200) -> Filled:
        body = json.dumps(shape(PLACEHOLDER, url)).replace(HOST, host).encode()
        return cls(tuple(response(body, status).split(PLACEHOLDER.encode())))

    def with_id(self, task: bytes) -> bytes:
        return task.join(self.pieces)


def response(body: bytes, status: int = 200) -> bytes:
    head = (
        f"HTTP/1.1 {status} OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        "Server: bench\r\nDate: Thu, 26 Nov 2026 09:44:01 GMT\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def film_response(size: int) -> bytes:
    if not size:
        return response(NOT_FOUND, 404)
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nAccept-Ranges: bytes\r\n"
        f'ETag: "bench"\r\nContent-Length: {size}\r\n\r\n'
    )
    return head.encode() + film(size=size)


class Answers:
    """The answers of one dialect, made once."""

    def __init__(self, dialect: Dialect, url: str, host: str) -> None:
        self.dialect = dialect
        self.submits = dialect.submits.encode()
        self.before, self.behind = (part.encode() for part in dialect.polls)
        self.created = Filled.of(dialect.created, url, host, dialect.status)
        self.waiting = Filled.of(dialect.waiting, url, host)
        self.ready = Filled.of(dialect.ready, url, host)
        self.result = Filled.of(dialect.result or dialect.ready, url, host)

    def find(self, target: bytes) -> tuple[bytes, bool] | None:
        """The task that *target* is about, and whether it is polled, not its result fetched."""
        if not target.startswith(self.before):
            return None
        task = target[len(self.before) :]
        return (
            (task.removesuffix(self.behind), True) if task.endswith(self.behind) else (task, False)
        )


class Service:
    """Tasks, how often each was polled, and what is answered."""

    def __init__(self, url: str, film_size: int = 0) -> None:
        self.created = 0
        self.polls: Counter[bytes] = Counter()
        self.ready_after = 0
        host = url if film_size else HOST
        self._answers = [Answers(dialect, url, host) for dialect in DIALECTS]
        self._film = film_response(film_size)

    def answer(self, method: bytes, target: bytes) -> bytes:
        if target.startswith(b"/f/"):
            return self._film
        for answers in self._answers:
            if method == b"POST" and target == answers.submits:
                self.created += 1
                return answers.created.with_id(task_id(self.created).encode())
            if method == b"GET" and (found := answers.find(target)):
                task, polled = found
                if not polled:
                    return answers.result.with_id(task)
                self.polls[task] += 1
                done = self.polls[task] > self.ready_after
                return (answers.ready if done else answers.waiting).with_id(task)
        return self._control(target)

    def _control(self, target: bytes) -> bytes:
        if target == b"/bench/counts":
            counts = {
                "created": self.created,
                "polls": self.polls.total(),
                "polled": len(self.polls),
            }
            return response(json.dumps(counts).encode())
        path, _, after = target.partition(b"?after=")
        if path not in (b"/bench/ready", b"/bench/reset"):
            return response(NOT_FOUND, 404)
        self.ready_after = int(after)
        if path == b"/bench/reset":
            self.created = 0
            self.polls.clear()
        return response(b"{}")


class Connection(asyncio.Protocol):
    """Reads requests as far as needed, and closes where the client wants that, as servers do."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            size = end + 4 + content_length(head)
            if len(self._buffer) < size:
                return
            method, target, _ = self._buffer[:end].split(b" ", 2)
            del self._buffer[:size]
            self._transport.write(self._service.answer(bytes(method), bytes(target)))
            if b"\r\nconnection: close" in head:
                self._transport.close()
                return


def content_length(head: bytes) -> int:
    _, name, rest = head.partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if name else 0


async def serve(film_size: int) -> None:
    loop = asyncio.get_running_loop()
    service: list[Service] = []
    server = await loop.create_server(
        lambda: Connection(service[0]), "127.0.0.1", 0, backlog=BACKLOG
    )
    port = server.sockets[0].getsockname()[1]
    service.append(Service(f"http://127.0.0.1:{port}", film_size))
    print(port, flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)  # its end is the end of who started us
    await ended.wait()
    server.close()


if __name__ == "__main__":
    use_core(last=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]) if sys.argv[1:] else 0))
