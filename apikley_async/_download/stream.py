"""Streams a film: its bytes go to whoever reads them, and touch no disk.

Bytes that were handed on cannot be taken back. So a digest of them is kept: where the host cannot
prove that a range continues them (a strong ETag), the film is fetched again, what was handed on is
compared by its digest and left out, and the stream goes on behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Self

from apikley_async._clock import Clock
from apikley_async._download.links import Reissue, RenewableLink
from apikley_async._download.media import (
    CONTENT_TYPES,
    HEAD_BYTES,
    SAME_FORMAT,
    BoxHeaders,
    Completeness,
    is_mp4,
    mp4_completeness,
    suffix_of,
)
from apikley_async._download.partfile import Check
from apikley_async._download.ranges import FileChangedError, HeldBytes, TransferInterruptedError
from apikley_async._download.transfer import Transfers, given_up
from apikley_async._result import Result
from apikley_async._tasks import TaskScope
from apikley_async._urls import display_host
from apikley_async._validation import check_kind
from apikley_async.errors import ClientClosedError, DownloadError

__all__ = ["FilmStream", "Streams"]


class FilmStream(AsyncIterator[bytes]):
    """The bytes of one film, in pieces of at most 1 MiB: `async for chunk in stream`.

    The next piece is fetched when it is asked for, apart from what the connection buffers. It can
    be read once, by one task.

    Attributes:
        size: bytes of the film as its host announces them; None where it does not.
        content_type: what its first bytes are, such as "video/mp4"; no label decides.
        suffix: the same as the suffix of a file, as `save` gives it, ".mp4".
    """

    def __init__(self, file: StreamedFile, transfer: asyncio.Task[None]) -> None:
        self._file = file
        self._transfer = transfer
        self.size: int | None = file.announced
        suffix = suffix_of(file.head) or ""
        self.suffix: str = SAME_FORMAT.get(suffix, suffix)
        self.content_type: str = CONTENT_TYPES.get(suffix, "application/octet-stream")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._file.next_piece()
        if piece is None:
            await raise_end(self._transfer)
            raise StopAsyncIteration
        return piece

    def __repr__(self) -> str:
        size = "unknown size" if self.size is None else f"{self.size} bytes"
        return f"<FilmStream {self.content_type}, {size}>"


class StreamedFile:
    """The bytes of a film on their way to a reader: a sink that keeps nothing but a digest.

    Attributes:
        name: for the log.
        size: bytes that have come in the present version, from its first one on.
        total: bytes of the whole film, where they are known.
        waited: seconds for which the reader has let us wait.
        announced: what *total* was when the first byte came.
        head: the first bytes.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name: str = name
        self.size: int = 0
        self.total: int | None = None
        self.waited: float = 0.0
        self.announced: int | None = None
        self.head: bytes = b""
        self._clock = clock
        self._handed_on = 0
        self._digest: Any = hashlib.sha256()
        self._boxes = BoxHeaders()
        self._etag: str | None = None
        self._repeated: Any = None  # the digest of what comes once more, until it is all there
        self._others: set[str] = set()  # contents that came instead, each seen once
        self._piece: bytes | None = None
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        self._ended = False

    # --- what a transfer needs ------------------------------------------------------------------

    @property
    def held(self) -> HeldBytes:
        """What was handed on; without a version while that is in doubt."""
        etag = self._etag if self._repeated is None else None
        return HeldBytes(self._handed_on, self.total, etag)

    @property
    def sha256(self) -> str:
        digest: str = self._digest.hexdigest()
        return digest

    async def restart(self) -> None:
        """Take no range: the whole film comes next, and is compared."""
        self.size, self.total, self._etag = 0, None, None

    async def begin(
        self, total: int | None, etag: str | None, first: bytes = b"", *, anew: bool = False
    ) -> None:
        """Begin with the bytes of one response; the first ones of the film are compared."""
        if anew:
            self.size, self._etag = 0, etag
            self._repeated = hashlib.sha256() if self._handed_on else None
        self.total = total
        if self._handed_on and not self._may_have(total):
            self._refuse(f"{total} bytes")
        if not self._handed_on:
            self.announced, self.head = total, first[:HEAD_BYTES]
        await self.write(first)

    def _may_have(self, total: int | None) -> bool:
        """Whether the film that was begun may have so many bytes."""
        if total is None:
            return True
        return total >= self._handed_on and self.announced in (None, total)

    async def write(self, chunk: bytes) -> None:
        """Hand on what is new; returns when the reader has taken it."""
        if self._repeated is not None:
            chunk = self._compare(chunk)
        self.size += len(chunk)
        if not chunk:
            return
        self._handed_on = self.size
        self._digest.update(chunk)
        self._boxes.feed(chunk)
        began = self._clock.now()
        self._piece = chunk
        self._taken.clear()
        self._news.set()
        try:
            await self._taken.wait()
        finally:
            self.waited += self._clock.now() - began

    def _compare(self, chunk: bytes) -> bytes:
        """Compare what was handed on already with what comes once more; give what is new."""
        known, new = chunk[: self._handed_on - self.size], chunk[self._handed_on - self.size :]
        self._repeated.update(known)
        self.size += len(known)
        if self.size == self._handed_on:
            digest = self._repeated.hexdigest()
            if digest != self.sha256:
                self._refuse(digest)
            self._repeated = None
        return new

    def _refuse(self, content: str) -> None:
        """Refuse a content that does not continue what was handed on.

        Raises:
            FileChangedError: it came for the first time: the next request may bring ours again.
            DownloadError: it came twice.
        """
        if content in self._others:
            raise DownloadError(
                f"The host has another film now than the one of which {self._handed_on} bytes were "
                "handed on; begin a new stream"
            )
        self._others.add(content)
        raise FileChangedError("another film came")

    def finish(self, check: Check) -> None:
        """Judge what was handed on.

        Raises:
            TransferInterruptedError: it is no whole film, as far as can be known.
        """
        if self._repeated is not None:
            raise TransferInterruptedError("less came than before")
        if is_mp4(self.head):
            check(mp4_completeness(self._boxes.read, self.size))
        else:
            check(Completeness.UNKNOWN)

    # --- what a reader needs --------------------------------------------------------------------

    async def begun(self) -> None:
        """Wait for the first bytes, or for the end."""
        await self._news.wait()

    def ended(self, _: object = None) -> None:
        """No more bytes will come."""
        self._ended = True
        self._news.set()

    async def next_piece(self) -> bytes | None:
        """Take the next bytes; None at the end. A wait that is cancelled has taken nothing."""
        await self._news.wait()
        piece, self._piece = self._piece, None
        if not self._ended:
            self._news.clear()
        self._taken.set()
        return piece


async def raise_end(transfer: asyncio.Task[None]) -> None:
    """Raise what *transfer* ended with, which is ended or about to be."""
    await asyncio.wait({transfer})
    if transfer.cancelled():
        raise ClientClosedError("The stream is closed")
    transfer.result()


class Streams:
    """The streams of one client.

    Args:
        transfers: bring the bytes.
        reissue: gives new links for a file whose link is dead.
        tasks: end with the client.
        clock: tells the time.
    """

    def __init__(
        self, transfers: Transfers, reissue: Reissue, tasks: TaskScope, clock: Clock
    ) -> None:
        self._transfers = transfers
        self._reissue = reissue
        self._tasks = tasks
        self._clock = clock

    @contextlib.asynccontextmanager
    async def stream(self, result: Result, index: int) -> AsyncGenerator[FilmStream, None]:
        """Stream a file of *result*; see `Client.stream`."""
        check_kind("result", result, Result, "a Result, as awaiting a job gives")
        check_kind("index", index, int, "the number of a file, from 0 on")
        if not result.urls:
            raise DownloadError("The result has no file to stream", task_id=result.task_id)
        if not 0 <= index < len(result.urls):
            raise ValueError(f"index: 0 to {len(result.urls) - 1}, not {index}")
        file = StreamedFile(f"{result.task_id}[{index}]", self._clock)
        transfer = self._tasks.spawn(self._transfer(file, result, index))
        transfer.add_done_callback(file.ended)
        try:
            await file.begun()
            if not file.head:
                await raise_end(transfer)
            yield FilmStream(file, transfer)
        finally:
            transfer.cancel()
            await asyncio.wait({transfer})
            if not transfer.cancelled():
                transfer.exception()  # retrieved: it was raised, or nobody reads any more

    async def _transfer(self, file: StreamedFile, result: Result, index: int) -> None:
        link = RenewableLink(self._reissue, result, index, self._clock)
        seen: set[str] = set()

        async def attempt() -> None:
            check = await self._transfers.fetch(file, link, seen)
            file.finish(check)

        try:
            async with self._tasks.inside(), contextlib.aclosing(link):
                await self._transfers.run(file, link, attempt)
            return
        except TransferInterruptedError as interruption:
            error = given_up(display_host(result.urls[index]), interruption)
        except DownloadError as final:
            error = final
        error.task_id = result.task_id
        raise error
