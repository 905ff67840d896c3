"""The service's clock, which may run faster than the callers' clock.

It reads the clock that is handed in and never waits.
"""

from __future__ import annotations

from apikley_async import Clock

__all__ = ["ServiceClock"]


class ServiceClock:
    """Counts service seconds from the first time it is read.

    At a *speed* of 60 a film of three minutes is ready after three seconds. Callers see a fast
    service and not a wrong calendar: every timestamp, date and delay that is sent to them is
    converted back to their own time.

    Args:
        clock: the callers' clock.
        speed: service seconds in one of the callers' seconds.
        offset: seconds by which the service's calendar is ahead of the callers'.
    """

    def __init__(self, clock: Clock, speed: float = 1.0, offset: float = 0.0) -> None:
        if not 0 < speed < float("inf"):
            raise ValueError(f"speed: more than 0, not {speed!r}")
        self.speed = speed
        self._offset = offset
        self._clock = clock
        self._origin: tuple[float, float] | None = None
        self._skips: list[tuple[float, float]] = []
        self._skipped = 0.0

    def now(self) -> float:
        """Service seconds since the service began."""
        return (self._clock.now() - self._start()[0]) * self.speed + self._skipped

    def skip(self, seconds: float) -> None:
        """Let *seconds* of service time pass at once. The callers' calendar does not move."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds: 0 or more, not {seconds!r}")
        self._skips.append((self.now(), seconds))
        self._skipped += seconds

    def restart(self) -> None:
        """Begin at 0 again."""
        self._origin = None
        self._skips.clear()
        self._skipped = 0.0

    def timestamp(self, at: float) -> float:
        """The callers' Unix time in seconds, at the service second *at*; an offset is added."""
        skipped = sum(max(0.0, min(at - begin, seconds)) for begin, seconds in self._skips)
        return self._start()[1] + (at - skipped) / self.speed + self._offset

    def caller_seconds(self, seconds: float) -> float:
        """How long a caller waits while *seconds* pass for the service."""
        return seconds / self.speed

    def _start(self) -> tuple[float, float]:
        # Not in __init__: a service may be built before the loop whose time it reads.
        if self._origin is None:
            self._origin = (self._clock.now(), self._clock.wall())
        return self._origin

    def __repr__(self) -> str:
        return f"<ServiceClock x{self.speed:g}>"
