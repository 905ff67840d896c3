"""Saves the films of a result: whole files under their names, or none.

The bytes go to a part file beside the target. The final name appears only when the size is right,
the content is a whole film, and both file and folder are on the disk. This module decides how
often and for how long to retry, and when to use another link.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

from apikley_async._clock import Clock
from apikley_async._download.fetch import FileFetcher
from apikley_async._download.links import AllLinksRefusedError, Reissue, RenewableLink
from apikley_async._download.media import HEAD_BYTES, Completeness, suffix_of
from apikley_async._download.names import safe_name, target_paths
from apikley_async._download.partfile import Check, PartFile, SavedFile
from apikley_async._download.ranges import (
    MAX_FILE_BYTES,
    BodyRange,
    FileChangedError,
    HostUnreachableError,
    LinkRefusedError,
    TransferInterruptedError,
)
from apikley_async._http import Network
from apikley_async._polling import Backoff
from apikley_async._result import Result
from apikley_async._urls import AddressPolicy, display_host
from apikley_async.errors import DownloadError, ResultExpiredError

__all__ = ["Saver"]

logger: logging.Logger = logging.getLogger("apikley_async")

MAX_CONCURRENT_FILES = 6
FAILURES_BEFORE_NEW_LINK = 3  # connections that failed; another link may lead to another host
MIN_BYTES_PER_SECOND, SPEED_WINDOW = 1024, 60.0  # averaged over the window, in seconds
WARN_AFTER = 60.0  # seconds without progress
RETRY_BACKOFF = Backoff(initial=1.0, factor=2.0, maximum=30.0)

Overwrite: TypeAlias = bool | Callable[[Path], bool]


class Saver:
    """Saves results: at most six files at a time, those first whose links expire first.

    Args:
        reissue: gives new links for a file whose link is dead.
        clock: tells the time.
        rng: source of jitter and of unique names.
        network: how connections are made.
        retry_for: seconds without progress for which a download is retried.
        policy: which addresses films may come from besides public ones.
    """

    def __init__(
        self,
        *,
        reissue: Reissue,
        clock: Clock,
        rng: random.Random,
        network: Network,
        retry_for: float = 600.0,
        policy: AddressPolicy | None = None,
    ) -> None:
        self._reissue = reissue
        self._clock = clock
        self._rng = rng
        self._retry_for = retry_for
        self._fetcher = FileFetcher(network, clock=clock, policy=policy)
        self._slots = DownloadSlots(MAX_CONCURRENT_FILES)
        self._cleaned: set[Path] = set()  # folders whose leftovers were removed
        self._opens_at: dict[str, float] = {}  # by host: a Retry-After holds for all its files

    async def save(
        self, result: Result, target: str | os.PathLike[str], *, overwrite: Overwrite = False
    ) -> list[SavedFile]:
        """Save every file of *result*; see `Client.save_files`."""
        if not result.urls:
            raise DownloadError("The result has no file to save", task_id=result.task_id)
        saved: list[SavedFile] = []
        first_error: DownloadError | None = None
        for index, path in enumerate(target_paths(result, target)):
            try:
                saved.append(await self._save_file(result, index, path, overwrite))
            except DownloadError as error:  # the other files are wanted all the same
                first_error = first_error or error
        if first_error is None and result.unusable:
            link = result.unusable[0].partition("?")[0]
            first_error = DownloadError(
                f"Every other file is saved, but a link of the film cannot be used: {link:.120}"
            )
        if first_error is not None:
            first_error.task_id = result.task_id
            raise first_error
        return saved

    async def aclose(self) -> None:
        await self._fetcher.aclose()

    async def _save_file(
        self, result: Result, index: int, target: Path, overwrite: Overwrite
    ) -> SavedFile:
        part = PartFile(target, f"{safe_name(result.task_id)}-{index + 1}", self._rng)
        link = RenewableLink(self._reissue, result, index, self._clock)
        keep = False
        try:
            async with contextlib.aclosing(link):
                return await self._fetch_and_publish(part, link, overwrite)
        except asyncio.CancelledError:
            keep = True
            raise
        except TransferInterruptedError as error:
            interruption, keep = error, True
        finally:
            await part.close(keep=keep)
        host = display_host(result.urls[index])
        if isinstance(interruption, AllLinksRefusedError):
            raise DownloadError(f"{host} does not give the film, or not yet: {interruption}")
        raise DownloadError(f"{host} broke off again and again: {interruption}")

    async def _fetch_and_publish(
        self, part: PartFile, link: RenewableLink, overwrite: Overwrite
    ) -> SavedFile:
        """Fetch the whole file and publish it; resume after interruptions while that may help.

        A slot is held while bytes are fetched, not during pauses, and waiting for one does not
        count as time without progress.
        """
        delays = RETRY_BACKOFF.delays(self._rng)
        largest, since, unreached = 0, self._clock.now(), 0
        seen: set[str] = set()
        while True:
            opens_at = self._opens_at.get(display_host(link.url), 0.0)
            await self._clock.sleep(opens_at - self._clock.now())
            queued = self._clock.now()
            async with self._slots.slot(link.expires_at):
                since += self._clock.now() - queued
                try:
                    if not part.is_open:
                        await self._open(part)
                        largest = part.size
                    check = await self._fetch(part, link, seen)
                    return await part.publish(check=check, overwrite=overwrite)
                except TransferInterruptedError as error:
                    interruption = error
            if isinstance(interruption, HostUnreachableError):
                unreached += 1
                if unreached % FAILURES_BEFORE_NEW_LINK == 0:
                    await link.skip_unreachable(part.size)
            now = self._clock.now()
            if part.size - largest > MIN_BYTES_PER_SECOND * (now - since):
                largest, since, delays = part.size, now, RETRY_BACKOFF.delays(self._rng)
            elif not self._is_retried(interruption, link, now - since):
                raise interruption
            if isinstance(interruption, FileChangedError):
                await part.restart()
            if interruption.retry_after:
                self._opens_at[display_host(link.url)] = now + interruption.retry_after
            await self._pause(part, interruption, next(delays), stuck_for=now - since)

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
        part: PartFile,
        interruption: TransferInterruptedError,
        delay: float,
        *,
        stuck_for: float,
    ) -> None:
        delay = max(delay, interruption.retry_after)
        logger.log(
            logging.WARNING if stuck_for >= WARN_AFTER else logging.INFO,
            "%s: %s; %d bytes are there, again in %.1f s",
            *(part.target.name, interruption, part.size, delay),
        )
        await self._clock.sleep(delay)

    async def _open(self, part: PartFile) -> None:
        await part.open()
        if part.target.parent not in self._cleaned:
            self._cleaned.add(part.target.parent)
            await part.remove_leftovers()

    async def _fetch(self, part: PartFile, link: RenewableLink, seen: set[str]) -> Check:
        """Fetch the missing bytes, from other links if need be; gives the check of the film.

        *seen* holds the digests of contents whose end nothing marked: one that has come twice is
        believed.
        """

        async def receive(body: BodyRange, chunks: AsyncIterator[bytes]) -> None:
            await self._receive(part, body, chunks)

        framed = True
        while part.size == 0 or part.size != part.total:
            try:
                framed = (await self._fetcher.fetch(link.url, part.held, receive)).framed
                break
            except LinkRefusedError as error:
                reason = str(error)
            await link.renew(reason, part.size)
        return functools.partial(check_whole, part, framed, seen)

    async def _receive(self, part: PartFile, body: BodyRange, chunks: AsyncIterator[bytes]) -> None:
        """Write the bytes of one response; the first ones decide whether they are a film."""
        first, anew = b"", body.start == 0
        if anew:
            first = await first_bytes(chunks)
            if not first:
                raise TransferInterruptedError("nothing came")
            if suffix_of(first[:HEAD_BYTES]) is None:
                raise LinkRefusedError("something that is no film")
        await part.begin(body.total, body.etag, first, anew=anew)
        if body.start == body.end:
            return
        check_size(part.size, body)
        size, since = part.size, self._clock.now()
        async for chunk in chunks:
            await part.write(chunk)
            check_size(part.size, body)
            if (elapsed := self._clock.now() - since) >= SPEED_WINDOW:
                if part.size - size < MIN_BYTES_PER_SECOND * elapsed:
                    raise TransferInterruptedError("slower than 1 KiB a second")
                size, since = part.size, self._clock.now()
        if body.total is not None and part.size != body.total:
            raise TransferInterruptedError(f"{part.size} of {body.total} bytes came")


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


def check_whole(part: PartFile, framed: bool, seen: set[str], found: Completeness) -> None:
    """Refuse a film that is not whole, as far as can be known.

    Args:
        part: the film.
        framed: whether the response that brought its end said where that is.
        seen: the digests of contents whose end nothing marked.
        found: what its content says about its end.
    """
    if found is Completeness.TRUNCATED:
        raise FileChangedError("the film was not whole")
    ends = framed
    if found is Completeness.TRAILING_BYTES:
        ends = part.total is not None
    if found is not Completeness.COMPLETE and not ends and part.sha256 not in seen:
        seen.add(part.sha256)
        raise FileChangedError("the film came without its length")
    if found is Completeness.TRAILING_BYTES:
        logger.warning("%s: odd bytes behind the film are kept as they came", part.target.name)


class DownloadSlots:
    """A semaphore whose slots go to the earliest deadline first.

    A waiter that is cancelled has held no slot.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def slot(self, deadline: float) -> AsyncIterator[None]:
        """Hold a slot; among those who wait, the earliest *deadline* gets the next one."""
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (deadline, next(self._numbers), turn))
        self._wake()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():
                self._free += 1
                self._wake()

    def _wake(self) -> None:
        while self._free and self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
