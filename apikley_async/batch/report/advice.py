"""What a person can do about films: causes of failures, their cures, commands and costs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from apikley_async._text import count, in_credits
from apikley_async.batch.report.model import (
    Advice,
    Category,
    FailureGroup,
    Film,
    UndecidedFilm,
    UndecidedGroup,
)
from apikley_async.batch.report.rows import JournalRows
from apikley_async.batch.report.texts import duration, shown, without_links
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.values import Item
from apikley_async.batch.uncertain import (
    BalanceEvidence,
    UncertainGroup,
    UncertainItem,
    cause_pattern,
    evidence_of,
    uncertain_groups,
    ways_out,
)

__all__ = [
    "CommandLines",
    "decide_all",
    "failure_groups",
    "lost_group",
    "undecided_groups",
    "unfinished_group",
]

# Words with which services refuse a content: the same content is refused again.
CONTENT = re.compile(
    r"polic|violat|unsafe|moderat|sensitive|photorealistic|prohibit|copyright|likeness|nsfw"
    r"|not (?:allowed|permitted)|inappropriate",
    re.IGNORECASE,
)
ACCOUNT = re.compile(r"credits? insufficient|insufficient credits?|top up", re.IGNORECASE)


@attrs.frozen
class CommandLines:
    """The commands of a report, spelled by who knows the shell and the options in use.

    Attributes:
        decision: spells `apikley batch <words>` about the films of some keys.
        resume: the line that goes on.
        of_manifest: whether the batch is named by its manifest, so that films can be changed.
    """

    decision: Callable[[Sequence[str], Sequence[str]], str]
    resume: str
    of_manifest: bool = True


def undecided_groups(rows: JournalRows, commands: CommandLines) -> tuple[UndecidedGroup, ...]:
    """The films that may have been paid, the oldest first."""
    groups = uncertain_groups(rows.uncertain)
    return tuple(_undecided(group, rows.balances, commands) for group in groups)


def decide_all(rows: JournalRows, commands: CommandLines) -> tuple[Advice, ...]:
    """The ways out for all films that may have been paid, where they are several groups."""
    if len(uncertain_groups(rows.uncertain)) < 2:
        return ()
    again, drop = (commands.decision((word, "--undecided"), ()) for word in ("resubmit", "drop"))
    found, *_ = ways_out([item.key for item in rows.uncertain])
    return (
        Advice(found.when, commands.decision(found.words, found.keys), "nothing more"),
        Advice("None of them has a task: make all again", again, _once_more(rows.uncertain)),
        Advice("Give all of them up", drop, "nothing more"),
    )


def _undecided(
    group: UncertainGroup, balances: Sequence[BalanceEvidence], commands: CommandLines
) -> UndecidedGroup:
    costs = ("nothing more", _once_more(group.items), "nothing more")
    return UndecidedGroup(
        without_links(group.cause),
        tuple(
            UndecidedFilm(
                item.key,
                item.at,
                shown(item.model, 200),
                shown(item.words, 200),
                item.reserved,
                evidence_of(item, balances),
                item.lost,
            )
            for item in group.items
        ),
        tuple(
            Advice(way.when, commands.decision(way.words, way.keys), cost)
            for way, cost in zip(ways_out(group.keys), costs, strict=True)
        ),
    )


def _once_more(items: Sequence[UncertainItem]) -> str:
    """What it costs to make uncertain films again, and what may have been paid for nothing."""
    cost = _total([item.reserved for item in items])
    if len(items) == 1:
        return f"{cost}; it is paid twice if it was received after all"
    return f"{cost}; each of them that was received after all is paid twice"


def _total(prices: Sequence[float | None]) -> str:
    """The price of films together, as far as it is known."""
    known = [price for price in prices if price is not None]
    unknown = len(prices) - len(known)
    if not known:
        return f"{count(unknown, 'new charge')} of unknown price"
    charge = (
        f"{in_credits(sum(known))} credits, {'a new charge' if len(prices) == 1 else 'new charges'}"
    )
    return f"{charge}, and {count(unknown)} of unknown price" if unknown else charge


# --- failures -------------------------------------------------------------------------------------


def failure_groups(
    rows: JournalRows, films: Mapping[str, Film], commands: CommandLines
) -> tuple[FailureGroup, ...]:
    """Films that failed, by cause; the largest group first."""
    groups: dict[tuple[ItemState, str, str], list[Item]] = {}
    for item in rows.items:
        if films[item.key].category is Category.FAILED:
            cause = cause_pattern(failure_of(item), item.key)
            groups.setdefault((item.state, item.fail_code, cause), []).append(item)
    failed = {ItemState.FAILED, ItemState.REJECTED}
    # Without keys `retry` is about all films that failed: shorter, where that is what is meant.
    all_retried = sum(state in failed for state, *_ in groups) == 1
    made = [
        _failure_group(state, items, rows, commands, all_retried=all_retried)
        for (state, *_), items in groups.items()
    ]
    return tuple(sorted(made, key=lambda group: -len(group.keys)))


def failure_of(item: Item) -> str:
    """The words for a failure: the service's code and message, or our cause."""
    said = " ".join(filter(None, (item.fail_code, item.fail_message)))
    return without_links(said or item.cause or item.state.value)


def _failure_group(
    state: ItemState,
    items: Sequence[Item],
    rows: JournalRows,
    commands: CommandLines,
    *,
    all_retried: bool,
) -> FailureGroup:
    keys, cause = tuple(item.key for item in items), failure_of(items[0])
    films, them = count(len(keys)), "it" if len(keys) == 1 else "them"
    if state is ItemState.EXPIRED:
        cure = "Ready and paid, but every link ended before it was saved."
        revive = commands.decision(("revive",), keys)
        way = Advice("Ask the service for new links", revive, "nothing")
        return FailureGroup(f"{films} expired", cause, keys, cure, (way,))
    named = () if all_retried else keys
    cost = _price(items, rows)
    content = CONTENT.search(cause) is not None
    when = f"Plan {them} again" + (" as before" if content else "")
    again = Advice(when, commands.decision(("retry",), named), cost)
    if state is ItemState.REJECTED:
        cure = (
            f"Nothing was made or charged. Change {them} in the manifest and run it again: a film "
            "that was refused takes its new content."
        )
        return FailureGroup(f"{films} refused", cause, keys, cure, (again,))
    ways = [again]
    if commands.of_manifest:
        changed = commands.decision(("retry", "--changed"), named)
        ways.append(Advice(f"Plan {them} with the manifest's new content", changed, cost))
    if content:
        ways = ways[-1:]
    cure = f"{_charged(items)} {_outlook(cause)}"
    return FailureGroup(f"{films} failed", cause, keys, cure, tuple(ways))


def _charged(items: Sequence[Item]) -> str:
    """What failed films have cost so far."""
    if all(item.credits == 0 for item in items):
        return "Nothing was charged."
    known = sum(item.credits or 0.0 for item in items)
    if not known:
        return "Whether that was charged is not known; it is perhaps refunded."
    least = "At least " if any(item.credits is None for item in items) else ""
    return f"{least}{in_credits(known)} credits were charged, and perhaps refunded."


def _outlook(cause: str) -> str:
    """Whether the same input can succeed."""
    if ACCOUNT.search(cause):
        return "The account had no credits: top it up first."
    if CONTENT.search(cause):
        return (
            "The service has refused this content, and is likely to do so again: change it first."
        )
    return "The same input may succeed another time."


def _price(items: Iterable[Item], rows: JournalRows) -> str:
    return _total([rows.prices.of(rows.works[item.key]) for item in items])


# --- files and what is not finished ---------------------------------------------------------------


def lost_group(films: Sequence[Film], commands: CommandLines, now: datetime) -> FailureGroup | None:
    """Films that are done and whose files are not where they were saved; None without any."""
    lost = [film for film in films if film.category is Category.LOST]
    if not lost:
        return None
    keys = tuple(film.key for film in lost)
    missing = next(file.path for film in lost for file in film.files if not file.here)
    ends = [film.link_ends_at for film in lost if film.link_ends_at is not None]
    alive = [at for at in ends if at > now]
    them = "it" if len(keys) == 1 else "them"
    cure = "Paid, saved, and gone from the disk. "
    if alive:
        left = duration((min(alive) - now).total_seconds())
        cure += (
            f"Its links live about a day: {count(len(alive))} to fetch, the first within {left}."
        )
    else:
        cure += "Its links live about a day, and that is over. Try; else a backup may have it."
    again = Advice(f"Fetch {them} again", commands.decision(("save",), keys), "nothing")
    return FailureGroup(
        f"{count(len(lost))} without a file", f"{missing} is gone", keys, cure, (again,)
    )


def refusal_of(films: Iterable[Film], since: float) -> str:
    """Why attempts of the last run led to nothing, of most planned films; empty without any."""
    causes: dict[str, list[str]] = {}
    for film in films:
        is_old = film.sent_at is not None and film.sent_at.timestamp() < since
        if film.cause and film.state is ItemState.PLANNED and not is_old:
            causes.setdefault(cause_pattern(film.cause, film.key), []).append(film.cause)
    return max(causes.values(), key=len)[0] if causes else ""


def unfinished_group(
    films: Sequence[Film], commands: CommandLines, since: float
) -> FailureGroup | None:
    """Films that the next run goes on with; None without any. The last run began at *since*."""
    left = [film for film in films if film.category is Category.UNFINISHED]
    if not left:
        return None
    paid = sum(bool(film.task_id) for film in left)
    sending = sum(film.state is ItemState.SENDING for film in left)
    cure = "Run it again: it resumes, and pays for nothing a second time."
    if sending:
        cure += " What was cut off is then for you to decide."
    facts = (
        f"{paid} of them paid, in the making or ready to be saved" if paid else "",
        f"{sending} being sent, and perhaps paid" if sending else "",
    )
    cause = "; ".join(filter(None, facts)) or "none is paid"
    if reason := refusal_of(left, since):
        cause = f"{cause}. {reason.removesuffix('.')}"
        cure = f"When that is settled, r{cure[1:]}"
    again = Advice("Go on", commands.resume, "what is not paid yet")
    keys = tuple(film.key for film in left)
    return FailureGroup(f"{count(len(left))} not finished", cause, keys, cure, (again,))
