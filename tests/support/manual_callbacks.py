"""Callbacks that a test delivers itself, as a receiver would after verifying them.

callbacks = ManualCallbacks()
async with Client(callback=callbacks) as client:
    ...
    await callbacks.deliver(callbacks.tokens[0], task_id)
"""

from __future__ import annotations

from collections.abc import Callable

from apikley_async._callbacks import Listener

__all__ = ["ManualCallbacks"]


class ManualCallbacks:
    """Gives callback URLs, notes their tokens, and tells listeners when a test says so."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.listeners: list[Listener] = []

    def url_for(self, token: str) -> str:
        self.tokens.append(token)
        return f"https://hooks.test/apikley/{token}"

    def listen(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    async def deliver(self, token: str, task_id: str) -> bool:
        """Tell every listener; returns whether one of them knows the token."""
        return any([await listener(token, task_id) for listener in self.listeners])
