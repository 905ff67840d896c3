"""Callbacks about attempts that nobody here expects yet: a batch may ask for them later.

Bounded; the oldest are dropped first. Tokens with a valid MAC are kept apart, so that made-up
tokens push out none of them. Pure.
"""

from __future__ import annotations

from apikley_async._tokens import MOST_NAMED_TASKS, TOKEN, TokenMac

__all__ = ["MOST_EARLY", "EarlyCallbacks"]

MOST_EARLY = 100_000  # attempts, of either kind


class EarlyCallbacks:
    """Task ids by the tokens that callbacks have named them for; *token_mac* knows our tokens."""

    def __init__(self, token_mac: TokenMac) -> None:
        self._token_mac = token_mac
        self._ours: dict[str, dict[str, bool]] = {}
        self._others: dict[str, dict[str, bool]] = {}

    def add(self, url_part: str, task_id: str) -> None:
        """Remember a task for the token that *url_part* begins with."""
        held = self._ours if self._token_mac.verifies(url_part) else self._others
        named = held.setdefault(url_part[:TOKEN], {})
        if len(named) < MOST_NAMED_TASKS:
            named[task_id] = False
        if len(held) > MOST_EARLY:
            del held[next(iter(held))]

    def take(self, token: str) -> dict[str, bool]:
        """Return the tasks named for a token, and forget them here."""
        return self._others.pop(token, {}) | self._ours.pop(token, {})
