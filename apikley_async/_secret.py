"""The API key: checked, never shown, and blotted out of foreign text. Pure."""

from __future__ import annotations

import re
from typing import Any, SupportsIndex

__all__ = ["HiddenHeader", "Secret", "key_fault"]

LONGEST_KEY = 2000
SHORTEST_SECRET = 12  # anything shorter opens nothing, and is a part of ordinary words


class Secret:
    """The API key: not shown by `repr`, not pickled; `reveal` gives it."""

    __slots__ = ("_bare", "_echo", "_numbers", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._bare = text.replace("\\", "")
        self._echo: re.Pattern[str] | None = None  # compiled when a text needs it: that is slow
        self._numbers = frozenset(f"{ord(char):02x}" for char in text)

    def reveal(self) -> str:
        return self._text

    def blot(self, text: str) -> str:
        """Replace the key in foreign text by stars, plain or escaped."""
        if len(self._text) < SHORTEST_SECRET:
            return text
        # The pattern is slow, and a cheaper check clears nearly every answer: where none of the
        # key's characters is escaped by its number, an echo is the key with backslashes in it.
        if self._bare in text.replace("\\", "") or self._is_numbered(text):
            if self._echo is None:
                self._echo = re.compile("".join(map(_any_spelling, self._text)))
            return self._echo.sub("***", text)
        return text

    def _is_numbered(self, text: str) -> bool:
        """Whether *text* has the number of one of the key's characters behind an escape."""
        return ("%" in text or "\\u00" in text) and any(
            escaped[:2].lower() in self._numbers
            for escape in ("%", "\\u00")
            for escaped in text.split(escape)[1:]
        )

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> Any:
        raise TypeError("a Secret does not pickle")


def _any_spelling(char: str) -> str:
    """A pattern for one character of the key, plain or as JSON and URLs may escape it."""
    number = f"{ord(char):02x}"
    return rf"(?:\\{{0,4}}{re.escape(char)}|\\{{1,4}}u00(?i:{number})|%(?i:{number}))"


class HiddenHeader(str):
    """A header's value that prints as stars, a piece of it too; aiohttp sends the text itself."""

    __slots__ = ()

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        return "***"  # for code that shortens long texts before it shows them

    def __repr__(self) -> str:
        return "'***'"


def key_fault(key: object) -> str | None:
    """Say what is wrong with an API key, without repeating it."""
    if key is not None and not isinstance(key, str):
        return f"api_key: text, not {type(key).__name__}"
    if not key or not key.strip():
        return "api_key: none given; set APIKLEY_API_KEY or pass api_key="
    text = key.strip()
    if len(text) > LONGEST_KEY:
        return f"api_key: at most {LONGEST_KEY} characters, not {len(text)}"
    if not text.isascii() or not text.isprintable() or " " in text or set(text) & set("'\""):
        return "api_key: letters, digits and signs only; it holds a space, a quote or the like"
    return None
