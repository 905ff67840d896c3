"""Links of files: in a record, in the answer to an upload, and in a fresh download URL. Pure.

A record is searched by a closed list of known names first, and by shape only where none of them
is there. Copies with a watermark, covers and originals are never films, and neither is a URL
that was sent along with the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import attrs

from apikley_async._text import one_line
from apikley_async._urls import url_faults
from apikley_async._wire.envelope import Reply, decode_data, read_envelope
from apikley_async._wire.lenient import MAX_DEPTH, unwrap_json
from apikley_async.errors import Blame, UnansweredError, UploadError

__all__ = ["Links"]

KNOWN_NAMES = ("resultUrls", "result_urls", "videoUrl", "video_url")
UNNAMED_PLACES = ("result", "results", "resultUrl", "result_url")
NOT_FILMS = re.compile(r"water_?mark|cover|thumb|poster|preview|frame|origin", re.IGNORECASE)
ASCII = "".join(map(chr, range(33, 127)))


@attrs.frozen
class Links:
    """What stands where links are expected.

    Attributes:
        usable: links that can be requested.
        unusable: other texts and values in their place, as one line each.
        named: whether one of the known names is there, whatever it holds.
    """

    usable: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    named: bool = False


def read_links(urls: Any, exclude: Iterable[str] = (), *, named: bool = False) -> Links:
    """Read a list of links, or a single one; those in *exclude* are ignored."""
    listed = urls if isinstance(urls, list) else [urls]
    excluded = {encode_link(url) for url in exclude}
    usable, unusable = [], []
    for url in listed:
        link = encode_link(url) if isinstance(url, str) else ""
        if "://" in link and not [*url_faults(link)]:
            usable += [link] if link not in excluded else []
        elif link or not (url is None or isinstance(url, str)):
            unusable.append(one_line(url, 200))
    return Links(tuple(usable), tuple(unusable), named)


def encode_link(url: str) -> str:
    """Write *url* as it is requested: stripped, blanks and non-ASCII of path and query encoded.

    Everything else stays as it is, `%xx` above all: the link is signed.
    """
    url = url.strip()
    if url.isascii() and url.isprintable() and " " not in url:
        return url
    host = re.match(r"[^:/?#]+://[^/?#]*", url)
    path = url[host.end() :] if host else ""
    if not host or not path.isprintable():
        return url  # not a link; `url_faults` says so
    try:
        return host[0] + quote(path, safe=ASCII)
    except UnicodeEncodeError:
        return url


def find_links(data: Mapping[str, Any], exclude: Iterable[str] = ()) -> Links:
    """Find the links in a record's *data*: in `resultJson`, then in `result*`, never in `param`."""
    fields = {
        name: unwrap_json(value)
        for name, value in data.items()
        if name.startswith("result") and not NOT_FILMS.search(name)
    }
    content = fields.pop("resultJson", None)
    named = None
    for place in (content, fields):
        for name in KNOWN_NAMES:
            for value in _values_named(place, name):
                named = read_links(unwrap_json(value), exclude, named=True)
                if named.usable:
                    return named
    if named is not None:
        return named
    for unnamed in (content, *(fields.get(name) for name in UNNAMED_PLACES)):
        if isinstance(unnamed, str | list) and (found := read_links(unnamed, exclude)).usable:
            return found
    return Links()


def _values_named(value: Any, name: str) -> Iterator[Any]:
    """Give the values under *name* in an object and the objects inside it, outermost first."""
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [inner for inner in layer if isinstance(inner, dict)]
        if not layer:
            return
        yield from (inner[name] for inner in layer if name in inner)
        layer = [v for inner in layer for key, v in inner.items() if not NOT_FILMS.search(str(key))]


def decode_link(reply: Reply, *, wall: float = 0.0) -> str:
    """Read the fresh link in the answer to a request for a download URL."""
    data = decode_data(reply, wall=wall, subject="The request for a download link")
    found = read_links(
        data.get("url") or data.get("downloadUrl") if isinstance(data, dict) else data
    ).usable
    if not found:
        raise UnansweredError("The request for a download link was answered without one")
    return found[0]


def decode_upload(reply: Reply, *, wall: float = 0.0) -> str:
    """Read the URL of a stored file; both documented shapes of the answer are accepted."""
    envelope = read_envelope(reply)
    if envelope.framed and envelope.code == 200 and not envelope.ok and reply.status < 300:
        message = f"The image was not stored: {envelope.message or 'no reason given'}"
        raise UploadError(message, resumable=True, blames=Blame.SERVICE)
    data = decode_data(reply, wall=wall, subject="The upload")
    fields = data if isinstance(data, dict) else {}
    found = read_links(fields.get("fileUrl")).usable or read_links(fields.get("downloadUrl")).usable
    if not found:
        message = "The upload was answered without a URL for the image"
        raise UploadError(message, resumable=True, blames=Blame.SERVICE)
    return found[0]
