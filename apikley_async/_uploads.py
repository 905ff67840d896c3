"""Uploads images to the service, each content once.

Uploading costs nothing and can be repeated. What may be uploaded is decided in `_images`.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from apikley_async._clock import Clock
from apikley_async._images import ImageFile, ImageSource, read_image
from apikley_async._storyboard import (
    Urls,
    Work,
    images_of,
    input_faults,
    is_valid_from_birth,
    with_images,
)
from apikley_async._urls import AddressPolicy, fetch_faults, is_url
from apikley_async._wire.requests import File
from apikley_async.errors import ApikleyError, StoryboardError
from apikley_async.events import Emit, Uploaded

__all__ = ["Uploads", "check_image_url", "fields_of"]

REUSED_FOR = 12 * 3600.0  # seconds; the service keeps uploads for 24 hours at least
MAX_CONCURRENT_IMAGES = 8  # each is held in memory
FOLDER = "apikley-async"


@attrs.define
class _PendingUpload:
    """An upload under way; whoever wants the same content waits for its lock."""

    image: ImageFile
    lock: asyncio.Lock = attrs.Factory(asyncio.Lock)
    failed: ApikleyError | None = None


def check_image_url(url: str, policy: AddressPolicy, place: str = "image") -> None:
    """Refuse what the service cannot fetch, before anything is sent.

    Raises:
        StoryboardError: with each fault of the URL, and *place*.
    """
    if faults := [*fetch_faults(url, policy)]:
        raise StoryboardError([f"{place}: {fault}" for fault in faults])


def fields_of(work: Work, urls: Urls) -> Mapping[str, Any]:
    """The input of a work whose images have these URLs.

    Raises:
        StoryboardError: what the work would send is no JSON.
    """
    fields = work.wire_input(urls)
    if not is_valid_from_birth(work) and (faults := [*input_faults(fields)]):
        raise StoryboardError(faults)
    return fields


class Uploads:
    """Uploads each content once, and remembers its URL for as long as it is safe to use.

    Args:
        store: uploads a file into a folder of the service, and gives its URL.
        policy: which URLs of images the service can fetch.
        clock: tells how old an upload is.
        rng: source of file names.
        emit: is given each upload.
    """

    def __init__(
        self,
        store: Callable[[File, str], Awaitable[str]],
        *,
        policy: AddressPolicy,
        clock: Clock,
        rng: random.Random,
        emit: Emit | None = None,
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._emit = emit
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_IMAGES)
        self._stored: dict[str, tuple[str, float]] = {}  # by SHA-256: the URL, and since when
        self._pending: dict[str, _PendingUpload] = {}

    async def upload(self, image: ImageSource) -> str:
        """Give the URL of *image*, uploading it unless that was done less than 12 hours ago.

        Raises:
            UploadError: it is not a JPEG, PNG or WebP file of at most 10.0 MB.
        """
        async with self._slots:
            content = await asyncio.to_thread(read_image, image)
            if url := self._usable_url(content.sha256):
                return url
            pending = self._pending.get(content.sha256)
            if pending is None:
                pending = self._pending[content.sha256] = _PendingUpload(content)
                return await self._finish(pending)
            del content  # *pending* holds the same
        return await self._finish(pending)  # without a slot: its first waiter has one

    async def urls_of(self, work: Work) -> Urls:
        """Upload the image files of a work, and give the URLs of all of its images.

        Each image that is a URL already is checked first.

        Raises:
            StoryboardError, UploadError: an image cannot be used.
        """
        urls: dict[str, str] = {}
        images = work.images
        named = [(os.fsdecode(image), place, image) for place, image in images_of(images)]
        for name, place, image in named:
            if is_url(image):
                urls[name] = name
                check_image_url(name, self._policy, place)
        for name, _, image in named:
            if name not in urls:
                urls[name] = await self.upload(image)
        return with_images(images, lambda image: urls[os.fsdecode(image)])

    async def _finish(self, pending: _PendingUpload) -> str:
        """Upload, or wait for whoever does. Whoever has waited shares a failure."""
        sha256 = pending.image.sha256
        async with pending.lock:
            if pending.failed is not None:
                raise pending.failed
            if url := self._usable_url(sha256):
                return url
            self._pending.setdefault(sha256, pending)  # the one before us was cancelled
            try:
                return await self._send(pending.image)
            except ApikleyError as error:
                pending.failed = error
                raise
            finally:
                if self._pending.get(sha256) is pending:
                    del self._pending[sha256]

    async def _send(self, image: ImageFile) -> str:
        name = f"{self._rng.getrandbits(128):032x}{image.suffix}"  # never one from outside
        began = self._clock.now()
        url = await self._store(File(name, image.content_type, image.content), FOLDER)
        if self._emit is not None:
            took = self._clock.now() - began
            self._emit(Uploaded(len(image.content), image.content_type, took))
        self._forget_old()
        self._stored[image.sha256] = url, self._clock.wall()
        return url

    def _usable_url(self, sha256: str) -> str | None:
        url, since = self._stored.get(sha256, (None, 0.0))
        return url if 0 <= self._clock.wall() - since < REUSED_FOR else None

    def _forget_old(self) -> None:
        for sha256 in list(self._stored):
            if self._usable_url(sha256) is not None:
                break
            del self._stored[sha256]

    def __len__(self) -> int:
        """How many contents are remembered, those that are being uploaded included."""
        return len(self._stored) + len(self._pending)
