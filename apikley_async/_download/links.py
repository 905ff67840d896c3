"""The links of one file of a result: which one to use, and for how long all of them are refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeAlias

from apikley_async._clock import Clock
from apikley_async._download.ranges import BrokenOffError
from apikley_async._result import Result
from apikley_async._retry import retry_delay
from apikley_async.errors import ApikleyError, NotFoundError

__all__ = ["Links", "RefusedError"]

LINK_PATIENCE = 120.0  # seconds: a new film's links may be refused for a minute
CONFIRMED = 600.0  # what the service has lost must still be lost so many seconds later

Reissue: TypeAlias = Callable[[str, int, str], AsyncIterator[str]]


class RefusedError(BrokenOffError):
    """Every link of it is refused, for *refused_for* seconds now: it may be too new, or gone.

    *lost_for* says for how long the service has known neither the link nor the task; None while
    it knows one of them.
    """

    def __init__(self, why: str, *, refused_for: float, lost_for: float | None = None) -> None:
        super().__init__(why)
        self.refused_for = refused_for
        self.lost_for = lost_for

    def is_gone(self, *, day_over: bool) -> bool:
        """Whether that is evidence enough that the film is gone, and not only late.

        The service has lost it, and has so still ten minutes later; or every way is refused
        when the day that links live is over. A host's own 404 is never enough.
        """
        if self.lost_for is not None and self.lost_for >= CONFIRMED:
            return True
        return day_over and self.refused_for >= LINK_PATIENCE

    @property
    def is_tried_on(self) -> bool:
        """Whether it is too early to give up for now."""
        return self.lost_for is not None or self.refused_for < LINK_PATIENCE


class Links:
    """The link of one file, those that may follow it, and for how long all of them are refused."""

    def __init__(self, reissue: Reissue, result: Result, number: int, clock: Clock) -> None:
        self._reissue = reissue
        self._file = result.task_id, number, result.urls[number]
        self._clock = clock
        self.url = result.urls[number]
        self.dies = result.expires_at.timestamp() if result.expires_at else 0.0
        self._fresh: AsyncIterator[str] | None = None
        self._unreached = False  # in this round a host was not reached: its link may work
        self._refused_since: float | None = None
        self._lost_since: float | None = None
        self._have = 0

    async def renew(self, dead: str, have: int) -> None:
        """Move on to the next link; *dead* says what became of this one, *have* what is there.

        Raises:
            RefusedError: all of them are refused.
            BrokenOffError: there is none now; there may be one later, or the first may work.
            ApikleyError: the service does not let us ask.
        """
        if have > self._have:
            self._have = have
            self.forget_refusals()
        if self._fresh is None:
            self._fresh = self._reissue(*self._file)
        trouble: ApikleyError | BrokenOffError
        try:
            self.url = await anext(self._fresh)
            return
        except StopAsyncIteration:
            trouble = self._refused(f"the link is refused ({dead})", lost=False)
        except NotFoundError:
            trouble = self._refused(f"the service does not know it any more ({dead})", lost=True)
        except ApikleyError as error:
            trouble = error
            if retry_delay(error, repeatable=True, delay=0.0) is not None:
                trouble = BrokenOffError(f"no new link: {error.message}")
        self._fresh, self.url, self._unreached = None, self._file[2], False
        raise trouble

    def _refused(self, why: str, *, lost: bool) -> BrokenOffError:
        """What it means that a round of links is over."""
        if self._unreached:
            return BrokenOffError(why)
        now = self._clock.now()
        if self._lost_since is not None and not lost:
            self.forget_refusals()  # it knows the film again
        if self._refused_since is None:
            self._refused_since = now
        if lost and self._lost_since is None:
            self._lost_since = now
        lost_for = None if self._lost_since is None else now - self._lost_since
        return RefusedError(why, refused_for=now - self._refused_since, lost_for=lost_for)

    def forget_refusals(self) -> None:
        """Something else happened: refusals count from the next one on."""
        self._refused_since = self._lost_since = None

    async def try_another(self, have: int) -> None:
        """Move on from a link whose host cannot be reached; that says nothing about the film."""
        self._unreached = True
        with contextlib.suppress(ApikleyError, BrokenOffError):
            await self.renew("its host is not reached", have)

    async def aclose(self) -> None:
        if isinstance(self._fresh, AsyncGenerator):
            await self._fresh.aclose()
