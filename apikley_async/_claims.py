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
from apikley_async._policy import RETRIES
from apikley_async._result import Snapshot
from apikley_async._submit import Attempt, Callbacks, Verdict
from apikley_async._wire import is_task_id
from apikley_async.errors import (
    ApikleyError,
    AuthenticationError,
    ClientClosedError,
    SubmissionUncertainError,
)

__all__ = ["CatchingUp", "Claims", "Hear", "Keep", "Listening"]

logger = logging.getLogger("apikley_async")

MOST_CLAIMS = 20_000
MOST_STRANGERS = 100_000  # callbacks about attempts that nobody has told us of yet
MOST_NAMES = 8  # of tasks for one attempt: one is its own, the rest are mistakes or worse
OVERDUE = 60.0  # seconds after a film's end by which its callback should have come
SHORTEST = 0.01  # seconds: who has no time left may still be told what is known
UNHEARD = 5  # films in a row that nobody announced
TWIN_TRIES = 10  # to read a task that seems to be paid besides another one
GIVEN_UP = ""  # instead of a task's id: the attempt was given up, or seemed to be refused

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


@runtime_checkable
class CatchingUp(Protocol):
    """Callbacks that may have kept something from before."""

    async def catch_up(self) -> None:
        """Wait until that is passed on."""
        ...


@attrs.define(eq=False)
class _Claim:
    """What is known of one attempt. *named* are ids from callbacks; True once they were read."""

    task_id: str | None = None
    named: dict[str, bool] = attrs.Factory(dict)
    keep: Keep | None = None
    waiting: dict[asyncio.Event, None] = attrs.Factory(dict)
    asking: bool = False
    checking: dict[str, None] = attrs.Factory(dict)

    def wake(self) -> None:
        for event in self.waiting:
            event.set()

    @property
    def unread(self) -> list[str]:
        return [name for name, read in self.named.items() if not read]


class Claims:
    """The attempts of one client.

    *confirm* reads a task and says whether a token is in it, or None if that cannot be told.
    *announced* is told that a task may be ready; *bought*, of a second task for an attempt that
    has its own: somebody on the way has sent it twice. *spawn* starts what nobody waits for, and
    says whether it could.
    """

    def __init__(
        self,
        *,
        confirm: Callable[[str, str], Awaitable[bool | None]],
        announced: Callable[[str], None],
        bought: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], bool],
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
    ) -> bool:
        """Know of an attempt, with what is known of it from before; True when it was named."""
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
        return bool(claim.named)

    def release(self, token: str) -> None:
        """Keep nothing more of an attempt anywhere but here.

        One that is still uncertain, and that nobody waits for, is let go of: a callback that
        nobody would keep must not be acknowledged, so that the service calls again.
        """
        if (claim := self._claims.get(token)) is not None:
            claim.keep = None
            if claim.task_id is None and not claim.waiting:
                del self._claims[token]

    def reopen(self) -> None:
        """A loop that is gone took those with it who were asking."""
        for claim in self._claims.values():
            claim.asking = False
            claim.checking.clear()
            claim.waiting.clear()

    def settle(self, attempt: Attempt) -> None:
        """Take note of an answer."""
        claim = self._claims.get(attempt.token)
        if claim is None:
            return
        if attempt.task_id is not None:
            self._bind(attempt.token, claim, attempt.task_id)
        elif attempt.verdict is not Verdict.UNCERTAIN and claim.named:
            self._bind(attempt.token, claim, GIVEN_UP)  # refused, and yet it has called
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
            claim.named[task_id] = False
            known = task_id == claim.task_id
        claim.wake()
        if claim.task_id is not None:
            self._announced(claim.task_id)
            self._look_for_twins(token, claim)
        if not known and claim.keep is not None:
            await claim.keep(task_id)
        return True

    def _park(self, token: str, task_id: str) -> None:
        """Remember what a batch may ask for that is not running yet."""
        named = self._strangers.setdefault(token, {})
        if len(named) < MOST_NAMES and is_task_id(task_id):
            named[task_id] = False
        if len(self._strangers) > MOST_STRANGERS:
            del self._strangers[next(iter(self._strangers))]

    def knows(self, token: str) -> bool:
        """Whether callbacks about an attempt can be told from others."""
        return token in self._claims

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
        claim.waiting[news] = None
        try:
            while True:
                news.clear()
                later = math.inf
                if not claim.asking and not await self._ask(token, claim, ends):
                    later = next(delays)
                if found := claim.task_id:
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
            claim.waiting.pop(news, None)
            claim.wake()  # whoever asked for all has left: the next takes over

    async def _ask(self, token: str, claim: _Claim, ends: float) -> bool:
        """Read the tasks that were named and not read yet; False when one has to be read later."""
        claim.asking = True
        try:
            async with asyncio.timeout(max(SHORTEST, ends - self._clock.now())):
                for name in claim.unread:
                    if claim.task_id is None and await self._read(token, claim, name):
                        self._bind(token, claim, name)
        except TimeoutError:
            pass
        finally:
            claim.asking = False
        return bool(claim.task_id) or not claim.unread

    async def _read(self, token: str, claim: _Claim, name: str) -> bool:
        """Read a task, and say whether it is certainly the attempt's own."""
        try:
            ours = await self._confirm(name, token)
        except (AuthenticationError, ClientClosedError):
            raise
        except ApikleyError:  # an outage, or a task that is not yet known: later
            return False
        claim.named[name] = ours is not None
        if ours is False:
            logger.warning("a callback named a task that is not ours; it is left alone")
        return bool(ours)

    def _bind(self, token: str, claim: _Claim, task_id: str) -> None:
        claim.task_id = task_id
        if task_id != GIVEN_UP:
            self._tokens[task_id] = token
        claim.wake()
        self._look_for_twins(token, claim)

    # --- what was bought besides ----------------------------------------------------------------

    def _look_for_twins(self, token: str, claim: _Claim) -> None:
        """Every other task that was named for an attempt may have been paid as well."""
        for name in claim.unread:
            if name not in (claim.task_id, *claim.checking):
                claim.checking[name] = None
                if not self._spawn(self._check_twin(token, claim, name)):
                    claim.checking.pop(name, None)

    async def _check_twin(self, token: str, claim: _Claim, name: str) -> None:
        delays = RETRIES.delays(self._rng)
        try:
            for _ in range(TWIN_TRIES):
                if await self._read(token, claim, name):
                    self._bought(name)
                if claim.named[name]:
                    return
                await self._clock.sleep(next(delays))
        except ApikleyError as error:
            logger.info("a second task of one attempt was not read: %s", type(error).__name__)
        finally:
            claim.checking.pop(name, None)

    def _forget_the_oldest(self) -> None:
        while len(self._claims) > MOST_CLAIMS:
            idle = next((t for t, claim in self._claims.items() if not claim.waiting), None)
            if idle is None:
                return
            forgotten = self._claims.pop(idle)
            self._tokens.pop(forgotten.task_id or "", None)
