"""Uncertain films on the command line: what is known of each, and what the balance says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from apikley_async.batch import Balance, Doubt
from apikley_async.cli.output.reporter import Telling, count

__all__ = ["tell_doubts", "told_of"]


def tell_doubts(tell: Telling, doubts: Sequence[Doubt], balances: Sequence[Balance]) -> None:
    """Show what a person needs to decide."""
    for doubt in doubts:
        tell("doubt", key=doubt.key, cause=doubt.cause, **facts_of(doubt))
    tell_balances(tell, balances)


def facts_of(doubt: Doubt) -> dict[str, str]:
    """When it was sent, to what, and how it begins."""
    return {
        "sent_at": doubt.at.isoformat(timespec="seconds"),
        "sent": told_of(doubt.at),
        "model": doubt.model,
        "words": doubt.words,
    }


def told_of(at: datetime) -> str:
    """A time as people here and the service tell it."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %z} ({at:%H:%M:%S} UTC)"


def tell_balances(tell: Telling, balances: Sequence[Balance]) -> None:
    """Say what the account had, and what is accounted for."""
    for each in balances:
        rest = each.unexplained
        tell(
            "balance",
            before=each.before,
            after=each.after,
            began_at=each.began_at.isoformat(timespec="seconds"),
            ended_at=each.ended_at.isoformat(timespec="seconds"),
            films=each.films,
            cost=each.cost,
            doubts=each.doubts,
            unexplained=rest,
        )
        told = (
            f"The balance fell by {each.fell:.12g} from {told_of(each.began_at)} to "
            f"{told_of(each.ended_at)}; {count(each.films)} accounted for"
        )
        if rest is None:
            told += f", {each.cost:.12g} credits and {count(each.unpriced)} of unknown price"
        elif rest == 0:
            told += f" by {each.cost:.12g}: nothing else was paid, as far as this journal knows"
        else:
            told += f" by {each.cost:.12g}: {rest:.12g} more than that"
        tell.say(told)
