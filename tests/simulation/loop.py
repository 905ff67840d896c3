"""One event loop for several machines: virtual time, a network of memory, and real crashes.

Every handle carries the name of its machine in a context variable. Killing a machine means that
none of its handles ever runs again: no `finally`, no `__aexit__`. Its connections end; bytes that
were already on their way still arrive.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

__all__ = ["DRIVER", "HOST", "Deadlock", "Killed", "SimLoop"]

DRIVER = "driver"
HOST: contextvars.ContextVar[str] = contextvars.ContextVar("host", default=DRIVER)
LARGEST_INSTANT = 200_000  # handles that run without any time passing: a livelock
DISK = 20  # so much faster than the network is what threads do
REFUSED = 111


class Deadlock(AssertionError):  # noqa: N818 - a verdict
    """Nothing is scheduled, and somebody waits."""


class Killed(BaseException):
    """The machine is dead; whoever catches this does not live either."""


class _Handle(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        if loop.may_run(self._context.get(HOST, DRIVER)):  # type: ignore[attr-defined]
            asyncio.Handle._run(self)


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        if loop.may_run(self._context.get(HOST, DRIVER)):  # type: ignore[attr-defined]
            asyncio.TimerHandle._run(self)


class _NoSelector:
    """There are no files to watch: waiting is a jump to the next timer."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock(self._loop.waiting())
        if timeout > 0:
            self._loop.jump()
        return []

    def close(self) -> None:
        return


class SimLoop(asyncio.BaseEventLoop):
    """The loop. *latency* draws the seconds that bytes travel."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 1e-9
        self._selector = _NoSelector(self)
        self._scheduled: list[asyncio.TimerHandle]
        self.rng = rng
        self.network = Network(self, rng)
        self.dead: set[str] = set()
        self.steps = 0  # of machines that may be killed
        self.kill_at: int | None = None
        self.act_at: int | None = None
        self.act: Callable[[], None] = lambda: None
        self.on_kill: Callable[[str], None] = lambda host: None
        self.mortal = ""
        self._instant = 0
        self.tasks: dict[asyncio.Task[Any], str] = {}  # all there ever were, each on its machine
        self.set_task_factory(self._born)
        self._busy: dict[Executor | None, float] = {}  # when a thread begins its last piece of work

    # --- time and steps ---------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def jump(self) -> None:
        """Land on the next timer exactly: no rounding, or its owner asks for ever."""
        self._now = max(self._now, self._scheduled[0].when())
        self._instant = 0

    def may_run(self, host: str) -> bool:
        """Whether a handle of *host* runs; counts its steps, and kills it where that was asked."""
        self._instant += 1
        if self._instant > LARGEST_INSTANT:
            raise Deadlock(f"at {self._now:g} s time does not pass any more\n{self.waiting()}")
        if host in self.dead:
            return False
        if host == self.mortal:
            return not self._strikes()
        return True

    def tick(self) -> None:
        """A step within a handle: around a commit, around a file operation."""
        if HOST.get() == self.mortal and self._strikes():
            raise Killed

    def _strikes(self) -> bool:
        if self.mortal in self.dead:
            return True
        self.steps += 1
        if self.steps == self.act_at:
            self.act()
        if self.steps != self.kill_at:
            return False
        self.kill(self.mortal)
        return True

    def kill(self, host: str) -> None:
        """From here on nothing of *host* runs."""
        self.on_kill(host)
        self.dead.add(host)
        self.network.cut(host)

    def waiting(self) -> str:
        tasks = [(host, task) for host, task in self.living() if host not in self.dead]
        return "\n".join(sorted(f"{host}: {task.get_coro()}" for host, task in tasks))

    def living(self) -> list[tuple[str, asyncio.Task[Any]]]:
        """The tasks that have not ended, and their machines."""
        return [(host, task) for task, host in self.tasks.items() if not task.done()]

    def _born(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        """Hold on to every task: one that Python collects runs its `finally` amid the others."""
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        context = options.get("context")
        self.tasks[task] = HOST.get() if context is None else context.get(HOST, DRIVER)
        return task

    # --- what BaseEventLoop leaves open -----------------------------------------------------------

    def _process_events(self, event_list: list[Any]) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def _call_soon(  # type: ignore[override]
        self, callback: Any, args: Any, context: contextvars.Context | None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready: Any
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        import heapq

        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """Inline, a moment later; an executor of one thread keeps the order."""
        if executor is not None and getattr(executor, "_shutdown", False):
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = self.create_future()
        begins = self._now + self.network.pause() / DISK
        if getattr(executor, "_max_workers", 0) == 1:
            begins = self._busy[executor] = max(begins, self._busy.get(executor, 0.0) + 1e-6)
        self.call_at(begins, self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[Any], func: Any, args: tuple[Any, ...]) -> None:
        """What a thread does; whoever waits for it hears of its end a moment later."""
        try:
            result = func(*args)
        except Killed:
            return
        except Exception as error:  # noqa: BLE001 - it is the caller's
            self.call_later(self.network.pause() / DISK, _fail, future, error)
        else:
            self.call_later(self.network.pause() / DISK, _resolve, future, result)

    # --- the network ------------------------------------------------------------------------------

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Listener:
        return self.network.listen(protocol_factory, host or "127.0.0.1", port or 0)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(self.network.pause())
        self.network.dial(sock, address[:2])

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Any, *args: Any, sock: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        assert sock is not None, "who connects has made a socket"
        return self.network.connect(protocol_factory, sock)


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


# --- connections ----------------------------------------------------------------------------------


class _Name:
    """What a listening socket says of itself."""

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
    """Who listens, who is connected, and how long bytes travel."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.open: dict[int, Endpoint] = {}
        self._dialled: dict[socket.socket, Listener] = {}
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
        self._dialled[sock] = listener

    def connect(self, factory: Any, sock: socket.socket) -> tuple[Endpoint, Any]:
        listener = self._dialled.pop(sock)
        here = Endpoint(self._loop, self, HOST.get(), contextvars.copy_context(), sock)
        there = Endpoint(self._loop, self, listener.host, listener.context.copy(), None)
        here.peer, there.peer = there, here
        here.begin(factory)
        self._loop.call_soon(there.begin, listener.factory, context=there.context)
        return here, here.protocol

    def cut(self, host: str) -> None:
        """A machine is gone: its other sides hear the end of the line, after what was sent."""
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
        self._sock = sock
        self.peer: Endpoint
        self.protocol: Any = None
        self._closing = False
        self._lost = False
        self._paused = False
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
        """The machine is dead: nobody here hears of it, and the other side hears the end."""
        self._closing = self._lost = True
        self._send("eof")
        self._forget()

    def _send(self, kind: str, *content: Any) -> None:
        peer = self.peer
        # Never two at one time: a heap of timers does not keep the order of equals.
        self._arrives = max(self._arrives + 1e-6, self._loop.time() + self._network.pause())
        self._loop.call_at(self._arrives, peer._take, kind, *content, context=peer.context)

    # --- receiving --------------------------------------------------------------------------------

    def _take(self, kind: str, *content: Any) -> None:
        if self._lost:
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
        if self._sock is not None:
            self._sock.close()

    # --- what a transport is asked --------------------------------------------------------------

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
