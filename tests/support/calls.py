"""Counts calls of functions, so that a test of how much work something is needs no clock."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

__all__ = ["Calls", "counted_calls"]


class Calls:
    """How many functions were called, those written in C included."""

    number = 0

    def __call__(self, _frame: object, event: str, _argument: object) -> None:
        self.number += event in ("call", "c_call")


@contextlib.contextmanager
def counted_calls() -> Iterator[Calls]:
    """Count the calls of this thread, and of those that begin meanwhile."""
    calls = Calls()
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
