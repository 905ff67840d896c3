"""Range requests: which bytes of which version of a file the host's response brings.

Pure. Bytes are appended to a part file only where the response proves that they continue it: a
206 to a range that was requested with a strong ETag. Everything else starts the file again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from apikley_async._wire.envelope import Reply, retry_after
from apikley_async.errors import DownloadError

__all__ = [
    "FileChangedError",
    "HostUnreachableError",
    "LinkRefusedError",
    "TransferInterruptedError",
]

MAX_FILE_BYTES = 4 * 1024**3
WHOLE_NUMBER = r"([0-9]{1,15})"


class TransferInterruptedError(Exception):
    """The transfer did not complete: resume it after a pause.

    Attributes:
        retry_after: seconds for which the host asks not to be requested; 0 where it does not.
    """

    def __init__(self, reason: str, *, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class HostUnreachableError(TransferInterruptedError):
    """The host accepted no connection: the same link may work later, or another one now."""


class FileChangedError(TransferInterruptedError):
    """The response does not continue the file that was started: start again after a pause."""


class LinkRefusedError(Exception):
    """The host refuses this link: try another one."""


@attrs.frozen
class HeldBytes:
    """The part of a file that is on the disk.

    Attributes:
        size: how many bytes, from the first one on.
        total: bytes of the whole file, where they are known.
        etag: the strong ETag of the version that they belong to; None where there is none.
    """

    size: int = 0
    total: int | None = None
    etag: str | None = None

    def range_headers(self) -> dict[str, str]:
        """Headers that request the rest; without an ETag none, so that the whole file comes."""
        if not self.size or self.etag is None:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.etag}


@attrs.frozen
class BodyRange:
    """The bytes that a response brings.

    Attributes:
        start: position of the first one in the file.
        end: position behind the last one, where it is announced.
        total: bytes of the whole file, where they are announced.
        etag: the strong ETag of their version.
        framed: HTTP marks their end; else only the closing of the connection does.
        gzipped: they are gzip on the wire, whether that was requested or not.
    """

    start: int
    end: int | None
    total: int | None
    etag: str | None
    framed: bool = True
    gzipped: bool = False


def read_response(
    held: HeldBytes, status: int, headers: Mapping[str, str], *, wall: float = 0.0
) -> BodyRange:
    """Say which bytes a response brings.

    Args:
        held: what is on the disk, and was requested from there on.
        status: of the response.
        headers: of the response, without regard to case.
        wall: seconds since 1970, for a Retry-After that is a date.

    Raises:
        LinkRefusedError: the host refuses the link. Hosts say in many ways that one has expired.
        FileChangedError: the bytes do not continue what is held.
        TransferInterruptedError: the host may give them later.
        DownloadError: the file is too large.
    """
    if status in (401, 403):
        raise LinkRefusedError(f"the host refuses us: HTTP {status}")
    if status == 416 and held.range_headers():
        return _read_416(held, headers)
    if status not in (200, 206):
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise LinkRefusedError(f"HTTP {status}")
        pause = retry_after(Reply(status, headers=headers), wall=wall)
        raise TransferInterruptedError(f"HTTP {status}", retry_after=pause or 0.0)
    body = _read_206(held, headers) if status == 206 else _read_200(headers)
    if (body.total or 0) > MAX_FILE_BYTES:
        raise DownloadError(f"The film has {body.total} bytes, more than {MAX_FILE_BYTES}")
    return body


def _read_200(headers: Mapping[str, str]) -> BodyRange:
    length = re.fullmatch(WHOLE_NUMBER, headers.get("Content-Length", ""))
    total = int(length[1]) if length else None
    framed = length is not None or "Transfer-Encoding" in headers
    if is_gzipped(headers):  # length and ETag are those of the gzipped bytes
        if (total or 0) > MAX_FILE_BYTES:
            raise DownloadError(f"The film has {total} gzipped bytes, more than {MAX_FILE_BYTES}")
        return BodyRange(0, None, None, None, gzipped=True)
    return BodyRange(0, total, total, strong_etag(headers), framed)


def _read_206(held: HeldBytes, headers: Mapping[str, str]) -> BodyRange:
    """A range must start exactly where the held bytes end, in the same version, and say so."""
    content_range = re.fullmatch(
        f"bytes {WHOLE_NUMBER}-{WHOLE_NUMBER}/{WHOLE_NUMBER}", headers.get("Content-Range", "")
    )
    if content_range is None or is_gzipped(headers):
        raise FileChangedError("a range that does not say which bytes it has")
    start, last, total = (int(number) for number in content_range.groups())
    same = held.total in (None, total) and strong_etag(headers) == held.etag
    if not held.range_headers() or start != held.size or not start <= last < total or not same:
        raise FileChangedError("a range of another file")
    return BodyRange(start, last + 1, total, held.etag)


def _read_416(held: HeldBytes, headers: Mapping[str, str]) -> BodyRange:
    """A range that is not satisfiable: either nothing is missing, or the file has changed."""
    content_range = re.fullmatch(rf"bytes \*/{WHOLE_NUMBER}", headers.get("Content-Range", ""))
    total = int(content_range[1]) if content_range else held.total
    same = held.total in (None, total) and strong_etag(headers) in (None, held.etag)
    if total != held.size or not same:
        raise FileChangedError("the range was refused")
    return BodyRange(held.size, held.size, total, held.etag)


def is_gzipped(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip")


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """The ETag if it is a strong one: only that may stand in If-Range."""
    tag = headers.get("ETag", "")
    return tag if re.fullmatch(r'"[\x21\x23-\x7e]{1,256}"', tag) else None
