"""Text from elsewhere, made fit for messages, logs and terminals. Pure.

What a service, a server or a file says may hold line breaks, control characters, terminal codes
or secrets in a URL. It is shown through these functions only.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["loggable", "one_line", "shorten"]


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


def loggable(text: str) -> str:
    """Turn *text* into one line without URLs, which may hold a token or a signature."""
    return one_line(re.sub(r"\w+://\S+", "<url>", text), 200)
