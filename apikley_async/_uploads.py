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
from typing import Any, BinaryIO, TypeAlias

import attrs

from apikley_async._clock import Clock
from apikley_async._disk import TOO_MANY_FILES, open_without_waiting
from apikley_async._storyboard import Urls, Work, images_of, with_images
from apikley_async._urls import is_url
from apikley_async._wire.requests import File
from apikley_async.errors import ApikleyError, Blame, UploadError

__all__ = ["ImageSource", "PinnedImage", "Uploads"]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"

LARGEST = 10_000_000  # "10.0MB" read the careful way: never pay for a refusal
MOST_PIXELS = 64_000_000  # more is a trap for whoever unpacks it
SAFE_AGE = 12 * 3600.0  # uploads live 24 hours at the least
MOST_SEGMENTS = 10_000  # of a JPEG, before its picture
AT_ONCE = 8  # each holds an image in memory
FOLDER = "apikley-async"


@attrs.frozen
class Picture:
    """An image that may be uploaded."""

    content: bytes = attrs.field(repr=False)
    kind: str
    suffix: str
    digest: str = attrs.field(repr=False)


@attrs.frozen
class PinnedImage(os.PathLike[str]):
    """An image file and the SHA-256 of the content it must have when it is uploaded.

    It is read once: what was compared is what is sent. Use it wherever a path is taken.
    """

    path: str = attrs.field(converter=os.fsdecode)
    sha256: str = attrs.field(repr=False)

    def __fspath__(self) -> str:
        return self.path


@attrs.define
class _Flight:
    """One content on its way; whoever else wants it waits here, and shares what comes of it."""

    picture: Picture
    lock: asyncio.Lock = attrs.Factory(asyncio.Lock)
    failed: ApikleyError | None = None


class Uploads:
    """Uploads each content once and remembers its URL for as long as it is safe to use."""

    def __init__(
        self, store: Callable[[File, str], Awaitable[str]], *, clock: Clock, rng: random.Random
    ) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self._places = asyncio.Semaphore(AT_ONCE)
        self._stored: dict[str, tuple[str, float]] = {}
        self._flights: dict[str, _Flight] = {}

    async def upload(self, image: ImageSource) -> str:
        """Give the URL of *image*, uploading it unless that was done less than 12 hours ago.

        Raises:
            UploadError: it is not a JPEG, PNG or WebP file of at most 10.0 MB.
        """
        async with self._places:
            picture = await asyncio.to_thread(read_picture, image)
            if url := self._fresh(picture.digest):
                return url
            flight = self._flights.get(picture.digest)
            if flight is None:
                flight = self._flights[picture.digest] = _Flight(picture)
                return await self._board(flight)
            del picture  # the same content is held by the flight
        return await self._board(flight)

    async def urls_of(self, work: Work, check: Callable[[str, str], None]) -> Urls:
        """Upload the image files of a work, once each of its URLs has passed *check*.

        Raises:
            StoryboardError, UploadError: with the place of what cannot be used.
        """
        urls: dict[str, str] = {}
        for place, image in images_of(work.images):
            if is_url(image):
                urls[os.fsdecode(image)] = os.fsdecode(image)
                check(os.fsdecode(image), place)
        for _, image in images_of(work.images):
            if (name := os.fsdecode(image)) not in urls:
                urls[name] = await self.upload(image)
        return with_images(work.images, lambda image: urls[os.fsdecode(image)])

    async def _board(self, flight: _Flight) -> str:
        """Upload, or wait for whoever does. A failure is everybody's who waited for it."""
        digest = flight.picture.digest
        async with flight.lock:
            if flight.failed is not None:
                raise flight.failed
            if url := self._fresh(digest):
                return url
            self._flights.setdefault(digest, flight)  # the one before us was cancelled
            try:
                return await self._send(flight.picture)
            except ApikleyError as error:
                flight.failed = error
                raise
            finally:
                if self._flights.get(digest) is flight:
                    del self._flights[digest]

    async def _send(self, picture: Picture) -> str:
        name = f"{self._rng.getrandbits(128):032x}{picture.suffix}"  # never one from outside
        url = await self._store(File(name, picture.kind, picture.content), FOLDER)
        self._forget_old()
        self._stored[picture.digest] = url, self._clock.wall()
        return url

    def _fresh(self, digest: str) -> str | None:
        url, since = self._stored.get(digest, (None, 0.0))
        return url if 0 <= self._clock.wall() - since < SAFE_AGE else None

    def _forget_old(self) -> None:
        for digest in list(self._stored):
            if self._fresh(digest) is not None:
                break
            del self._stored[digest]


# --- reading -------------------------------------------------------------------------------------


def read_picture(image: ImageSource) -> Picture:
    """Read *image* once and look at what it is. Blocks: call it in a thread.

    Raises:
        UploadError: it cannot be used; the message names the rule and the fact.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return picture_of(bytes(image), "the image")
    if isinstance(image, str | os.PathLike):
        name = f"image {os.fspath(image)!r}"
        if "://" in name:
            raise UploadError(f"{name}: a path or content; a URL is used as it is")
        picture = picture_of(_read_path(image, name), name)
        if isinstance(image, PinnedImage) and picture.digest != image.sha256:
            raise UploadError(
                f"{name} is not the picture for which the film was planned; bring that back and "
                "retry, or give the film a new key"
            )
        return picture
    if callable(getattr(image, "read", None)):
        return picture_of(_read_file(image), "the image")
    raise UploadError(f"an image: a path, bytes or a binary file, not {type(image).__name__}")


def picture_of(content: bytes, name: str) -> Picture:
    """Look at *content*: its first bytes, its size, and its dimensions, without unpacking it."""
    check_size(len(content), name)
    kind = picture_kind(content)
    if kind is None:
        raise UploadError(f"{name}: JPEG, PNG or WebP; its first bytes say that it is none of them")
    width, height = dimensions(content, kind) or (0, 0)
    if not width or not height:
        raise UploadError(f"{name}: a whole {kind.upper()}; no width and height can be read in it")
    if width * height > MOST_PIXELS:
        raise UploadError(f"{name}: at most {MOST_PIXELS:,} pixels, not {width} x {height}")
    suffix = ".jpg" if kind == "jpeg" else f".{kind}"
    return Picture(content, f"image/{kind}", suffix, hashlib.sha256(content).hexdigest())


def check_size(size: int, name: str) -> None:
    if size == 0:
        raise UploadError(f"{name}: a picture, not 0 bytes")
    if size > LARGEST:
        raise UploadError(f"{name}: at most 10.0 MB (10,000,000 bytes), and it is larger")


def _read_path(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise UploadError(f"{name}: a regular file, not a folder, pipe or device")
            check_size(before.st_size, name)
            content = file.read(LARGEST + 1)
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not a path"
        told = f"{name}: cannot be read: {why}"
        if isinstance(exc, OSError) and exc.errno in TOO_MANY_FILES:  # some will be closed
            raise UploadError(told, resumable=True, blames=Blame.NETWORK) from None
        raise UploadError(told) from None
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not same or len(content) != after.st_size:
        raise UploadError(f"{name}: it changed while it was read")
    return content


def _read_file(file: Any) -> bytes:
    """Read an open file from where it stands; one that gives little at a time is asked again."""
    content = bytearray()
    while len(content) <= LARGEST:
        try:
            piece = file.read(LARGEST + 1 - len(content))
        except (OSError, ValueError) as exc:
            raise UploadError(f"the image: cannot be read: {exc}") from None
        if not isinstance(piece, bytes | bytearray):
            raise UploadError("the image: a file opened in binary mode ('rb'), and not blocking")
        if not piece:
            break
        content += piece
    return bytes(content)


# --- looking -------------------------------------------------------------------------------------


def picture_kind(content: bytes) -> str | None:
    """Say what an image is by its first bytes, whatever its name."""
    if content.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return None


def dimensions(content: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height as the image's header has them; None when there is no such header."""
    if kind == "png":
        if content[8:16] != b"\0\0\0\x0dIHDR" or len(content) < 24:
            return None
        return _number(content, 16, 4), _number(content, 20, 4)
    return _jpeg_dimensions(content) if kind == "jpeg" else _webp_dimensions(content)


def _jpeg_dimensions(content: bytes) -> tuple[int, int] | None:
    """Walk the segments up to the frame's: SOF0 to SOF15, without DHT, JPG and DAC."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        if at + 9 > len(content) or content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _number(content, at + 7, 2), _number(content, at + 5, 2)
        elif marker in (0x01, *range(0xD0, 0xD8)):  # alone, without a length
            at += 2
        elif marker in (0xD9, 0xDA):  # the end, or the picture itself
            return None
        else:
            at += 2 + max(2, _number(content, at + 2, 2))
    return None


def _webp_dimensions(content: bytes) -> tuple[int, int] | None:
    if len(content) < 30:
        return None
    chunk, body = content[12:16], content[20:]
    if chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[at : at + 2], "little") for at in (6, 8))
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
        return width + 1, height + 1
    return None


def _number(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size], "big")
