"""Where the films of a batch go instead of a folder: an object store, for example.

`Destination` is the protocol; a store of your own implements it. What is here hands a film on from
its host, without a disk, and believes that it is stored only when all of it was read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any, Protocol, Self, runtime_checkable

from apikley_async import Client, FilmStream, Result
from apikley_async._text import loggable
from apikley_async.batch.store.protocol import StoredFile
from apikley_async.errors import ApikleyError, DownloadError

__all__ = ["Destination", "DestinationWriter"]

PUTS_AT_ONCE = 6


@runtime_checkable
class Destination(Protocol):
    """Takes the films of a batch: `batch.run(client, destination=...)`.

    Provisional until 1.0. Whatever its methods raise is that film's trouble: it is paid, and the
    next run puts it again. Raise a `DownloadError(..., affects_all=True)` where no other film could
    be stored either: nothing more is submitted then.
    """

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, size: int | None, content_type: str
    ) -> str | None:
        """Store one file, and return when it is durable; the film is done then.

        It is called again with the same name after a crash that came before the film was done, so
        it replaces what is there. Read *chunks* to the end. When they raise, nothing may stay
        under the name: what came is no whole film.

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

    def __init__(self, chunks: FilmStream) -> None:
        self._chunks = chunks
        self._digest: Any = hashlib.sha256()
        self.size: int = 0
        self.is_complete: bool = False
        self.failure: ApikleyError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.is_complete = True
            raise
        except ApikleyError as error:
            self.failure = error
            raise
        self.size += len(chunk)
        self._digest.update(chunk)
        return chunk

    @property
    def sha256(self) -> str:
        digest: str = self._digest.hexdigest()
        return digest


class DestinationWriter:
    """Puts the films of one run into a destination, six at a time."""

    def __init__(self, destination: Destination, client: Client) -> None:
        self._destination = destination
        self._client = client
        self._slots = asyncio.Semaphore(PUTS_AT_ONCE)

    async def exists(self, name: str) -> bool:
        """Whether something of that name is there already.

        Raises:
            DownloadError: the destination cannot say.
        """
        try:
            return bool(await self._destination.exists(name))
        except ApikleyError:
            raise
        except Exception as error:
            raise destination_error(name, error) from error

    async def put(self, result: Result, index: int, name: str) -> StoredFile:
        """Put one file of a film; *name* has the suffix of its content in the end.

        Raises:
            DownloadError: it is not stored; the film is at the service still.
        """
        async with self._slots, self._client.stream(result, index) as chunks:
            name = f"{name}{chunks.suffix}"
            read = ReadThrough(chunks)
            try:
                location = await self._destination.put(
                    name, read, size=chunks.size, content_type=chunks.content_type
                )
            except ApikleyError:
                raise
            except Exception as error:
                raise read.failure or destination_error(name, error) from error
            if not read.is_complete:  # it may have counted bytes: then only the end is missing
                async for _ in read:
                    raise DownloadError(
                        f"{name} is not stored: the destination returned before it had read all "
                        "of it",
                        affects_all=True,
                    )
        return StoredFile.at(name, location, size=read.size, sha256=read.sha256)


def destination_error(name: str, error: Exception) -> DownloadError:
    reason = loggable(str(error))
    return DownloadError(
        f"{name}: the destination has raised {type(error).__name__}{f': {reason}' * bool(reason)}"
    )
