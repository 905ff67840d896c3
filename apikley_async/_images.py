"""Images on their way to the service: looked at here, stored there once.

A file is opened once, must be a regular file, and is read whole before anything is sent, so
what was checked is what is uploaded. Uploading costs nothing and can be repeated. The rules
(JPEG, PNG or WebP, at most 10.0 MB) are those of
https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import stat
from collections.abc import Awaitable, Callable
from typing import BinaryIO, TypeAlias

import attrs

from apikley_async._clock import Clock
from apikley_async._wire import File
from apikley_async.errors import UploadError

__all__ = ["ImageSource", "Images"]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"

LARGEST = 10_000_000  # "10.0MB" read the careful way: never pay for a refusal
SAFE_AGE = 12 * 3600.0  # uploads live 24 hours at the least
FOLDER = "apikley-async"


@attrs.frozen
class Picture:
    """An image that may be uploaded."""

    content: bytes = attrs.field(repr=False)
    kind: str
    suffix: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Images:
    """Uploads each content once and remembers its URL for as long as it is safe to use."""

    def __init__(
        self, store: Callable[[File, str], Awaitable[str]], *, clock: Clock, rng: random.Random
    ) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self._stored: dict[str, tuple[str, float]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def upload(self, image: ImageSource) -> str:
        """Give the URL of *image*, uploading it unless that was done less than 12 hours ago.

        Raises:
            UploadError: it is not a JPEG, PNG or WebP file of at most 10.0 MB.
        """
        picture = await asyncio.to_thread(read_picture, image)
        digest = picture.digest
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            try:
                if (url := self._fresh(digest)) is None:
                    name = f"{self._rng.getrandbits(128):032x}{picture.suffix}"
                    url = await self._store(File(name, picture.kind, picture.content), FOLDER)
                    self._stored[digest] = url, self._clock.wall()
            finally:
                self._locks.pop(digest, None)
        return url

    def _fresh(self, digest: str) -> str | None:
        url, since = self._stored.get(digest, (None, 0.0))
        return url if 0 <= self._clock.wall() - since < SAFE_AGE else None


def read_picture(image: ImageSource) -> Picture:
    """Read *image* once and look at what it is. Blocks: call it in a thread.

    Raises:
        UploadError: it cannot be used; the message names the rule and the fact.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        name, content = "the image", bytes(image)
    elif isinstance(image, str | os.PathLike):
        name = f"image {os.fspath(image)!r}"
        if "://" in name:
            raise UploadError(f"{name}: a path or content; a URL is used as it is")
        content = _read_file(image, name)
    elif callable(getattr(image, "read", None)):
        name = "the image"
        content = image.read(LARGEST + 1)
        if not isinstance(content, bytes):
            raise UploadError(f"{name}: a file opened in binary mode ('rb')")
    else:
        raise UploadError(f"an image: a path, bytes or a binary file, not {type(image).__name__}")
    if not content:
        raise UploadError(f"{name}: a picture, not 0 bytes")
    if len(content) > LARGEST:
        raise UploadError(f"{name}: at most 10.0 MB (10,000,000 bytes), and it is larger")
    kind = picture_kind(content)
    if kind is None:
        raise UploadError(f"{name}: JPEG, PNG or WebP; its first bytes say that it is none of them")
    return Picture(content, f"image/{kind}", ".jpg" if kind == "jpeg" else f".{kind}")


def picture_kind(content: bytes) -> str | None:
    """Say what an image is by its first bytes, whatever its name."""
    if content.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return None


def _read_file(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        # Not blocking, so that a pipe with nobody at its other end cannot hold us.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not a path"
        raise UploadError(f"{name}: cannot be read: {why}") from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UploadError(f"{name}: a regular file, not a folder, pipe or device")
        return file.read(LARGEST + 1)
