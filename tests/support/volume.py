"""How much of it a test does: a short share by default, the whole in `nox -s long`."""

from __future__ import annotations

import os
from typing import TypeVar

__all__ = ["LONG", "volume"]

LONG = bool(os.environ.get("APIKLEY_LONG"))

Amount = TypeVar("Amount")


def volume(share: Amount, whole: Amount) -> Amount:
    """How many, or which: *share* in the default run, *whole* in the long one."""
    return whole if LONG else share
