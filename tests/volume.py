"""How much of it a test does: a short share by default, the whole in `nox -s long`."""

from __future__ import annotations

import os

__all__ = ["LONG", "volume"]

LONG = bool(os.environ.get("APIKLEY_LONG"))


def volume(share: int, whole: int) -> int:
    """How many of them: *share* in the default run, *whole* in the long one."""
    return whole if LONG else share
