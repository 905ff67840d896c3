"""The link of one file of a result: renewed when it is refused, and when that means it is gone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeAlias

from apikley_async._clock import Clock
from apikley_async._download.ranges import TransferInterruptedError
from apikley_async._result import Result
from apikley_async._retry import retry_delay
from apikley_async.errors import ApikleyError, NotFoundError

__all__ = ["AllLinksRefusedError", "RenewableLink"]

# Seconds. The links of a new film may be refused for a minute, so a refusal counts after two; what
# the service has lost counts as gone when it is still lost ten minutes later.
REFUSED_TOO_LONG = 120.0
LOST_TOO_LONG = 600.0

Reissue: TypeAlias = Callable[[str, int, str], AsyncIterator[str]]
"""Gives new links, one by one, for a task's id, the index of its file, and the dead link."""


class AllLinksRefusedError(TransferInterruptedError):
    """Every link of the file is refused: it may be too new, or gone.

    Attributes:
        refused_for: seconds since the first refusal.
        lost_for: seconds for which the service has known neither the link nor the task; None
            while it knows one of them.
    """

    def __init__(self, reason: str, *, refused_for: float, lost_for: float | None = None) -> None:
        super().__init__(reason)
        self.refused_for = refused_for
        self.lost_for = lost_for

    def is_gone(self, *, is_expired: bool) -> bool:
        """Whether this is evidence enough that the film is gone, and not only late.

        The service has lost it and still has ten minutes later; or every link is refused after
        their day is over, which *is_expired* says. A 404 of the film's host is never enough.
        """
        if self.lost_for is not None and self.lost_for >= LOST_TOO_LONG:
            return True
        return is_expired and self.refused_for >= REFUSED_TOO_LONG

    @property
    def is_inconclusive(self) -> bool:
        """Whether it is too early to give up for now."""
        return self.lost_for is not None or self.refused_for < REFUSED_TOO_LONG


class RenewableLink:
    """The link of one file, and the links that the service gives in its place.

    A round ends when the service has no other link; the next one starts with the first link
    again. Refusals are timed over rounds, and start anew when bytes have come in between.

    Args:
        reissue: gives new links.
        result: of the task.
        index: of the file in the result.
        clock: tells the time.

    Attributes:
        task_id: of the result.
        url: the link to use now.
        expires_at: seconds since 1970 when the result's links expire; 0 where that is unknown.
    """

    def __init__(self, reissue: Reissue, result: Result, index: int, clock: Clock) -> None:
        self._reissue = reissue
        self._file = result.task_id, index, result.urls[index]
        self._clock = clock
        self.task_id: str = result.task_id
        self.url: str = result.urls[index]
        self.expires_at: float = result.expires_at.timestamp() if result.expires_at else 0.0
        self._new_links: AsyncIterator[str] | None = None
        self._unreached = False  # a host was not reached in this round: its link may work
        self._refused_since: float | None = None
        self._lost_since: float | None = None
        self._size = 0

    async def renew(self, reason: str, size: int) -> None:
        """Change to the next link.

        Args:
            reason: what is wrong with this one.
            size: bytes of the file that are on the disk.

        Raises:
            AllLinksRefusedError: every link is refused.
            TransferInterruptedError: there is no other link now.
            ApikleyError: the service refuses to give links.
        """
        if size > self._size:
            self._size = size
            self.reset_refusals()
        if self._new_links is None:
            self._new_links = self._reissue(*self._file)
        error: ApikleyError | TransferInterruptedError
        try:
            self.url = await anext(self._new_links)
            return
        except StopAsyncIteration:
            error = self._end_round(f"the link is refused ({reason})", lost=False)
        except NotFoundError:
            error = self._end_round(f"the service does not know it any more ({reason})", lost=True)
        except ApikleyError as exc:
            error = exc
            if retry_delay(exc, repeatable=True, delay=0.0) is not None:
                error = TransferInterruptedError(f"no new link: {exc.message}")
        self._new_links, self.url, self._unreached = None, self._file[2], False
        raise error

    def _end_round(self, reason: str, *, lost: bool) -> TransferInterruptedError:
        """The error of a round that is over; *lost* says that the service knows no link."""
        if self._unreached:
            return TransferInterruptedError(reason)
        now = self._clock.now()
        if self._lost_since is not None and not lost:
            self.reset_refusals()  # the service knows the film again
        if self._refused_since is None:
            self._refused_since = now
        if lost and self._lost_since is None:
            self._lost_since = now
        lost_for = None if self._lost_since is None else now - self._lost_since
        return AllLinksRefusedError(
            reason, refused_for=now - self._refused_since, lost_for=lost_for
        )

    def reset_refusals(self) -> None:
        """Time refusals from the next one on: something else has happened."""
        self._refused_since = self._lost_since = None

    async def skip_unreachable(self, size: int) -> None:
        """Change from a link whose host is not reached, which says nothing about the film."""
        self._unreached = True
        with contextlib.suppress(ApikleyError, TransferInterruptedError):
            await self.renew("its host is not reached", size)

    async def aclose(self) -> None:
        if isinstance(self._new_links, AsyncGenerator):
            await self._new_links.aclose()
