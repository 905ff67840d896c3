"""Ctrl-C and its like: once ends in good order, twice at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Stopper"]

HEEDED = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
SIGNALS = tuple(signal.Signals[name] for name in HEEDED if hasattr(signal, name))


class Stopper:
    """Cancels the task that entered it at the first signal, and leaves at the second.

    A signal that the caller of the process has turned off stays off, as with nohup.

    Args:
        first: is told the signal's name.
        second: has the last word before the process ends.
    """

    def __init__(self, first: Callable[[str], None], second: Callable[[], None]) -> None:
        self.signal: int | None = None
        self._first = first
        self._second = second
        self._task: asyncio.Task[object] | None = None
        self._heeded: list[signal.Signals] = []

    @property
    def code(self) -> int:
        """The exit code of who was stopped: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    @property
    def grace(self) -> float:
        """Seconds for what is on its way: containers get ten, users can press again."""
        return 120.0 if self.signal in (None, signal.SIGINT) else 7.5

    def __enter__(self) -> Self:
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                heed(loop, number, self._stop)
                self._heeded.append(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in self._heeded:
            if self.signal is None:
                unheed(asyncio.get_running_loop(), number)
            else:
                signal.signal(number, signal.SIG_DFL)

    def _stop(self, number: signal.Signals) -> None:
        self.signal = number
        for heeded in self._heeded:
            unheed(asyncio.get_running_loop(), heeded)
            signal.signal(heeded, self._leave)  # works even while the loop is busy
        self._first(number.name)
        if self._task is not None:
            self._task.cancel()

    def _leave(self, number: int, frame: FrameType | None) -> None:
        try:
            self._second()
        finally:
            os._exit(128 + number)


def heed(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, act: Callable[[signal.Signals], None]
) -> None:
    """Have *act* called in the loop at a signal, on Windows too."""
    try:
        loop.add_signal_handler(number, act, number)
    except NotImplementedError:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act, number))


def unheed(loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
    """Undo `heed`."""
    try:
        loop.remove_signal_handler(number)
    except NotImplementedError:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)
