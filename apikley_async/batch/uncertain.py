"""What a person needs to decide about uncertain films: when, what, and what the balance shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import attrs

from apikley_async import Storyboard, Work
from apikley_async._text import count, local_and_utc, one_line
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.store.protocol import Item
from apikley_async.batch.store.rows import read_time

__all__ = ["BalanceEvidence", "UncertainItem", "balance_evidence", "uncertain_item"]

LONGEST_EXCERPT = 60
EPOCH = datetime.fromtimestamp(0, UTC)  # where a time is missing
AttemptRow: TypeAlias = Mapping[str, Any]


@attrs.frozen
class UncertainItem:
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
class BalanceEvidence:
    """The account's balance before and after some uncertain attempts.

    Attributes:
        began_at, ended_at: when the balance was read, before the first and after the last of them.
        before, after: credits then.
        films: attempts between the two whose task is known.
        cost: credits of those, as far as known.
        unpriced: how many of them have no known cost or price.
        uncertain: how many uncertain attempts there were.
    """

    began_at: datetime
    ended_at: datetime
    before: float
    after: float
    films: int
    cost: float
    unpriced: int
    uncertain: int

    @property
    def decrease(self) -> float:
        """How many credits the balance has lost."""
        return self.before - self.after

    @property
    def unexplained(self) -> float | None:
        """Credits that no known film accounts for; None where a film has no known cost."""
        return None if self.unpriced else self.decrease - self.cost

    @property
    def sentence(self) -> str:
        """How the balance has changed, and how much of that is accounted for, in words."""
        text = (
            f"The balance fell by {self.decrease:.12g} from {local_and_utc(self.began_at)} "
            f"to {local_and_utc(self.ended_at)}; {count(self.films)} accounted for"
        )
        if self.unexplained is None:
            return f"{text}, {self.cost:.12g} credits and {count(self.unpriced)} of unknown price"
        if self.unexplained == 0:
            return (
                f"{text} by {self.cost:.12g}: nothing else was paid, as far as this journal knows"
            )
        return f"{text} by {self.cost:.12g}: {self.unexplained:.12g} more than that"


def uncertain_item(item: Item, attempts: Sequence[AttemptRow]) -> UncertainItem:
    """What should be known of an uncertain item, from its attempts."""
    unknown = [attempt for attempt in attempts if attempt["state"] == "unknown"]
    last: AttemptRow = max(unknown, key=lambda attempt: attempt["began_at"], default={})
    work = work_of(item)
    return UncertainItem(
        item.key,
        read_time(last.get("began_at")) or EPOCH,
        work.model,
        excerpt(work),
        item.cause or str(last.get("cause") or ""),
        last.get("reserved"),
    )


def excerpt(work: Work, longest: int = LONGEST_EXCERPT) -> str:
    """The beginning of a film's text, on one line."""
    if isinstance(work, Storyboard):
        text = work.shots[0].scene
    else:
        task = work.to_dict().get("task")
        given = task.get("input", {}) if isinstance(task, dict) else {}
        text = str(given.get("prompt", "")) if isinstance(given, dict) else ""
    return one_line(text, longest)


def balance_evidence(
    attempts: Sequence[AttemptRow], balances: Sequence[tuple[float, float]]
) -> list[BalanceEvidence]:
    """What the balance shows about uncertain attempts.

    Args:
        attempts: all attempts of the journal.
        balances: when the balance was read, and what it was, in order.

    Returns:
        One value for each pair of readings with uncertain attempts between them.
    """
    found = []
    for (began, before), (ended, after) in itertools.pairwise(balances):
        between = [each for each in attempts if began <= each["began_at"] <= ended]
        uncertain = [each for each in between if each["state"] == "unknown"]
        if not uncertain:
            continue
        known = [each for each in between if each["task_id"] is not None]
        costs = [
            each["credits"] if each["credits"] is not None else each["reserved"] for each in known
        ]
        found.append(
            BalanceEvidence(
                read_time(began) or EPOCH,
                read_time(ended) or EPOCH,
                before,
                after,
                len(known),
                sum(cost for cost in costs if cost is not None),
                sum(cost is None for cost in costs),
                len(uncertain),
            )
        )
    return found
