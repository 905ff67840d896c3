"""How far a run is: how many films are where, what they have cost, and how long it will take.

It is given events and the time, and reads no clock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from apikley_async.cli.output.terminal_text import in_credits, in_words

__all__ = ["FINAL_EVENTS", "Hindrance", "Tally", "nothing"]

FINAL_EVENTS = ("failed", "saved", "stopped")
QUIET = 60.0  # seconds without an event that mean nothing, however short films are
LATEST = 50  # films whose duration says how long the others will take
PLACES = {  # where the last event of a film has left it
    "submitted": "running",
    "polled": "running",
    "finished": "running",
    "saved": "done",
    "failed": "failed",
    "stopped": "stopped",
    "uncertain": "undecided",
    "listening": "undecided",
}


Hindrance: TypeAlias = Callable[[], str]
"""Tells what keeps films from being submitted that no time ends; empty for nothing.

In words such as "waiting for a bound", or "not submitted" where this run submits nothing more.
"""


def nothing() -> str:
    """No film waits for anything but its turn."""
    return ""


class Tally:
    """The films of a run.

    Args:
        final_event: the event that ends a film well: "finished", or "saved" where films are saved.
    """

    def __init__(self, final_event: str = "saved") -> None:
        self._final_event = final_event
        self._places: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._since: dict[str, float] = {}  # since when films are running
        self._credits: dict[str, float] = {}
        self._durations: deque[float] = deque(maxlen=LATEST)
        self._latest = 0.0  # when something has happened
        self._slots = 0
        self._hindrance: Hindrance = nothing
        self.films: int = 0

    def expect(
        self,
        films: int,
        slots: int = 0,
        *,
        running: Collection[str] = (),
        hindrance: Hindrance = nothing,
    ) -> None:
        """Set how many films there are, and how many may run at once.

        Args:
            films: how many.
            slots: how many may run at once; 0 where that is not known.
            running: those that were submitted before; nobody knows how long ago.
            hindrance: tells what keeps them from being submitted that no time ends.
        """
        self.films, self._slots, self._hindrance = films, slots, hindrance
        for name in running:
            self._move(name, "running")

    def add(self, event: str, facts: Mapping[str, Any], now: float) -> None:
        """Count an event of a film, which is called *facts["name"]*."""
        name, place = facts["name"], PLACES.get(event)
        if event == "delayed" and facts.get("item_state") == "success":
            place = "not saved"
        if event == self._final_event:
            place = "done"
        if place is None or not name:
            return
        if event == "submitted":  # films that were submitted before have no known age
            self._since.setdefault(name, now)
        elif place != "running" and (began := self._since.pop(name, None)) is not None:
            self._durations += [now - began] if place == "done" else []
        if facts.get("credits") is not None and not facts.get("simulated"):
            self._credits[name] = facts["credits"]
        self._latest = now
        self._move(name, place)

    def _move(self, name: str, place: str) -> None:
        self._counts[self._places.get(name, "")] -= 1
        self._counts[place] += 1
        self._places[name] = place

    def count(self, *places: str) -> int:
        """How many films are in one of *places*."""
        return sum(self._counts[place] for place in places)

    @property
    def ended(self) -> int:
        """Films that this run does nothing more about."""
        return self.count("done", "failed", "stopped", "not saved")

    @property
    def waiting(self) -> int:
        """Films that are not submitted yet."""
        return max(0, self.films - len(self._places))

    def states(self) -> str:
        """How many films are where: `12 done, 8 running, 25 waiting for the rate limit`."""
        numbers = {
            "done": self.count("done"),
            "running": self.count("running"),
            self._unsubmitted(): self.waiting,
            **{place: self.count(place) for place in ("not saved", "failed", "stopped")},
            "undecided": self.count("undecided"),
        }
        parts = [f"{n} {place}" for place, n in numbers.items() if n or place == "done"]
        return ", ".join(parts)

    def _unsubmitted(self) -> str:
        """What keeps films from being submitted, as far as anybody knows."""
        if hindrance := self._hindrance():
            return hindrance
        if not self._slots:
            return "waiting"
        full = 0 < self._slots <= self.count("running")
        return f"waiting for {'a running slot' if full else 'the rate limit'}"

    def cost_and_time(self, now: float) -> str:
        """What is known of credits and of the time left: `3240 credits, about 2 min left`."""
        cost, left = sum(self._credits.values()), self.seconds_left(now)
        parts = [f"{in_credits(cost)} credits"] if self._credits else []
        parts += [f"about {in_words(left)} left"] if left is not None else []
        return ", ".join(parts)

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the last film has ended, if all take as long as the latest; None: unknown.

        Films that wait become films in flight as fast as those end. Where films wait for something
        that no time ends, or none has ended for longer than they usually take, nobody knows.
        """
        running = self.count("running")
        if not self._durations or not (running or self.waiting):
            return None
        usual = _median(self._durations)
        if now - self._latest > max(usual, QUIET) or (self.waiting and self._hindrance()):
            return None
        ages = [now - began for began in self._since.values()]
        ages += [0.0] * (running - len(ages))  # of unknown age: at most as long as a new one
        in_flight = max((usual - age for age in ages), default=0.0)
        left = max(in_flight, 0.0) + self.waiting * usual / max(1, running)
        return left or None  # none waits, and all take longer than usual


def _median(values: Iterable[float]) -> float:
    """As of `statistics`, whose import takes a seventh of `apikley --help`."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2
