"""Reading what cannot be trusted: a value that makes sense, or None, whatever comes.

Pure, and knows nothing of the service: numbers, times and texts as strangers write them.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

MOST_CUTS, MOST_FIELDS = 200, 24  # of an answer that is no JSON: what a record can have
DEEPEST = 100  # what is nested deeper could not be printed, copied or pickled everywhere
EPOCH = datetime.fromtimestamp(0, UTC)


def read_json(text: str) -> Any:
    """What *text* holds, if it can be handed on: what is nested without end cannot."""
    value = read_any_json(text)
    shallow = text.count("[") + text.count("{") < DEEPEST
    return value if shallow or _is_handy(value) else None


def read_without(text: str, names: tuple[str, ...]) -> Iterator[Any]:
    """What *text*, which is no JSON, holds without the values of the fields *names*.

    Each value is cut to the last place where the rest parses, then to the one before, and so
    on: what stands inside it is the last that is believed. No name may come twice.
    """
    tries = itertools.islice(_without(text, names), MOST_CUTS)
    values = (_read_strictly(tried) for tried in tries)
    return (value for value in values if value is not None and _is_handy(value))


def _without(text: str, names: tuple[str, ...]) -> Iterator[str]:
    if not names:
        yield text
        return
    field = re.search(rf'"{names[0]}"\s*:', text)
    if field is None:
        yield from _without(text, names[1:])
        return
    head, tail = text[: field.end()] + "null", text[field.end() :]
    ends = [end.start() for end in re.finditer(r',\s*"[A-Za-z_]\w*"\s*:|\}\s*\}\s*\Z', tail)]
    for end in reversed(ends[-MOST_FIELDS:]):
        yield from _without(head + tail[end:], names[1:])


def _read_strictly(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError):
        return None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name that comes twice")
    return fields


def read_any_json(text: str) -> Any:
    """The same however deep it is nested, to be looked into and not handed on."""
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


def _is_handy(value: Any) -> bool:
    """Whether *value* is nested no deeper than people nest things."""
    layer = [value]
    for _ in range(DEEPEST):
        layer = [inner for outer in layer for inner in _held(outer)]
        if not layer:
            return True
    return False


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield from value.values() if isinstance(value, dict) else value


def read_number(value: Any) -> float | None:
    """A finite number, given as one or as digits; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def read_whole(value: Any) -> int | None:
    number = read_number(value)
    return int(number) if number is not None and number == int(number) else None


def read_amount(value: Any) -> float | None:
    """A number that is not below nothing, such as seconds or credits."""
    number = read_number(value)
    return number if number is not None and number >= 0 else None


def read_date(value: str | None) -> float | None:
    if not value or len(value) > 64 or not value.isascii():
        return None
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def read_moment(value: Any) -> datetime | None:
    """A time since 1970 in milliseconds, or in seconds; either way between 1973 and 5138."""
    number = read_number(value)
    for unit in (1000, 1):
        if number is not None and 1e8 <= number / unit < 1e11:
            return EPOCH + timedelta(seconds=number / unit)
    return None


def loggable(text: str) -> str:
    """Foreign words for a log: one line, and no URL, which may hold a token or a signature."""
    return plain(re.sub(r"\w+://\S+", "<url>", text), 200)


def plain(value: Any, longest: int = 500) -> str:
    """Foreign text made fit for a message or a terminal: one line of what can be seen."""
    text = value if isinstance(value, str) else str(value)
    text = text[: longest * 4]
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 3] + "..."
