"""Films on their way to the disk: whole files under their names, or none.

Bytes go to a `.part` beside the target; the final name appears only when the size is right, the
content is what it should be, and both file and folder are on the disk. What an answer means is
decided in `media`, asked in `fetch` and written in `partfile`; here stands how often, and for how
long, and where else when a link is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from apikley_async._download.links import Links, RefusedError, Reissue
from apikley_async._download.media import HEAD, Shape, kind_of
from apikley_async._download.names import safe_name, target_names
from apikley_async._download.partfile import PartFile
from apikley_async._download.ranges import (
    LARGEST,
    Body,
    BrokenOffError,
    ChangedError,
    GoneError,
    UnreachedError,
)
from apikley_async._http import Network
from apikley_async._result import Result
from apikley_async._retry import Backoff
from apikley_async._urls import AddressPolicy, display_host
from apikley_async.errors import DownloadError, ResultExpiredError

__all__ = ["Saver"]

logger = logging.getLogger("apikley_async")

AT_ONCE = 6
LOST = 3  # after so many refused connections another link is tried: it may lead elsewhere
SLOWEST, SLOW_SPAN = 1024, 60.0  # bytes a second, seen over so many seconds
SAID_AFTER = 60.0  # seconds without progress that are worth a warning
TRIES = Backoff(initial=1.0, factor=2.0, maximum=30.0)

Overwrite: TypeAlias = bool | Callable[[Path], bool]


class Saver:
    """Saves results; at most six files at a time, those first whose links die first.

    *reissue* is asked for new links when one is dead; it is given the task's id, which of its
    files is meant, and the dead link.
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
        self._slots = DownloadSlots(AT_ONCE)
        self._swept: set[Path] = set()
        self._opens: dict[str, float] = {}  # when hosts that asked to be left alone may be asked

    async def save(
        self, result: Result, target: str | os.PathLike[str], *, overwrite: Overwrite = False
    ) -> list[Path]:
        """Save every file of *result*; see `Client.save`."""
        if not result.urls:
            raise DownloadError("The result has no file to save", task_id=result.task_id)
        paths: list[Path] = []
        trouble: DownloadError | None = None
        for number, name in enumerate(target_names(result, target)):
            try:
                paths.append(await self._save_one(result, number, name, overwrite))
            except DownloadError as error:  # the others are wanted all the same
                trouble = trouble or error
        if trouble is None and result.unusable:
            odd = result.unusable[0].partition("?")[0]
            told = f"Every other file is saved, but a link of the film cannot be used: {odd:.120}"
            trouble = DownloadError(told)
        if trouble is not None:
            trouble.task_id = result.task_id
            raise trouble
        return paths

    async def aclose(self) -> None:
        await self._fetcher.aclose()

    async def _save_one(
        self, result: Result, number: int, target: Path, overwrite: Overwrite
    ) -> Path:
        part = PartFile(target, f"{safe_name(result.task_id)}-{number + 1}", self._rng)
        links = Links(self._reissue, result, number, self._clock)
        keep = False
        try:
            async with contextlib.aclosing(links):
                return await self._persist(part, links, overwrite)
        except asyncio.CancelledError:
            keep = True
            raise
        except BrokenOffError as error:
            broken, keep = error, True
        finally:
            await part.close(keep=keep)
        host = display_host(result.urls[number])
        if isinstance(broken, RefusedError):
            raise DownloadError(f"{host} does not give the film, or not yet: {broken}")
        raise DownloadError(f"{host} broke off again and again: {broken}")

    async def _persist(self, part: PartFile, links: Links, overwrite: Overwrite) -> Path:
        """Fetch the whole file and give it its name; go on after breaks while there is hope.

        A place is held while something is fetched, not while it is waited for.
        """
        delays = TRIES.delays(self._rng)
        most, since, lost = 0, self._clock.now(), 0
        unsure: set[str] = set()
        while True:
            await self._clock.sleep(
                self._opens.get(display_host(links.url), 0.0) - self._clock.now()
            )
            queued = self._clock.now()
            async with self._slots.slot(links.dies):
                since += self._clock.now() - queued
                try:
                    if not part.is_open:
                        await self._open(part)
                        most = part.have
                    await self._fetch(part, links, unsure)
                    return await part.publish(overwrite=overwrite)
                except BrokenOffError as error:
                    broken = error
            if isinstance(broken, UnreachedError) and (lost := lost + 1) % LOST == 0:
                await links.try_another(part.have)
            now = self._clock.now()
            if part.have - most > SLOWEST * (now - since):
                most, since, delays = part.have, now, TRIES.delays(self._rng)
            elif not self._is_tried_on(broken, links, now - since):
                raise broken
            if isinstance(broken, ChangedError):
                await part.restart()
            if broken.retry_after:  # for every film of that host
                self._opens[display_host(links.url)] = now + broken.retry_after
            await self._pause(part, broken, next(delays), stuck=now - since)

    def _is_tried_on(self, broken: BrokenOffError, links: Links, stuck: float) -> bool:
        """Whether there is hope after *stuck* seconds without progress.

        Raises:
            ResultExpiredError: there never will be.
        """
        if not isinstance(broken, RefusedError):
            links.forget_refusals()
            return stuck + broken.retry_after <= self._retry_for
        if broken.is_gone(day_over=0 < links.dies <= self._clock.wall()):
            raise ResultExpiredError(f"The film is gone: {broken}")
        return broken.is_tried_on and (broken.lost_for is not None or stuck <= self._retry_for)

    async def _pause(
        self, part: PartFile, broken: BrokenOffError, delay: float, *, stuck: float
    ) -> None:
        delay = max(delay, broken.retry_after)
        logger.log(
            logging.WARNING if stuck >= SAID_AFTER else logging.INFO,
            "%s: %s; %d bytes are there, again in %.1f s",
            *(part.target.name, broken, part.have, delay),
        )
        await self._clock.sleep(delay)

    async def _open(self, part: PartFile) -> None:
        await part.open()
        if part.target.parent not in self._swept:
            self._swept.add(part.target.parent)
            await part.sweep()

    async def _fetch(self, part: PartFile, links: Links, unsure: set[str]) -> None:
        """Fetch what is missing, through dead links, and look whether it is a whole film."""

        async def receive(body: Body, chunks: AsyncIterator[bytes]) -> None:
            await self._receive(part, body, chunks)

        framed = True
        while part.have == 0 or part.have != part.total:
            try:
                framed = (await self._fetcher.pull(links.url, part.held, receive)).framed
                break
            except GoneError as gone:
                dead = str(gone)
            await links.renew(dead, part.have)
        shape = await part.shape()
        if shape is Shape.CUT:
            raise ChangedError("the film was not whole")
        told = shape is Shape.WHOLE or (part.total is not None if shape is Shape.ODD else framed)
        if not told and part.sha256 not in unsure:
            unsure.add(part.sha256)  # nothing told its end: it must come twice the same
            raise ChangedError("the film came without its length")
        if shape is Shape.ODD:
            logger.warning("%s: odd bytes behind the film are kept as they came", part.target.name)

    async def _receive(self, part: PartFile, body: Body, chunks: AsyncIterator[bytes]) -> None:
        """Write down what comes; the first bytes decide whether it is wanted, not its label."""
        first = b""
        if body.start == 0:
            first = await beginning(chunks)
            if not first:
                raise BrokenOffError("nothing came")
            if kind_of(first[:HEAD]) is None:
                raise GoneError("something that is no film")
            await part.restart()
        await part.expect(body.total, body.version)
        if body.start == body.end:
            return
        at, since = part.have, self._clock.now()
        async for chunk in chained(first, chunks):
            await part.write(chunk)
            if body.end is not None and part.have > body.end:
                raise ChangedError("more came than was announced")
            if part.have > LARGEST:
                raise DownloadError(f"The film has more than {LARGEST} bytes")
            if (span := self._clock.now() - since) >= SLOW_SPAN:
                if part.have - at < SLOWEST * span:
                    raise BrokenOffError("slower than 1 KiB a second")
                at, since = part.have, self._clock.now()
        if body.total is not None and part.have != body.total:
            raise BrokenOffError(f"{part.have} of {body.total} bytes came")


async def beginning(chunks: AsyncIterator[bytes]) -> bytes:
    """So many first bytes that they say what comes; fewer when there are no more."""
    found = b""
    while len(found) < HEAD and (chunk := await anext(chunks, None)) is not None:
        found += chunk
    return found


async def chained(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in chunks:
        yield chunk


class DownloadSlots:
    """*count* places, given to whoever is in the greatest hurry. A cancelled waiter held none."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def slot(self, due: float) -> AsyncIterator[None]:
        """Wait for a place; whoever is *due* earlier goes first."""
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due, next(self._numbers), turn))
        self._call()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():
                self._free += 1
                self._call()

    def _call(self) -> None:
        while self._free and self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
