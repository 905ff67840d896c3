"""Callbacks that a test may call: what a receiver would have let through.

ears = Ears()
async with Client(callback=ears) as client:
    ...
    await ears.call(ears.tokens[0], task_id)
"""

from __future__ import annotations

from collections.abc import Callable

from apikley_async._attempts import Receive

__all__ = ["Ears"]


class Ears:
    """Callbacks that a test may call."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.hears: list[Receive] = []

    def url_for(self, token: str) -> str:
        self.tokens.append(token)
        return f"https://hooks.test/apikley/{token}"

    def listen(self, hear: Receive) -> Callable[[], None]:
        self.hears.append(hear)
        return lambda: self.hears.remove(hear)

    async def call(self, token: str, task_id: str) -> bool:
        return any([await hear(token, task_id) for hear in self.hears])
