"""What a person needs to decide about uncertain films: when, what, and what the balance says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from apikley_async import Storyboard, Work
from apikley_async.batch.manifest.fields import work_of
from apikley_async.batch.store.protocol import Item

__all__ = ["Balance", "Doubt", "balances_around", "doubt_of"]

FIRST_WORDS = 60
Facts = Mapping[str, Any]


@attrs.frozen
class Doubt:
    """An uncertain film.

    Attributes:
        key: its name in the batch.
        at: when its last uncertain attempt began.
        model: what it was sent to.
        words: the first words of its first scene, or of its prompt.
        cause: why it is uncertain.
        reserved: credits that were set aside for it, as far as a price was known.
    """

    key: str
    at: datetime
    model: str
    words: str
    cause: str
    reserved: float | None = None


@attrs.frozen
class Balance:
    """What the account had around some uncertain attempts, and what is accounted for.

    Attributes:
        began_at, ended_at: when it was asked for, before the first and after the last of them.
        before, after: credits then.
        films: attempts between the two whose task is known.
        cost: credits of those, as far as known.
        unpriced: how many of them have no known cost or price.
        doubts: how many uncertain attempts there were.
    """

    began_at: datetime
    ended_at: datetime
    before: float
    after: float
    films: int
    cost: float
    unpriced: int
    doubts: int

    @property
    def fell(self) -> float:
        """By how many credits the balance fell."""
        return self.before - self.after

    @property
    def unexplained(self) -> float | None:
        """Credits that nobody accounts for, as far as this journal knows; None: some price is."""
        return None if self.unpriced else self.fell - self.cost


def doubt_of(item: Item, attempts: Sequence[Facts]) -> Doubt:
    """What to know of an uncertain item, from its attempts."""
    unknown = [attempt for attempt in attempts if attempt["state"] == "unknown"]
    last: Facts = max(unknown, key=lambda attempt: attempt["began_at"], default={})
    work = work_of(item)
    return Doubt(
        item.key,
        datetime.fromtimestamp(last.get("began_at") or 0.0, UTC),
        work.model,
        first_words(work),
        item.cause or str(last.get("cause") or ""),
        last.get("reserved"),
    )


def first_words(work: Work) -> str:
    """How a film begins, in a line."""
    if isinstance(work, Storyboard):
        said = work.shots[0].scene
    else:
        fields = work.to_dict().get("task")
        given = fields.get("input", {}) if isinstance(fields, dict) else {}
        said = str(given.get("prompt", "")) if isinstance(given, dict) else ""
    line = " ".join(said.split())
    return line if len(line) <= FIRST_WORDS else f"{line[: FIRST_WORDS - 3]}..."


def balances_around(
    attempts: Sequence[Facts], notes: Sequence[tuple[float, float]]
) -> list[Balance]:
    """What the balance says about uncertain attempts: one for each stretch between two notes."""
    unknown = [attempt for attempt in attempts if attempt["state"] == "unknown"]
    found = []
    for (began, before), (ended, after) in itertools.pairwise(notes):
        inside = [each for each in attempts if began <= each["began_at"] <= ended]
        doubts = [each for each in inside if each in unknown]
        if not doubts:
            continue
        known = [each for each in inside if each["task_id"] is not None]
        costs = [
            each["credits"] if each["credits"] is not None else each["reserved"] for each in known
        ]
        found.append(
            Balance(
                datetime.fromtimestamp(began, UTC),
                datetime.fromtimestamp(ended, UTC),
                before,
                after,
                len(known),
                sum(cost for cost in costs if cost is not None),
                sum(cost is None for cost in costs),
                len(doubts),
            )
        )
    return found
