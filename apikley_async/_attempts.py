"""Which attempt became which task, as far as answers and callbacks say.

A callback names a task for the attempt whose token stands in its URL. That is a hint: a task is
an attempt's own when reading it shows the token. Nothing is polled unless somebody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakValueDictionary

import attrs

from apikley_async._binding import within
from apikley_async._early_callbacks import MOST_NAMES, Parked
from apikley_async._job import Job
from apikley_async._limiter import Slots, running_slots
from apikley_async._result import Snapshot
from apikley_async._retry import RETRIES
from apikley_async._session import Rooms, Settings
from apikley_async._spending import Expense
from apikley_async._storyboard import Work
from apikley_async._submission import (
    Attempt,
    Callbacks,
    Group,
    NoCallbacks,
    NoRecorder,
    Order,
    Recorder,
    Verdict,
    check_order,
    token_in,
)
from apikley_async._text import loggable
from apikley_async._tokens import Marking, Seal, token_secret
from apikley_async._unclaimed import Unclaimed
from apikley_async._wire.task_ids import is_task_id
from apikley_async._wire.tasks import belongs_to_attempt, differences, shows_request
from apikley_async.errors import (
    ApikleyError,
    AuthenticationError,
    ClientClosedError,
    StoryboardError,
    SubmissionUncertainError,
)

__all__ = ["Attempts", "CatchingUp", "Keep", "Listening", "Receive"]

logger = logging.getLogger("apikley_async")

MOST_ATTEMPTS = 20_000
OVERDUE = 60.0  # seconds after a film's end by which its callback should have come
SHORTEST = 0.01  # seconds: who has no time left may still be told what is known
UNANNOUNCED = 5  # films in a row whose end no callback has announced
TWIN_TRIES = 10  # to read a task that seems to be paid besides another one
GIVEN_UP = ""  # instead of a task's id: the attempt was given up, or seemed to be refused

Receive: TypeAlias = Callable[[str, str], Awaitable[bool]]
"""Is given a callback's token and task id; says whether the token is known."""

Keep: TypeAlias = Callable[[str], Awaitable[None]]
"""Writes down a task's id that a callback has named for an attempt."""


@runtime_checkable
class Listening(Callbacks, Protocol):
    """Callbacks that also receive the service's calls, such as `apikley_async.webhook.Callback`."""

    def listen(self, receive: Receive) -> Callable[[], None]:
        """Pass on every callback, in the running loop; gives what ends it."""
        ...


@runtime_checkable
class CatchingUp(Protocol):
    """Callbacks that may have kept something from before."""

    async def catch_up(self) -> None:
        """Wait until that is passed on."""
        ...


@attrs.define(eq=False)
class _Entry:
    """What is known of one attempt. *named* are ids from callbacks; True once they were read.

    *text* is the last part of its callback URL, as a job shows it.
    """

    text: str
    task_id: str | None = None
    named: dict[str, bool] = attrs.Factory(dict)
    keep: Keep | None = None
    waiting: dict[asyncio.Event, None] = attrs.Factory(dict)
    reading: bool = False
    checking: dict[str, None] = attrs.Factory(dict)

    def wake(self) -> None:
        for event in self.waiting:
            event.set()

    @property
    def unread(self) -> list[str]:
        return [name for name, read in self.named.items() if not read]


class Attempts:
    """The attempts of one client, and the jobs they became: `client.attempts`.

    Provisional until 1.0: what only batches need. A group of submissions that is stopped and
    waited for together, callbacks that are kept in a journal, and uncertain submissions that are
    found by a callback.

    Attributes:
        receives_callbacks: whether callbacks come back to this client.
        running: the slots of its films.
        unclaimed, uncertain: those of the client.
    """

    def __init__(
        self, settings: Settings, callbacks: Callbacks | None, here: Callable[[], Rooms]
    ) -> None:
        self._settings = settings
        self._callbacks = callbacks or NoCallbacks()
        self._seal = Seal([token_secret(settings.key.reveal())])
        self._here = here
        self._clock = settings.environment.clock
        self.running: Slots = running_slots(settings.max_running, settings.environment.clock)
        self._jobs: WeakValueDictionary[str, Job] = WeakValueDictionary()
        self._entries: dict[str, _Entry] = {}
        self._tokens: dict[str, str] = {}
        self._parked = Parked(self._seal)
        self._unannounced = 0
        self._silent = True  # nobody has ever called
        self._warned = False
        self.receives_callbacks: bool = isinstance(callbacks, Listening)
        self._left = Unclaimed()

    # --- submitting ---------------------------------------------------------------------------

    async def submit(
        self,
        work: Work,
        *,
        callback_url: str | None = None,
        recorder: Recorder | None = None,
        metadata: Any = None,
        group: Group | None = None,
        expense: Expense | None = None,
    ) -> Job:
        """Submit one film, as `Client.submit` does, and as one of a *group*.

        Args:
            work, callback_url, recorder, metadata: as for `Client.submit`.
            group: what it is stopped with.
            expense: what was set aside for it; by default it is set aside here.

        Raises:
            ClientClosedError: the group was stopped, or the client closed, before it was sent.
            What `Client.submit` raises.
        """
        check_order(work, callback_url)
        rooms, spending = self._here(), self._settings.spending
        upload = functools.partial(rooms.urls_of, work)
        async with contextlib.AsyncExitStack() as held:
            if expense is None:
                expense = await held.enter_async_context(self.expense(work))
            recorder = spending.recorder(recorder or NoRecorder(), expense)
            order = Order(work, upload, callback_url, recorder, group, metadata)
            task_id = await rooms.submitter.submit(order)
        return self._new_job(order, task_id)

    @contextlib.asynccontextmanager
    async def expense(self, work: Work, *, follow: bool = False) -> AsyncIterator[Expense | None]:
        """Surround one film: what it costs is set aside, where the client has a bound.

        Args:
            work: the film.
            follow: whether whoever is inside follows it to its end.
        """
        check_order(work, None)
        async with contextlib.AsyncExitStack() as held:
            async with self._here().house.inside():
                entering = self._settings.spending.expense(work, follow=follow)
                expense = await held.enter_async_context(entering)
            yield expense

    def group(self) -> Group:
        """Submissions that stop together (`stop`), and are waited for together (`drain`).

        Cancelling one who waits for a submission of the group stops what has not been sent; what
        is out goes on, and is written down by its recorder. It is in `unclaimed` or `uncertain`
        only when that fails.
        """
        return Group(self._clock, recorded=True)

    @contextlib.asynccontextmanager
    async def running_slot(self) -> AsyncIterator[None]:
        """Surround one film, as `generate` does: one of the client's `max_running`.

        It is also one of the limiter's slots, which other clients may share.
        """
        async with contextlib.AsyncExitStack() as held:
            async with self._here().house.inside():
                await held.enter_async_context(self.running.slot())
                await held.enter_async_context(self._settings.limiter.running_slot())
            yield

    def account(self, salt: bytes) -> str:
        """A mark that tells accounts apart and says nothing of the key."""
        key = self._settings.key.reveal().encode()
        return hmac.new(salt, key, "sha256").hexdigest()[:16]

    async def confirm(
        self, task_id: str, *, tokens: Iterable[str] = (), fingerprints: Iterable[str] = ()
    ) -> Snapshot | None:
        """Poll once whether a task is one of ours: by a token in its callback URL, or its content.

        Args:
            tokens: of attempts (`Attempt.token`).
            fingerprints: of what was asked for (`Request.fingerprint`).

        Returns:
            The task, or None when it was made of something else.
        """
        snapshot = await self._poll(task_id)
        ours = belongs_to_attempt(snapshot, tokens=tokens, fingerprints=fingerprints)
        return snapshot if ours else None

    async def compare(self, task_id: str, work: Work, **known: Iterable[str]) -> tuple[str, ...]:
        """Poll once, and say where a task differs from *work*; () when it is ours (`confirm`)."""
        return differences(await self._poll(task_id), work, **known)

    async def _poll(self, task_id: str) -> Snapshot:
        return await self._here().questions.poll(task_id)

    # --- jobs -----------------------------------------------------------------------------------

    def job(self, task_id: str, *, token: str | None = None, known: bool = False) -> Job:
        """The job of a task, as `Client.job` gives it."""
        if not is_task_id(task_id):
            raise StoryboardError(f"task_id: a word without spaces, not {task_id!r:.60}")
        if token is not None and not is_task_id(token):  # the same alphabet; never repeated
            raise StoryboardError("token: what job.token was, a word without spaces")
        if token is not None:
            self.expect(token, task_id=task_id)
        facts = {"submitted_at": -math.inf} if known else {}
        job = self._jobs.get(task_id) or self._add_job(task_id, **facts)
        if token is not None:
            job.token = token
        self._left.claim(job)
        return job

    def _new_job(self, order: Order, task_id: str) -> Job:
        return self._add_job(
            task_id,
            submitted_at=self._clock.now(),
            model=order.work.model,
            work=order.work,
            metadata=order.metadata,
        )

    def _add_job(self, task_id: str, **facts: Any) -> Job:
        announced = self._entries.get(self._tokens.get(task_id, ""))
        called = announced is not None and self.receives_callbacks
        job = self._jobs[task_id] = Job(
            task_id,
            poll=self._poll,
            polling=self._settings.callback_polling if called else self._settings.polling,
            followed_polling=self._settings.polling,
            timeout=self._settings.job_timeout,
            token=announced.text if announced is not None else None,
            clock=self._clock,
            rng=self._settings.environment.rng,
            awaited=self._left.claim,
            ended=self._notice_end,
            **facts,
        )
        if self._was_announced(task_id):
            job.nudge()
        return job

    def detach(self) -> None:
        """Tell everyone who awaits a job that the client was closed; the films go on."""
        for job in list(self._jobs.values()):
            job.detach(ClientClosedError("The client was closed", task_id=job.task_id))

    def leave_behind(self, job: Job) -> None:
        """Report a paid job that nobody waits for."""
        self._left.add(job)

    @property
    def unclaimed(self) -> list[Job]:
        return self._left.jobs

    @property
    def uncertain(self) -> list[SubmissionUncertainError]:
        return self._left.uncertain

    # --- the submitter's `Observer` -------------------------------------------------------------

    def url_for(self, token: str) -> str | None:
        """The callback URL of an attempt; from now on callbacks about it are ours."""
        marked = self._seal.text(token) if isinstance(self._callbacks, Marking) else token
        url = self._callbacks.url_for(marked)
        if url is not None:
            self.expect(token)
            last = url.partition("?")[0].rpartition("/")[2]
            self._entries[token].text = last if token in last else token
        return url

    def report_bought(self, order: Order, task_id: str) -> None:
        self.leave_behind(self._new_job(order, task_id))

    def report_uncertain(self, error: SubmissionUncertainError) -> None:
        self._left.add_uncertain(error)

    # --- callbacks ------------------------------------------------------------------------------

    def expect(
        self,
        token: str,
        *,
        task_id: str | None = None,
        named: Iterable[str] = (),
        keep: Keep | None = None,
    ) -> bool:
        """Let callbacks about an attempt count that this client did not submit, or must keep.

        Args:
            token: of the attempt, or the last part of its callback URL (`Job.token`).
            task_id: what it became; "" if it was given up.
            named: tasks that callbacks have named before.
            keep: awaited with each new one before the callback is answered, until `release`.

        Returns:
            Whether any callback, in an inbox for one, has named its task.
        """
        text, token = token, token_in(token)
        entry = self._entries.get(token)
        if entry is None:
            entry = self._entries[token] = _Entry(text, named=self._parked.take(token))
            self._forget_the_oldest()
        entry.keep = keep or entry.keep
        for name in named:
            entry.named.setdefault(name, False)
        if task_id is not None:
            self._bind(token, entry, task_id)
        entry.wake()
        return bool(entry.named)

    def release(self, token: str) -> None:
        """End `expect(keep=)`: what callbacks say of an attempt is kept here only.

        One that is still uncertain, and that nobody waits for, is let go of: a callback that
        nobody would keep must not be acknowledged, so that the service calls again.
        """
        if (entry := self._entries.get(token)) is not None:
            entry.keep = None
            if entry.task_id is None and not entry.waiting:
                del self._entries[token]

    async def catch_up(self) -> None:
        """Wait until the callbacks that lay in an inbox are received; seconds at most."""
        _ = self._here()
        callbacks: object = self._callbacks
        if isinstance(callbacks, CatchingUp):
            await callbacks.catch_up()

    def listen(self) -> Callable[[], None]:
        """Begin to receive callbacks in the running loop; gives what ends it."""
        for entry in self._entries.values():  # a loop that is gone took those with it who polled
            entry.reading = False
            entry.checking.clear()
            entry.waiting.clear()
        if not isinstance(self._callbacks, Listening):
            return lambda: None
        loop = asyncio.get_running_loop()

        async def receive(token: str, task_id: str) -> bool:
            return await within(loop, self.receive(token, task_id))

        return self._callbacks.listen(receive)

    def settle(self, attempt: Attempt) -> None:
        """Take note of an answer."""
        entry = self._entries.get(attempt.token)
        if entry is None:
            return
        if attempt.task_id is not None:
            self._bind(attempt.token, entry, attempt.task_id)
        elif attempt.verdict is Verdict.NOT_CREATED or (
            attempt.verdict is not Verdict.UNCERTAIN and entry.named
        ):
            self._bind(attempt.token, entry, GIVEN_UP)  # it may call, or has called, all the same
        elif attempt.verdict is not Verdict.UNCERTAIN:
            del self._entries[attempt.token]  # nothing was created, so nobody will call

    async def receive(self, token: str, task_id: str) -> bool:
        """Take note of a callback; False when it is about no attempt of ours, or not yet."""
        text, token = token, token_in(token)
        entry = self._entries.get(token)
        if entry is None:
            if is_task_id(task_id):
                self._parked.park(text, task_id)
            return False
        self._unannounced, self._silent, self._warned = 0, False, False
        old = task_id in entry.named or not is_task_id(task_id)
        if not old and len(entry.named) < MOST_NAMES:
            entry.named[task_id] = False
            old = task_id == entry.task_id
        entry.wake()
        if entry.task_id is not None:
            if (job := self._jobs.get(entry.task_id)) is not None:
                job.nudge()
            self._look_for_twins(token, entry)
        if not old and entry.keep is not None:
            await entry.keep(task_id)
        return True

    def _was_announced(self, task_id: str) -> bool:
        """Whether a callback has announced a task already."""
        entry = self._entries.get(self._tokens.get(task_id, ""))
        return entry is not None and bool(entry.named)

    def _notice_end(self, snapshot: Snapshot) -> None:
        """Notice what a film has cost, and films whose end no callback has announced."""
        self._settings.spending.ended(snapshot)
        if snapshot.task_id not in self._tokens or self._was_announced(snapshot.task_id):
            return
        self._unannounced += 1
        since = snapshot.completed_at
        overdue = since is not None and self._clock.wall() - since.timestamp() > OVERDUE
        if not self._warned and ((overdue and self._silent) or self._unannounced >= UNANNOUNCED):
            self._warned = True
            logger.warning(
                "films end and no callback comes: is the public URL right and reachable from the "
                "internet, its path prefix kept, the receiver running, the HMAC key the "
                "service's? Looking goes on, slowly"
            )

    # --- uncertain submissions ------------------------------------------------------------------

    async def recover(
        self, attempt: str | SubmissionUncertainError, *, timeout: float | None = None
    ) -> Job:
        """Wait until a callback says which task an uncertain submission became.

        The task is read before it is believed: its callback URL must hold the token.

        Args:
            attempt: the error that `submit` raised, or the token of an attempt, of this run or
                another (`SubmissionUncertainError.token`).
            timeout: seconds; by default as long as a job is waited for.

        Raises:
            SubmissionUncertainError: no such callback came. An error that was given is raised
                again, `waited` says for how long; at once where no callback can come.
            AuthenticationError: the key is refused.
            ValueError: this client receives no callbacks.
        """
        if isinstance(attempt, str):
            if not self.receives_callbacks:
                raise ValueError(
                    "recover: a client that receives callbacks: Client(callback=Callback())"
                )
            self.expect(attempt)
            token, error = token_in(attempt), None
        else:
            token, error = attempt.token, attempt
        patience = self._settings.job_timeout if timeout is None else timeout
        since = self._clock.now()
        try:
            if self.receives_callbacks and token in self._entries:
                async with self._here().house.inside():
                    if task_id := await self._wait_for_task(token, since + patience):
                        job = self.job(task_id, known=True)
                        self._left.found(token, job, error)
                        return job
        finally:
            if error is not None:
                error.waited += self._clock.now() - since
        raise error or SubmissionUncertainError(
            f"No callback said within {patience:g} s which task it became",
            token=token,
            cause="no callback came",
            at=self._clock.wall(),
        )

    async def _wait_for_task(self, token: str, ends: float) -> str | None:
        """Wait until a callback names the task of an attempt and reading it confirms that."""
        entry = self._entries[token]
        delays = RETRIES.delays(self._settings.environment.rng)
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
            entry.wake()  # whoever asked for all has left: the next takes over

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
        """Read a task, and say whether it is certainly the attempt's own."""
        try:
            snapshot = await self._poll(name)
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
        if task_id != GIVEN_UP:
            self._tokens[task_id] = token
            self._settings.spending.found(token, task_id)
        entry.wake()
        self._look_for_twins(token, entry)

    # --- what was bought besides ----------------------------------------------------------------

    def _look_for_twins(self, token: str, entry: _Entry) -> None:
        """Every other task that was named for an attempt may have been paid as well."""
        for name in entry.unread:
            if name not in (entry.task_id, *entry.checking):
                entry.checking[name] = None
                if not self._in_background(self._check_twin(token, entry, name)):
                    entry.checking.pop(name, None)

    async def _check_twin(self, token: str, entry: _Entry, name: str) -> None:
        delays = RETRIES.delays(self._settings.environment.rng)
        try:
            for _ in range(TWIN_TRIES):
                if await self._read(token, entry, name):
                    self._settings.spending.bought_besides(entry.task_id, name)
                    self.leave_behind(self.job(name, known=True))
                if entry.named[name]:
                    return
                await self._clock.sleep(next(delays))
        except ApikleyError as error:
            logger.info("a second task of one attempt was not read: %s", type(error).__name__)
        finally:
            entry.checking.pop(name, None)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> bool:
        """Start what nobody waits for; say whether it could be."""
        try:
            _ = self._here().house.spawn(work)
        except ClientClosedError:
            work.close()
            return False
        return True

    def _forget_the_oldest(self) -> None:
        while len(self._entries) > MOST_ATTEMPTS:
            idle = next((t for t, entry in self._entries.items() if not entry.waiting), None)
            if idle is None:
                return
            forgotten = self._entries.pop(idle)
            self._tokens.pop(forgotten.task_id or "", None)
