"""Stands between a client and a PostgreSQL server, and cuts the connection where a test says.

Both sides talk over sockets in folders. What the client sends is read message by message; replies
are passed on as they come.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Cut", "PostgresProxy"]

NAME = ".s.PGSQL.5432"
PARTS = (b"P", b"B", b"D", b"E", b"C", b"H")  # of a statement; Sync ends it


class Cut(enum.Enum):
    """Where a connection is cut, around one message of the client."""

    BEFORE = "the server never gets the message"
    DURING = "the server gets it; nobody waits for its answer"
    AFTER = "the server has answered; the client never gets that"
    LATE = "the server gets it only when the client has come back"


class PostgresProxy:
    """Listens in *folder* for clients of the server whose socket is in *target*.

    Attributes:
        cut: asked about each query; says whether and where its connection is cut.
        queries: that clients have sent, in their order.
        cuts: how many connections were cut.
    """

    def __init__(self, target: Path, folder: Path) -> None:
        self.cut: Callable[[str], Cut | None] = lambda query: None
        self.queries: list[str] = []
        self.cuts = 0
        self._target = target / NAME
        self._folder = folder
        self._late: list[tuple[socket.socket, bytes]] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take clients, as long as this lasts."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._folder / NAME))
        listener.listen()
        self._start(self._accept, listener)
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            (self._folder / NAME).unlink()
            self._send_late()
            for thread in self._threads:
                thread.join()

    def dsn_of(self, dsn: str) -> str:
        """The DSN that leads through here to where *dsn* leads."""
        return dsn.replace(str(self._target.parent), str(self._folder))

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        held = False
        try:
            server.connect(str(self._target))
            held = self._pass_on(client, server)
        except OSError:  # the server is away
            pass
        finally:
            client.close()
            if not held:
                server.close()

    def _send_late(self) -> None:
        """A client is back, and at work: let the server have what it has missed."""
        with self._lock:
            late, self._late = self._late, []
        for server, message in late:
            with server, contextlib.suppress(OSError):  # the server may have given it up
                server.sendall(message)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Pass on messages until one side is gone, or the connection is cut; True if held back."""
        unread, started = b"", False
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if server in ready:
                if not (reply := server.recv(65536)):
                    return False
                client.sendall(reply)
            if client in ready:
                if not (sent := client.recv(65536)):
                    return False
                unread += sent
                while message := first_message(unread, started=started):
                    unread, started = unread[len(message) :], True
                    where = self._where(message)
                    if where is None:
                        server.sendall(message)
                        # As late as can be: whoever takes the lock waits for what comes late, and
                        # whoever takes none has had an answer before it.
                        if (b"BEGIN" in message and b"advisory" in message) or b"COMMIT" in message:
                            self._send_late()
                        continue
                    with self._lock:
                        self.cuts += 1
                        if where is Cut.LATE:
                            self._late.append((server, message))
                            return True
                    if where is not Cut.BEFORE:
                        server.sendall(message)
                    if where is Cut.AFTER:
                        read_answer(server)
                    return False

    def _where(self, message: bytes) -> Cut | None:
        if message[:1] == b"Q":
            query = message[5:-1].decode()
        elif message[:1] == b"P":
            query = message[5:].split(b"\0", 2)[1].decode()
        else:
            return None
        with self._lock:
            self.queries.append(query)
            return self.cut(query)


def first_message(data: bytes, *, started: bool) -> bytes:
    """The first message of what a client has sent; empty as long as it is not complete.

    What belongs to a statement whose values travel beside it, from Parse to Sync, is one message.
    """
    head = 1 if started else 0  # the very first message has no type
    end = 0
    while len(data) >= end + head + 4:
        kind = data[end : end + head]
        [size] = struct.unpack("!i", data[end + head : end + head + 4])
        end += head + size
        if kind not in PARTS:
            return data[:end] if len(data) >= end else b""
    return b""


def read_answer(server: socket.socket) -> None:
    """Read until the server is ready for the next query, or for the rows of a COPY."""
    data = b""
    while data[:1] != b"G" and not data.endswith(
        (b"Z\x00\x00\x00\x05I", b"Z\x00\x00\x00\x05T", b"Z\x00\x00\x00\x05E")
    ):
        if not (more := server.recv(65536)):
            return
        data += more
