"""Where the films of a batch go instead of a folder: an object store, for example.

`Destination` is the protocol; a store of your own implements it. What is here hands a film on from
its host, without a disk, and believes that it is stored only when all of it was read.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from apikley_async import Client, FilmStream, Result
from apikley_async._text import loggable
from apikley_async.batch.store.values import StoredFile
from apikley_async.errors import ApikleyError, DownloadError
from apikley_async.events import Saved

__all__ = ["Destination", "DestinationWriter", "is_stored"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("apikley_async.batch")

PUTS_AT_ONCE = 6
PROBE = "apikley-check"  # a name that is asked for before anything is sent
ANSWER_TIMEOUT = 60.0  # seconds for `exists` and `check`
SILENCE = 1800.0  # seconds for which a `put` may ask for nothing, and not return
NOTICES = 60.0, 600.0  # seconds of that until it is logged, and logged again
FAILURES_IN_A_ROW = 3  # puts; then no other film could be stored either, as far as is known


@runtime_checkable
class Destination(Protocol):
    """Takes the films of a batch: `batch.run(client, destination=...)`.

    Provisional until 1.0. Whatever its methods raise is that film's trouble: it is paid, and the
    next run puts it again. Raise a `DownloadError(..., affects_all=True)` where no other film could
    be stored either: nothing more is submitted then, nor after three puts in a row that have
    raised.

    It may have a third method, `async def check(self) -> None`, which raises where nothing could be
    stored, for lack of a permission for example. It is called before a run sends anything; of a
    destination without it `exists` is asked for a name that no film has. What `check` or `exists`
    has not answered in a minute is an error.
    """

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, content_type: str
    ) -> str | None:
        """Store one file, and return when it is durable; the film is done then.

        It is called again with the same name after a crash that came before the film was done, so
        it replaces what is there. Read *chunks* to the end. When they raise, nothing may stay
        under the name: what came is no whole film.

        It may take as long as it goes on asking for chunks. One that neither asks nor returns is
        logged after a minute and every ten minutes, and cancelled after half an hour.

        Args:
            name: `<key>[-n].mp4`, a plain file name.
            chunks: the content, in pieces of at most 1 MiB. The next one is fetched when it is
                asked for.
            size: of the content in bytes; None where the film's host does not say.
            content_type: such as "video/mp4".

        Returns:
            Where it is, for `Item.stored`, or None. The journal keeps it without its query.
        """
        ...

    async def exists(self, name: str) -> bool:
        """Whether there is something of that name already; asked before a film is paid."""
        ...


class ReadThrough(AsyncIterator[bytes]):
    """Chunks on their way through: counted, hashed, and known to be read to the end or not.

    Attributes:
        size: bytes so far.
        is_complete: whether they were read to the end.
        failure: why they ended early, whatever the reader has made of it.
    """

    def __init__(self, chunks: FilmStream, silence: Silence) -> None:
        self._chunks = chunks
        self._silence = silence
        self._digest: Any = hashlib.sha256()
        self.size: int = 0
        self.is_complete: bool = False
        self.failure: ApikleyError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._silence.end()  # what comes now is the time of the film's host
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.is_complete = True
            raise
        except ApikleyError as error:
            self.failure = error
            raise
        finally:
            self._silence.begin()
        self.size += len(chunk)
        self._digest.update(chunk)
        return chunk

    @property
    def sha256(self) -> str:
        digest: str = self._digest.hexdigest()
        return digest


class Silence:
    """Surrounds a put, and notices that it asks for nothing and does not return.

    Args:
        name: of the file, for the log.

    Raises:
        DownloadError: it was cancelled, after half an hour.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._notice: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._over = False

    def begin(self) -> None:
        """From now on it is the destination that is waited for."""
        if self._over or self._limit.expired():  # it reads on, although it has ended
            return
        self._since = self._loop.time()
        self._limit.reschedule(self._since + SILENCE)
        self._notice = self._loop.call_later(NOTICES[0], self._warn)

    def end(self) -> None:
        """It has asked for a chunk, or has ended."""
        if self._notice is not None:
            self._notice.cancel()
        if not self._over and not self._limit.expired():
            self._limit.reschedule(None)

    def _warn(self) -> None:
        waited = self._loop.time() - self._since
        message = "%s: the destination has asked for nothing for %.0f s, and has not returned"
        logger.warning(message, self._name, waited)
        self._notice = self._loop.call_later(NOTICES[1], self._warn)

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        self._over = True
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise DownloadError(
                f"{self._name}: the destination has asked for nothing for {SILENCE / 60:.0f} "
                "minutes, and has not returned"
            ) from None


class DestinationWriter:
    """Puts the films of one run into a destination, six at a time."""

    def __init__(self, destination: Destination, client: Client) -> None:
        self._destination = destination
        self._client = client
        self._slots = asyncio.Semaphore(PUTS_AT_ONCE)
        self._failures = 0  # in a row

    async def check(self) -> None:
        """Make sure, as far as the destination can say, that films can be put there.

        Raises:
            DownloadError: they cannot; nothing was sent.
        """
        check = getattr(self._destination, "check", None)
        try:
            if check is None:
                _ = await self.exists(PROBE)
            else:
                await answer_of("check", check())
        except ApikleyError as error:
            raise DownloadError.before_paying(error.message) from error

    async def exists(self, name: str) -> bool:
        """Whether something of that name is there already.

        Raises:
            DownloadError: the destination cannot say.
        """
        return await is_stored(self._destination, name)

    async def put(self, result: Result, index: int, name: str) -> StoredFile:
        """Put one file of a film; *name* has the suffix of its content in the end.

        Raises:
            DownloadError: it is not stored; the film is at the service still.
        """
        began = asyncio.get_running_loop().time()
        async with self._slots, self._client.stream(result, index) as chunks:
            stored = await self._put(chunks, f"{name}{chunks.suffix}")
        if (emit := self._client.attempts.settings.emit) is not None:
            took = asyncio.get_running_loop().time() - began
            facts = {"stored_as": stored.name, "location": stored.location}
            emit(Saved(result.task_id, None, stored.size, stored.sha256, took, **facts))
        return stored

    async def _put(self, chunks: FilmStream, name: str) -> StoredFile:
        read: ReadThrough | None = None
        try:
            async with Silence(name) as silence:
                read = ReadThrough(chunks, silence)
                location = await self._destination.put(
                    name, read, size=chunks.size, content_type=chunks.content_type
                )
                if not read.is_complete:  # it may have counted bytes: then only the end is missing
                    await refuse_rest(name, read)
        except Exception as error:
            if read is not None and read.failure is not None:
                raise read.failure from error  # whatever the destination has made of it
            self._failures += 1
            raise self._put_error(name, error) from error
        self._failures = 0
        return StoredFile.at(name, location, size=read.size, sha256=read.sha256)

    def _put_error(self, name: str, error: Exception) -> ApikleyError:
        """What a put has failed with; after several in a row it is the trouble of all films."""
        found = error if isinstance(error, ApikleyError) else destination_error(name, error)
        if found.affects_all or self._failures < FAILURES_IN_A_ROW:
            return found
        return DownloadError(
            f"{found.message}; {self._failures} in a row were not stored", affects_all=True
        )


async def is_stored(destination: Destination, name: str) -> bool:
    """Whether something of that name is in a destination.

    Raises:
        DownloadError: it cannot say.
    """
    return bool(await answer_of(name, destination.exists(name)))


async def refuse_rest(name: str, chunks: AsyncIterator[bytes]) -> None:
    """Raise unless *chunks* are at their end."""
    async for _ in chunks:
        raise DownloadError(
            f"{name} is not stored: the destination returned before it had read all of it",
            affects_all=True,
        )


async def answer_of(name: str, asked: Awaitable[T]) -> T:
    """What a destination answers when it is asked about *name*.

    Raises:
        DownloadError: it has raised, or has not answered in a minute.
    """
    limit = asyncio.timeout(ANSWER_TIMEOUT)
    try:
        async with limit:
            return await asked
    except ApikleyError:
        raise
    except Exception as error:
        if limit.expired():
            message = f"{name}: the destination has not answered for {ANSWER_TIMEOUT:.0f} s"
            raise DownloadError(message) from error
        raise destination_error(name, error) from error


def destination_error(name: str, error: Exception) -> DownloadError:
    reason = loggable(str(error))
    return DownloadError(
        f"{name}: the destination has raised {type(error).__name__}{f': {reason}' * bool(reason)}"
    )
