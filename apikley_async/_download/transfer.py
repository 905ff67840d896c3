"""Transfers a film's bytes from its host into a sink: a part file, or a stream.

This module decides how often and for how long to retry, when to use another link, and whether what
came is a whole film. What becomes of the bytes is the sink's.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

from apikley_async._clock import Clock
from apikley_async._download.fetch import FileFetcher
from apikley_async._download.links import AllLinksRefusedError, RenewableLink
from apikley_async._download.media import HEAD_BYTES, Completeness, suffix_of
from apikley_async._download.partfile import Check
from apikley_async._download.ranges import (
    MAX_FILE_BYTES,
    BodyRange,
    FileChangedError,
    HeldBytes,
    HostUnreachableError,
    LinkRefusedError,
    TransferInterruptedError,
)
from apikley_async._polling import Backoff
from apikley_async._text import loggable
from apikley_async._urls import display_host
from apikley_async.errors import DownloadError, ResultExpiredError
from apikley_async.events import Emit, Retrying

__all__ = ["Sink", "Transfers", "given_up"]

logger: logging.Logger = logging.getLogger("apikley_async")

FAILURES_BEFORE_NEW_LINK = 3  # connections that failed; another link may lead to another host
MIN_BYTES_PER_SECOND, SPEED_WINDOW = 1024, 60.0  # averaged over the window, in seconds
WARN_AFTER = 60.0  # seconds without progress
RETRY_BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=30.0)

T = TypeVar("T")

Slot: TypeAlias = Callable[[float], AbstractAsyncContextManager[None]]
"""Surrounds one attempt; it is given when the film's links expire."""


def no_slot(_: float) -> AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


class Sink(Protocol):
    """Where the bytes of a film go; a `PartFile` is one, and a `StreamedFile`."""

    @property
    def name(self) -> str:
        """What it is called in the log."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the film that have come."""
        ...

    @property
    def total(self) -> int | None:
        """Bytes of the whole film, where they are known."""
        ...

    @property
    def held(self) -> HeldBytes:
        """What need not come again, if its version is still there."""
        ...

    @property
    def sha256(self) -> str:
        """The digest of what has come."""
        ...

    @property
    def waited(self) -> float:
        """Seconds for which a reader let us wait: they are not the host's."""
        ...

    async def restart(self) -> None:
        """Continue nothing: the whole film is fetched next."""
        ...

    async def begin(
        self, total: int | None, etag: str | None, first: bytes = b"", *, anew: bool = False
    ) -> None:
        """Begin with the bytes of one response; *anew* with the first ones of the film."""
        ...

    async def write(self, chunk: bytes) -> None: ...


class Transfers:
    """Transfers films, any number at a time.

    Args:
        fetcher: sends the requests.
        clock: tells the time.
        rng: source of jitter.
        retry_for: seconds without progress for which a transfer is retried.
        emit: is given each retry.
    """

    def __init__(
        self,
        fetcher: FileFetcher,
        *,
        clock: Clock,
        rng: random.Random,
        retry_for: float,
        emit: Emit | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._rng = rng
        self._retry_for = retry_for
        self._emit = emit
        self._opens_at: dict[str, float] = {}  # by host: a Retry-After holds for all its files

    async def run(
        self,
        sink: Sink,
        link: RenewableLink,
        attempt: Callable[[], Awaitable[T]],
        *,
        slot: Slot = no_slot,
    ) -> T:
        """Make attempts until one succeeds, while that may help; give what it gave.

        A slot is held while bytes are fetched, not during pauses. Waiting for one, or for whoever
        reads the sink, does not count as time without progress.

        Raises:
            TransferInterruptedError: nothing came for too long.
            DownloadError: trying again would not help.
        """
        delays = RETRY_BACKOFF.delays(self._rng)
        largest, since, unreached = sink.size, self._clock.now(), 0
        while True:
            opens_at = self._opens_at.get(display_host(link.url), 0.0)
            await self._clock.sleep(opens_at - self._clock.now())
            queued = self._clock.now()
            async with slot(link.expires_at):
                since += self._clock.now() - queued
                waited = sink.waited
                try:
                    return await attempt()
                except TransferInterruptedError as error:
                    interruption = error
                since += sink.waited - waited
            if isinstance(interruption, HostUnreachableError):
                unreached += 1
                if unreached % FAILURES_BEFORE_NEW_LINK == 0:
                    await link.skip_unreachable(sink.size)
            now = self._clock.now()
            if sink.size - largest > MIN_BYTES_PER_SECOND * (now - since):
                largest, since, delays = sink.size, now, RETRY_BACKOFF.delays(self._rng)
            elif not self._is_retried(interruption, link, now - since):
                raise interruption
            if isinstance(interruption, FileChangedError):
                await sink.restart()
            if interruption.retry_after:
                self._opens_at[display_host(link.url)] = now + interruption.retry_after
            delay = max(next(delays), interruption.retry_after)
            if self._emit is not None:
                cause = loggable(str(interruption))
                self._emit(Retrying("download", delay, cause, task_id=link.task_id))
            await self._pause(sink, interruption, delay, stuck_for=now - since)

    def _is_retried(
        self, interruption: TransferInterruptedError, link: RenewableLink, stuck_for: float
    ) -> bool:
        """Whether to retry after *stuck_for* seconds without progress.

        Raises:
            ResultExpiredError: the film is gone.
        """
        if not isinstance(interruption, AllLinksRefusedError):
            link.reset_refusals()
            return stuck_for + interruption.retry_after <= self._retry_for
        if interruption.is_gone(is_expired=0 < link.expires_at <= self._clock.wall()):
            raise ResultExpiredError(f"The film is gone: {interruption}")
        # What the service has lost is asked for until that is certain, however long it takes.
        in_time = interruption.lost_for is not None or stuck_for <= self._retry_for
        return interruption.is_inconclusive and in_time

    async def _pause(
        self,
        sink: Sink,
        interruption: TransferInterruptedError,
        delay: float,
        *,
        stuck_for: float,
    ) -> None:
        logger.log(
            logging.WARNING if stuck_for >= WARN_AFTER else logging.INFO,
            "%s: %s; %d bytes are there, again in %.1f s",
            *(sink.name, interruption, sink.size, delay),
        )
        await self._clock.sleep(delay)

    async def fetch(self, sink: Sink, link: RenewableLink, seen: set[str]) -> Check:
        """Fetch the missing bytes, from other links if need be; gives the check of the film.

        *seen* holds the digests of contents whose end nothing marked: one that has come twice is
        believed.
        """

        async def receive(body: BodyRange, chunks: AsyncIterator[bytes]) -> None:
            await self._receive(sink, body, chunks)

        framed = True
        while sink.size == 0 or sink.size != sink.total:
            try:
                framed = (await self._fetcher.fetch(link.url, sink.held, receive)).framed
                break
            except LinkRefusedError as error:
                reason = str(error)
            await link.renew(reason, sink.size)
        return functools.partial(check_whole, sink, framed, seen)

    async def _receive(self, sink: Sink, body: BodyRange, chunks: AsyncIterator[bytes]) -> None:
        """Write the bytes of one response; the first ones decide whether they are a film."""
        first, anew = b"", body.start == 0
        if anew:
            first = await first_bytes(chunks)
            if not first:
                raise TransferInterruptedError("nothing came")
            if suffix_of(first[:HEAD_BYTES]) is None:
                raise LinkRefusedError("something that is no film")
        await sink.begin(body.total, body.etag, first, anew=anew)
        if body.start == body.end:
            return
        check_size(sink.size, body)
        size, since = sink.size, self._clock.now() - sink.waited
        async for chunk in chunks:
            await sink.write(chunk)
            check_size(sink.size, body)
            now = self._clock.now() - sink.waited
            if (elapsed := now - since) >= SPEED_WINDOW:
                if sink.size - size < MIN_BYTES_PER_SECOND * elapsed:
                    raise TransferInterruptedError("slower than 1 KiB a second")
                size, since = sink.size, now
        if body.total is not None and sink.size != body.total:
            raise TransferInterruptedError(f"{sink.size} of {body.total} bytes came")


async def first_bytes(chunks: AsyncIterator[bytes]) -> bytes:
    """Enough chunks to recognise a film by; fewer when there are no more."""
    found = b""
    while len(found) < HEAD_BYTES and (chunk := await anext(chunks, None)) is not None:
        found += chunk
    return found


def check_size(size: int, body: BodyRange) -> None:
    """Refuse more bytes than the response announced, or than any film has."""
    if body.end is not None and size > body.end:
        raise FileChangedError("more came than was announced")
    if size > MAX_FILE_BYTES:
        raise DownloadError(f"The film has more than {MAX_FILE_BYTES} bytes")


def check_whole(sink: Sink, framed: bool, seen: set[str], found: Completeness) -> None:
    """Refuse a film that is not whole, as far as can be known.

    Args:
        sink: what has come.
        framed: whether the response that brought its end said where that is.
        seen: the digests of contents whose end nothing marked.
        found: what its content says about its end.
    """
    if found is Completeness.TRUNCATED:
        raise FileChangedError("the film was not whole")
    ends = framed
    if found is Completeness.TRAILING_BYTES:
        ends = sink.total is not None
    if found is not Completeness.COMPLETE and not ends and sink.sha256 not in seen:
        seen.add(sink.sha256)
        raise FileChangedError("the film came without its length")
    if found is Completeness.TRAILING_BYTES:
        logger.warning("%s: odd bytes behind the film are kept as they came", sink.name)


def given_up(host: str, interruption: TransferInterruptedError) -> DownloadError:
    """The error for a film that did not come, after all retries; it may come another time."""
    if isinstance(interruption, AllLinksRefusedError):
        return DownloadError(f"{host} does not give the film, or not yet: {interruption}")
    return DownloadError(f"{host} broke off again and again: {interruption}")
