"""Those who want to know: each hears every callback, and says whether it was his."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from apikley_async import Clock
from apikley_async.errors import JournalError
from apikley_async.webhook.inbox import PAGE, Inbox, Place
from apikley_async.webhook.request_limits import Limits
from apikley_async.webhook.verify import Heard

__all__ = ["Hear", "Listeners"]

logger = logging.getLogger("apikley_async")

CATCHING_UP = 30.0  # seconds for what lay in an inbox

Hear: TypeAlias = Callable[[str, str], Awaitable[bool]]
"""Is told a token and a task's id; says whether the token is known."""


class Listeners:
    """Any number of listeners. With an *inbox* they hear what is in it, and what is put there."""

    def __init__(self, inbox: Inbox | None, *, clock: Clock, limits: Limits) -> None:
        self._inbox = inbox
        self._clock = clock
        self._limits = limits
        self._all: list[_Listener] = []

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Let *hear* be told of every callback; gives what ends that."""
        listener = _Listener(hear)
        if self._inbox is not None:
            listener.follow(self._feed(self._inbox, listener))
        self._all.append(listener)

        def end() -> None:
            if listener not in self._all:
                return
            self._all.remove(listener)
            listener.end()
            if self._inbox is not None and not self._all:
                self._inbox.close()

        return end

    async def answer(self, heard: Heard) -> int:
        """Ask everybody at once: 200 when somebody knows the token, else 404; 503 if one failed."""
        askings = [listener.ask(heard) for listener in self._all]
        try:
            if askings:
                await asyncio.wait(askings)
        finally:
            for asking in askings:
                asking.cancel()
        answers = [None if asking.cancelled() else asking.result() for asking in askings]
        return 200 if True in answers else 503 if None in answers else 404

    async def catch_up(self) -> None:
        """Wait until everybody has heard what lay in the inbox; seconds at most."""
        if self._inbox is not None:
            for listener in [*self._all]:
                await self._clock.sleep(CATCHING_UP, listener.caught_up)

    async def _feed(self, inbox: Inbox, listener: _Listener) -> None:
        """Pass on what an inbox holds: all of it, then what is new."""
        place: Place | None = None
        trouble = ""
        while True:
            kept: list[Heard] = []
            try:
                kept, place = await inbox.after(place)
                trouble = ""
            except JournalError as error:
                if error.message != trouble:
                    logger.error("callbacks are not heard: %s", error.message)
                trouble = error.message
            for heard in kept:
                await asyncio.wait({listener.ask(heard)}, timeout=self._limits.hear)
            if len(kept) < PAGE:
                listener.caught_up.set()
                await self._clock.sleep(self._limits.poll)

    def __len__(self) -> int:
        return len(self._all)


class _Listener:
    """Somebody who listens, and the tasks in which he does; they end with him."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.caught_up = asyncio.Event()

    def ask(self, heard: Heard) -> asyncio.Task[bool | None]:
        task = asyncio.get_running_loop().create_task(self._ask(heard), name="a listener")
        self._own(task)
        return task

    def follow(self, feed: Coroutine[Any, Any, None]) -> None:
        """Hear what *feed* brings, until the end."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            feed.close()
            raise
        self._own(loop.create_task(feed, name="an inbox"))

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def end(self) -> None:
        for task in [*self._tasks]:
            with contextlib.suppress(RuntimeError):  # its loop is closed, and it with that
                task.cancel()

    async def _ask(self, heard: Heard) -> bool | None:
        """What the listener says; None if it has failed, so that the callback is to come again."""
        try:
            return bool(await self._hear(heard.token, heard.task_id))
        except Exception as error:  # noqa: BLE001 - one who fails must not keep others from hearing
            logger.error("a listener for callbacks failed: %s", type(error).__name__)
            return None
