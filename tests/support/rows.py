"""A matrix as one test: every row is checked, and the failing ones are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def failing(check: Callable[[Any], None], values: Iterable[Any]) -> list[str]:
    """Call *check* with each value, and list the values with which it raises."""
    return failing_rows(check, ((value,) for value in values))


def failing_rows(check: Callable[..., None], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Call *check* with the members of each row, and list the rows with which it raises."""
    failures = []
    for row in rows:
        try:
            check(*row)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - it is listed
            failures.append(f"{tuple(row)!r:.300}: {type(error).__name__}: {error!s:.500}")
    return failures
