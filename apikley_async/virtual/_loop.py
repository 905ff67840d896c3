"""The loop itself: the platform's selector, and a clock that jumps whenever the loop would wait."""

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

# All of these are real seconds, and none of them is paid by a test that has no such traffic.
LOOPBACK_GRACE = (0.0001,) * 4  # data may still be in the kernel's hands although a poll saw none
PENDING_GRACE = 0.1  # a socket's buffer is full: its reader gets this long to empty it
THREAD_GRACE = 0.25  # a thread that has not moved for so long is parked, not at work
ERRAND_GRACE = 10.0  # the same for a call handed to run_in_executor or to_thread, which will end
OUTSIDE_GRACE = 1.0  # no timer is left: only a thread or a process can still bring something

LINUX = sys.platform == "linux"
QUICKACK: int = getattr(socket, "TCP_QUICKACK", 0)
NOTHING = bytes(4)  # the kernel's int for an empty queue

# Innermost functions of threads that wait for someone else to give them work.
RESTING = {("concurrent/futures/thread.py", "_worker"), ("selectors.py", "select")}


Ready: TypeAlias = list[tuple[selectors.SelectorKey, int]]


class Deadlock(RuntimeError):  # noqa: N818 - it is a verdict on the test, not an error of the package
    """The test waits for something that nobody is going to do."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector event loop that never sleeps; its time starts at 0."""

    def __init__(self) -> None:
        self._now = 0.0
        self._scheduled: list[asyncio.TimerHandle]  # the base class keeps its timers in this heap
        super().__init__(_JumpingSelector(self))
        # Timers so close to now are due: more than a rounding of any time below a year.
        self._clock_resolution = 1e-8
        self._errands: set[asyncio.Future[Any]] = set()
        self._bystanders = {thread.ident for thread in threading.enumerate()}
        self._parked: dict[int, tuple[int, int]] = {}

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Any, *args: Any
    ) -> Any:
        """As ever, and the clock stands still until *func* has returned."""
        errand = super().run_in_executor(executor, func, *args)
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)
        return errand

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for its threads: however long that takes, no virtual *timeout* passes meanwhile."""
        executor: Executor | None = self._default_executor  # type: ignore[has-type]
        if executor is not None:
            with ThreadPoolExecutor(1) as helper:
                await self.run_in_executor(helper, executor.shutdown)
            self._default_executor = None
        await super().shutdown_default_executor()

    def jump(self, seconds: float) -> None:
        """Let *seconds* pass, and land on the next timer exactly.

        A hair too early, and whoever asks the clock again and waits for the rest would do so
        for ever. (aiohttp's server does, with its idle connections.)
        """
        then = self._now + seconds
        if self._scheduled and abs(self._scheduled[0].when() - then) < 1e-6:
            then = self._scheduled[0].when()
        self._now = max(self._now, then)

    def patience(self) -> float:
        """Say for how many real seconds the threads at work deserve to be waited for; 0 if none.

        Only threads younger than this loop count: the test runner has some of its own.
        """
        frames = sys._current_frames()  # noqa: SLF001 - there is no other way to see who works
        busy = False
        for thread in threading.enumerate():
            ident = thread.ident
            if ident is None or ident in self._bystanders or ident == threading.get_ident():
                continue
            frame = frames.get(ident)
            if frame is None or _is_resting(frame):
                self._parked.pop(ident, None)
            elif self._parked.get(ident) != (id(frame), frame.f_lasti):
                busy = True
        if self._errands:
            return ERRAND_GRACE
        return THREAD_GRACE if busy else 0.0

    def park(self) -> None:
        """Stop waiting for threads that have not moved, until they move."""
        self._errands.clear()
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the same
            self._parked[ident] = (id(frame), frame.f_lasti)

    def verdict(self) -> Deadlock:
        """Name who waits, for the message of a test that can never end."""
        waiting = sorted(
            f"{task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks(self)
        )
        return Deadlock(
            f"At {self._now:g} s of virtual time nothing is scheduled, no socket is ready and no "
            "thread is at work, but these tasks wait:\n  " + "\n  ".join(waiting)
        )


class _JumpingSelector(selectors.BaseSelector):
    """The platform's selector, except that waiting moves the loop's clock instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()
        self._events: dict[int, int] = {}
        self._heard: set[int] = set()  # who was readable since the last look at the wires
        self._hung_up = False  # whether somebody went away since then

    def select(self, timeout: float | None = None) -> Ready:
        ready = self._poll()
        if ready or (timeout is not None and timeout <= 0):
            return ready
        ready = self._await_threads() or self._await_loopback()
        if ready:
            return ready
        if timeout is None:
            ready = self._poll(OUTSIDE_GRACE)
            if not ready:
                raise self._loop.verdict()
            return ready
        self._loop.jump(timeout)
        return []

    def _poll(self, timeout: float = 0) -> Ready:
        ready = self._real.select(timeout)
        self._heard.update(key.fd for key, _ in ready)
        return ready

    def _await_threads(self) -> Ready:
        started = time.monotonic()
        while patience := self._loop.patience():
            # A thread reports through the loop's own socket pair, which ends this poll at once.
            if ready := self._poll(0.001):
                return ready
            if time.monotonic() - started > patience:
                self._loop.park()
        # It may have reported between the last poll and the last look at it.
        return self._poll()

    def _await_loopback(self) -> Ready:
        if len(self._events) < 2:  # only the loop's own socket pair
            return []
        if any(events & selectors.EVENT_WRITE for events in self._events.values()):
            return self._poll(PENDING_GRACE)
        for pause in LOOPBACK_GRACE:
            if self._all_arrived():
                break
            time.sleep(pause)
            if ready := self._poll():
                return ready
        return self._poll()

    def _all_arrived(self) -> bool:
        """Whether the kernel says that nothing is on its way between the sockets of this loop."""
        heard, self._heard = self._heard, set()
        hung_up, self._hung_up = self._hung_up, False
        if hung_up or not LINUX:  # a socket that was closed can tell nothing any more
            return False
        for fd in heard & self._events.keys():
            _acknowledge(fd)
        return not any(map(_has_unheard, self._events))

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.register(fileobj, events, data)
        self._events[key.fd] = events
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._real.unregister(fileobj)
        self._events.pop(key.fd, None)
        self._hung_up = True
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.modify(fileobj, events, data)
        self._events[key.fd] = events
        return key

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


def _acknowledge(fd: int) -> None:
    """Let a TCP socket confirm at once what it has received, rather than 40 ms later."""
    twin = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=fd)
    with contextlib.suppress(OSError):  # it is no TCP socket: nothing has to be confirmed
        twin.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
    twin.detach()


def _has_unheard(fd: int) -> bool:
    """Whether a socket has sent bytes whose arrival was not yet confirmed."""
    try:
        return fcntl.ioctl(fd, termios.TIOCOUTQ, NOTHING) != NOTHING
    except OSError:  # it listens, or is no socket
        return False


def _is_resting(frame: FrameType) -> bool:
    """Say whether a thread, seen at its innermost *frame*, waits to be given something to do."""
    code = frame.f_code
    if code.co_name == "wait" and code.co_filename == threading.__file__:
        # A condition's waiter holds a locked lock until it is notified. Once that is open the
        # thread has work, even if it has not been given the processor yet.
        waiter = frame.f_locals.get("waiter")
        return waiter is None or waiter.locked()
    return any(code.co_name == name and code.co_filename.endswith(file) for file, name in RESTING)
