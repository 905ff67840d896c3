"""The service's own bookkeeping of how often somebody called. Pure: *now* is handed in.

Two kinds of window exist because nobody knows which one the service uses.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, Protocol

__all__ = ["FixedWindow", "OpenDoor", "SlidingWindow", "Window", "WindowKind", "window"]

WindowKind = Literal["sliding", "fixed"]


class Window(Protocol):
    """At most so many arrivals in so many seconds."""

    def wait(self, now: float) -> float:
        """Seconds until one more would be let in; 0.0 lets it in now."""
        ...

    def count(self, now: float) -> None:
        """One has arrived and counts."""
        ...


class SlidingWindow:
    """No stretch of *per* seconds, wherever it begins, holds more than *limit* arrivals."""

    def __init__(self, limit: int, per: float) -> None:
        self.limit = limit
        self.per = per
        self._arrivals: deque[float] = deque()

    def wait(self, now: float) -> float:
        while self._arrivals and self._arrivals[0] + self.per <= now:
            self._arrivals.popleft()
        if len(self._arrivals) < self.limit:
            return 0.0
        # Refused arrivals may be counted too, so there can be more of them than places.
        return self._arrivals[-self.limit] + self.per - now

    def count(self, now: float) -> None:
        self._arrivals.append(now)


class FixedWindow:
    """Windows lie end to end; each holds *limit* arrivals and forgets the one before."""

    def __init__(self, limit: int, per: float) -> None:
        self.limit = limit
        self.per = per
        self._index = 0
        self._count = 0

    def wait(self, now: float) -> float:
        self._turn(now)
        return 0.0 if self._count < self.limit else (self._index + 1) * self.per - now

    def count(self, now: float) -> None:
        self._turn(now)
        self._count += 1

    def _turn(self, now: float) -> None:
        index = int(now // self.per)
        if index != self._index:
            self._index, self._count = index, 0


class OpenDoor:
    """No limit at all."""

    def wait(self, now: float) -> float:
        return 0.0

    def count(self, now: float) -> None:
        pass


def window(kind: WindowKind, limit: int | None, per: float) -> Window:
    """The window of that *kind*; a *limit* of None never closes."""
    if limit is None:
        return OpenDoor()
    if limit < 1 or not per > 0:
        raise ValueError(f"limit, per: at least 1 and more than 0, not {limit!r} and {per!r}")
    if kind == "sliding":
        return SlidingWindow(limit, per)
    if kind == "fixed":
        return FixedWindow(limit, per)
    raise ValueError(f"window: 'sliding' or 'fixed', not {kind!r}")
