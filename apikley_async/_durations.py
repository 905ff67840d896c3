"""How long films take, as successes have shown, and when a film of some age is polled next.

Pure: it never waits and reads no clock. Three parts make a schedule:

1. One early poll, 5 to 10 seconds after the submission. Refusals come early, and a person wants to
   know them first; what follows is blind to them.
2. No poll before the age at which films were ever ready. The logarithms of durations are near
   enough to normal: with mean m and deviation s of n durations that is exp(m - (2 + 6/n) s). It is
   never more than the shortest of the last 32. From 16 durations on it is not much less than the
   shortest of all either: where two kinds of film are mixed, s says little.
3. Then an even pace. From there on a film is nearly as likely to be ready at one moment as at the
   next, so delays that grow would only make polls late. The pace depends on the age alone, never on
   the spread of what is known: the first films that are ready are the quickest, and alike.

Before five successes it says nothing, and the caller polls with exponential backoff. What somebody
expects, or what an earlier run has seen, may be wrong today: until a first success is seen, a film
is polled in the quiet time too, at thrice its age, and so is found by thrice its duration. Only
successes teach, by the times in the service's record: the time of a poll would teach our own pace.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import attrs

__all__ = ["Durations", "Expected", "LearnedDurations", "duration_between"]

Expected: TypeAlias = float | Mapping[int | str, float] | None
"""Seconds that a film is expected to take: one number, or a mapping by `Work.price_key`."""

EARLY = (5.0, 10.0)  # seconds after the submission: the one poll before the quiet time is over
FEWEST = 5  # durations from which a quiet time is concluded
KEPT = 64  # durations; when there are so many, the older half is forgotten
NEWEST = 32  # the shortest of so many caps the quiet time
ENOUGH, SHORTENED = 16, 0.85  # from so many on, the quiet time is this much of the shortest
FRACTION, SHORTEST, LONGEST = 1 / 8, 2.0, 9.0  # of the age, and in seconds: the even pace
CALLED, SLOWEST = 6.0, 300.0  # times that pace where a callback is expected; seconds, at most
LAGGING = 0.02  # of the age: the pace of films that take very long
JITTER = 0.1  # of a delay: jobs that were submitted together do not poll in step
EXPECTED_QUIET = 1 / 3  # of the expected duration, as long as nothing better is known
UNCONFIRMED = 3.0  # times its age at a poll: the next one, until a first success is seen
NOTABLE = 0.9  # a quiet time that has shrunk to this changes what films in flight wait for
CLOCKS = 10.0  # seconds by which a duration may exceed the age at which the film was found
LONGEST_DURATION = 86_400.0  # seconds: links live no longer
KINDS = 64  # of films that are remembered


def duration_between(
    created_at: datetime | None, completed_at: datetime | None, *, age: float
) -> float | None:
    """Seconds that a film took by the service's own times; None where these cannot be.

    Args:
        created_at, completed_at: of the record.
        age: seconds from the submission until the film was found; infinite if not known.
    """
    if created_at is None or completed_at is None or not math.isfinite(age):
        return None
    seconds = (completed_at - created_at).total_seconds()
    return seconds if _is_duration(seconds) and seconds <= age + CLOCKS else None


def _is_duration(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= LONGEST_DURATION  # type: ignore[operator]


def _pace(age: float) -> float:
    """Seconds between polls of a film of that age that may be ready at any moment."""
    return max(min(max(age * FRACTION, SHORTEST), LONGEST), age * LAGGING)


@attrs.define(eq=False)
class Durations:
    """The durations of one kind of film, and when such a film is polled next.

    Attributes:
        expected: seconds that somebody expects; counts until five films have shown better.
        known: durations in seconds, the newest last.
        quiet: age in seconds before which no film is ready; None: not known.
    """

    expected: float | None = None
    known: list[float] = attrs.Factory(list[float])
    quiet: float | None = None
    _announced: float | None = None
    _confirmed: bool = False
    # Of the logarithms of `known`, less the first of them: kept, for this is done for every film.
    _first: float = 0.0
    _sum: float = 0.0
    _squares: float = 0.0

    def learn(self, seconds: float) -> bool:
        """Learn from a success.

        Args:
            seconds: what `duration_between` gave.

        Returns:
            Whether the quiet time is notably shorter now, so that films in flight, which wait for
            the end of the longer one, are to be asked for again.
        """
        before, self._confirmed = self._announced or self._quiet_now(), True
        self._add(seconds)
        if len(self.known) >= KEPT:
            self._keep(self.known[KEPT // 2 :])
        self._conclude()
        quiet = self._quiet_now()
        shrunk = quiet is not None and before is not None and quiet <= before * NOTABLE
        if shrunk or before is None or quiet is None or quiet > before:
            self._announced = quiet
        return shrunk

    def recall(self, known: list[float]) -> None:
        """Begin with durations of an earlier run."""
        self._keep(known[-NEWEST:])
        self._conclude()
        self._announced = self._quiet_now()

    def delay(
        self, age: float, rng: random.Random, *, called: bool = False, polled: bool = True
    ) -> float | None:
        """Seconds until the next poll of a film of that age; None: nothing is known.

        Args:
            age: seconds since it was submitted.
            rng: spreads the polls of films that were submitted together.
            called: a callback is expected. It reports refusals too, so that no early poll is
                needed, and the pace is slower: polls only find what was not called.
            polled: whether this client has polled it before. One that it has resumed after its
                quiet time may be ready already, and is polled at once.
        """
        quiet = self._quiet_now()
        if quiet is None:
            return None
        pace = min(_pace(max(age, quiet)) * (CALLED if called else 1), SLOWEST)
        if age >= quiet:
            return pace * rng.uniform(1 - JITTER, 1 + JITTER) if polled else 0.0
        until = quiet + rng.uniform(0, pace)
        if called:
            until = min(until, age + SLOWEST)
        elif age < EARLY[0]:
            until = min(until, rng.uniform(*EARLY))
        elif not self._confirmed:  # what was expected, or true in an earlier run, may be too long
            until = min(until, UNCONFIRMED * max(age, EARLY[1]))
        return max(until - age, 1.0)

    def _quiet_now(self) -> float | None:
        """The quiet time; a part of the expected duration as long as too little is known."""
        if self.quiet is not None or self.expected is None:
            return self.quiet
        return min([self.expected * EXPECTED_QUIET, *self.known])

    def _keep(self, known: list[float]) -> None:
        """Forget all durations but these."""
        self.known, self._sum, self._squares = [], 0.0, 0.0
        for seconds in known:
            self._add(seconds)

    def _add(self, seconds: float) -> None:
        self.known.append(seconds)
        if len(self.known) == 1:
            self._first = math.log(seconds)
        log = math.log(seconds) - self._first
        self._sum += log
        self._squares += log * log

    def _conclude(self) -> None:
        count, self.quiet = len(self.known), None
        if count < FEWEST:
            return
        mean = self._sum / count
        deviation = math.sqrt(max(0.0, self._squares - self._sum * mean) / (count - 1))
        quiet = math.exp(self._first + mean - (2 + 6 / count) * deviation)
        if count >= ENOUGH:
            quiet = max(quiet, SHORTENED * min(self.known))
        self.quiet = min(quiet, *self.known[-NEWEST:])


class LearnedDurations:
    """What one client knows of how long films take, by kind: the model, and what is paid by."""

    def __init__(self) -> None:
        self._kinds: dict[str, Durations] = {}
        self._expected: Expected = None

    def expect(self, expected: Expected) -> None:
        """Take somebody's word for how long films take, until five of a kind have shown better.

        Args:
            expected: seconds; None changes nothing.

        Raises:
            ValueError: it is no number of seconds.
        """
        for seconds in expected.values() if isinstance(expected, Mapping) else [expected]:
            if seconds is not None and not _is_duration(seconds):
                raise ValueError(f"expected: seconds above 0, a day at most, not {seconds!r:.40}")
        self._expected = expected if expected is not None else self._expected

    def of(self, model: str, price_key: int | str) -> Durations:
        """The durations of one kind of film.

        Args:
            model: of the work.
            price_key: of the work; for a storyboard its duration.
        """
        found = self._kind(f"{model} {price_key}")
        expected = self._expected
        found.expected = expected.get(price_key) if isinstance(expected, Mapping) else expected
        return found

    def _kind(self, name: str) -> Durations:
        found = self._kinds.pop(name, None) or Durations()
        self._kinds[name] = found  # the last that is forgotten
        while len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        return found

    # --- kept with a journal --------------------------------------------------------------------

    def to_json(self) -> str:
        """What successes have taught, to be kept for a later client."""
        return json.dumps({name: kind.known for name, kind in self._kinds.items() if kind.known})

    def recall(self, text: str) -> None:
        """Take what an earlier client has kept, where this one has seen no success of the kind.

        Args:
            text: what `to_json` gave. It may come from elsewhere: what is no duration is left out.
        """
        try:
            kinds = json.loads(text)
        except (ValueError, RecursionError):
            return
        for name, known in kinds.items() if isinstance(kinds, dict) else ():
            stored = known if isinstance(known, list) else []
            durations = [float(each) for each in stored if _is_duration(each)]
            if durations and not self._kind(name).known:
                self._kind(name).recall(durations)
