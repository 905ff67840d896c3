"""Which attempt became which task: callbacks are matched to attempts here.

A callback names a task for the attempt whose token is in its URL. That is a hint: a task belongs
to an attempt when the task's own record shows the token. Records are read only while a task
waits for them, or when a second task of one attempt may have been paid.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeAlias, runtime_checkable

import attrs

from apikley_async._api import Api
from apikley_async._early_callbacks import EarlyCallbacks
from apikley_async._environment import Environment
from apikley_async._jobs import Bought, Jobs
from apikley_async._recorder import Attempt, Callbacks, NoCallbacks, Verdict
from apikley_async._result import Snapshot
from apikley_async._retry import RETRIES
from apikley_async._spending import Spending
from apikley_async._tasks import TaskScope, within
from apikley_async._text import loggable
from apikley_async._tokens import MOST_NAMED_TASKS, CarriesMac, TokenMac, token_in
from apikley_async._wire.task_ids import is_task_id
from apikley_async._wire.tasks import belongs_to_attempt, shows_request
from apikley_async.errors import ApikleyError, AuthenticationError, ClientClosedError

__all__ = ["CallbackMatching", "CatchingUp", "Keep", "Listener", "Listening"]

logger = logging.getLogger("apikley_async")

MOST_ATTEMPTS = 20_000
OVERDUE = 60.0  # seconds after a film's end by which its callback should have come
SHORTEST = 0.01  # seconds: a caller without time left may still get what is known already
UNANNOUNCED = 5  # films in a row whose end no callback has announced
SECOND_TASK_TRIES = 10  # to read a task that seems to be paid in addition to another one
NO_TASK = ""  # instead of a task's id: the attempt was given up, or seemed to be refused

Listener: TypeAlias = Callable[[str, str], Awaitable[bool]]
"""Is given a callback's token and task id; returns whether the token is known."""

Keep: TypeAlias = Callable[[str], Awaitable[None]]
"""Writes down a task's id that a callback has named for an attempt."""


@runtime_checkable
class Listening(Callbacks, Protocol):
    """Callbacks that also receive the service's calls, such as `apikley_async.webhook.Callback`."""

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Pass on every callback, in the running loop; return what ends it."""
        ...


@runtime_checkable
class CatchingUp(Protocol):
    """Callbacks that may have kept something from before, in an inbox for example."""

    async def catch_up(self) -> None:
        """Wait until that is passed on."""
        ...


@attrs.define(eq=False)
class _Entry:
    """What is known of one attempt.

    *named* holds ids from callbacks, True once their records were read; *kept* are those that
    `keep` has written down. *url_part* is the last part of its callback URL, as a job shows it.
    """

    url_part: str
    task_id: str | None = None
    named: dict[str, bool] = attrs.Factory(dict)
    keep: Keep | None = None
    kept: dict[str, None] = attrs.Factory(dict)
    waiting: dict[asyncio.Event, None] = attrs.Factory(dict)
    reading: bool = False
    checking: dict[str, None] = attrs.Factory(dict)

    def wake(self) -> None:
        for event in self.waiting:
            event.set()

    @property
    def unread(self) -> list[str]:
        return [name for name, read in self.named.items() if not read]


class CallbackMatching:
    """The attempts of one client, what callbacks have said of them, and which tasks they became.

    Attributes:
        receives_callbacks: whether callbacks come back to this client.
    """

    def __init__(
        self,
        callbacks: Callbacks | None,
        token_mac: TokenMac,
        jobs: Jobs,
        spending: Spending,
        environment: Environment,
    ) -> None:
        self.receives_callbacks: bool = isinstance(callbacks, Listening)
        self._callbacks = NoCallbacks() if callbacks is None else callbacks
        self._carries_mac = isinstance(self._callbacks, CarriesMac)
        self._token_mac = token_mac
        self._jobs = jobs
        self._spending = spending
        self._clock = environment.clock
        self._rng = environment.rng
        self._entries: dict[str, _Entry] = {}
        self._tokens: dict[str, str] = {}
        self._early = EarlyCallbacks(token_mac)
        self._unannounced = 0
        self._silent = True  # no callback has ever come
        self._warned = False
        self._api: Api | None = None
        self._tasks: TaskScope | None = None

    def open(self, api: Api, tasks: TaskScope) -> Callable[[], None]:
        """Receive callbacks in the running loop, and read records with *api*; return what ends it.

        Waits of an earlier loop, which was closed, are discarded.
        """
        self._api, self._tasks = api, tasks
        for entry in self._entries.values():
            entry.reading = False
            entry.checking.clear()
            entry.waiting.clear()
        if not isinstance(self._callbacks, Listening):
            return lambda: None
        loop = asyncio.get_running_loop()

        async def receive(token: str, task_id: str) -> bool:
            return await within(loop, self.receive(token, task_id))

        return self._callbacks.listen(receive)

    # --- attempts of the submitter --------------------------------------------------------------

    def url_for(self, token: str) -> str | None:
        """The callback URL of a new attempt; from now on callbacks about it are ours."""
        text = self._token_mac.append_to(token) if self._carries_mac else token
        url = self._callbacks.url_for(text)
        if url is not None:
            self.expect(token)
            last = url.partition("?")[0].rpartition("/")[2]
            self._entries[token].url_part = last if token in last else token
        return url

    def settle(self, attempt: Attempt) -> None:
        """Take note of how an attempt has ended."""
        entry = self._entries.get(attempt.token)
        if entry is None:
            return
        if attempt.task_id is not None:
            self._bind(attempt.token, entry, attempt.task_id)
        elif attempt.verdict is Verdict.NOT_CREATED or (
            attempt.verdict is not Verdict.UNCERTAIN and entry.named
        ):
            # A callback may come, or has come, all the same.
            self._bind(attempt.token, entry, NO_TASK)
        elif attempt.verdict is not Verdict.UNCERTAIN:
            del self._entries[attempt.token]  # nothing was created, so no callback will come

    # --- callbacks ------------------------------------------------------------------------------

    def expect(
        self,
        url_part: str,
        *,
        task_id: str | None = None,
        named: Iterable[str] = (),
        keep: Keep | None = None,
    ) -> bool:
        """Accept callbacks about an attempt, given its token or the last part of its callback URL.

        See `Attempts.expect`.
        """
        token = token_in(url_part)
        entry = self._entries.get(token)
        if entry is None:
            entry = self._entries[token] = _Entry(url_part, named=self._early.take(token))
            self._forget_the_oldest()
        if keep is not None:
            entry.keep, entry.kept = keep, {}
        for name in named:
            entry.named.setdefault(name, False)
            entry.kept[name] = None
        if task_id is not None:
            self._bind(token, entry, task_id)
        entry.wake()
        return bool(entry.named)

    def release(self, token: str) -> None:
        """End `expect(keep=)`: what callbacks say of an attempt is kept here only.

        An attempt that is still uncertain, and that nobody waits for, is forgotten: a callback
        that nobody would keep must not be acknowledged, so that the service sends it again.
        """
        if (entry := self._entries.get(token)) is not None:
            entry.keep = None
            if entry.task_id is None and not entry.waiting:
                del self._entries[token]

    async def catch_up(self) -> None:
        """Wait until the callbacks that lay in an inbox are received; seconds at most."""
        callbacks: object = self._callbacks
        if isinstance(callbacks, CatchingUp):
            await callbacks.catch_up()

    async def receive(self, url_part: str, task_id: str) -> bool:
        """Take note of a callback; False when it is about no attempt of ours, or not yet."""
        token = token_in(url_part)
        entry = self._entries.get(token)
        if entry is None:
            if is_task_id(task_id):
                self._early.add(url_part, task_id)
            return False
        self._unannounced, self._silent, self._warned = 0, False, False
        if is_task_id(task_id) and len(entry.named) < MOST_NAMED_TASKS:
            entry.named.setdefault(task_id, False)
        entry.wake()
        if entry.task_id is not None:
            self._jobs.nudge(entry.task_id)
            self._look_for_second_tasks(token, entry)
        # After a failure it does not count as kept: the service sends it again, and then it is.
        new = is_task_id(task_id) and task_id != entry.task_id and task_id not in entry.kept
        if new and entry.keep is not None:
            await entry.keep(task_id)
            if task_id in entry.named:
                entry.kept[task_id] = None
        return True

    # --- jobs -----------------------------------------------------------------------------------

    def text_of(self, task_id: str) -> str | None:
        """The last part of a task's callback URL; None where no callback is expected."""
        entry = self._entries.get(self._tokens.get(task_id, ""))
        return entry.url_part if entry is not None else None

    def was_announced(self, task_id: str) -> bool:
        """Whether a callback has announced a task already."""
        entry = self._entries.get(self._tokens.get(task_id, ""))
        return entry is not None and bool(entry.named)

    def note_end(self, snapshot: Snapshot) -> None:
        """Warn when films end and no callback announces it."""
        if snapshot.task_id not in self._tokens or self.was_announced(snapshot.task_id):
            return
        self._unannounced += 1
        since = snapshot.completed_at
        overdue = since is not None and self._clock.wall() - since.timestamp() > OVERDUE
        if not self._warned and ((overdue and self._silent) or self._unannounced >= UNANNOUNCED):
            self._warned = True
            logger.warning(
                "films end and no callback comes: is the public URL right and reachable from the "
                "internet, its path prefix kept, the receiver running, the HMAC key the "
                "service's? Polling goes on, slowly"
            )

    # --- uncertain submissions ------------------------------------------------------------------

    def is_expected(self, token: str) -> bool:
        """Whether a callback about an attempt would be received, and would count."""
        return self.receives_callbacks and token in self._entries

    async def find_task(self, token: str, ends: float) -> str | None:
        """Wait until a callback names the task of an attempt and its record confirms that."""
        entry = self._entries[token]
        delays = RETRIES.delays(self._rng)
        news = asyncio.Event()
        entry.waiting[news] = None
        try:
            while True:
                news.clear()
                later = math.inf
                if not entry.reading and not await self._read_named(token, entry, ends):
                    later = next(delays)
                if found := entry.task_id:
                    return found
                left = ends - self._clock.now()
                if left <= 0:
                    return None
                if not news.is_set():
                    await self._clock.sleep(min(left, later), news)
        finally:
            entry.waiting.pop(news, None)
            entry.wake()  # the task that was reading has ended; another waiter reads next

    async def _read_named(self, token: str, entry: _Entry, ends: float) -> bool:
        """Read the tasks that were named and not read yet; False when one has to be read later."""
        entry.reading = True
        try:
            async with asyncio.timeout(max(SHORTEST, ends - self._clock.now())):
                for name in entry.unread:
                    if entry.task_id is None and await self._read(token, entry, name):
                        self._bind(token, entry, name)
        except TimeoutError:
            pass
        finally:
            entry.reading = False
        return bool(entry.task_id) or not entry.unread

    async def _read(self, token: str, entry: _Entry, name: str) -> bool:
        """Read a task's record, and return whether it is certainly the attempt's own."""
        if self._api is None:
            raise ClientClosedError("The client is not open")
        try:
            snapshot = await self._api.poll(name)
        except (AuthenticationError, ClientClosedError):
            raise
        except ApikleyError as error:  # an outage, or a task that is not yet known: later
            logger.debug("reading %s failed: %s", name, loggable(error.message))
            return False
        if not shows_request(snapshot):
            return False
        ours = belongs_to_attempt(snapshot, tokens=[token], fingerprints=())
        entry.named[name] = True
        if not ours:
            logger.warning("a callback named a task that is not ours; it is left alone")
        return ours

    def _bind(self, token: str, entry: _Entry, task_id: str) -> None:
        entry.task_id = task_id
        if task_id != NO_TASK:
            self._tokens[task_id] = token
            self._spending.found(token, task_id)
        entry.wake()
        self._look_for_second_tasks(token, entry)

    # --- second tasks of one attempt ------------------------------------------------------------

    def _look_for_second_tasks(self, token: str, entry: _Entry) -> None:
        """Every other task that was named for an attempt may have been paid as well."""
        for name in entry.unread:
            if name not in (entry.task_id, *entry.checking):
                entry.checking[name] = None
                if not self._in_background(token, entry, name):
                    entry.checking.pop(name, None)

    async def _check_second_task(self, token: str, entry: _Entry, name: str) -> None:
        delays = RETRIES.delays(self._rng)
        try:
            for _ in range(SECOND_TASK_TRIES):
                if await self._read(token, entry, name):
                    self._spending.bought_besides(entry.task_id, name)
                    self._jobs.report_bought(Bought(name))
                if entry.named[name]:
                    return
                await self._clock.sleep(next(delays))
        except ApikleyError as error:
            logger.info("a second task of one attempt was not read: %s", type(error).__name__)
        finally:
            entry.checking.pop(name, None)

    def _in_background(self, token: str, entry: _Entry, name: str) -> bool:
        """Start the check of a second task; return whether that was possible."""
        if self._tasks is None:
            return False
        checking = self._check_second_task(token, entry, name)
        try:
            self._tasks.check()
        except ClientClosedError:
            checking.close()
            return False
        _ = self._tasks.spawn(checking)
        return True

    def _forget_the_oldest(self) -> None:
        while len(self._entries) > MOST_ATTEMPTS:
            idle = next((t for t, entry in self._entries.items() if not entry.waiting), None)
            if idle is None:
                return
            forgotten = self._entries.pop(idle)
            self._tokens.pop(forgotten.task_id or "", None)
