"""Uploads, results and temporary links: which URL leads to which file, and for how long.

Also selects the bytes that an HTTP range request gets. Pure: no socket, no disk. Films are
rendered elsewhere.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
import struct
from collections import Counter
from email.utils import formatdate
from random import Random
from urllib.parse import parse_qs, quote, unquote, urlsplit

import attrs

from apikley_async.simulator.service.lifecycle import SimulatedTask
from apikley_async.simulator.service.request_rules import is_image_model
from apikley_async.simulator.service.service_clock import ServiceClock
from apikley_async.simulator.service.terms import Terms

__all__ = [
    "FilePart",
    "FileStore",
    "ResultFile",
    "ServedFile",
    "Upload",
    "changed_bytes",
    "select_range",
    "with_label_box",
]

RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
INLINE_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif", "video/mp4"})
RESULT = re.compile(r"/results/([0-9]{1,9})-([0-9]{1,9})\.(?:mp4|png)")


@attrs.frozen(eq=False)
class Upload:
    """An uploaded file. *at*: when, in service seconds."""

    serial: int
    folder: str
    name: str
    data: bytes = attrs.field(repr=False)
    at: float

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def content_type(self) -> str:
        """Images and films by their file names, everything else as plain bytes."""
        guessed = mimetypes.guess_type(self.name)[0]
        return guessed if guessed in INLINE_TYPES else "application/octet-stream"


@attrs.frozen
class ResultFile:
    """One file of a task: its *number* from 1, and the task's *serial*."""

    serial: int
    number: int

    @property
    def key(self) -> str:
        return f"{self.serial}-{self.number}"


@attrs.frozen
class ServedFile:
    """The current version of a file. *modified*: Unix time."""

    data: bytes = attrs.field(repr=False)
    etag: str
    modified: float
    content_type: str


@attrs.frozen
class FilePart:
    """The response to a range request: status, bytes, and the headers that describe them."""

    status: int
    data: bytes = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...]


class FileStore:
    """Knows which URL leads to which file.

    Args:
        terms: how long URLs work.
        clock: the service's time.
        rng: for ids and signatures.
        base_url: the origin of the files; known once a server listens there.
    """

    def __init__(self, terms: Terms, clock: ServiceClock, rng: Random, base_url: str = "") -> None:
        self.base_url = base_url
        self.versions: Counter[str] = Counter()
        """How often each file was replaced by another one, by its key or path."""
        self._terms = terms
        self._clock = clock
        self._rng = rng
        self._secret = rng.randbytes(16)
        self._uploads: dict[str, Upload] = {}
        self._links: dict[str, tuple[ResultFile, float]] = {}

    def result_urls(self, task: SimulatedTask) -> tuple[str, ...]:
        """The signed URLs of a task's files."""
        files = [ResultFile(task.serial, n + 1) for n in range(self._terms.results)]
        suffix = "png" if is_image_model(task.request.model) else "mp4"
        return tuple(
            f"{self.base_url}/results/{file.key}.{suffix}?sign={self._sign(file)}" for file in files
        )

    def upload(self, folder: str, name: str, data: bytes, *, suffix: str = ".bin") -> Upload:
        """Store a file; it replaces one of the same name.

        With an empty *name* it gets a new one that ends in *suffix*.
        """
        serial = self._rng.getrandbits(32)
        new = Upload(serial, folder, name or f"{serial:08x}{suffix}", data, self._clock.now())
        if new.path in self._uploads:
            self.versions[new.path] += 1
        self._uploads[new.path] = new
        return new

    def upload_url(self, upload: Upload) -> str:
        """The URL of an upload."""
        return f"{self.base_url}/uploads/{quote(upload.path)}"

    def upload_at(self, path: str) -> Upload | None:
        """The upload at the path of a URL, unless it has expired."""
        if not path.startswith("/uploads/"):
            return None
        upload = self._uploads.get(unquote(path.removeprefix("/uploads/")))
        if upload is None or self._clock.now() >= upload.at + self._terms.upload_life:
            return None
        return upload

    def owns(self, url: str) -> bool:
        """Whether *url* points to this file store."""
        return bool(self.base_url) and url.startswith(self.base_url + "/")

    def upload_of(self, url: str) -> Upload | None:
        """The upload that *url* points to."""
        return self.upload_at(urlsplit(url).path) if self.owns(url) else None

    def result_of(self, url: str) -> ResultFile | None:
        """The result that *url* points to, whether or not the URL still works."""
        if not self.owns(url):
            return None
        parts = urlsplit(url)
        return self.result_at(parts.path, parse_qs(parts.query).get("sign", [""])[0])

    def result_at(self, path: str, sign: str) -> ResultFile | None:
        """The result at a path, if *sign* is its signature."""
        match = RESULT.fullmatch(path)
        if match is None:
            return None
        result = ResultFile(int(match[1]), int(match[2]))
        return result if sign == self._sign(result) else None

    def issue_link(self, result: ResultFile) -> str:
        """A new temporary URL of a result."""
        token = self._rng.randbytes(12).hex()
        self._links[token] = (result, self._clock.now() + self._terms.link_life)
        return f"{self.base_url}/t/{token}"

    def linked_result(self, path: str) -> ResultFile | None:
        """The result behind a temporary URL, while that works."""
        result, until = self._links.get(path.removeprefix("/t/"), (None, 0.0))
        return result if self._clock.now() < until else None

    def drop_expired_links(self) -> None:
        """Forget the temporary URLs that work no longer."""
        now = self._clock.now()
        self._links = {token: link for token, link in self._links.items() if link[1] >= now}

    def current(self, key: str, data: bytes, at: float, content_type: str) -> ServedFile:
        """The current version of file *key*; a replaced file has other bytes and validators."""
        version = self.versions[key]
        etag = hashlib.sha256(f"{key}/{version}".encode()).hexdigest()[:20]
        modified = self._clock.timestamp(at) + version
        return ServedFile(changed_bytes(data, version), f'"{etag}"', modified, content_type)

    def _sign(self, result: ResultFile) -> str:
        return hashlib.blake2b(result.key.encode(), key=self._secret, digest_size=12).hexdigest()


def select_range(
    file: ServedFile, range_: str | None = None, if_range: str | None = None
) -> FilePart:
    """The part of *file* that a request asks for, or all of it.

    A range that cannot be parsed is ignored, as HTTP demands; so is one whose `If-Range` names
    another version or has a weak validator.
    """
    modified = formatdate(int(file.modified), usegmt=True)
    size = len(file.data)
    headers = (("ETag", file.etag), ("Last-Modified", modified), ("Accept-Ranges", "bytes"))
    if if_range is not None and if_range not in (file.etag, modified):
        range_ = None
    bounds = _bounds(range_, size)
    if bounds is None:
        return FilePart(200, file.data, headers)
    first, last = bounds
    if first > last:
        return FilePart(416, b"", (*headers, ("Content-Range", f"bytes */{size}")))
    content_range = ("Content-Range", f"bytes {first}-{last}/{size}")
    return FilePart(206, file.data[first : last + 1], (*headers, content_range))


def _bounds(range_: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a range; None for the whole file, first > last for no byte at all."""
    match = RANGE.fullmatch(range_.strip()) if range_ else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        wanted = min(int(match[2]), size)
        return size - wanted, size - 1
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    return first, last


def changed_bytes(data: bytes, version: int) -> bytes:
    """*data* with every byte of its media data changed and its boxes left alone.

    The size stays the same on purpose: a download that is spliced from two versions then has the
    right size and the right boxes, so only a comparison of validators can notice it.
    """
    if version == 0:
        return data
    table = bytes(byte ^ (version % 255 + 1) for byte in range(256))
    start, end = _media_bounds(data)
    return data[:start] + data[start:end].translate(table) + data[end:]


def _media_bounds(data: bytes) -> tuple[int, int]:
    """Start and end of an MP4's media data (its box `mdat`); of other files, of most of it."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            break
        if kind == b"mdat":
            return at + 8, at + size
        at += size
    return min(32, len(data)), len(data)


def with_label_box(film: bytes, label: str) -> bytes:
    """*film* with a last box that names its task, so that a mix-up of films shows.

    Players skip boxes of the type `free`.
    """
    text = label.encode()
    return film + struct.pack(">I4s", 8 + len(text), b"free") + text
