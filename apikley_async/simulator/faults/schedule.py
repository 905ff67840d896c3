"""Which fault is next: by script first, by chance otherwise. Pure, but for its dice."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random

from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.service.terms import ENDPOINTS, Endpoint

__all__ = ["Director", "Faults"]


class Faults:
    """Faults by chance, the same for the same *seed*: for each endpoint a share for each fault.

    Each endpoint has dice of its own, so that one more look does not change what happens to the
    next creation. Nothing goes wrong any more after *until* world seconds.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        until: float | None = None,
        create: Mapping[Fault, float] | None = None,
        record: Mapping[Fault, float] | None = None,
        credits: Mapping[Fault, float] | None = None,  # noqa: A002 - called like its endpoint
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
            if strangers := [fault for fault in given if not isinstance(fault, Fault)]:
                raise ValueError(f"{endpoint}: a Fault, such as Fault.RESET, not {strangers[0]!r}")
            if not (all(share >= 0 for share in mix.values()) and sum(mix.values()) <= 1 + 1e-9):
                raise ValueError(f"{endpoint}: shares of at least 0 that add up to at most 1")
        self.seed = seed
        self.until = until
        self._dice = {endpoint: Random(f"{seed} {endpoint}") for endpoint in ENDPOINTS}

    @classmethod
    def named(
        cls,
        mixes: Mapping[str, Mapping[str, float]],
        *,
        seed: int = 0,
        until: float | None = None,
    ) -> Faults:
        """The same from names (`Fault.named`), for files and command lines.

        Raises:
            ValueError: there is no such endpoint or fault, or a share is none.
        """
        if strangers := set(mixes) - set(ENDPOINTS):
            raise ValueError(f"endpoint: one of {', '.join(ENDPOINTS)}, not {min(strangers)!r}")
        read = {
            e: {Fault.named(n): share for n, share in mixes.get(e, {}).items()} for e in ENDPOINTS
        }
        return cls(seed=seed, until=until, **read)

    def again(self) -> Faults:
        """The same, from the beginning."""
        return Faults(seed=self.seed, until=self.until, **self.mixes)

    def draw(self, endpoint: Endpoint, now: float = 0.0) -> Fault:
        """What happens to the next request to *endpoint*."""
        drawn = self._dice[endpoint].random()
        if self.until is not None and now >= self.until:
            return Fault.OK
        for fault, share in self.mixes[endpoint].items():
            if drawn < share:
                return fault
            drawn -= share
        return Fault.OK


class Director:
    """Says which fault is next for a request."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults
        self._scripts: defaultdict[tuple[str, str | None], deque[Iterator[Fault | str]]]
        self._scripts = defaultdict(deque)

    def script(
        self, endpoint: Endpoint, steps: Iterable[Fault | str], *, task_id: str | None = None
    ) -> None:
        """Add *steps* to what the next requests to *endpoint* meet, or to those about a task.

        A word among the steps of "record" is a state. Endless iterables are welcome.
        """
        if endpoint not in ENDPOINTS:
            raise ValueError(f"endpoint: one of {', '.join(ENDPOINTS)}, not {endpoint!r}")
        if isinstance(steps, str):
            raise ValueError(f"steps: a list, not one word: [{steps!r}]")
        if isinstance(steps, Sequence):
            steps = [_fault(endpoint, step) for step in steps]
        self._scripts[endpoint, task_id].append(iter(steps))

    def clear(self) -> None:
        """Forget all scripts."""
        self._scripts.clear()

    def restart(self) -> None:
        """Forget all scripts, and let chance begin anew."""
        self.clear()
        self.faults = self.faults.again() if self.faults else None

    def next(self, endpoint: Endpoint, task_id: str | None = None, *, now: float = 0.0) -> Fault:
        """The fault for a request that arrives now: from a script, or else by chance."""
        for key in dict.fromkeys([(endpoint, task_id), (endpoint, None)]):
            scripts = self._scripts.get(key, deque())
            while scripts:
                step = next(scripts[0], None)
                if step is not None:
                    return _fault(endpoint, step)
                scripts.popleft()
            self._scripts.pop(key, None)
        return self.faults.draw(endpoint, now) if self.faults else Fault.OK


def _fault(endpoint: Endpoint, step: Fault | str) -> Fault:
    if isinstance(step, Fault):
        return step
    if endpoint != "record":
        raise ValueError(f"{endpoint}: {step!r} is no Fault; words are states, for 'record' only")
    return Fault.in_state(step)
