"""What an answer of a film's host means: which bytes of which version of the file it brings.

Pure. Bytes are appended to a part only where the answer proves that they go on in the same file:
a 206 to a range that was asked for with a strong ETag. Anything else begins the file again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from apikley_async._wire.envelope import Reply, retry_after
from apikley_async.errors import DownloadError

__all__ = ["BrokenOffError", "ChangedError", "GoneError", "UnreachedError"]

LARGEST = 4 * 1024**3
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


class GoneError(Exception):
    """The link is refused: ask for another one."""


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
