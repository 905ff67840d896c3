"""The hosts of files: uploads, results and temporary links, and how HTTP serves a part of one.

Pure: no socket, no disk. The bytes of films are made elsewhere; here is decided which address
leads where, for how long, and under which validators.
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

from apikley_async.simulator.service.lifecycle import Task
from apikley_async.simulator.service.request_rules import makes_still
from apikley_async.simulator.service.service_clock import WorldTime
from apikley_async.simulator.service.terms import Terms

__all__ = ["File", "Hosting", "Place", "Slice", "Upload", "another_version", "cut", "labelled"]

RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
SHOWN = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif", "video/mp4"})
RESULT = re.compile(r"/results/([0-9]{1,9})-([0-9]{1,9})\.(?:mp4|png)")


@attrs.frozen(eq=False)
class Upload:
    """A file that somebody uploaded."""

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
        """What it is served as: pictures and films by their names, the rest as just bytes."""
        guessed = mimetypes.guess_type(self.name)[0]
        return guessed if guessed in SHOWN else "application/octet-stream"


@attrs.frozen
class Place:
    """The file number *number* of the task with that *serial*."""

    serial: int
    number: int

    @property
    def key(self) -> str:
        return f"{self.serial}-{self.number}"


@attrs.frozen
class File:
    """A file as it is served now."""

    data: bytes = attrs.field(repr=False)
    etag: str
    modified: float
    content_type: str


@attrs.frozen
class Slice:
    """What to answer: the status, the bytes, and the headers that say which bytes they are."""

    status: int
    data: bytes = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...]


class Hosting:
    """Which address leads to which file. *base* is the origin, known once it is bound."""

    def __init__(self, terms: Terms, time: WorldTime, rng: Random, base: str = "") -> None:
        self.base = base
        self.versions: Counter[str] = Counter()
        """How often each file has been exchanged for another one, by its key or path."""
        self._terms = terms
        self._time = time
        self._rng = rng
        self._secret = rng.randbytes(16)
        self._uploads: dict[str, Upload] = {}
        self._links: dict[str, tuple[Place, float]] = {}

    def result_urls(self, task: Task) -> tuple[str, ...]:
        """The signed addresses of a task's files."""
        places = [Place(task.serial, n + 1) for n in range(self._terms.results)]
        suffix = "png" if makes_still(task.order.model) else "mp4"
        return tuple(f"{self.base}/results/{p.key}.{suffix}?sign={self._sign(p)}" for p in places)

    def upload(self, folder: str, name: str, data: bytes, *, suffix: str = ".bin") -> Upload:
        """Store a file; the same name replaces the old one.

        Without a *name* it gets a new one that ends in *suffix*.
        """
        serial = self._rng.getrandbits(32)
        new = Upload(serial, folder, name or f"{serial:08x}{suffix}", data, self._time.now())
        if new.path in self._uploads:
            self.versions[new.path] += 1
        self._uploads[new.path] = new
        return new

    def upload_url(self, upload: Upload) -> str:
        """Where an upload can be fetched."""
        return f"{self.base}/uploads/{quote(upload.path)}"

    def upload_at(self, path: str) -> Upload | None:
        """The upload behind the path of an address, unless it is too old."""
        if not path.startswith("/uploads/"):
            return None
        upload = self._uploads.get(unquote(path.removeprefix("/uploads/")))
        if upload is None or self._time.now() >= upload.at + self._terms.upload_life:
            return None
        return upload

    def is_ours(self, url: str) -> bool:
        """Whether *url* points to this host."""
        return bool(self.base) and url.startswith(self.base + "/")

    def image(self, url: str) -> Upload | None:
        """The upload that *url* points to."""
        return self.upload_at(urlsplit(url).path) if self.is_ours(url) else None

    def place_of(self, url: str) -> Place | None:
        """The result that *url* points to, whether or not the address still works."""
        if not self.is_ours(url):
            return None
        parts = urlsplit(url)
        return self.result_at(parts.path, parse_qs(parts.query).get("sign", [""])[0])

    def result_at(self, path: str, sign: str) -> Place | None:
        """The result behind a path, if the signature is the right one."""
        match = RESULT.fullmatch(path)
        if match is None:
            return None
        place = Place(int(match[1]), int(match[2]))
        return place if sign == self._sign(place) else None

    def link(self, place: Place) -> str:
        """A new temporary address of a result."""
        token = self._rng.randbytes(12).hex()
        self._links[token] = (place, self._time.now() + self._terms.link_life)
        return f"{self.base}/t/{token}"

    def linked(self, path: str) -> Place | None:
        """The result behind a temporary address, while it works."""
        place, until = self._links.get(path.removeprefix("/t/"), (None, 0.0))
        return place if self._time.now() < until else None

    def file(self, key: str, data: bytes, at: float, content_type: str) -> File:
        """The file *key* as it is now: exchanged ones have other bytes and another validator."""
        version = self.versions[key]
        etag = hashlib.sha256(f"{key}/{version}".encode()).hexdigest()[:20]
        modified = self._time.stamp(at) + version
        return File(another_version(data, version), f'"{etag}"', modified, content_type)

    def _sign(self, place: Place) -> str:
        return hashlib.blake2b(place.key.encode(), key=self._secret, digest_size=12).hexdigest()


def cut(file: File, range_: str | None = None, if_range: str | None = None) -> Slice:
    """The part of *file* that a request asks for, or all of it.

    A range that cannot be read is ignored, as HTTP wants it; so is one whose `If-Range` names
    another version, or names it with a weak validator.
    """
    modified = formatdate(int(file.modified), usegmt=True)
    size = len(file.data)
    headers = (("ETag", file.etag), ("Last-Modified", modified), ("Accept-Ranges", "bytes"))
    if if_range is not None and if_range not in (file.etag, modified):
        range_ = None
    bounds = _bounds(range_, size)
    if bounds is None:
        return Slice(200, file.data, headers)
    first, last = bounds
    if first > last:
        return Slice(416, b"", (*headers, ("Content-Range", f"bytes */{size}")))
    told = ("Content-Range", f"bytes {first}-{last}/{size}")
    return Slice(206, file.data[first : last + 1], (*headers, told))


def _bounds(range_: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a range; None for the whole, an empty pair for none at all."""
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


def another_version(data: bytes, version: int) -> bytes:
    """Bytes whose pictures differ everywhere from those of *data*; the boxes around them do not.

    As long as the original on purpose: a download spliced from two versions has the right size,
    and the right boxes too.
    """
    if version == 0:
        return data
    table = bytes(byte ^ (version % 255 + 1) for byte in range(256))
    start, end = _pictures(data)
    return data[:start] + data[start:end].translate(table) + data[end:]


def _pictures(data: bytes) -> tuple[int, int]:
    """Where the pictures of an MP4 stand (in its box `mdat`); of other files, most of it."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            break
        if kind == b"mdat":
            return at + 8, at + size
        at += size
    return min(32, len(data)), len(data)


def labelled(film: bytes, label: str) -> bytes:
    """*film* with a last box that names its owner, so that a mix-up of films shows.

    MP4 has the box type `free` for bytes that players skip.
    """
    text = label.encode()
    return film + struct.pack(">I4s", 8 + len(text), b"free") + text
