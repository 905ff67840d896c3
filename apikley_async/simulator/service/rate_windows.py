"""How the service counts requests against its rate limit. Pure: *now* is handed in.

There are several kinds of window because nobody knows which one the real service uses. The limit
of a window may be changed while it counts.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal, Protocol

__all__ = [
    "FixedWindow",
    "NoLimit",
    "SlidingWindow",
    "TokenBucket",
    "Window",
    "WindowKind",
    "make_window",
]

WindowKind = Literal["sliding", "fixed", "bucket"]


ROUNDING = 1e-9  # tokens that a sum of times may miss


class Window(Protocol):
    """At most so many requests in so many seconds."""

    limit: int

    def delay(self, now: float) -> float:
        """Seconds until one more request would be accepted; 0.0 accepts it now."""
        ...

    def count(self, now: float) -> None:
        """Count one request."""
        ...


class SlidingWindow:
    """No span of *per* seconds, wherever it begins, holds more than *limit* requests."""

    def __init__(self, limit: int, per: float) -> None:
        self.limit = limit
        self.per = per
        self._arrivals: deque[float] = deque()

    def delay(self, now: float) -> float:
        while self._arrivals and self._arrivals[0] + self.per <= now:
            self._arrivals.popleft()
        if len(self._arrivals) < self.limit:
            return 0.0
        # Refused requests may be counted too, so the window can hold more than *limit* of them.
        return self._arrivals[-self.limit] + self.per - now

    def count(self, now: float) -> None:
        self._arrivals.append(now)


class FixedWindow:
    """Windows are laid end to end; each accepts *limit* requests and starts at 0."""

    def __init__(self, limit: int, per: float) -> None:
        self.limit = limit
        self.per = per
        self._index = 0
        self._count = 0

    def delay(self, now: float) -> float:
        self._advance(now)
        return 0.0 if self._count < self.limit else (self._index + 1) * self.per - now

    def count(self, now: float) -> None:
        self._advance(now)
        self._count += 1

    def _advance(self, now: float) -> None:
        index = int(now // self.per)
        if index != self._index:
            self._index, self._count = index, 0


class TokenBucket:
    """Each request takes a token; *limit* fit into the bucket, and as many come back in *per*."""

    def __init__(self, limit: int, per: float) -> None:
        self.limit = limit
        self.per = per
        self._tokens = float(limit)
        self._filled_at = -math.inf

    def delay(self, now: float) -> float:
        missing = 1 - self._tokens_at(now)
        return 0.0 if missing <= ROUNDING else missing * self.per / self.limit

    def count(self, now: float) -> None:
        # Refused requests may be counted too: what is missing then has to come back first.
        self._tokens, self._filled_at = self._tokens_at(now) - 1, now

    def _tokens_at(self, now: float) -> float:
        came_back = (now - self._filled_at) * self.limit / self.per
        return min(float(self.limit), self._tokens + came_back)


class NoLimit:
    """Accepts every request."""

    limit = 0

    def delay(self, now: float) -> float:
        return 0.0

    def count(self, now: float) -> None:
        pass


def make_window(kind: WindowKind, limit: int | None, per: float) -> Window:
    """A window of that *kind*; with a *limit* of None it accepts every request."""
    if limit is None:
        return NoLimit()
    if limit < 1 or not per > 0:
        raise ValueError(f"limit, per: at least 1 and more than 0, not {limit!r} and {per!r}")
    if kind == "sliding":
        return SlidingWindow(limit, per)
    if kind == "fixed":
        return FixedWindow(limit, per)
    if kind == "bucket":
        return TokenBucket(limit, per)
    raise ValueError(f"window: 'sliding', 'fixed' or 'bucket', not {kind!r}")
