"""Scenes of polling, played purely: how many polls a film costs, and how late it is found.

A scene is a list of films and what happens meanwhile. `play` polls them as a batch does: 20
submissions in 10 seconds, 100 films in flight at most, each with the delays that a `Job` takes.
It holds no client and no loop, so 400 films take some milliseconds. `tests/core/test_durations.py`
also plays scenes through the client, against the simulator.

The yardstick is the product of polls per film and mean seconds from the end of a film until it is
known. It hardly changes along one policy (twice the polls, half the lag), so it compares policies.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from apikley_async._client import CALLBACK_POLLING
from apikley_async._durations import Durations
from apikley_async._polling import Backoff

__all__ = ["FURTHER", "GOALS", "SCENES", "Film", "Measured", "Scene", "play", "scene"]

COUNT = 400
LIMIT, PER = 20, 10.0  # submissions, and the span in which no more are allowed
DEADLINE = 1800.0  # of a job
AGAIN = 20.0  # of a job: seconds at most until a failure is confirmed

GOALS = {
    "lognormal": 80.0,
    "nearly constant": 36.0,
    "two kinds": 75.0,
    "takes twice as long": 130.0,
    "2 % stuck": 95.0,
}
"""The products to be reached; one early poll of each film comes on top of them."""


@attrs.frozen
class Film:
    """What becomes of one film: its duration, infinite when it is stuck, and whether it fails."""

    seconds: float
    fails: bool = False


@attrs.frozen
class Scene:
    """Films in the order of their submission, and a time in which every poll fails.

    Attributes:
        running: films in flight at most.
        outage: begin and end, in seconds; empty for none.
        called: callbacks are expected, and none comes.
    """

    films: list[Film]
    running: int = 100
    outage: tuple[float, float] = (0.0, 0.0)
    called: bool = False


@attrs.frozen
class Measured:
    """What polling has cost: polls per film, and mean seconds until an end was known."""

    polls: float
    lag: float

    @property
    def product(self) -> float:
        return self.polls * self.lag


Draw: TypeAlias = Callable[[random.Random], Scene]


def lognormal(rng: random.Random, median: float, sigma: float) -> Film:
    return Film(median * math.exp(rng.gauss(0, sigma)))


def _changing(median: Callable[[float], float], sigma: float = 0.4) -> Draw:
    """Films whose median is a function of how far the scene has come, from 0 to 1."""
    return lambda rng: Scene([lognormal(rng, median(n / COUNT), sigma) for n in range(COUNT)])


def _stuck(rng: random.Random) -> Scene:
    films = [lognormal(rng, 180, 0.4) for _ in range(COUNT)]
    return Scene([Film(math.inf) if rng.random() < 0.02 else film for film in films])


def _refused(rng: random.Random) -> Scene:
    films = [lognormal(rng, 180, 0.4) for _ in range(COUNT)]
    return Scene([Film(4.0, fails=True) if rng.random() < 0.3 else film for film in films])


def _stalled(rng: random.Random) -> Scene:
    """The service answers, and makes nothing for ten minutes."""
    films = [lognormal(rng, 180, 0.4) for _ in range(COUNT)]
    for n in range(120, 220):
        films[n] = Film(films[n].seconds + rng.uniform(0, 600))
    return Scene(films)


SCENES: dict[str, Draw] = {
    "lognormal": _changing(lambda _: 180),
    "nearly constant": _changing(lambda _: 180, 0.05),
    "two kinds": lambda rng: Scene(
        [lognormal(rng, rng.choice((60, 240)), 0.1) for _ in range(COUNT)]
    ),
    "takes twice as long": _changing(lambda share: 180 if share < 0.5 else 360),
    "2 % stuck": _stuck,
}
FURTHER: dict[str, Draw] = {
    "five times faster": _changing(lambda share: 180 if share < 0.5 else 36),
    "seven times faster": _changing(lambda share: 180 if share < 0.5 else 180 / 7),
    "30 % refused after 4 s": _refused,
    "drift to longer": _changing(lambda share: 90 * 4**share, 0.2),
    "drift to shorter": _changing(lambda share: 360 / 4**share, 0.2),
    "no answer for ten minutes": lambda rng: Scene(
        [lognormal(rng, 180, 0.4) for _ in range(COUNT)], outage=(400, 1000)
    ),
    "nothing made for ten minutes": _stalled,
    "callbacks lost": lambda rng: attrs.evolve(SCENES["lognormal"](rng), called=True),
    "callbacks lost, nearly constant": lambda rng: attrs.evolve(
        SCENES["nearly constant"](rng), called=True
    ),
    "callbacks lost, two kinds": lambda rng: attrs.evolve(SCENES["two kinds"](rng), called=True),
    "two films only": lambda rng: Scene([lognormal(rng, 180, 0.4) for _ in range(2)]),
    "twenty in flight": lambda rng: Scene(
        [lognormal(rng, 180, 0.4) for _ in range(COUNT)], running=20
    ),
    "all at once": lambda rng: Scene(
        [lognormal(rng, 180, 0.4) for _ in range(COUNT)], running=COUNT
    ),
    "quick films": _changing(lambda _: 8, 0.3),
    "long films": _changing(lambda _: 900, 0.3),
}


def scene(name: str, seed: int) -> Scene:
    """One of the scenes, drawn by a seed."""
    return {**SCENES, **FURTHER}[name](random.Random(f"{name} {seed}"))


def play(
    scene: Scene,
    *,
    seed: int = 0,
    durations: Durations | None = None,
    polling: Backoff | None = None,
) -> Measured:
    """Poll the films of a scene to their ends.

    Args:
        scene: the films.
        seed: of the jitter.
        durations: what is known at the beginning, and learned on the way; None: each film is
            polled with exponential backoff.
        polling: the backoff, where it is not the client's.
    """
    return _Play(scene, random.Random(seed), durations, polling).run()


@attrs.define(eq=False)
class _Flight:
    """A film in flight, and when it is polled next."""

    film: Film
    submitted: float
    delays: Iterator[float]
    at: float = 0.0
    failing: bool = False

    @property
    def end(self) -> float:
        return self.submitted + self.film.seconds


class _Play:
    def __init__(
        self,
        scene: Scene,
        rng: random.Random,
        durations: Durations | None,
        polling: Backoff | None,
    ) -> None:
        self._scene = scene
        self._rng = rng
        self._durations = durations
        called = durations is not None and scene.called
        self._backoff = polling or (CALLBACK_POLLING if called else Backoff())
        self._waiting = list(reversed(scene.films))
        self._flights: dict[_Flight, None] = {}
        self._sent: list[float] = []
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._polls = 0
        self._lags: list[float] = []

    def run(self) -> Measured:
        self._submit(0.0)
        while self._flights or self._waiting:
            at, _, happens = heapq.heappop(self._events)
            happens(at)
        return Measured(self._polls / len(self._scene.films), statistics.fmean(self._lags))

    def _later(self, at: float, happens: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), happens))

    def _submit(self, now: float) -> None:
        """Submit what the rate and the number in flight allow."""
        while self._waiting and len(self._flights) < self._scene.running:
            if len(self._sent) >= LIMIT and now < (free := self._sent[-LIMIT] + PER):
                self._later(free, self._submit)
                return
            self._sent.append(now)
            flight = _Flight(self._waiting.pop(), now, self._backoff.delays(self._rng))
            self._flights[flight] = None
            self._plan(flight, now + self._delay(flight, 0.0))
            self._later(now + DEADLINE, functools.partial(self._give_up, flight))

    def _plan(self, flight: _Flight, at: float) -> None:
        flight.at = at
        self._later(at, functools.partial(self._poll, flight))

    def _delay(self, flight: _Flight, age: float) -> float:
        return self._learned(age) or next(flight.delays)

    def _learned(self, age: float) -> float | None:
        if self._durations is None:
            return None
        return self._durations.delay(age, self._rng, called=self._scene.called)

    def _poll(self, flight: _Flight, now: float) -> None:
        if flight not in self._flights or flight.at != now:
            return  # found meanwhile, or planned anew
        self._polls += 1
        begin, end = self._scene.outage
        if begin <= now < end:
            self._plan(flight, now + next(flight.delays))
        elif now < flight.end:
            self._plan(flight, now + self._delay(flight, now - flight.submitted))
        elif flight.film.fails and not flight.failing:
            flight.failing = True
            self._plan(flight, now + min(AGAIN, next(flight.delays)))
        else:
            self._lags.append(now - flight.end)
            self._end(flight, now)

    def _give_up(self, flight: _Flight, now: float) -> None:
        """Poll once more at the deadline."""
        if flight in self._flights:
            self._polls += 1
            self._end(flight, now)

    def _end(self, flight: _Flight, now: float) -> None:
        del self._flights[flight]
        film = flight.film
        taught = self._durations is not None and not film.fails and math.isfinite(film.seconds)
        if taught and self._durations is not None and self._durations.learn(film.seconds):
            for other in self._flights:
                sooner = now + (self._learned(now - other.submitted) or math.inf)
                if sooner < other.at:
                    self._plan(other, sooner)
        self._submit(now)
