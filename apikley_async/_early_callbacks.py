"""What callbacks have said of attempts that nobody here expects yet: a batch may ask for it later.

Bounded, the oldest go first. Tokens with a mark of ours are kept apart: whoever makes up tokens
pushes out none of them. Pure.
"""

from __future__ import annotations

from apikley_async._tokens import TOKEN, Seal

__all__ = ["MOST_NAMES", "MOST_PARKED", "Parked"]

MOST_NAMES = 8  # of tasks for one attempt: one is its own, the rest are mistakes or worse
MOST_PARKED = 100_000  # attempts, of either kind


class Parked:
    """Tasks by the tokens that callbacks have named them for; *seal* knows which are ours."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._ours: dict[str, dict[str, bool]] = {}
        self._others: dict[str, dict[str, bool]] = {}

    def park(self, text: str, task_id: str) -> None:
        """Remember a task for the token that *text* begins with."""
        held = self._ours if self._seal.fits(text) else self._others
        named = held.setdefault(text[:TOKEN], {})
        if len(named) < MOST_NAMES:
            named[task_id] = False
        if len(held) > MOST_PARKED:
            del held[next(iter(held))]

    def take(self, token: str) -> dict[str, bool]:
        """What was named for a token; it is forgotten here."""
        return self._others.pop(token, {}) | self._ours.pop(token, {})
