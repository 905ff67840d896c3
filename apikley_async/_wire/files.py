"""Where a record keeps the links of its films. Pure; believes a closed list of names.

Known names first, mere shape only where none of them is there. Twins with a watermark, covers
and originals are never films, nor is what was sent along with the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import attrs

from apikley_async._storyboard import url_faults
from apikley_async._wire.lenient import DEEPEST, plain, read_json

NAMES = ("resultUrls", "result_urls", "videoUrl", "video_url")
SHAPED = ("result", "results", "resultUrl", "result_url")
NEVER = re.compile(r"water_?mark|cover|thumb|poster|preview|frame|origin", re.IGNORECASE)
ASCII = "".join(map(chr, range(33, 127)))


@attrs.frozen
class Links:
    """What a record holds: links that can be fetched, and texts in their place that cannot."""

    usable: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    named: bool = False  # a known name is there, whatever it holds


def read_links(urls: Any, never: Iterable[str] = ()) -> Links:
    """Read a list of links, or a single one; those in *never* are not looked at."""
    listed = urls if isinstance(urls, list) else [urls]
    ours = {tidy(url) for url in never}
    fine, odd = [], []
    for url in listed:
        link = tidy(url) if isinstance(url, str) else ""
        if "://" in link and not [*url_faults(link)]:
            fine += [link] if link not in ours else []
        elif link or not (url is None or isinstance(url, str)):
            odd.append(plain(url, 200))
    return Links(tuple(fine), tuple(odd))


def tidy(url: str) -> str:
    """*url* as it is requested: blanks and foreign letters of its path and query encoded.

    No blanks stand at its ends. The rest stays as it is, `%xx` above all.
    """
    url = url.strip()
    host = re.match(r"[^:/?#]+://[^/?#]*", url)
    rest = url[host.end() :] if host else ""
    if not host or all(letter in ASCII for letter in rest):
        return url
    if not rest.isprintable():
        return url  # no link at all
    try:
        return host[0] + quote(rest, safe=ASCII)
    except UnicodeEncodeError:
        return url


def find_links(data: Mapping[str, Any], never: Iterable[str] = ()) -> Links:
    """The links of a record's *data*: of `resultJson`, then of `result*`; never of `param`."""
    fields = {
        name: unpacked(value)
        for name, value in data.items()
        if name.startswith("result") and not NEVER.search(name)
    }
    content = fields.pop("resultJson", None)
    named = None
    for place in (content, fields):
        for name in NAMES:
            for value in _called(place, name):
                named = read_links(unpacked(value), never)
                if named.usable:
                    return attrs.evolve(named, named=True)
    if named is not None:
        return attrs.evolve(named, named=True)
    for shape in (content, *(fields.get(name) for name in SHAPED)):
        if isinstance(shape, str | list) and (found := read_links(shape, never)).usable:
            return found
    return Links()


def unpacked(value: Any) -> Any:
    """JSON inside a string, once or twice; a text that is none stays one."""
    for _ in range(2):
        perhaps = isinstance(value, str) and value.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"')
        decoded = read_json(value) if perhaps else None
        if not isinstance(decoded, str | list | dict):
            break
        value = decoded
    return value


def _called(value: Any, name: str) -> Iterator[Any]:
    """What is called *name* in an object, and in the objects inside it, the outermost first."""
    layer = [value]
    for _ in range(DEEPEST):
        layer = [inner for inner in layer if isinstance(inner, dict)]
        yield from (inner[name] for inner in layer if name in inner)
        layer = [v for inner in layer for key, v in inner.items() if not NEVER.search(str(key))]


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a JSON value, also in JSON that is spelled as text."""
    layer = [value]
    for _ in range(DEEPEST):
        layer = [unpacked(inner) for inner in layer]
        yield from (inner for inner in layer if isinstance(inner, str))
        lists = [
            inner.values() if isinstance(inner, dict) else inner
            for inner in layer
            if isinstance(inner, dict | list)
        ]
        layer = [inner for held in lists for inner in held]
