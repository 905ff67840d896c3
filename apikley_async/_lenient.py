"""Reading what cannot be trusted: a value that makes sense, or None, whatever comes.

Pure, and knows nothing of the service: numbers, times and texts as strangers write them.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any


def read_json(text: str) -> Any:
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


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


def read_seconds(value: Any) -> float | None:
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
    millis = read_number(value)
    if millis is None or millis <= 0:
        return None
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=millis)
    except OverflowError:
        return None


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(value: Any, longest: int = 500) -> str:
    """Foreign text made fit for a message or a terminal: one line, no control characters."""
    text = _UNSEEN.sub(" ", value if isinstance(value, str) else str(value)[: longest + 1])
    text = " ".join(text[: longest * 2].split())
    return text if len(text) <= longest else text[: longest - 3] + "..."
