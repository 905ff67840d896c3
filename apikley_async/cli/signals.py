"""Ctrl-C, SIGTERM and SIGHUP: the first ends a command in good order, the second at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

__all__ = ["SIGNALS", "GracefulStop"]

HANDLED = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
LONG, SHORT = 120.0, 7.5  # seconds
SIGNALS = tuple(signal.Signals[name] for name in HANDLED if hasattr(signal, name))


class GracefulStop:
    """Cancels the task that entered it at the first signal, and ends the process at the second.

    A signal that was ignored when the process began stays ignored, as with nohup.

    Args:
        on_first: is called with the signal's name before the task is cancelled.
        on_second: is called before the process ends.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        on_first: Callable[[str], None],
        on_second: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.signal: int | None = None
        self._clock = clock
        self._stopped_at = 0.0
        self._on_first = on_first
        self._on_second = on_second
        self._task: asyncio.Task[object] | None = None
        self._handled: list[signal.Signals] = []

    @property
    def code(self) -> int:
        """The exit code after a signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    @property
    def grace(self) -> float:
        """Seconds that are left for submissions under way, since the signal.

        Containers get ten in all, users can press again.
        """
        if self.signal is None:
            return LONG
        grace = LONG if self.signal == signal.SIGINT else SHORT
        return max(0.0, grace - (self._clock() - self._stopped_at))

    def __enter__(self) -> Self:
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                handle(loop, number, self._stop)
                self._handled.append(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in self._handled:
            if self.signal is None:
                unhandle(asyncio.get_running_loop(), number)
            else:
                signal.signal(number, signal.SIG_DFL)

    def _stop(self, number: signal.Signals) -> None:
        self.signal, self._stopped_at = number, self._clock()
        for handled in self._handled:
            unhandle(asyncio.get_running_loop(), handled)
            signal.signal(handled, self._leave)  # works even while the loop is busy
        self._on_first(number.name)
        if self._task is not None:
            self._task.cancel()

    def _leave(self, number: int, frame: FrameType | None) -> None:
        try:
            self._on_second()
        finally:
            os._exit(128 + number)


def handle(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, act: Callable[[signal.Signals], None]
) -> None:
    """Call *act* in the event loop at a signal, on Windows too."""
    try:
        loop.add_signal_handler(number, act, number)
    except NotImplementedError:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act, number))


def unhandle(loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
    """Undo `handle`."""
    try:
        loop.remove_signal_handler(number)
    except NotImplementedError:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)
