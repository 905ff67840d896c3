"""An event loop with virtual time: a test that waits four minutes takes milliseconds.

Sockets are real, seconds are virtual. When no callback can run, no data is in transit on loopback
and no thread is busy, `loop.time()` jumps to the next timer. The pytest plugin uses this loop by
itself; elsewhere run a coroutine on it:

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())

Client and server must run in the same loop. Threads and files take no virtual time: while a
thread is busy the clock stands still. `time.time()` does not jump. A process that the test starts
is not waited for. When nothing is left that could wake the test, `Deadlock` is raised at once
instead of a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from types import FrameType
from typing import Any, TypeAlias

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["Deadlock", "VirtualLoop"]

# All of these are real seconds. A test without such traffic pays none of them.
LOOPBACK_GRACE = (0.0001,) * 4  # data may still be inside the kernel although a poll saw none
PENDING_GRACE = 0.1  # a socket's send buffer is full: its reader gets this long to empty it
THREAD_GRACE = 0.25  # a thread that has not moved for this long counts as idle
EXECUTOR_GRACE = 10.0  # the same for a call in run_in_executor or to_thread, which will end
AT_WORK = 0.02  # of a processor: threads that got so much of a busy machine are still at work
EXTERNAL_GRACE = 1.0  # no timer is left: only a thread or a process can still wake the loop

LINUX = sys.platform == "linux"
QUICKACK: int = getattr(socket, "TCP_QUICKACK", 0)
EMPTY_QUEUE = bytes(4)  # the kernel's int for an empty send queue

# Innermost functions of threads that wait until someone gives them work.
IDLE_FUNCTIONS = {("concurrent/futures/thread.py", "_worker"), ("selectors.py", "select")}


Ready: TypeAlias = list[tuple[selectors.SelectorKey, int]]


class Deadlock(RuntimeError):  # noqa: N818 - it judges the test and is no error of the package
    """The test waits for something that can never happen."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector event loop that never sleeps. Its time starts at 0."""

    def __init__(self) -> None:
        self._now = 0.0
        self._scheduled: list[asyncio.TimerHandle]  # the base class keeps its timers in this heap
        super().__init__(_JumpingSelector(self))
        # Timers this close to now are due. It exceeds the rounding error of any time below a year.
        self._clock_resolution = 1e-8
        self._executor_calls: set[asyncio.Future[Any]] = set()
        self._older_threads = {thread.ident for thread in threading.enumerate()}
        self._idle: dict[int, tuple[int, int]] = {}

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Any, *args: Any
    ) -> Any:
        """Run *func* in *executor*; the clock stands still until it has returned."""
        call = super().run_in_executor(executor, func, *args)
        self._executor_calls.add(call)
        call.add_done_callback(self._executor_calls.discard)
        return call

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for its threads. No virtual *timeout* passes, however long that takes."""
        executor: Executor | None = self._default_executor  # type: ignore[has-type]
        if executor is not None:
            with ThreadPoolExecutor(1) as helper:
                await self.run_in_executor(helper, executor.shutdown)
            self._default_executor = None
        await super().shutdown_default_executor()

    def jump(self, seconds: float) -> None:
        """Let *seconds* pass, and land on the next timer exactly.

        If the clock stopped slightly too early, code that asks the time again and waits for the
        remainder would do so forever. (aiohttp's server does, with its idle connections.)
        """
        target = self._now + seconds
        if self._scheduled and abs(self._scheduled[0].when() - target) < 1e-6:
            target = self._scheduled[0].when()
        self._now = max(self._now, target)

    def thread_grace(self) -> float:
        """Real seconds to wait for threads that are busy; 0 if none is.

        Only threads younger than this loop count: the test runner has some of its own.
        """
        frames = sys._current_frames()  # noqa: SLF001 - there is no public way to see busy threads
        busy = False
        for thread in threading.enumerate():
            ident = thread.ident
            if ident is None or ident in self._older_threads or ident == threading.get_ident():
                continue
            frame = frames.get(ident)
            if frame is None or _is_idle(frame):
                self._idle.pop(ident, None)
            elif self._idle.get(ident) != (id(frame), frame.f_lasti):
                busy = True
        if self._executor_calls:
            return EXECUTOR_GRACE
        return THREAD_GRACE if busy else 0.0

    def mark_threads_idle(self) -> None:
        """Stop waiting for threads that have not moved, until they move."""
        self._executor_calls.clear()
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the same
            self._idle[ident] = (id(frame), frame.f_lasti)

    def deadlock(self) -> Deadlock:
        """The error of a test that can never end; it names the tasks that wait."""
        waiting = sorted(
            f"{task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks(self)
        )
        return Deadlock(
            f"At {self._now:g} s of virtual time nothing is scheduled, no socket is ready and no "
            "thread is busy, but these tasks wait:\n  " + "\n  ".join(waiting)
        )


class _JumpingSelector(selectors.BaseSelector):
    """The platform's selector, except that waiting moves the loop's clock instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()
        self._events: dict[int, int] = {}
        self._readable: set[int] = set()  # descriptors that were ready since the last check
        self._unregistered = False  # whether a socket was closed since then

    def select(self, timeout: float | None = None) -> Ready:
        ready = self._poll()
        if ready or (timeout is not None and timeout <= 0):
            return ready
        ready = self._wait_for_threads() or self._wait_for_loopback()
        if ready:
            return ready
        if timeout is None:
            ready = self._poll(EXTERNAL_GRACE)
            if not ready:
                raise self._loop.deadlock()
            return ready
        self._loop.jump(timeout)
        return []

    def _poll(self, timeout: float = 0) -> Ready:
        ready = self._real.select(timeout)
        self._readable.update(key.fd for key, _ in ready)
        return ready

    def _wait_for_threads(self) -> Ready:
        started, used = time.monotonic(), _used_by_threads()
        while grace := self._loop.thread_grace():
            # A thread reports through the loop's own socket pair, which ends this poll at once.
            if ready := self._poll(0.001):
                return ready
            if time.monotonic() - started <= grace:
                continue
            if grace < EXECUTOR_GRACE or _used_by_threads() - used < AT_WORK * grace:
                self._loop.mark_threads_idle()
            started, used = time.monotonic(), _used_by_threads()
        # It may have reported between the last poll and the last look at its frame.
        return self._poll()

    def _wait_for_loopback(self) -> Ready:
        if len(self._events) < 2:  # only the loop's own socket pair
            return []
        if any(events & selectors.EVENT_WRITE for events in self._events.values()):
            return self._poll(PENDING_GRACE)
        for pause in LOOPBACK_GRACE:
            if self._all_delivered():
                break
            time.sleep(pause)
            if ready := self._poll():
                return ready
        return self._poll()

    def _all_delivered(self) -> bool:
        """Whether the kernel says that no data is in transit between the sockets of this loop."""
        readable, self._readable = self._readable, set()
        unregistered, self._unregistered = self._unregistered, False
        if unregistered or not LINUX:  # a closed socket cannot be asked any more
            return False
        for fd in readable & self._events.keys():
            _acknowledge(fd)
        return not any(map(_has_unacknowledged, self._events))

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.register(fileobj, events, data)
        self._events[key.fd] = events
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._real.unregister(fileobj)
        self._events.pop(key.fd, None)
        self._unregistered = True
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.modify(fileobj, events, data)
        self._events[key.fd] = events
        return key

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


def _used_by_threads() -> float:
    """Seconds of processor that threads other than this one have used."""
    return time.process_time() - time.thread_time()


def _acknowledge(fd: int) -> None:
    """Let a TCP socket acknowledge what it has received at once, and not 40 ms later."""
    duplicate = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    with contextlib.suppress(OSError):  # not a TCP socket: nothing to acknowledge
        duplicate.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
    duplicate.detach()


def _has_unacknowledged(fd: int) -> bool:
    """Whether a socket has sent bytes that its peer has not acknowledged yet."""
    try:
        return fcntl.ioctl(fd, termios.TIOCOUTQ, EMPTY_QUEUE) != EMPTY_QUEUE
    except OSError:  # a listening socket, or no socket at all
        return False


def _is_idle(frame: FrameType) -> bool:
    """Whether a thread, seen at its innermost *frame*, waits until it is given something to do."""
    code = frame.f_code
    if code.co_name == "wait" and code.co_filename == threading.__file__:
        # A condition's waiter holds a locked lock until it is notified. Once that is open the
        # thread has work, even if it has not been scheduled yet.
        waiter = frame.f_locals.get("waiter")
        return waiter is None or waiter.locked()
    return any(
        code.co_name == name and code.co_filename.endswith(file) for file, name in IDLE_FUNCTIONS
    )
