"""What a broken promise is, and what comes of reading many things that nobody should send."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import attrs

__all__ = ["Defect", "Findings", "demand", "timed"]

Value = TypeVar("Value")


class Defect(AssertionError):  # noqa: N818 - the word for it
    """A promise was broken."""


@attrs.define
class Findings:
    """What came out of many cases."""

    outcomes: Counter[str] = attrs.field(factory=Counter)
    slowest: float = 0.0  # seconds for each 64 KiB
    characters: int = 0

    def add(self, other: Findings) -> None:
        self.outcomes.update(other.outcomes)
        self.slowest = max(self.slowest, other.slowest)
        self.characters += other.characters

    def read(
        self,
        what: str,
        act: Callable[[], Value],
        documented: tuple[type[Exception], ...] = (),
        *,
        size: int = 0,
        most: float,
    ) -> Value | Exception:
        """What *act* gives, or the documented error that it raises, in *most* seconds at most.

        Seconds of the processor for each 64 KiB. What takes longer is done three times more, and
        the shortest counts: the collector of garbage may have come by, or a neighbour.
        """
        share = max(1.0, size / 65_536)
        outcome, took = timed(act, documented)
        if took / share > most:
            took = min(took, *(timed(act, documented)[1] for _ in range(3)))
            demand(took / share <= most, f"{what} took {took:.3f} s")
        self.slowest = max(self.slowest, took / share)
        return outcome


def demand(kept: bool, reported: str) -> None:
    if not kept:
        raise Defect(reported)


def timed(
    act: Callable[[], Value], documented: tuple[type[Exception], ...]
) -> tuple[Value | Exception, float]:
    """What *act* gives or raises, and its seconds; others than *documented* are defects."""
    began = time.thread_time()
    outcome: Value | Exception
    try:
        outcome = act()
    except documented as error:
        outcome = error
    except Defect:
        raise
    except Exception as error:
        raise Defect(f"{type(error).__name__}: {error!s:.200}") from error
    return outcome, time.thread_time() - began
