"""Reading what cannot be trusted: a value that makes sense, or None, whatever comes. Pure.

Knows nothing of the service: JSON, numbers and times as other programs write them. No function here
raises, whatever it is given.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

MAX_CUTS, MAX_FIELD_ENDS = 200, 24  # of an answer that is not JSON: what a record can have
MAX_DEPTH = 100  # what is nested deeper could not be printed, copied or pickled everywhere
OPENING = ("{", "[", '"')  # of JSON inside a string that is worth decoding
REAL = (int, float)  # a union is made anew at each use
NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
LARGEST_WHOLE = 2**53  # up to which a float holds every whole number
EPOCH = datetime.fromtimestamp(0, UTC)


def read_json(text: str) -> Any:
    """Decode *text*; None when it is not JSON, or nested too deeply to be handed on."""
    return shallow_or_none(read_any_json(text), text)


def shallow_or_none(value: Any, text: str) -> Any:
    """Give what *text* was decoded to; None when it is nested too deeply to be handed on."""
    shallow = text.count("[") + text.count("{") < MAX_DEPTH
    return value if shallow or _is_shallow(value) else None


def read_any_json(text: str) -> Any:
    """Decode *text* however deeply it is nested, to be searched and not handed on."""
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


def unwrap_json(value: Any) -> Any:
    """Decode JSON inside a string, once or twice; a text that is not JSON stays one."""
    for _ in range(2):
        if not isinstance(value, str) or not value.lstrip("\ufeff \t\r\n").startswith(OPENING):
            break
        decoded = read_json(value)
        if not isinstance(decoded, str | list | dict):
            break
        value = decoded
    return value


def strings_in(value: Any) -> list[str]:
    """Give every string in a JSON value, also in JSON inside strings."""
    found: list[str] = []
    layer = [value]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for each in layer:
            inner = unwrap_json(each) if isinstance(each, str) else each
            if isinstance(inner, str):
                found.append(inner)
            else:
                inside += _children(inner)
        if not inside:
            break
        layer = inside
    return found


def read_json_without(text: str, names: tuple[str, ...]) -> Iterator[Any]:
    """Decode *text*, which is not JSON, without the values of the fields *names*.

    Those values are broken, so nobody knows where they end. Each is cut at the last place after
    which the rest can be decoded, then at the place before, and so on: what stands inside the
    broken value is believed last. A name that comes twice is refused.
    """
    candidates = itertools.islice(_cut_out(text, names), MAX_CUTS)
    values = (_read_strictly(candidate) for candidate in candidates)
    return (value for value in values if value is not None and _is_shallow(value))


def _cut_out(text: str, names: tuple[str, ...]) -> Iterator[str]:
    if not names:
        yield text
        return
    field = re.search(rf'"{names[0]}"\s*:', text)
    if field is None:
        yield from _cut_out(text, names[1:])
        return
    head, tail = text[: field.end()] + "null", text[field.end() :]
    ends = [end.start() for end in re.finditer(r',\s*"[A-Za-z_]\w*"\s*:|\}\s*\}\s*\Z', tail)]
    for end in reversed(ends[-MAX_FIELD_ENDS:]):
        yield from _cut_out(head + tail[end:], names[1:])


def _read_strictly(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):
        return None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name comes twice")
    return fields


def _is_shallow(value: Any) -> bool:
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [inner for outer in layer for inner in _children(outer)]
        if not layer:
            return True
    return False


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_number(value: Any) -> float | None:
    """Read a finite number, given as one or as digits; None for anything else."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, REAL):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def read_whole(value: Any) -> int | None:
    """Read a whole number, also when it is written as 200.0 or "200".

    One that a float does not hold exactly is none: it would be another one, and no database takes
    all of them.
    """
    number = read_number(value)
    if number is None or abs(number) > LARGEST_WHOLE or not number.is_integer():
        return None
    return int(number)


def read_amount(value: Any) -> float | None:
    """Read a number that is 0 or more, such as seconds or credits."""
    number = read_number(value)
    return number if number is not None and number >= 0 else None


def read_date(value: str | None) -> float | None:
    """Read the date of an HTTP header as seconds since 1970."""
    if not value or len(value) > 64 or not value.isascii():
        return None
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def read_moment(value: Any) -> datetime | None:
    """Read a time since 1970 in milliseconds, or in seconds; either way from 1973 to 5138."""
    number = read_number(value)
    for unit in (1000, 1):
        if number is not None and 1e8 <= number / unit < 1e11:
            return EPOCH + timedelta(seconds=number / unit)
    return None
