"""Which fault strikes next: scripted ones first, random ones otherwise. Pure, but for its RNGs."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random

from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.service.terms import ENDPOINTS, Endpoint

__all__ = ["FaultSchedule", "RandomFaults"]


class RandomFaults:
    """Random faults, the same for the same *seed*.

    Each endpoint has a random generator of its own, so that one more poll does not change what
    happens to the next creation.

    Args:
        seed: of all the generators.
        until: no fault strikes after so many service seconds; None for no end.
        create: which share of these requests meets which fault, as `{Fault.RESET: 0.1}`. Shares
            add up to at most 1. The other endpoints alike.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        until: float | None = None,
        create: Mapping[Fault, float] | None = None,
        record: Mapping[Fault, float] | None = None,
        credits: Mapping[Fault, float] | None = None,  # noqa: A002 - the name of its endpoint
        upload: Mapping[Fault, float] | None = None,
        download_url: Mapping[Fault, float] | None = None,
        file: Mapping[Fault, float] | None = None,
        callback: Mapping[Fault, float] | None = None,
    ) -> None:
        mixes = (create, record, credits, upload, download_url, file, callback)
        self.mixes: dict[Endpoint, dict[Fault, float]] = {
            e: dict(m or {}) for e, m in zip(ENDPOINTS, mixes, strict=True)
        }
        for endpoint, mix in self.mixes.items():
            given: list[object] = [*mix]
            if others := [fault for fault in given if not isinstance(fault, Fault)]:
                raise ValueError(f"{endpoint}: a Fault, such as Fault.RESET, not {others[0]!r}")
            if not (all(share >= 0 for share in mix.values()) and sum(mix.values()) <= 1 + 1e-9):
                raise ValueError(f"{endpoint}: shares of at least 0 that add up to at most 1")
        self.seed = seed
        self.until = until
        self._rngs = {endpoint: Random(f"{seed} {endpoint}") for endpoint in ENDPOINTS}

    @classmethod
    def named(
        cls,
        mixes: Mapping[str, Mapping[str, float]],
        *,
        seed: int = 0,
        until: float | None = None,
    ) -> RandomFaults:
        """The same from the names of faults (`Fault.named`), for files and command lines.

        Raises:
            ValueError: an endpoint or a fault does not exist, or a share is invalid.
        """
        if unknown := set(mixes) - set(ENDPOINTS):
            raise ValueError(f"endpoint: one of {', '.join(ENDPOINTS)}, not {min(unknown)!r}")
        parsed = {
            e: {Fault.named(n): share for n, share in mixes.get(e, {}).items()} for e in ENDPOINTS
        }
        return cls(seed=seed, until=until, **parsed)

    def restarted(self) -> RandomFaults:
        """The same faults from the beginning."""
        return RandomFaults(seed=self.seed, until=self.until, **self.mixes)

    def draw(self, endpoint: Endpoint, now: float = 0.0) -> Fault:
        """The fault of the next request to *endpoint*; `Fault.OK` for none."""
        drawn = self._rngs[endpoint].random()
        if self.until is not None and now >= self.until:
            return Fault.OK
        for fault, share in self.mixes[endpoint].items():
            if drawn < share:
                return fault
            drawn -= share
        return Fault.OK


class FaultSchedule:
    """Decides which fault strikes a request: from a script, or else at random."""

    def __init__(self, random_faults: RandomFaults | None = None) -> None:
        self.random_faults = random_faults
        self._scripts: defaultdict[tuple[str, str | None], deque[Iterator[Fault | str]]]
        self._scripts = defaultdict(deque)

    def script(
        self, endpoint: Endpoint, steps: Iterable[Fault | str], *, task_id: str | None = None
    ) -> None:
        """Add *steps*: the faults of the next requests to *endpoint*, one each.

        Args:
            endpoint: one of `ENDPOINTS`.
            steps: faults; for "record" also words, which are states to report. May be endless.
            task_id: only requests about that task take a step.
        """
        if endpoint not in ENDPOINTS:
            raise ValueError(f"endpoint: one of {', '.join(ENDPOINTS)}, not {endpoint!r}")
        if isinstance(steps, str):
            raise ValueError(f"steps: a list, not one word: [{steps!r}]")
        if isinstance(steps, Sequence):
            steps = [_as_fault(endpoint, step) for step in steps]
        self._scripts[endpoint, task_id].append(iter(steps))

    def clear(self) -> None:
        """Forget all scripts."""
        self._scripts.clear()

    def restart(self) -> None:
        """Forget all scripts and restart the random faults."""
        self.clear()
        self.random_faults = self.random_faults.restarted() if self.random_faults else None

    def next(self, endpoint: Endpoint, task_id: str | None = None, *, now: float = 0.0) -> Fault:
        """The fault of a request that arrives at the service second *now*; `Fault.OK` for none."""
        for key in dict.fromkeys([(endpoint, task_id), (endpoint, None)]):
            scripts = self._scripts.get(key, deque())
            while scripts:
                step = next(scripts[0], None)
                if step is not None:
                    return _as_fault(endpoint, step)
                scripts.popleft()
            self._scripts.pop(key, None)
        return self.random_faults.draw(endpoint, now) if self.random_faults else Fault.OK


def _as_fault(endpoint: Endpoint, step: Fault | str) -> Fault:
    if isinstance(step, Fault):
        return step
    if endpoint != "record":
        raise ValueError(f"{endpoint}: {step!r} is no Fault; words are states, for 'record' only")
    return Fault.in_state(step)
