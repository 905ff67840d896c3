"""Which attempt became which task, as far as answers and callbacks say.

A callback names a task for the attempt whose token stands in its URL. That is a hint: a task is
an attempt's own when reading it shows the token. Nothing is asked unless somebody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import attrs

from apikley_async._clock import Clock
from apikley_async._policy import RETRIES, retry_delay
from apikley_async._result import Snapshot
from apikley_async._submit import Attempt, Callbacks, Verdict
from apikley_async._wire import is_task_id
from apikley_async.errors import ApikleyError, NotFoundError, SubmissionUncertainError

__all__ = ["Claims", "Hear", "Keep", "Listening"]

logger = logging.getLogger("apikley_async")

MOST_CLAIMS = 20_000
MOST_STRANGERS = 10_000  # callbacks about attempts that nobody has told us of yet
MOST_NAMES = 8  # of tasks for one attempt: one is its own, the rest are mistakes or worse
OVERDUE = 60.0  # seconds after a film's end by which its callback should have come
UNHEARD = 5  # films in a row that nobody announced

Hear: TypeAlias = Callable[[str, str], Awaitable[bool]]
"""Is told a token and a task's id; says whether the token is known."""

Keep: TypeAlias = Callable[[str], Awaitable[None]]
"""Writes down a task's id that was told for an attempt."""


@runtime_checkable
class Listening(Callbacks, Protocol):
    """Callbacks that also hear the service's calls, such as `apikley_async.webhook.Callback`."""

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Pass on what is heard, in the running loop; gives what ends it."""
        ...


@attrs.define(eq=False)
class _Claim:
    """What is known of one attempt. *named* are ids from callbacks; True once they were read."""

    task_id: str | None = None
    named: dict[str, bool] = attrs.Factory(dict)
    keep: Keep | None = None
    waiting: set[asyncio.Event] = attrs.Factory(set)
    asking: bool = False

    def wake(self) -> None:
        for event in self.waiting:
            event.set()


class Claims:
    """The attempts of one client.

    *confirm* reads a task and says whether a token is in it. *announced* is told that a task may
    be ready; *bought*, of a second task for an attempt that has its own: somebody on the way has
    sent it twice. *spawn* starts what nobody waits for.
    """

    def __init__(
        self,
        *,
        confirm: Callable[[str, str], Awaitable[bool]],
        announced: Callable[[str], None],
        bought: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._confirm = confirm
        self._announced = announced
        self._bought = bought
        self._spawn = spawn
        self._clock = clock
        self._rng = rng
        self._claims: dict[str, _Claim] = {}
        self._tokens: dict[str, str] = {}
        self._strangers: dict[str, dict[str, bool]] = {}
        self._unheard = 0
        self._silent = True  # nobody has ever called
        self._warned = False

    # --- what is told ---------------------------------------------------------------------------

    def expect(
        self,
        token: str,
        *,
        task_id: str | None = None,
        named: Iterable[str] = (),
        keep: Keep | None = None,
    ) -> None:
        """Know of an attempt, with what is known of it from before."""
        claim = self._claims.get(token)
        if claim is None:
            claim = self._claims[token] = _Claim(named=self._strangers.pop(token, {}))
            self._forget_the_oldest()
        claim.keep = keep or claim.keep
        for name in named:
            claim.named.setdefault(name, False)
        if task_id is not None:
            self._bind(token, claim, task_id)
        claim.wake()

    def settle(self, attempt: Attempt) -> None:
        """Take note of an answer."""
        claim = self._claims.get(attempt.token)
        if claim is None:
            return
        if attempt.task_id is not None:
            self._bind(attempt.token, claim, attempt.task_id)
            for name in claim.named:
                if name != attempt.task_id:
                    self._spawn(self._check_twin(attempt.token, name))
        elif attempt.verdict is not Verdict.UNCERTAIN:
            del self._claims[attempt.token]  # nothing was created, so nobody will call

    async def hear(self, token: str, task_id: str) -> bool:
        """Take note of a callback; False when it is about no attempt of ours, or not yet."""
        claim = self._claims.get(token)
        if claim is None:
            self._park(token, task_id)
            return False
        self._unheard, self._silent, self._warned = 0, False, False
        known = task_id in claim.named or not is_task_id(task_id)
        if not known and len(claim.named) < MOST_NAMES:
            if claim.keep is not None and claim.task_id is None:
                await claim.keep(task_id)
            claim.named[task_id] = False
        claim.wake()
        if claim.task_id is not None:
            self._announced(claim.task_id)
            if not known and task_id != claim.task_id:
                self._spawn(self._check_twin(token, task_id))
        return True

    def _park(self, token: str, task_id: str) -> None:
        """Remember what a batch may ask for that is not running yet."""
        named = self._strangers.setdefault(token, {})
        if len(named) < MOST_NAMES and is_task_id(task_id):
            named[task_id] = False
        if len(self._strangers) > MOST_STRANGERS:
            del self._strangers[next(iter(self._strangers))]

    def was_heard(self, task_id: str) -> bool:
        """Whether a callback has announced a task already."""
        claim = self._claims.get(self._tokens.get(task_id, ""))
        return claim is not None and bool(claim.named)

    def ended(self, snapshot: Snapshot) -> None:
        """Notice films whose end nobody has called out, and say once why that may be."""
        if snapshot.task_id not in self._tokens or self.was_heard(snapshot.task_id):
            return
        self._unheard += 1
        since = snapshot.completed_at
        overdue = since is not None and self._clock.wall() - since.timestamp() > OVERDUE
        if not self._warned and ((overdue and self._silent) or self._unheard >= UNHEARD):
            self._warned = True
            logger.warning(
                "films end and no callback comes: is the public URL right and reachable from the "
                "internet, its path prefix kept, the receiver running, the HMAC key the "
                "service's? Looking goes on, slowly"
            )

    # --- what is asked --------------------------------------------------------------------------

    async def recover(self, token: str, *, patience: float) -> str:
        """Wait until a callback names the task of an attempt and reading it confirms that.

        Raises:
            SubmissionUncertainError: no such callback came in *patience* seconds.
            AuthenticationError: the key is refused.
        """
        self.expect(token)
        claim, ends = self._claims[token], self._clock.now() + patience
        delays = RETRIES.delays(self._rng)
        news = asyncio.Event()
        claim.waiting.add(news)
        try:
            while True:
                news.clear()
                later = math.inf
                if not claim.asking and not await self._ask(token, claim):
                    later = next(delays)
                if (found := claim.task_id) is not None:
                    return found
                left = ends - self._clock.now()
                if left <= 0:
                    raise SubmissionUncertainError(
                        f"No callback said within {patience:g} s which task it became",
                        token=token,
                        cause="no callback came",
                        at=self._clock.wall(),
                    )
                if not news.is_set():
                    await self._clock.sleep(min(left, later), news)
        finally:
            claim.waiting.discard(news)
            claim.wake()  # whoever asked for all has left: the next takes over

    async def _ask(self, token: str, claim: _Claim) -> bool:
        """Read the tasks that were named and not read yet; False when one has to be read later."""
        claim.asking, done = True, True
        try:
            for name in [name for name, read in claim.named.items() if not read]:
                if claim.task_id is not None:
                    break
                try:
                    ours = await self._confirm(name, token)
                except ApikleyError as error:
                    passing = retry_delay(error, repeatable=True, delay=0.0) is not None
                    if not (passing or isinstance(error, NotFoundError)):
                        raise
                    done = False
                    continue
                claim.named[name] = True
                if ours:
                    self._bind(token, claim, name)
                else:
                    logger.warning("a callback named a task that is not ours; it is left alone")
        finally:
            claim.asking = False
        return done

    async def _check_twin(self, token: str, task_id: str) -> None:
        try:
            if await self._confirm(task_id, token):
                self._bought(task_id)
        except ApikleyError as error:
            logger.info("a second task of one attempt was not read: %s", type(error).__name__)

    def _bind(self, token: str, claim: _Claim, task_id: str) -> None:
        claim.task_id = task_id
        self._tokens[task_id] = token
        claim.wake()

    def _forget_the_oldest(self) -> None:
        while len(self._claims) > MOST_CLAIMS:
            idle = next((t for t, claim in self._claims.items() if not claim.waiting), None)
            if idle is None:
                return
            forgotten = self._claims.pop(idle)
            self._tokens.pop(forgotten.task_id or "", None)
