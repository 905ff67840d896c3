"""What a person needs to decide about uncertain films: when, what, and what the balance shows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import attrs

from apikley_async import Storyboard, Work
from apikley_async._text import count, in_credits, local_and_utc, one_line
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.store.adoption import is_stand_in
from apikley_async.batch.store.rows import read_time
from apikley_async.batch.store.values import Item

__all__ = [
    "BalanceEvidence",
    "UncertainGroup",
    "UncertainItem",
    "WayOut",
    "balance_evidence",
    "cause_pattern",
    "evidence_of",
    "excerpt",
    "uncertain_groups",
    "uncertain_item",
    "ways_out",
]

LONGEST_EXCERPT = 60
SPAN = timedelta(minutes=1)  # films sent within it, and uncertain for one cause, are one group
VARIABLE = re.compile(r"\b\w*\d\w*(?:\.\d+)*\b")  # ids and numbers
RESOLVE = ("resolve", "--task-id", "TASK_ID")
RESOLVE_ALL = ("resolve", "--task-id", "ID ID ...")  # without keys: matched by content
DIGITS = 6  # of a credit: what is less comes of adding and no charge
EPOCH = datetime.fromtimestamp(0, UTC)  # where a time is missing
AttemptRow: TypeAlias = Mapping[str, Any]


@attrs.frozen
class UncertainItem:
    """An uncertain film.

    Attributes:
        key: its name in the batch.
        at: when its last uncertain attempt began; for a *lost* one, when its journal was adopted.
        model: what it was sent to.
        words: the first words of its first scene, or of its prompt.
        cause: why it is uncertain.
        reserved: credits that were set aside for it, as far as a price was known.
        lost: whether its attempt is missing in an adopted journal: if it was sent at all, then
            before *at*.
    """

    key: str
    at: datetime
    model: str
    words: str
    cause: str
    reserved: float | None = None
    lost: bool = False

    @property
    def sent(self) -> str:
        """When it was sent, in words."""
        return f"{'before ' * self.lost}{local_and_utc(self.at)}"


@attrs.frozen
class UncertainGroup:
    """Uncertain films of one cause that were sent within a minute: one look decides them all.

    Attributes:
        cause: why they are uncertain, in the words of the first of them.
        items: the films, the oldest first.
    """

    cause: str
    items: tuple[UncertainItem, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the films."""
        return tuple(item.key for item in self.items)

    @property
    def sent(self) -> str:
        """When they were sent, in words: one time, or the first and the last."""
        first, last = (self.items[end].sent for end in (0, -1))
        return first if first == last else f"{first} to {last}"


@attrs.frozen
class WayOut:
    """One decision about uncertain films, and the command that carries it out.

    Attributes:
        when: what a person has found out, and what is done then.
        words: of the command, behind `apikley batch`.
        keys: the films that the command is about.
    """

    when: str
    words: tuple[str, ...]
    keys: tuple[str, ...]


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
        """How many credits the balance has lost; negative where it has grown."""
        return self.before - self.after

    @property
    def unexplained(self) -> float | None:
        """Credits that no known film accounts for; None where a film has no known cost."""
        return None if self.unpriced else round(self.decrease - self.cost, DIGITS)

    @property
    def suggests_payment(self) -> bool:
        """Whether more was taken than the known films cost: an uncertain one was probably paid."""
        return self.unexplained is not None and self.unexplained > 0

    def covers(self, item: UncertainItem) -> bool:
        """Whether a film's uncertain attempt is known to have begun between the two readings."""
        return not item.lost and self.began_at <= item.at <= self.ended_at

    @property
    def verdict(self) -> str:
        """What the balance says about the uncertain films of that time, in a few words."""
        if self.unexplained is None or self.unexplained < 0:
            return "does not tell"
        if self.unexplained == 0:
            return "nothing more taken so far"
        together = f" for {count(self.uncertain)} together" if self.uncertain > 1 else ""
        return f"{in_credits(self.unexplained)} more taken{together}"

    @property
    def sentence(self) -> str:
        """How the balance has changed, how much of that is accounted for, and what it means."""
        change = "fell" if self.decrease >= 0 else "rose"
        text = (
            f"The balance {change} by {in_credits(abs(self.decrease))} from "
            f"{local_and_utc(self.began_at)} to {local_and_utc(self.ended_at)}; "
            f"known tasks ({count(self.films)}) cost {in_credits(self.cost)}"
        )
        if self.unexplained is None:
            return f"{text}, {count(self.unpriced)} without a known price not counted"
        if self.unexplained == 0:
            known = "nothing else was taken so far, as far as this journal knows"
            return f"{text}: {known}"
        if self.unexplained < 0:
            return (
                f"{text}: {in_credits(-self.unexplained)} less was taken than that, as after a "
                "refund or a top-up; it says nothing about them"
            )
        films = "the uncertain film WAS PAID"
        if self.uncertain > 1:
            films = f"one or more of the {self.uncertain} uncertain films WERE PAID"
        return (
            f"{text}: {in_credits(self.unexplained)} more was taken than that. Unless others use "
            f"this account, or a price is wrong, {films}"
        )


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
        lost=is_stand_in(last),
    )


def uncertain_groups(items: Iterable[UncertainItem]) -> list[UncertainGroup]:
    """Uncertain films by cause and time, the oldest first.

    A program that was killed leaves as many of them as were being sent: they are told apart by
    nothing but their names.
    """
    groups: list[list[UncertainItem]] = []
    latest: dict[str, list[UncertainItem]] = {}
    for item in sorted(items, key=lambda each: each.at):
        cause = cause_pattern(item.cause, item.key)
        group = latest.get(cause)
        if group is None or item.at - group[0].at >= SPAN:
            group = latest[cause] = []
            groups.append(group)
        group.append(item)
    return [UncertainGroup(group[0].cause, tuple(group)) for group in groups]


def evidence_of(item: UncertainItem, balances: Iterable[BalanceEvidence]) -> str:
    """What the balance says about one film, in a few words."""
    if item.lost:  # nobody knows when it was sent
        return "does not tell"
    verdicts = (balance.verdict for balance in balances if balance.covers(item))
    return next(verdicts, "not read since")


def cause_pattern(cause: str, key: str) -> str:
    """A cause without what differs between films that have it in common: key, ids and numbers."""
    return VARIABLE.sub("#", cause.replace(key, "#").casefold())


def ways_out(keys: Sequence[str]) -> tuple[WayOut, WayOut, WayOut]:
    """What may be decided about uncertain films: a task is found, there is none, or give up."""
    named = tuple(keys)
    if len(named) == 1:
        return (
            WayOut(
                "There is a task of that time at https://app.apikley.ru: name its id",
                RESOLVE,
                named,
            ),
            WayOut("There is none: make the film again", ("resubmit",), named),
            WayOut("Give it up", ("drop",), named),
        )
    return (
        WayOut(
            "There are tasks of that time at https://app.apikley.ru: name their ids, and each "
            "finds its film by its content",
            RESOLVE_ALL,
            (),
        ),
        WayOut("There are none: make the films again", ("resubmit",), named),
        WayOut("Give them up", ("drop",), named),
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
        unknown = [each for each in between if each["state"] == "unknown"]
        uncertain = [each for each in unknown if not is_stand_in(each)]
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
