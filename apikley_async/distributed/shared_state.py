"""What processes with one key share: one rate, one pause, one number of running films. Pure.

It is the state of a `RateLimiter` (`Rate`), as JSON, and who uses what of it. Every instant is the
database's. Each process changes a copy and stores it where nobody else has stored another one
meanwhile, so that no process holds a lock: one that is stopped in the middle stops nobody.

A process that uses something says again and again that it is alive. One that has not done so for
its lease is believed to be dead: what it used comes back then, a permit another span later.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Any

import attrs

from apikley_async._gate import Gate
from apikley_async._rate import OTHER, UNCERTAIN_FILM_DELAY, End, Ending, Rate, SlotTimes
from apikley_async.distributed.turns import KEPT, Turns

__all__ = ["Ended", "Granted", "Holder", "Outcome", "SharedState", "Work"]

RENEWALS = 4  # of a lease, while it lasts
FORGOTTEN = 600.0  # seconds after its lease until a process is forgotten


@attrs.frozen
class Holder:
    """A process that shares the state.

    Attributes:
        limit, per, max_running: what its limiter was made with; of different ones the lower holds.
        lapses_at: when it is believed to be dead.
        batch: the number of the last `Work` that was done for it.
    """

    limit: int
    per: float
    max_running: int | None = None
    lapses_at: float = 0.0
    batch: int = 0


@attrs.frozen
class Granted:
    """A permit, or a running slot.

    Attributes:
        at: when it was granted, by the database's clock.
        film: whether it is a running slot.
        filled: whether it is a permit that took the last slot of a learned width.
    """

    at: float
    film: bool = False
    filled: bool = False


@attrs.frozen
class Ended:
    """The end of a use.

    Attributes:
        use: which.
        ending: how it has ended.
        ago: how many seconds ago, or a little less.
        granted: what was granted.
    """

    use: str
    ending: Ending
    ago: float
    granted: Granted


@attrs.frozen(kw_only=True)
class Work:
    """What a process wants done in one step.

    Attributes:
        holder: the process; what it uses begins with its name and a hyphen.
        settings: what its limiter was made with.
        lease: how many seconds it is believed to be alive from now on.
        batch: its number; done once.
        ends: uses that have ended.
        permits: uses that wait to be sent, in order.
        films: uses that wait for a running slot, in order.
        active: whether it uses something.
        leaves: whether it has come to its end; what it was made with binds nobody any more.
    """

    holder: str
    settings: Holder
    lease: float
    batch: int
    ends: tuple[Ended, ...] = ()
    permits: tuple[str, ...] = ()
    films: tuple[str, ...] = ()
    active: bool = False
    leaves: bool = False


@attrs.frozen(kw_only=True)
class Outcome:
    """What has become of some `Work`.

    Attributes:
        granted: what it got.
        delay: seconds until it is worth while to ask again for what was not granted.
        changed: whether the state has to be stored.
        news: whether others who wait may go on sooner than they know.
        takes: how many attempts in a span the service takes, as far as is known.
        running_free_in: seconds until a running slot is free, where all are kept for films that
            may be running, and none is in use; else 0.
    """

    granted: dict[str, Granted]
    delay: float
    changed: bool
    news: bool
    takes: int
    running_free_in: float


class SharedState:
    """The state, read from *stored* at *now*; `do` changes it, `to_dict` is what to store.

    Args:
        stored: what `to_dict` gave; empty: nothing is known yet.
        settings: of the process that reads it, where nothing is known yet.
        rng: for pauses and probes.
        now: the database's time. Where its clock was set back, all spans go on from there.
    """

    def __init__(
        self, stored: dict[str, Any], settings: Holder, *, rng: random.Random, now: float
    ) -> None:
        shift = min(0.0, now - stored.get("at", now))
        self._was_set_back = shift < 0
        self._rng = rng
        self._now = now
        self.holders: dict[str, Holder] = {
            name: Holder(**values | {"lapses_at": values["lapses_at"] + shift})
            for name, values in stored.get("holders", {}).items()
        }
        self.permits: dict[str, None] = dict.fromkeys(stored.get("permits", ()))
        self.running: dict[str, None] = dict.fromkeys(stored.get("running", ()))
        self._turns: tuple[Turns, Turns] = (  # for permits, and for running slots
            Turns(stored.get("permit_turns", {}), shift),
            Turns(stored.get("film_turns", {}), shift),
        )
        limit, per = stored.get("limit", settings.limit), stored.get("per", settings.per)
        self.rate: Rate = Rate(limit, per, rng)
        if "gate" in stored:
            self._read_rate(stored, shift)
        self.films: SlotTimes = SlotTimes(1, delay=0.0, uncertain_delay=UNCERTAIN_FILM_DELAY)
        self.films.free_at = instants(stored.get("films", ()), shift)
        self.films.count = self.films.width = len(self.running) + len(self.films.free_at)

    def _read_rate(self, stored: dict[str, Any], shift: float) -> None:
        rate, slots = self.rate, self.rate.slots
        gate = stored["gate"]
        at_once = math.inf if gate["at_once"] is None else gate["at_once"]
        opens_at = gate["opens_at"] + shift
        rate.gate = Gate(**gate | {"at_once": at_once, "opens_at": opens_at})
        rate.passed = stored["passed"]
        rate.recent = deque((at + shift for at in stored["recent"]), maxlen=rate.limit)
        slots.free_at = instants(stored["free_at"], shift)
        slots.refused = instants(stored["refused"], shift)
        slots.count = len(slots.free_at) + len(slots.refused) + len(self.permits)
        slots.width = rate.gate.width

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without infinities."""
        rate, gate = self.rate, self.rate.gate
        at_once = None if gate.at_once == math.inf else gate.at_once
        opens_at = max(gate.opens_at, 0.0)
        return {
            "at": self._now,
            "limit": rate.limit,
            "per": rate.per,
            "gate": attrs.asdict(gate) | {"at_once": at_once, "opens_at": opens_at},
            "passed": rate.passed,
            "recent": [*rate.recent],
            "free_at": [max(at, 0.0) for at in rate.slots.free_at],
            "refused": rate.slots.refused,
            "permits": [*self.permits],
            "films": [max(at, 0.0) for at in self.films.free_at],
            "running": [*self.running],
            "permit_turns": self._turns[0].to_dict(self.holders),
            "film_turns": self._turns[1].to_dict(self.holders),
            "holders": {name: attrs.asdict(holder) for name, holder in self.holders.items()},
        }

    # --- a step -----------------------------------------------------------------------------------

    def do(self, work: Work) -> Outcome:
        """Do *work* once; of what was done before, only the lost answer is given again."""
        before = self._delays()
        known = self.holders.get(work.holder)
        done = known is not None and known.batch >= work.batch
        changed = self._was_set_back | self._renew(work)
        changed |= self._take_back_from_the_dead()
        self._fit()
        for ended in () if done else work.ends:
            self._end(ended)
            changed = True
        granted = {
            use: Granted(self._now, film=use in self.running)
            for use in (*work.permits, *work.films)
            if use in self.permits or use in self.running
        }
        delays = list[float]()
        wanted = zip(self._turns, (work.permits, work.films), (False, True), strict=True)
        for turns, uses, film in wanted:
            waiting = [use for use in uses if use not in granted]
            if not waiting:
                continue
            changed |= turns.wait(work.holder, self._now)
            got, delay = self._grant(work.holder, waiting, turns, film=film)
            granted |= got
            if len(got) < len(waiting):
                delays.append(delay)
            else:
                turns.leave(work.holder)
        after = self._delays()
        if work.leaves:
            changed = self.holders.pop(work.holder, None) is not None
        return Outcome(
            granted=granted,
            delay=max(0.0, min(*delays, self._next_lapse(), math.inf)),
            changed=changed or bool(granted),
            news=any(now < then for now, then in zip(after, before, strict=True))
            or self._leaves_some(work.holder, granted.values(), after),
            takes=self.rate.gate.width,
            running_free_in=0.0 if self.running or after[1] == math.inf else after[1],
        )

    def _delays(self) -> tuple[float, float]:
        now = self._now
        return max(0.0, self.rate.delay(now)), max(0.0, self.films.free_in(now))

    def _next_lapse(self) -> float:
        """Seconds until the first of those who use something is believed to be dead."""
        users = {holder_of(use) for use in (*self.permits, *self.running)}
        lapses = (self.holders[name].lapses_at for name in users if name in self.holders)
        return min(lapses, default=math.inf) - self._now

    def _renew(self, work: Work) -> bool:
        """Say that the process is alive; return whether that has to be stored on its own."""
        known = self.holders.get(work.holder)
        wants = work.active or bool(work.permits or work.films)
        lapses_at = self._now + work.lease
        due = known is None or known.lapses_at < lapses_at - work.lease / RENEWALS / 2
        self.holders[work.holder] = attrs.evolve(
            work.settings, lapses_at=lapses_at, batch=work.batch
        )
        return wants and due

    def _take_back_from_the_dead(self) -> bool:
        """Free what those used whose lease is over; its use is taken to end with the lease."""
        now, changed = self._now, False
        for uses, slots in ((self.permits, self.rate.slots), (self.running, self.films)):
            for use in [*uses]:
                holder = self.holders.get(holder_of(use))
                if holder is None or holder.lapses_at <= now:
                    del uses[use]
                    slots.give_back(OTHER, now if holder is None else holder.lapses_at)
                    changed = True
        for name in [*self.holders]:
            if self.holders[name].lapses_at < now - FORGOTTEN:
                del self.holders[name]
        return changed

    def _fit(self) -> None:
        """Follow what the living ask for: of different limits the lower, of spans the longer."""
        living = [holder for holder in self.holders.values() if holder.lapses_at > self._now]
        limit, per = min(each.limit for each in living), max(each.per for each in living)
        if (limit, per) != (self.rate.limit, self.rate.per):
            self.rate = fitted(self.rate, Rate(limit, per, self._rng))
        fit_count(self.rate.slots, limit)
        bounds = [each.max_running for each in living if each.max_running is not None]
        fit_count(self.films, min(bounds, default=self.films.count))
        self.films.width = self.films.count

    def _end(self, ended: Ended) -> None:
        ended_at = self._now - ended.ago
        if ended.use in self.running:
            del self.running[ended.use]
            self.films.give_back(ended.ending, ended_at)
        elif ended.use in self.permits:
            granted = ended.granted
            self.rate.learn(ended.ending, granted.at, granted.filled, self._now)
            del self.permits[ended.use]
            self.rate.slots.give_back(ended.ending, ended_at)
        elif not ended.granted.film and ended.ending.end not in (End.UNSENT, End.REFUSED):
            # Taken back, since nothing was heard of its process; and it was sent all the same.
            uncertain = ended.ending.end is End.UNCERTAIN
            self.rate.remember([(ended.ago, uncertain)], self._now)

    def _grant(
        self, holder: str, uses: Iterable[str], turns: Turns, *, film: bool
    ) -> tuple[dict[str, Granted], float]:
        """Grant what is free, unless it is the turn of others; and seconds until there is more."""
        now, granted = self._now, dict[str, Granted]()
        slots = self.films if film else self.rate.slots
        for use in uses:
            delay = self._delays()[film]
            if delay > 0:
                return granted, delay
            free_for = -slots.free_in(now)
            if not film:
                free_for = min(free_for, now - self.rate.gate.opens_at)
            if free_for < KEPT and turns.is_ahead(holder, now, slots.width):
                return granted, KEPT - free_for
            slots.take()
            turns.take(holder)
            (self.running if film else self.permits)[use] = None
            filled = not film and self.rate.fills(now)
            granted[use] = Granted(now, film=film, filled=filled)
        return granted, 0.0

    def _leaves_some(
        self, holder: str, granted: Iterable[Granted], delays: tuple[float, float]
    ) -> bool:
        """Whether others wait for what is free still, since it was not their turn before."""
        kinds = {each.film for each in granted}
        return any(
            delays[film] == 0 and self._turns[film].others(holder, self._now) for film in kinds
        )


def holder_of(use: str) -> str:
    """The process that a use belongs to."""
    return use.partition("-")[0]


def instants(stored: Iterable[float], shift: float) -> list[float]:
    """A heap of instants."""
    heap = [at + shift for at in stored]
    heapify(heap)
    return heap


def fit_count(slots: SlotTimes, count: int) -> None:
    """Have more slots, or less: of those that are not in use the first to be free go."""
    while slots.count > count and slots.free_at:
        heappop(slots.free_at)
        slots.count -= 1
    while slots.count < count:
        heappush(slots.free_at, -math.inf)
        slots.count += 1


def fitted(rate: Rate, into: Rate) -> Rate:
    """Go on with another limit or span; what was learned holds where it is less."""
    gate, limit = rate.gate, into.limit
    learned = gate.width < rate.limit
    into.gate = attrs.evolve(
        gate,
        limit=limit,
        per=into.per,
        takes=min(gate.takes, limit) if learned else 0,
        former=min(gate.former, limit) if learned else limit,
    )
    into.passed = rate.passed
    into.recent.extend(rate.recent)
    into.slots.free_at, into.slots.refused = rate.slots.free_at, rate.slots.refused
    into.slots.count, into.slots.width = rate.slots.count, into.gate.width
    return into
