"""What a film is: its format by its first bytes, and whether all of its boxes are there.

Pure. No label decides: neither a suffix nor a content type.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

HEAD_BYTES = 16  # enough to recognise a format by
HEADER_BYTES = 16  # of a box, at most
MAX_BOXES = 100_000
SAME_FORMAT = {".jpeg": ".jpg", ".mov": ".mp4", ".m4v": ".mp4", ".m4a": ".mp4"}


def suffix_of(head: bytes) -> str | None:
    """The suffix for a file's first bytes; None for what is neither video, image nor sound."""
    if head[4:8] == b"ftyp":
        return {b"qt  ": ".mov", b"M4A ": ".m4a", b"avif": ".avif"}.get(head[8:12], ".mp4")
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"WAVE": ".wav"}.get(head[8:12])
    if len(head) > 1 and head[0] == 0xFF and head[1] in (0xFB, 0xFA, 0xF3, 0xF2):
        return ".mp3"
    for magic, suffix in (
        (b"\x1aE\xdf\xa3", ".webm"),
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"GIF8", ".gif"),
        (b"ID3", ".mp3"),
        (b"OggS", ".ogg"),
        (b"fLaC", ".flac"),
    ):
        if head.startswith(magic):
            return suffix
    return None


CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".m4a": "audio/mp4",
    ".ogg": "audio/ogg",
    ".flac": "audio/flac",
}
"""By the suffix that `suffix_of` gives."""


class Completeness(enum.Enum):
    """What the content of a file says about its end."""

    TRUNCATED = "a part of it is missing"
    COMPLETE = "its last box ends where the file ends"
    UNKNOWN = "nothing in it says where it ends"
    TRAILING_BYTES = "a complete film, and bytes behind it that are no box"


def is_mp4(head: bytes) -> bool:
    """Whether the file consists of boxes, so that its completeness can be checked."""
    return SAME_FORMAT.get(suffix := suffix_of(head) or "", suffix) == ".mp4"


BOX_KINDS = frozenset(
    b"ftyp styp moov mdat moof mfra free skip wide uuid meta udta sidx ssix emsg prft pdin".split()
)


def mp4_completeness(read: Callable[[int, int], bytes], size: int) -> Completeness:
    """Walk the top-level boxes: the index (moov) and the media data (mdat) must be complete.

    Bytes behind the two that are no box (line ends, zeros, a tag) do not make a film incomplete. A
    box that runs past the end of the file was cut off.

    Args:
        read: reads from the file: position, then number of bytes.
        size: of the file in bytes.
    """
    position, kinds = 0, set[bytes]()
    for _ in range(MAX_BOXES):
        complete = {b"moov", b"mdat"} <= kinds
        if position == size:
            return Completeness.COMPLETE if complete else Completeness.TRUNCATED
        header = read(position, HEADER_BYTES)
        length, kind, minimum = _read_header(header)
        if length == 0 and kind in BOX_KINDS and minimum == 8:  # to the end, wherever that is
            complete = {b"moov", b"mdat"} <= kinds | {kind}
            return Completeness.UNKNOWN if complete else Completeness.TRUNCATED
        if len(header) < minimum or length < minimum or position + length > size:
            trailing = complete and (len(header) < 8 or kind not in BOX_KINDS)
            return Completeness.TRAILING_BYTES if trailing else Completeness.TRUNCATED
        kinds.add(kind)
        position += length
    return Completeness.TRUNCATED


def _read_header(header: bytes) -> tuple[int, bytes, int]:
    """The length of a box, its kind, and the bytes that its header has."""
    length, kind, minimum = int.from_bytes(header[:4], "big"), header[4:8], 8
    if length == 1:  # the real one follows in 64 bits
        length, minimum = int.from_bytes(header[8:16], "big"), 16
    return length, kind, minimum


class BoxHeaders:
    """The headers of a film's boxes, kept while its bytes pass by; the rest is not.

    `read` gives them to `mp4_completeness`, for a film that is nowhere as a whole.
    """

    def __init__(self) -> None:
        self._found: dict[int, bytes] = {}
        self._size = 0  # bytes that have passed
        self._next: int | None = 0  # where the next header begins; None when there is none
        self._rest = b""  # the beginning of that header, while its end has not come

    def feed(self, chunk: bytes) -> None:
        """Take the bytes that follow the earlier ones."""
        data = self._rest + chunk if self._rest else chunk
        self._size += len(chunk)
        start = self._size - len(data)
        while self._next is not None and self._next + HEADER_BYTES <= self._size:
            at = self._next - start
            header = data[at : at + HEADER_BYTES]
            self._found[self._next] = header
            length, _, minimum = _read_header(header)
            ends = length < minimum or len(self._found) == MAX_BOXES
            self._next = None if ends else self._next + length
        begun = self._next is not None and self._next < self._size
        self._rest = data[(self._next or 0) - start :] if begun else b""

    def read(self, position: int, count: int) -> bytes:
        """The header at a position, as far as it has come."""
        rest = self._rest if position == self._next else b""
        return self._found.get(position, rest)[:count]
