"""What a film is: its kind by its first bytes, and whether its boxes are all there.

Pure. No label decides: neither a suffix nor a content type.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

HEAD = 16  # so many first bytes say what a file is
MOST_BOXES = 100_000
KIN = {".jpeg": ".jpg", ".mov": ".mp4", ".m4v": ".mp4", ".m4a": ".mp4"}


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
