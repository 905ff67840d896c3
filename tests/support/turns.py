"""Runs a scenario again and again, and strikes at each turn of the event loop in turn.

For promises that a cancel at any moment must not break:

    def test_...() -> None:
        async def scenario(loop: StrikingLoop) -> None:
            task = asyncio.create_task(...)
            loop.strike = task.cancel
            ...

        at_every_turn(scenario)

The scenario sets `loop.strike` to a function. It is called at the next turn of the loop in the
first run, at the turn after that in the second, and so on, until a run ends before its strike.
Each run has a loop of its own with virtual time. A scenario that is dear may be struck at every
third turn only, except in the long run: `at_every_turn(scenario, step=volume(3, 1))`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from apikley_async.virtual import VirtualLoop

__all__ = ["StrikingLoop", "at_every_turn"]

MAX_TURNS = 2000


class StrikingLoop(VirtualLoop):
    """A virtual loop that calls `strike` once, at the turn number *at* after it was set."""

    def __init__(self, at: int = 0) -> None:
        self.strike: Callable[[], Any] | None = None
        self.turns = 0  # since `strike` was set
        self._at = at
        super().__init__()

    @property
    def struck(self) -> bool:
        return self.turns >= self._at

    def _run_once(self) -> None:
        if self.strike is not None:
            self.turns += 1
            if self.turns == self._at:
                self.strike()
        super()._run_once()  # type: ignore[misc]


def at_every_turn(
    scenario: Callable[[StrikingLoop], Coroutine[Any, Any, None]], *, step: int = 1
) -> None:
    """Run *scenario* again and again, with the strike *step* turns later each time."""
    for at in itertools.count(1, step):
        assert at < MAX_TURNS, "the scenario takes more turns than a test should"
        loop = StrikingLoop(at)
        with asyncio.Runner(loop_factory=lambda made=loop: made) as runner:  # type: ignore[misc]
            runner.run(scenario(loop))
        if not loop.struck:
            return
