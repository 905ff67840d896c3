"""The network between machines, in memory: listeners, latencies, broken connections.

Each side of a connection belongs to a machine and runs in its context.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.loop import SimLoop

__all__ = ["DRIVER", "HOST", "Listener", "Network"]

DRIVER = "driver"
HOST: contextvars.ContextVar[str] = contextvars.ContextVar("host", default=DRIVER)
"""The machine that the current code runs on."""

REFUSED = 111
RESET_AFTER = 60.0  # seconds until a side without an answer gets a reset


class _Name:
    """The address of a listening socket."""

    family = socket.AF_INET

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class Listener(asyncio.AbstractServer):
    def __init__(self, network: Network, factory: Any, address: tuple[str, int]) -> None:
        self.factory = factory
        self.address = address
        self.host = HOST.get()
        self.context = contextvars.copy_context()
        self.sockets = [_Name(address)]
        self._network = network

    def close(self) -> None:
        if self._network.listeners.get(self.address) is self:
            del self._network.listeners[self.address]

    async def wait_closed(self) -> None:
        return

    def is_serving(self) -> bool:
        return self._network.listeners.get(self.address) is self


class Network:
    """The listeners, the connections, and their latencies."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.open: dict[int, Endpoint] = {}
        self.dialled: dict[socket.socket, Listener] = {}
        self._ports = iter(range(20_000, 60_000))
        self.slowest = 0.05
        self.splits = 0.1  # share of writes that arrive in two pieces

    def pause(self) -> float:
        return self._rng.random() * self.slowest + 1e-4

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if len(data) > 1 and self._rng.random() < self.splits:
            cut = self._rng.randrange(1, len(data))
            yield data[:cut]
            yield data[cut:]
        else:
            yield data

    def listen(self, factory: Any, host: str, port: int) -> Listener:
        address = (host, port or next(self._ports))
        there = self.listeners.get(address)
        if there is not None and there.host not in self._loop.dead:
            raise OSError(98, "Address already in use")
        listener = self.listeners[address] = Listener(self, factory, address)
        return listener

    def dial(self, sock: socket.socket, address: tuple[str, int]) -> None:
        listener = self.listeners.get(address)
        if listener is None or listener.host in self._loop.dead:
            raise ConnectionRefusedError(REFUSED, "Connection refused")
        self.dialled[sock] = listener

    def connect(self, factory: Any, sock: socket.socket) -> tuple[Endpoint, Any]:
        listener = self.dialled.pop(sock)
        here = Endpoint(self._loop, self, HOST.get(), contextvars.copy_context(), sock)
        there = Endpoint(self._loop, self, listener.host, listener.context.copy(), None)
        here.peer, there.peer = there, here
        here.begin(factory)
        self._loop.call_soon(there.begin, listener.factory, context=there.context)
        return here, here.protocol

    def drop(self, host: str, seconds: float) -> None:
        """Break the connections of *host*, which sleeps for *seconds*; both sides get a reset."""
        for endpoint in [e for e in self.open.values() if e.host == host]:
            endpoint.cut_off = True
            far = self._loop._now + min(seconds, RESET_AFTER)
            near = self._loop._now + seconds
            for side, when in ((endpoint.peer, far), (endpoint, near)):
                self._loop.arrive(when, side._take, "reset", context=side.context)

    def cut(self, host: str) -> None:
        """End the connections of a dead machine: the other sides get an EOF after what was sent."""
        for address in [a for a, listener in self.listeners.items() if listener.host == host]:
            del self.listeners[address]
        for endpoint in [*self.open.values()]:
            if endpoint.host == host:
                endpoint.vanish()


class Endpoint(asyncio.Transport):
    """One side of a connection."""

    def __init__(
        self,
        loop: SimLoop,
        network: Network,
        host: str,
        context: contextvars.Context,
        sock: socket.socket | None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._network = network
        self.host = host
        self.context = context
        self.sock = sock
        self.peer: Endpoint
        self.protocol: Any = None
        self._closing = False
        self._lost = False
        self._paused = False
        self.cut_off = False  # only a reset arrives
        self._waiting: list[tuple[Any, ...]] = []
        self._arrives = 0.0

    def begin(self, factory: Any) -> None:
        self.protocol = factory()
        self._network.open[id(self)] = self
        self.protocol.connection_made(self)
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._take(*event)

    # --- sending ----------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        for piece in self._network.pieces(bytes(data)):
            self._send("data", piece)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(map(bytes, list_of_data)))

    def write_eof(self) -> None:
        self._send("eof")

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._send("eof")
            self._loop.call_soon(self._lose, None, context=self.context)

    def abort(self) -> None:
        if not self._lost:
            self._closing = True
            self._send("reset")
            self._loop.call_soon(self._lose, None, context=self.context)

    def vanish(self) -> None:
        """The machine is dead: this side is not notified, the other one gets an EOF."""
        self._closing = self._lost = True
        self._send("eof")
        self._forget()

    def _send(self, kind: str, *content: Any) -> None:
        peer = self.peer
        # Never two at one time, because a heap does not keep the order of equal timers.
        self._arrives = max(self._arrives + 1e-6, self._loop._now + self._network.pause())
        self._loop.arrive(self._arrives, peer._take, kind, *content, context=peer.context)

    # --- receiving --------------------------------------------------------------------------------

    def _take(self, kind: str, *content: Any) -> None:
        if self._lost or (self.cut_off and kind != "reset"):
            return
        if self.protocol is None or self._paused:
            self._waiting.append((kind, *content))
        elif kind == "data":
            if not self._closing:
                self.protocol.data_received(*content)
        elif kind == "reset":
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
        elif not self._closing and not self.protocol.eof_received():
            self.close()

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._forget()
        if self.protocol is not None:
            self.protocol.connection_lost(error)

    def _forget(self) -> None:
        self._network.open.pop(id(self), None)
        if self.sock is not None:
            self.sock.close()

    # --- the rest of a transport ----------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._take(*event)

    def is_reading(self) -> bool:
        return not self._paused

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        return
