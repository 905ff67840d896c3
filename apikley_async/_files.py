"""Films on their way to the disk: whole files under their names, or none.

Bytes go to a `.part` beside the target; the final name appears only when the size is right, the
content is what it should be, and both file and folder are on the disk. What an answer means is
decided in `_films`, asked in `_hosts` and written in `_parts`; here stands how often, and for how
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
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

from apikley_async._clock import Clock
from apikley_async._films import (
    HEAD,
    LARGEST,
    Body,
    BrokenOffError,
    ChangedError,
    GoneError,
    Shape,
    UnreachedError,
    kind_of,
    safe_name,
    target_names,
)
from apikley_async._hosts import Hosts, shown
from apikley_async._parts import Part
from apikley_async._policy import Backoff, retry_delay
from apikley_async._result import Result
from apikley_async._transport import Network
from apikley_async.errors import ApikleyError, DownloadError, ResultExpiredError

__all__ = ["Films"]

logger = logging.getLogger("apikley_async")

AT_ONCE = 6
ROUNDS = 4  # so often every link must be found dead: a host may not know a new film at once
LOST = 3  # after so many refused connections another link is tried: it may lead elsewhere
SLOWEST, SLOW_SPAN = 1024, 60.0  # bytes a second, seen over so many seconds
TRIES = Backoff(first=1.0, factor=2.0, cap=30.0, deadline=600.0)

Reissue: TypeAlias = Callable[[str, int, str], AsyncIterator[str]]


class Films:
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
        allow_private: bool = False,
        allow_loopback: bool = False,
    ) -> None:
        self._reissue = reissue
        self._clock = clock
        self._rng = rng
        self._patience = network.timeouts.patience
        self._hosts = Hosts(network, allow_private=allow_private, allow_loopback=allow_loopback)
        self._line = Line(AT_ONCE)
        self._swept: set[Path] = set()

    async def save(
        self, result: Result, target: str | os.PathLike[str], *, overwrite: bool = False
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
        if trouble is not None:
            trouble.task_id = result.task_id
            raise trouble
        return paths

    async def aclose(self) -> None:
        await self._hosts.aclose()

    async def _save_one(self, result: Result, number: int, target: Path, overwrite: bool) -> Path:
        part = Part(target, f"{safe_name(result.task_id)}-{number + 1}", self._rng)
        dies = result.expires_at.timestamp() if result.expires_at else 0.0
        broken, keep = "", False
        async with self._line.place(dies):
            try:
                await part.open()
                if target.parent not in self._swept:
                    self._swept.add(target.parent)
                    await part.sweep()
                await self._fill(part, Links(self._reissue, result, number))
                return await part.publish(overwrite=overwrite)
            except asyncio.CancelledError:
                keep = True
                raise
            except BrokenOffError as error:
                broken, keep = str(error), True
            finally:
                await part.close(keep=keep)
        raise DownloadError(f"{shown(result.urls[number])} broke off again and again: {broken}")

    async def _fill(self, part: Part, links: Links) -> None:
        """Fetch the whole file, going on after breaks while more and more of it comes."""
        delays = TRIES.delays(self._rng)
        most, since = part.have, self._clock.now()
        unsure: set[str] = set()
        lost = 0
        async with contextlib.aclosing(links):
            while True:
                try:
                    return await self._fetch(part, links, unsure)
                except BrokenOffError as error:
                    broken = error
                if isinstance(broken, UnreachedError) and (lost := lost + 1) % LOST == 0:
                    await links.try_another(part.have)
                now = self._clock.now()
                if part.have - most > SLOWEST * (now - since):
                    most, since, delays = part.have, now, TRIES.delays(self._rng)
                elif now - since > self._patience:
                    raise broken
                if isinstance(broken, ChangedError):
                    await part.restart()
                delay = next(delays)
                logger.info(
                    "%s: %s; %d bytes are there, again in %.1f s",
                    *(part.target.name, broken, part.have, delay),
                )
                await self._clock.sleep(delay)

    async def _fetch(self, part: Part, links: Links, unsure: set[str]) -> None:
        """Fetch what is missing, through dead links, and look whether it is a whole film."""

        async def receive(body: Body, chunks: AsyncIterator[bytes]) -> None:
            await self._receive(part, body, chunks)

        framed = True
        while part.have == 0 or part.have != part.total:
            try:
                framed = (await self._hosts.pull(links.url, part.held, receive)).framed
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

    async def _receive(self, part: Part, body: Body, chunks: AsyncIterator[bytes]) -> None:
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


class Links:
    """The link of one file, and those that may follow it when it is dead."""

    def __init__(self, reissue: Reissue, result: Result, number: int) -> None:
        self._reissue = reissue
        self._file = result.task_id, number, result.urls[number]
        self.url = result.urls[number]
        self._fresh: AsyncIterator[str] | None = None
        self._rounds = 0
        self._lost = False  # in this round one of the hosts was not reached: its link may work
        self._given = 0
        self._have = 0

    async def renew(self, dead: str, have: int) -> None:
        """Move on to the next link; *dead* says what became of this one, *have* what is there.

        Raises:
            BrokenOffError: there is none now; there may be one later, or the first may work.
            ResultExpiredError: there is none.
            ApikleyError: the service does not let us ask.
        """
        if have > self._have:
            self._have, self._rounds = have, 0
        if self._fresh is None:
            self._fresh, self._given = self._reissue(*self._file), 0
        trouble: ApikleyError | BrokenOffError
        try:
            self.url = await anext(self._fresh)
            self._given += 1
            return
        except StopAsyncIteration:
            self._rounds += not self._lost
            trouble = BrokenOffError(f"the link is dead ({dead})")
            if not self._lost and (self._rounds == ROUNDS or not self._given):
                trouble = ResultExpiredError(f"The link is dead ({dead}) and there is no new one")
        except ApikleyError as error:
            trouble = error
            if retry_delay(error, repeatable=True, delay=0.0) is not None:
                trouble = BrokenOffError(f"no new link: {error.message}")
        self._fresh, self.url, self._lost = None, self._file[2], False
        raise trouble

    async def try_another(self, have: int) -> None:
        """Move on from a link whose host cannot be reached; that says nothing about the film."""
        self._lost = True
        with contextlib.suppress(ApikleyError, BrokenOffError):
            await self.renew("its host is not reached", have)

    async def aclose(self) -> None:
        if isinstance(self._fresh, AsyncGenerator):
            await self._fresh.aclose()


class Line:
    """*count* places, given to whoever is in the greatest hurry. A cancelled waiter held none."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def place(self, due: float) -> AsyncIterator[None]:
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
