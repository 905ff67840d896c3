"""What a file is called, what an answer about it means, and whether what came is whole.

Pure: plain values in, plain values out. Nothing here opens a socket or a file.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from apikley_async._result import Result
from apikley_async._wire.envelope import Reply, retry_after
from apikley_async.errors import DownloadError

__all__ = ["BrokenOffError", "ChangedError", "GoneError"]

LARGEST = 4 * 1024**3
LINK_PATIENCE = 120.0  # seconds: a new film's links may be refused for a minute
CONFIRMED = 600.0  # what the service has lost must still be lost so many seconds later
HEAD = 16  # so many first bytes say what a file is
MOST_BOXES = 100_000
WHOLE_NUMBER = r"([0-9]{1,15})"


class BrokenOffError(Exception):
    """It did not come to its end: go on where it stopped, after a pause.

    *retry_after* is how many seconds the host asks to be left alone, where it does.
    """

    def __init__(self, why: str, *, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class UnreachedError(BrokenOffError):
    """The host took no connection: the same link may work later, or another one now."""


class ChangedError(BrokenOffError):
    """It is another file than the one begun: start again, after a pause."""


class RefusedError(BrokenOffError):
    """Every link of it is refused, for *refused_for* seconds now: it may be too new, or gone.

    *lost_for* says for how long the service has known neither the link nor the task; None while
    it knows one of them.
    """

    def __init__(self, why: str, *, refused_for: float, lost_for: float | None = None) -> None:
        super().__init__(why)
        self.refused_for = refused_for
        self.lost_for = lost_for

    def is_gone(self, *, day_over: bool) -> bool:
        """Whether that is evidence enough that the film is gone, and not only late.

        The service has lost it, and has so still ten minutes later; or every way is refused
        when the day that links live is over. A host's own 404 is never enough.
        """
        if self.lost_for is not None and self.lost_for >= CONFIRMED:
            return True
        return day_over and self.refused_for >= LINK_PATIENCE

    @property
    def is_tried_on(self) -> bool:
        """Whether it is too early to give up for now."""
        return self.lost_for is not None or self.refused_for < LINK_PATIENCE


class GoneError(Exception):
    """The link is refused: ask for another one."""


# --- names ---------------------------------------------------------------------------------------

SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".webm", ".gif"),
    *(".png", ".jpg", ".jpeg", ".webp", ".avif"),
    *(".mp3", ".wav", ".m4a", ".ogg", ".flac"),
)
KIN = {".jpeg": ".jpg", ".mov": ".mp4", ".m4v": ".mp4", ".m4a": ".mp4"}
DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE)


def target_names(result: Result, target: str | os.PathLike[str]) -> list[Path]:
    """Say where the files go: *target* is a folder, unless it has the suffix of a film."""
    text = os.fspath(target)
    place = Path(text)
    if place.suffix.lower() in SUFFIXES and not text.endswith("/") and not is_folder(place):
        folder, stem, suffix = place.parent, place.stem, place.suffix
    else:
        folder, stem, suffix = place, safe_name(result.task_id), ".mp4"
    if len(result.urls) == 1:
        return [folder / f"{stem}{suffix}"]
    return [folder / f"{stem}-{number}{suffix}" for number in range(1, len(result.urls) + 1)]


def is_folder(place: Path) -> bool:
    """Whether a folder is there; what no disk could hold is told when it is to be written."""
    try:
        return place.is_dir()
    except OSError:
        return False


def safe_name(task_id: str) -> str:
    """A file name from an id: letters, digits, `._-`; anything else leaves a mark of the whole."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", task_id).strip("._-")[:100]
    if name and name == task_id and not DEVICES.fullmatch(name):
        return name
    mark = hashlib.sha256(task_id.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{mark if DEVICES.fullmatch(name) else name or 'film'}-{mark}"


def fitting(name: Path, head: bytes) -> Path:
    """*name*, with another suffix if its own belongs to another kind than the first bytes."""
    suffix = kind_of(head) or name.suffix
    wanted = name.suffix.lower()
    kin = KIN.get(wanted, wanted) == KIN.get(suffix, suffix)
    return name if kin else name.with_suffix(suffix)


# --- what an answer means ------------------------------------------------------------------------


@attrs.frozen
class Held:
    """What is there of a file: its first *have* bytes, of *total*, of one *version*."""

    have: int = 0
    total: int | None = None
    version: str | None = None

    def asking(self) -> dict[str, str]:
        """The headers that ask for the rest, if a version can be held on to, else for all."""
        if not self.have or self.version is None:
            return {}
        return {"Range": f"bytes={self.have}-", "If-Range": self.version}


@attrs.frozen
class Body:
    """Which bytes an answer brings: from *start* up to *end*, of *total*, of one *version*.

    *framed* unless only the closing of the connection tells the end of them; *packed* when they
    are gzip on the wire.
    """

    start: int
    end: int | None
    total: int | None
    version: str | None
    framed: bool = True
    packed: bool = False


def read_answer(held: Held, status: int, headers: Mapping[str, str], *, wall: float = 0.0) -> Body:
    """Say which bytes come, given what is *held* and was asked for.

    *wall* is now, in seconds since 1970, for a Retry-After that is a date.

    Raises:
        GoneError: the link is refused.
        ChangedError: these bytes are not the rest of what is held.
        BrokenOffError: not now.
        DownloadError: never.
    """
    if status in (401, 403):
        raise GoneError(f"the host refuses us: HTTP {status}")
    if status in (404, 410):
        raise GoneError(f"HTTP {status}")
    if status == 416 and held.asking():
        return _nothing_left(held, headers)
    if status not in (200, 206):
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise DownloadError(f"The film's host answered with HTTP {status}")
        pause = retry_after(Reply(status, headers=headers), wall=wall)
        raise BrokenOffError(f"HTTP {status}", retry_after=pause or 0.0)
    body = _the_rest(held, headers) if status == 206 else _all_of_it(headers)
    if (body.total or 0) > LARGEST:
        raise DownloadError(f"The film has {body.total} bytes, more than {LARGEST}")
    return body


def _all_of_it(headers: Mapping[str, str]) -> Body:
    told = re.fullmatch(WHOLE_NUMBER, headers.get("Content-Length", ""))
    total = int(told[1]) if told else None
    framed = told is not None or "Transfer-Encoding" in headers
    if is_packed(headers):  # its length and its version are those of the packed bytes
        if (total or 0) > LARGEST:
            raise DownloadError(f"The film has {total} packed bytes, more than {LARGEST}")
        return Body(0, None, None, None, packed=True)
    return Body(0, total, total, strong_version(headers), framed)


def _the_rest(held: Held, headers: Mapping[str, str]) -> Body:
    """A part must begin exactly where we stopped, in the file we began, and say so."""
    told = re.fullmatch(
        f"bytes {WHOLE_NUMBER}-{WHOLE_NUMBER}/{WHOLE_NUMBER}", headers.get("Content-Range", "")
    )
    if told is None or is_packed(headers):
        raise ChangedError("a part that does not say which")
    start, last, total = (int(number) for number in told.groups())
    same = held.total in (None, total) and strong_version(headers) == held.version
    if not held.asking() or start != held.have or not start <= last < total or not same:
        raise ChangedError("a part of another file")
    return Body(start, last + 1, total, held.version)


def _nothing_left(held: Held, headers: Mapping[str, str]) -> Body:
    """A refused range: either we have it all, or it is another file now."""
    told = re.fullmatch(rf"bytes \*/{WHOLE_NUMBER}", headers.get("Content-Range", ""))
    total = int(told[1]) if told else held.total
    same = held.total in (None, total) and strong_version(headers) in (None, held.version)
    if total != held.have or not same:
        raise ChangedError("the range was refused")
    return Body(held.have, held.have, total, held.version)


def is_packed(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip")


def strong_version(headers: Mapping[str, str]) -> str | None:
    """What If-Range may hold on to: a strong ETag, or nothing."""
    tag = headers.get("ETag", "")
    return tag if re.fullmatch(r'"[\x21\x23-\x7e]{1,256}"', tag) else None


# --- what came -----------------------------------------------------------------------------------


def kind_of(head: bytes) -> str | None:
    """The suffix that fits a file's first bytes; None for what is neither film, image nor sound."""
    if head[4:8] == b"ftyp":
        return {b"qt  ": ".mov", b"M4A ": ".m4a", b"avif": ".avif"}.get(head[8:12], ".mp4")
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"WAVE": ".wav"}.get(head[8:12])
    if len(head) > 1 and head[0] == 0xFF and head[1] in (0xFB, 0xFA, 0xF3, 0xF2):
        return ".mp3"
    for start, suffix in (
        (b"\x1aE\xdf\xa3", ".webm"),
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"GIF8", ".gif"),
        (b"ID3", ".mp3"),
        (b"OggS", ".ogg"),
        (b"fLaC", ".flac"),
    ):
        if head.startswith(start):
            return suffix
    return None


class Shape(enum.Enum):
    """What the bytes of a file say about its end."""

    CUT = "it is not all there"
    WHOLE = "its last box ends where it ends"
    OPEN = "nothing in it tells where it ends"
    ODD = "a whole film, and bytes behind it that are no box"


def is_mp4(head: bytes) -> bool:
    """Say whether the file is made of boxes that must add up."""
    return KIN.get(kind := kind_of(head) or "", kind) == ".mp4"


BOXES = frozenset(
    b"ftyp styp moov mdat moof mfra free skip wide uuid meta udta sidx ssix emsg prft pdin".split()
)


def mp4_shape(read: Callable[[int, int], bytes], size: int) -> Shape:
    """Walk the top-level boxes: an index (moov) and pictures (mdat) must be there, complete.

    What stands behind the two and is no box cuts nothing off: line ends, zeros, a tag. A box
    that runs past the end of the file was cut. *read* gives so many bytes (the second) from a
    place (the first).
    """
    at, kinds = 0, set[bytes]()
    for _ in range(MOST_BOXES):
        whole = {b"moov", b"mdat"} <= kinds
        if at == size:
            return Shape.WHOLE if whole else Shape.CUT
        header = read(at, 16)
        length, kind, least = int.from_bytes(header[:4], "big"), header[4:8], 8
        if length == 1:
            length, least = int.from_bytes(header[8:16], "big"), 16
        elif length == 0 and kind in BOXES:  # to the end of the file, wherever that is
            return Shape.OPEN if {b"moov", b"mdat"} <= kinds | {kind} else Shape.CUT
        if len(header) < least or length < least or at + length > size:
            odd = whole and (len(header) < 8 or kind not in BOXES)
            return Shape.ODD if odd else Shape.CUT
        kinds.add(kind)
        at += length
    return Shape.CUT
