"""Uncertain films: what is known of each attempt, and what the balance says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from apikley_async.batch import BalanceEvidence, UncertainItem
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import count

__all__ = ["evidence_facts", "report_balances", "report_evidence"]


def report_evidence(
    reporter: Reporter, uncertain: Sequence[UncertainItem], balances: Sequence[BalanceEvidence]
) -> None:
    """Report what a person needs to know to decide about uncertain films."""
    for item in uncertain:
        reporter.event("doubt", key=item.key, cause=item.cause, **evidence_facts(item))
    report_balances(reporter, balances)


def evidence_facts(item: UncertainItem) -> dict[str, str]:
    """When the attempt was sent, to which model, and the first words of its prompt."""
    return {
        "sent_at": item.at.isoformat(timespec="seconds"),
        "sent": local_and_utc(item.at),
        "model": item.model,
        "words": item.words,
    }


def local_and_utc(at: datetime) -> str:
    """A time as people here read it, and as the service shows it."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %z} ({at:%H:%M:%S} UTC)"


def report_balances(reporter: Reporter, balances: Sequence[BalanceEvidence]) -> None:
    """Report how the balance has changed, and how much of that is accounted for."""
    for balance in balances:
        unexplained = balance.unexplained
        reporter.event(
            "balance",
            before=balance.before,
            after=balance.after,
            began_at=balance.began_at.isoformat(timespec="seconds"),
            ended_at=balance.ended_at.isoformat(timespec="seconds"),
            films=balance.films,
            cost=balance.cost,
            doubts=balance.uncertain,
            unexplained=unexplained,
        )
        text = (
            f"The balance fell by {balance.decrease:.12g} from {local_and_utc(balance.began_at)} "
            f"to {local_and_utc(balance.ended_at)}; {count(balance.films)} accounted for"
        )
        if unexplained is None:
            text += f", {balance.cost:.12g} credits and {count(balance.unpriced)} of unknown price"
        elif unexplained == 0:
            text += f" by {balance.cost:.12g}: nothing else was paid, as far as this journal knows"
        else:
            text += f" by {balance.cost:.12g}: {unexplained:.12g} more than that"
        reporter.message(text)
