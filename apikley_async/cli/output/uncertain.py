"""Uncertain films: what is known of each attempt, and what the balance says."""

from __future__ import annotations

from collections.abc import Sequence

from apikley_async._text import local_and_utc
from apikley_async.batch import BalanceEvidence, UncertainItem
from apikley_async.cli.output.reporter import Reporter

__all__ = ["evidence_facts", "report_balances", "report_evidence"]


def report_evidence(
    reporter: Reporter, uncertain: Sequence[UncertainItem], balances: Sequence[BalanceEvidence]
) -> None:
    """Report what a person needs to know to decide about uncertain films."""
    for item in uncertain:
        reporter.event("uncertain", key=item.key, cause=item.cause, **evidence_facts(item))
    report_balances(reporter, balances)


def evidence_facts(item: UncertainItem) -> dict[str, str]:
    """When the attempt was sent, to which model, and the first words of its prompt."""
    return {
        "sent_at": item.at.isoformat(timespec="seconds"),
        "sent": local_and_utc(item.at),
        "model": item.model,
        "words": item.words,
    }


def report_balances(reporter: Reporter, balances: Sequence[BalanceEvidence]) -> None:
    """Report how the balance has changed, and how much of that is accounted for."""
    for balance in balances:
        reporter.event(
            "balance",
            before=balance.before,
            after=balance.after,
            began_at=balance.began_at.isoformat(timespec="seconds"),
            ended_at=balance.ended_at.isoformat(timespec="seconds"),
            films=balance.films,
            cost=balance.cost,
            uncertain=balance.uncertain,
            unexplained=balance.unexplained,
        )
        reporter.message(balance.sentence)
