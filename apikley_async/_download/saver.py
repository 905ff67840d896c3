"""Saves the films of a result: whole files under their names, or none.

The bytes go to a part file beside the target. The final name appears only when the size is right,
the content is a whole film, and both file and folder are on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

from apikley_async._clock import Clock
from apikley_async._download.fetch import FileFetcher
from apikley_async._download.links import Reissue, RenewableLink
from apikley_async._download.names import safe_name, target_paths
from apikley_async._download.partfile import PartFile, SavedFile
from apikley_async._download.ranges import TransferInterruptedError
from apikley_async._download.transfer import Transfers, given_up
from apikley_async._network import Network
from apikley_async._result import Result
from apikley_async._urls import AddressPolicy, display_host
from apikley_async._validation import check_kind
from apikley_async.errors import DownloadError
from apikley_async.events import Emit, Saved

__all__ = ["Saver"]

MAX_CONCURRENT_FILES = 6

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
        emit: is given each file that was saved, and each retry.

    Attributes:
        transfers: bring the bytes of films, for streams as well.
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
        emit: Emit | None = None,
    ) -> None:
        self._reissue = reissue
        self._clock = clock
        self._rng = rng
        self._fetcher = FileFetcher(network, clock=clock, policy=policy)
        self.transfers: Transfers = Transfers(
            self._fetcher, clock=clock, rng=rng, retry_for=retry_for, emit=emit
        )
        self._emit = emit
        self._slots = DownloadSlots(MAX_CONCURRENT_FILES)
        self._cleaned: set[Path] = set()  # folders whose leftovers were removed

    async def save(
        self, result: Result, target: str | os.PathLike[str], *, overwrite: Overwrite = False
    ) -> list[SavedFile]:
        """Save every file of *result*; see `Client.save_files`."""
        check_kind("result", result, Result, "a Result, as awaiting a job gives")
        check_kind("target", target, (str, os.PathLike), "a folder, or the path of a film")
        check_kind("overwrite", overwrite, (bool, Callable), "True, False or a function of a path")  # type: ignore[arg-type]
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
        keep, began = False, self._clock.now()
        try:
            async with contextlib.aclosing(link):
                saved = await self._fetch_and_publish(part, link, overwrite)
            if self._emit is not None:
                took = self._clock.now() - began
                self._emit(Saved(result.task_id, saved.path, saved.size, saved.sha256, took))
            return saved
        except asyncio.CancelledError:
            keep = True
            raise
        except TransferInterruptedError as error:
            interruption, keep = error, True
        finally:
            await part.close(keep=keep)
        raise given_up(display_host(result.urls[index]), interruption)

    async def _fetch_and_publish(
        self, part: PartFile, link: RenewableLink, overwrite: Overwrite
    ) -> SavedFile:
        """Fetch the whole file and publish it; resume after interruptions while that may help."""
        seen: set[str] = set()

        async def attempt() -> SavedFile:
            if not part.is_open:
                await self._open(part)
            check = await self.transfers.fetch(part, link, seen)
            return await part.publish(check=check, overwrite=overwrite)

        return await self.transfers.run(part, link, attempt, slot=self._slots.slot)

    async def _open(self, part: PartFile) -> None:
        await part.open()
        if part.target.parent not in self._cleaned:
            self._cleaned.add(part.target.parent)
            await part.remove_leftovers()


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
