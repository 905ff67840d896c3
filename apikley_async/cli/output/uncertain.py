"""Uncertain films: what is known of each attempt, what the balance says, and how to decide."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from apikley_async._text import shorten
from apikley_async.batch import BalanceEvidence, TaskMatch, UncertainItem
from apikley_async.batch.uncertain import evidence_of, ways_out
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.shell_words import command_line
from apikley_async.cli.output.terminal_text import count, plain, short_time

__all__ = ["MOST_IN_FULL", "report_evidence", "report_pairs", "report_ways"]

MOST_PAIRS = 40  # commands, of tasks that may be several films
MOST_IN_FULL = 3  # films; more of them are a table
NARROWEST, WIDEST = 60, 120  # characters of a table
LONGEST_KEY = 24


def report_evidence(
    reporter: Reporter,
    films: Sequence[UncertainItem],
    balances: Sequence[BalanceEvidence],
    *,
    event: str = "uncertain",
    journal: object = None,
    words: Sequence[str] = (),
    show: Callable[[str], None] | None = None,
) -> None:
    """Report what a person needs to know to decide: of few films in full, of many as a table.

    Args:
        reporter: gets an event for each film.
        films: those that are uncertain.
        balances: what the account's balance says about them.
        event: its name: "uncertain", or "undecided", which has the commands to decide.
        journal: how those name the batch; None for none.
        words: options that lead them to the same service.
        show: shows a line of a table; by default as a message.
    """
    in_full = len(films) <= MOST_IN_FULL
    for film in films:
        facts = {"key": film.key, "cause": film.cause, **facts_of(film, balances)}
        if event == "undecided" and journal is not None:
            found, not_found, _ = ways_out([film.key])
            names = (journal, film.key)
            facts["if_found"] = command_line("batch", *found.words, *words, names=names)
            facts["if_not_found"] = command_line("batch", *not_found.words, *words, names=names)
        (reporter.event if in_full else reporter.program_event)(event, **facts)
    for line in () if in_full else summary_of(films, balances):
        (show or reporter.message)(line)
    for balance in balances:
        report_balance(reporter, balance)
    for line in () if in_full else table_of(films, balances):
        (show or reporter.message)(line)


def report_ways(
    reporter: Reporter,
    films: Sequence[UncertainItem],
    journal: object,
    words: Sequence[str] = (),
    *,
    everything: bool,
) -> None:
    """Show once how to decide about uncertain films: one command for all of them each time.

    Args:
        reporter: prints it.
        films: those that are uncertain; without any nothing is said.
        journal: how commands name the batch.
        words: options that lead them to the same service.
        everything: whether these are all uncertain films of the journal.
    """
    for way in ways_out([film.key for film in films]) if films else ():
        options, keys = (*way.words, *words), way.keys
        if everything and len(films) > 1 and keys == tuple(film.key for film in films):
            options, keys = (*options, "--undecided"), ()
        reporter.message(f"  {way.when}:")
        reporter.message(f"    {command_line('batch', *options, names=(journal, *keys))}")


def report_pairs(
    reporter: Reporter,
    matches: Sequence[TaskMatch],
    journal: object,
    words: Sequence[str] = (),
) -> None:
    """Show the commands that bind tasks by hand, one for each film that a task may be.

    Args:
        reporter: prints them.
        matches: the tasks that were not bound; without any nothing is said.
        journal: how commands name the batch.
        words: options that lead them to the same service.
    """
    pairs = [(match, key) for match in matches for key in match.candidates]
    if pairs:
        reporter.message("  To bind a task by hand, one of:")
    for match, key in pairs[:MOST_PAIRS]:
        insisting = () if match.compared else ("--force",)
        options = ("resolve", "--task-id", match.task_id, *insisting, *words)
        reporter.message(f"    {command_line('batch', *options, names=(journal, key))}")
    if len(pairs) > MOST_PAIRS:
        reporter.message(f"    ... and {len(pairs) - MOST_PAIRS} more; --json has all of them")


def facts_of(film: UncertainItem, balances: Iterable[BalanceEvidence]) -> dict[str, str]:
    """When it was sent, to which model, its first words, and what the balance says of that time."""
    return {
        "sent_at": film.at.isoformat(timespec="seconds"),
        "sent": film.sent,
        "model": film.model,
        "words": film.words,
        "evidence": evidence_of(film, balances),
    }


def report_balance(reporter: Reporter, balance: BalanceEvidence) -> None:
    """Report how the balance has changed, and how much of that is accounted for."""
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


# --- a table of many ------------------------------------------------------------------------------


def summary_of(films: Sequence[UncertainItem], balances: Sequence[BalanceEvidence]) -> list[str]:
    """What stands above the table: how many films, why, and what the balance says of all alike."""
    lines = [f"{count(len(films))} may have been received, and paid:"]
    causes = Counter(plain(film.cause) for film in films)
    lines += [f"  {count(number)}: {cause}" for cause, number in causes.most_common(MOST_IN_FULL)]
    verdicts = {evidence_of(film, balances) for film in films}
    return [*lines, f"  balance: {verdicts.pop()}"] if len(verdicts) == 1 else lines


def table_of(films: Sequence[UncertainItem], balances: Sequence[BalanceEvidence]) -> list[str]:
    """Many uncertain films as lines of a table, no wider than the terminal."""
    several_models = len({film.model for film in films}) > 1
    several_verdicts = len({evidence_of(film, balances) for film in films}) > 1
    rows = [["film", "sent", "balance", "first words"]]
    for film in films:
        words = f"{film.model}: {film.words}" if several_models else film.words
        key = shorten(plain(film.key), LONGEST_KEY)
        sent = f"{'before ' * film.lost}{short_time(film.at)}"
        rows.append([key, sent, evidence_of(film, balances), plain(words)])
    if not several_verdicts:
        rows = [[*row[:2], row[3]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return [shorten(f"  {line}", table_width()) for line in lines]


def table_width() -> int:
    """How many characters fit into a line."""
    if not sys.stderr.isatty():
        return WIDEST
    return min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns - 1))
