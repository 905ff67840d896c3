"""Text from elsewhere, made fit for messages, logs, terminals and file names. Pure.

What a service, a server or a file says may hold line breaks, control characters, terminal codes
or secrets in a URL. It is shown through these functions only.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

__all__ = [
    "count",
    "describe_value",
    "encodes",
    "escaped_line",
    "fold_name",
    "in_credits",
    "in_words",
    "local_and_utc",
    "loggable",
    "one_line",
    "short_repr",
    "shorten",
    "words_of_page",
]

PAGE_START = 4096  # characters of a page in which its words are looked for
MARKUP = re.compile(
    r"<(script|style)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)|<[^>]*(?:>|$)",
    re.IGNORECASE | re.DOTALL,
)


def one_line(value: Any, max_length: int = 500) -> str:
    """Turn *value* into one line of printable characters, at most *max_length* of them."""
    text = value if isinstance(value, str) else str(value)
    text = text[: max_length * 4]  # enough to fill the line; the rest is not worth the time
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return shorten(" ".join(text.split()), max_length)


def shorten(text: str, max_length: int) -> str:
    """Cut *text* to *max_length* characters; the last three are dots when something was cut."""
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def count(number: int, noun: str = "film") -> str:
    """Count things in words: "1 film", "2 films"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_credits(number: float | Decimal) -> str:
    """Credits as people write them: `5,940`, `0.5`; to two decimals, but no amount as nothing."""
    value = float(number)
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def in_words(seconds: float) -> str:
    """A span of time: `40 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def local_and_utc(at: datetime) -> str:
    """Show a time as people here read it, and as the service shows it; once where that is one."""
    local = at.astimezone()
    if not local.utcoffset():
        return f"{local:%Y-%m-%d %H:%M:%S} UTC"
    return f"{local:%Y-%m-%d %H:%M:%S %z} ({at.astimezone(UTC):%H:%M:%S} UTC)"


def loggable(text: str) -> str:
    """Turn *text* into one line without URLs, which may hold a token or a signature."""
    return one_line(re.sub(r"\w+://\S+", "<url>", text), 200)


def words_of_page(text: str, longest: int = 120) -> str:
    """The words of an HTML page, such as a gateway answers with, as one line; else the text.

    A page's title says what it is about; without one it is all of its words.
    """
    start = text[:PAGE_START]
    if not start.lstrip().startswith("<"):
        return one_line(start, longest)
    title = re.search(r"<title[^>]*>([^<]*[^<\s][^<]*)<", start, re.IGNORECASE)
    words = html.unescape(title[1] if title else MARKUP.sub(" ", start))
    return one_line(" ".join(words.split()), longest)


def short_repr(value: object) -> str:
    """Show any value in an error message: one short line, whatever its `repr` does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - somebody else's repr, or a number too long to print
        text = type(value).__name__
    return shorten(text, 60)


def describe_value(value: object) -> str:
    """Show a value of a file in an error message; of what holds other values, only its kind."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"{value[:60]!r}{'...' if len(value) > 60 else ''}"
    try:
        return shorten(repr(value), 60)
    except ValueError:  # Python refuses to print an integer of thousands of digits
        return "a number of thousands of digits"


def escaped_line(text: str, max_length: int = 1000) -> str:
    r"""Turn *text* into one printable line that still shows what was in it, as `\u202e`."""
    short = shorten(text, max_length)
    if short.isprintable():
        return short
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in short
    )


def encodes(text: str) -> bool:
    """Say whether *text* can be sent and stored: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fold_name(name: str) -> str:
    """Fold *name* as the least discerning file system does: equal folds share one file."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
