"""Text that is safe to print: what a terminal would obey becomes visible instead."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from apikley_async._text import count, in_credits, in_words

__all__ = ["clean", "count", "in_credits", "in_words", "plain", "short_time"]

JOINERS = "\u200c\u200d"  # they shape words of some scripts, and emoji
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, surrogate, separators


def plain(text: object) -> str:
    """One line of text: control and direction characters become visible escapes."""
    return "".join(
        repr(character)[1:-1]
        if unicodedata.category(character) in HIDDEN and character not in JOINERS
        else character
        for character in str(text)
    )


def clean(text: str) -> str:
    """Text of several lines, each made `plain`. Everything that is printed goes through it."""
    return "\n".join(map(plain, text.split("\n")))


def short_time(at: datetime) -> str:
    """A time here, and in UTC, as the service's log of tasks has it."""
    local = at.astimezone()
    utc = f"{at.astimezone(UTC):%H:%M:%S} UTC"
    return f"{local:%m-%d %H:%M:%S} ({utc})" if local.utcoffset() else f"{local:%m-%d} {utc}"
