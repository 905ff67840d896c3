"""The world's own time, which may run faster than the time of those who watch it.

Pure but for the clock that is handed in: the world asks what time it is and never waits.
"""

from __future__ import annotations

from apikley_async import Clock

__all__ = ["WorldTime"]


class WorldTime:
    """Counts the world's seconds from the first time anybody asked.

    At a *speed* of 60 a film of three minutes is ready after three seconds. To a caller such a
    world looks like a service that is quick, not like one whose calendar is wrong: whatever is
    told to callers (stamps, dates, seconds to wait) is translated back to their time.
    """

    def __init__(self, clock: Clock, speed: float = 1.0) -> None:
        if not 0 < speed < float("inf"):
            raise ValueError(f"speed: more than 0, not {speed!r}")
        self.speed = speed
        self._clock = clock
        self._origin: tuple[float, float] | None = None
        self._skips: list[tuple[float, float]] = []
        self._skipped = 0.0

    def now(self) -> float:
        """World seconds since the beginning of the world."""
        return (self._clock.now() - self._start()[0]) * self.speed + self._skipped

    def skip(self, seconds: float) -> None:
        """Let *seconds* of the world pass at once; they take no time on the callers' calendar."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds: 0 or more, not {seconds!r}")
        self._skips.append((self.now(), seconds))
        self._skipped += seconds

    def restart(self) -> None:
        """Begin at 0 again."""
        self._origin = None
        self._skips.clear()
        self._skipped = 0.0

    def stamp(self, at: float) -> float:
        """The callers' Unix time, in seconds, at the world's second *at*."""
        skipped = sum(max(0.0, min(at - begin, seconds)) for begin, seconds in self._skips)
        return self._start()[1] + (at - skipped) / self.speed

    def outside(self, seconds: float) -> float:
        """How long a caller has to wait while *seconds* pass in the world."""
        return seconds / self.speed

    def _start(self) -> tuple[float, float]:
        # Not in __init__: a world may be built before the loop that will tell the time.
        if self._origin is None:
            self._origin = (self._clock.now(), self._clock.wall())
        return self._origin

    def __repr__(self) -> str:
        return f"<WorldTime x{self.speed:g}>"
