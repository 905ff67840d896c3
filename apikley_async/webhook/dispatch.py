"""Tells every listener of every callback, and asks each whether the token is one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from apikley_async import Clock
from apikley_async.errors import JournalError
from apikley_async.webhook.inbox import PAGE, CallbackInbox, Position
from apikley_async.webhook.limits import Limits
from apikley_async.webhook.verify import Notification

__all__ = ["Dispatcher", "Listener"]

logger: logging.Logger = logging.getLogger("apikley_async")

CATCH_UP_TIMEOUT = 30.0  # seconds for each listener to get what was in an inbox

Listener: TypeAlias = Callable[[str, str], Awaitable[bool]]
"""Is called with a token and a task id; returns whether it knows the token."""


class Dispatcher:
    """Holds any number of listeners and tells them of callbacks.

    Args:
        inbox: callbacks that another process has received; each listener gets all of them.
        clock: waits between two reads of the inbox.
        limits: how long a listener may take for a callback from the inbox, and how often the
            inbox is read.
    """

    def __init__(self, inbox: CallbackInbox | None, *, clock: Clock, limits: Limits) -> None:
        self._inbox = inbox
        self._clock = clock
        self._limits = limits
        self._subscriptions: list[_Subscription] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell *listener* of every callback from now on; returns a function that ends this."""
        subscription = _Subscription(listener)
        if self._inbox is not None:
            subscription.run(self._follow(self._inbox, subscription))
        self._subscriptions.append(subscription)

        def end() -> None:
            if subscription not in self._subscriptions:
                return
            self._subscriptions.remove(subscription)
            subscription.cancel()
            if self._inbox is not None and not self._subscriptions:
                self._inbox.close()

        return end

    async def dispatch(self, notification: Notification) -> int:
        """Ask all listeners at once.

        Returns:
            200 if one of them knows the token. Else 503 if one of them failed, since it may
            know the token when the callback comes again. Else 404.
        """
        calls = [subscription.call(notification) for subscription in self._subscriptions]
        try:
            if calls:
                await asyncio.wait(calls)
        finally:  # the application that the callback came in by is closed
            for call in calls:
                call.cancel()
        answers = [None if call.cancelled() else call.result() for call in calls]
        return 200 if True in answers else 503 if None in answers else 404

    async def catch_up(self) -> None:
        """Wait until every listener has got what was in the inbox, or the time is up."""
        if self._inbox is not None:
            for subscription in [*self._subscriptions]:
                await self._clock.sleep(CATCH_UP_TIMEOUT, subscription.caught_up)

    async def _follow(self, inbox: CallbackInbox, subscription: _Subscription) -> None:
        """Read an inbox for one listener: everything in it, then what is new."""
        position: Position | None = None
        logged = ""
        while True:
            notifications: list[Notification] = []
            try:
                notifications, position = await inbox.read_after(position)
                logged = ""
            except JournalError as error:
                if error.message != logged:  # an inbox stays broken for long: log it once
                    logger.error("the inbox of callbacks cannot be read: %s", error.message)
                logged = error.message
            # One after the other, in the order of the inbox. A listener that hangs goes on in its
            # task, and the next callback is not kept waiting.
            for notification in notifications:
                timeout = self._limits.dispatch
                await asyncio.wait({subscription.call(notification)}, timeout=timeout)
            # Also after an error: whoever waits to catch up must not wait for a broken inbox.
            if len(notifications) < PAGE:
                subscription.caught_up.set()
                await inbox.wait(position, self._limits.inbox_interval, self._clock)

    def __len__(self) -> int:
        return len(self._subscriptions)


class _Subscription:
    """One listener, and the asyncio tasks that run for it; they end with it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.caught_up = asyncio.Event()

    def call(self, notification: Notification) -> asyncio.Task[bool | None]:
        """Call the listener in a task; its result is None if the listener failed."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._guarded_call(notification), name="apikley listener")
        self._own(task)
        return task

    def run(self, following: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine until the subscription ends. Needs a running event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            following.close()
            raise
        self._own(loop.create_task(following, name="apikley inbox"))

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def cancel(self) -> None:
        """Cancel every task of this listener."""
        for task in [*self._tasks]:
            with contextlib.suppress(RuntimeError):  # its loop is closed, and the task with it
                task.cancel()

    async def _guarded_call(self, notification: Notification) -> bool | None:
        try:
            return bool(await self._listener(notification.token, notification.task_id))
        except Exception as error:  # noqa: BLE001 - the other listeners must still be called
            logger.error("a listener for callbacks failed: %s", type(error).__name__)
            return None
