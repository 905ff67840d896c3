"""One event loop for several machines: virtual time, a network in memory, and real crashes.

Every handle has the name of its machine in a context variable. When a machine is killed, none of
its handles ever runs again: no `finally`, no `__aexit__`. Its connections end; bytes in transit
still arrive. A sleeping machine runs nothing for a while; its clock goes on, as when its loop is
blocked, or stands still, as when a laptop is suspended.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from simulation.network import DRIVER, HOST, Listener, Network

__all__ = ["DRIVER", "HOST", "Deadlock", "Killed", "SimLoop"]

MAX_HANDLES_AT_ONCE = 200_000  # handles that run without any time passing: a livelock
DISK = 20  # times as fast as the network is the work of threads


class Deadlock(AssertionError):  # noqa: N818 - it judges the run
    """Nothing is scheduled, and a task waits."""


class Killed(BaseException):
    """The machine is dead, and so is the code that catches this."""


class _Handle(asyncio.Handle):
    __slots__ = ()

    def _run(self) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        if loop.may_run(self, self._context.get(HOST, DRIVER)):  # type: ignore[attr-defined]
            asyncio.Handle._run(self)


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        if loop.may_run(self, self._context.get(HOST, DRIVER)):  # type: ignore[attr-defined]
            asyncio.TimerHandle._run(self)


class _Arrival(_TimerHandle):
    """Data of a connection; it arrives in the network's time, not in its machine's."""

    __slots__ = ()


class _NoSelector:
    """Watches no files; waiting jumps to the next timer."""

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
    """The loop. *rng* draws the latencies of the network."""

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
        self.acts: dict[int, Callable[[], Any]] = {}  # what happens at a step
        self.steps_left: dict[str, int] = {}  # the steps that other machines live
        self.on_kill: Callable[[str], None] = lambda host: None
        self.mortal = ""
        self._instant = 0
        self.tasks: dict[asyncio.Task[Any], str] = {}  # all of them, each with its machine
        self.set_task_factory(self._new_task)
        self.busy: dict[Executor | None, float] = {}  # when a thread begins its last piece of work
        self._deferred: dict[str, list[Any]] = {}  # what a machine that sleeps will do
        self._clock_lag: dict[str, float] = {}  # how long a machine's clock has stood still

    # --- time and steps ---------------------------------------------------------------------------

    def time(self) -> float:
        """The time of the calling machine."""
        return self._now - self._clock_lag.get(HOST.get(), 0.0)

    def true_time(self) -> float:
        """The time without any machine's delays, on which all calendars are based."""
        return self._now

    def jump(self) -> None:
        """Jump to the next timer exactly: after a rounding error its owner would wait forever."""
        self._now = max(self._now, self._scheduled[0].when())
        self._instant = 0

    def may_run(self, handle: asyncio.Handle, host: str) -> bool:
        """Whether a handle of *host* runs; counts its steps, and kills it at the planned one."""
        self._instant += 1
        if self._instant > MAX_HANDLES_AT_ONCE:
            raise Deadlock(f"at {self._now:g} s time does not pass any more\n{self.waiting()}")
        if host in self.dead:
            return False
        if host in self._deferred:
            self._deferred[host].append(handle)
            return False
        if host in self.steps_left:
            self.steps_left[host] -= 1
            if not self.steps_left[host]:
                self.kill(host)
                return False
        return host != self.mortal or not self._dies_now()

    def sleep(self, host: str, seconds: float, *, stands: bool) -> None:
        """Run nothing of *host* for a while; *stands*: its clock and its timers stand still."""
        if host not in self._deferred and host not in self.dead:
            self._deferred[host] = []
            awake = contextvars.Context()  # no machine's: the driver wakes it
            still = seconds if stands else 0.0
            self._at(self._now + seconds, self._wake, host, still, context=awake)

    def _wake(self, host: str, still: float) -> None:
        """Resume as a loop does: first what was ready, then what has arrived, then what is due."""
        kept = self._deferred.pop(host)
        if still:
            self._clock_lag[host] = self._clock_lag.get(host, 0.0) + still
            due = [handle for handle in kept if type(handle) is _TimerHandle]
            for timer in [*due, *self._scheduled]:
                if timer._context.get(HOST, DRIVER) == host and type(timer) is _TimerHandle:  # type: ignore[union-attr]
                    timer._when += still  # type: ignore[attr-defined]
            self._scheduled += due
            heapq.heapify(self._scheduled)
        kinds = (_Handle, _Arrival) if still else (_Handle, _Arrival, _TimerHandle)
        self._ready: Any
        for kind in kinds:
            self._ready.extend(handle for handle in kept if type(handle) is kind)

    def tick(self) -> None:
        """Count a step within a handle: before or after a commit or a file operation."""
        host = HOST.get()
        if host in self.dead or (host == self.mortal and self._dies_now()):
            raise Killed

    def _dies_now(self) -> bool:
        if self.mortal in self.dead:
            return True
        self.steps += 1
        if act := self.acts.pop(self.steps, None):
            act()
        if self.steps != self.kill_at:
            return False
        self.kill(self.mortal)
        return True

    def kill(self, host: str) -> None:
        """Let nothing of *host* run any more."""
        self.on_kill(host)
        self.dead.add(host)
        self.network.cut(host)

    def waiting(self) -> str:
        tasks = [(host, task) for host, task in self.living() if host not in self.dead]
        return "\n".join(sorted(f"{host}: {task.get_coro()}" for host, task in tasks))

    def living(self) -> list[tuple[str, asyncio.Task[Any]]]:
        """The tasks that have not ended, and their machines."""
        return [(host, task) for task, host in self.tasks.items() if not task.done()]

    def _new_task(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        """Keep every task: a collected one would run its `finally` blocks among the others."""
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        context = options.get("context")
        self.tasks[task] = HOST.get() if context is None else context.get(HOST, DRIVER)
        return task

    # --- what BaseEventLoop requires --------------------------------------------------------------

    def _process_events(self, event_list: list[Any]) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def _call_soon(  # type: ignore[override]
        self, callback: Any, args: Any, context: contextvars.Context | None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        host = HOST.get() if context is None else context.get(HOST, DRIVER)
        stood = self._clock_lag.get(host, 0.0)
        return self._at(when + stood, callback, *args, context=context)

    def arrive(self, when: float, callback: Any, *args: Any, context: Any) -> None:
        """Let a piece of a connection arrive at a time of the network's."""
        self._at(when, callback, *args, context=context, kind=_Arrival)

    def _at(
        self,
        when: float,
        callback: Any,
        *args: Any,
        context: Any,
        kind: type[_TimerHandle] = _TimerHandle,
    ) -> asyncio.TimerHandle:
        timer = kind(when, callback, args, self, context)
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
        begins = self.time() + self.network.pause() / DISK
        if getattr(executor, "_max_workers", 0) == 1:
            begins = self.busy[executor] = max(begins, self.busy.get(executor, 0.0) + 1e-6)
        self.call_at(begins, self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[Any], func: Any, args: tuple[Any, ...]) -> None:
        """The work of a thread; its result arrives a moment later."""
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
