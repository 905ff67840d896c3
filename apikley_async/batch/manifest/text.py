"""The bytes of a manifest as text: UTF-8 only, with a bound on what is held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from apikley_async.batch.manifest.parts import ManifestFault
from apikley_async.errors import ManifestError

__all__ = ["LARGEST", "LONGEST_LINE", "decode", "read_lines", "read_whole"]

LARGEST = 64 * 1024 * 1024  # bytes of a file that is read whole
LONGEST_LINE = 1024 * 1024  # bytes of a line in a file that is streamed
BOM = b"\xef\xbb\xbf"


def read_whole(file: BinaryIO, name: str) -> str:
    """The text of a file that is read whole.

    Raises:
        ManifestError: the file is too large, or not UTF-8; with the place.
    """
    raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise ManifestError([f"{name}: at most 64 MB; JSON lines and CSV may be larger"])
    return decode(raw, name, 1)


def read_lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str | ManifestFault]]:
    """Yield number and text of each line, or what is wrong with it; a long line is skipped."""
    number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(raw) > LONGEST_LINE:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(LONGEST_LINE)
            yield number, ManifestFault(f"{name}, line {number}: at most a million bytes in a line")
            continue
        try:
            yield number, decode(raw, name, number)
        except ManifestError as error:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):  # every other line would fail too
                raise
            yield number, ManifestFault(error.faults[0])


def decode(raw: bytes, name: str, line: int) -> str:
    """UTF-8 as text; *line* is the number of the first line of *raw*.

    Raises:
        ManifestError: it is UTF-16, not UTF-8, or holds a NUL; with the place.
    """
    if line == 1:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ManifestError([f"{name}: UTF-8, and this is UTF-16; save it as UTF-8"])
        raw = raw.removeprefix(BOM)
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        at, rule = exc.start, f"UTF-8, and byte 0x{raw[exc.start]:02x} is not; save it as UTF-8"
    else:
        if (at := raw.find(b"\0")) < 0:
            return text
        rule = "text, and here is a NUL, as in UTF-16 or in a file that is no text"
    line += raw.count(b"\n", 0, at)
    raise ManifestError([f"{name}, line {line}: {rule}"])
