"""Where the films of a run stand: events, lines, and an exit code by their states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from apikley_async import State
from apikley_async._text import local_and_utc
from apikley_async.batch import BatchStatus, CostEstimate, Item, ItemState
from apikley_async.batch.saving import result_from_json
from apikley_async.cli.exit_codes import DECIDE, FAILED, OK, RESUME, worst
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.shell_words import command_line
from apikley_async.cli.output.terminal_text import count, in_credits
from apikley_async.errors import MissingExtraError

__all__ = [
    "STATE_CODES",
    "Counts",
    "RunSummary",
    "exit_code_of",
    "is_withdrawn",
    "paths_of",
    "report_counts",
    "report_estimate",
    "report_failed",
    "report_item",
    "report_unsaved",
    "report_written",
]

STATE_CODES = {
    ItemState.FAILED: FAILED,
    ItemState.REJECTED: FAILED,
    ItemState.EXPIRED: FAILED,
    ItemState.UNCERTAIN: DECIDE,
    ItemState.PLANNED: RESUME,
    ItemState.SENDING: RESUME,  # of another process; after a crash the next run decides
    ItemState.SUBMITTED: RESUME,
    ItemState.STALLED: RESUME,
    ItemState.SUCCESS: RESUME,
}

Counts = Mapping[ItemState, int]

UNCERTAIN = (
    "Uncertain: sent, and no answer came, so it may be paid. It stays undecided, and is never sent "
    "again, until you say what to do."
)
SENDING = (
    "Unless their run still waits for it, they are uncertain, and may be paid: the next command "
    "that runs or decides says so, and sends nothing again."
)


@attrs.define
class RunSummary:
    """The films of a journal, sorted by what is to be said of them.

    A film that its manifest no longer names and that was never sent is left out.

    Attributes:
        keys: the films that the run was about; None for all.
        counts: how many of them are in which state.
        done: those that are done.
        uncertain: those that need a decision.
        unsaved: those that are ready at the service, and not saved.
        others: films of the journal that are not finished, and that the run was not about.
    """

    keys: frozenset[str] | None
    counts: Counter[ItemState] = attrs.Factory(Counter)
    done: list[Item] = attrs.Factory(list)
    uncertain: list[Item] = attrs.Factory(list)
    unsaved: list[Item] = attrs.Factory(list)
    others: list[Item] = attrs.Factory(list)

    def add(self, item: Item) -> None:
        """Count an item."""
        withdrawn = is_withdrawn(item)
        if self.keys is not None and item.key not in self.keys:
            if item.state in STATE_CODES and not withdrawn:
                self.others.append(item)
            return
        if withdrawn:
            return
        self.counts[item.state] += 1
        if item.state is ItemState.DONE:
            self.done.append(item)
        elif item.state is ItemState.UNCERTAIN:
            self.uncertain.append(item)
        elif item.state is ItemState.SUCCESS:
            self.unsaved.append(item)


def is_withdrawn(item: Item) -> bool:
    """Whether its manifest no longer names a film that was never sent."""
    return item.gone and item.state is ItemState.PLANNED


def exit_code_of(counts: Counts) -> int:
    """The exit code for films in these states."""
    return worst(STATE_CODES.get(state, OK) for state in counts)


def paths_of(item: Item, folder: Path) -> list[Path]:
    """A film's files, with *folder* as the user has named it."""
    home = folder.absolute()
    return [
        folder / file.path.name if file.path.parent == home else file.path for file in item.files
    ]


EVENTS = {
    ItemState.SUBMITTED: "submitted",
    ItemState.SUCCESS: "finished",
    ItemState.DONE: "saved",
    ItemState.FAILED: "failed",
    ItemState.REJECTED: "failed",
    ItemState.EXPIRED: "failed",
    ItemState.STALLED: "stopped",
}


def report_item(
    reporter: Reporter,
    item: Item,
    paths: Collection[Path],
    *,
    simulated: bool = False,
    stopped: str | None = None,
) -> None:
    """Report a film's new state; a state that needs nobody's attention has no event.

    Args:
        reporter: gets the event.
        item: the film.
        paths: its files, as the user has named their folder.
        simulated: whether nothing was really submitted and paid.
        stopped: why the run submits nothing more; people read that once, and of no single film.
    """
    event = EVENTS.get(item.state)
    facts: dict[str, Any] = {
        "key": item.key,
        "task_id": item.task_id,
        "item_state": item.state.value,
        "simulated": simulated or None,
    }
    if item.state is ItemState.FAILED:
        ended = {"fail_code": item.fail_code or None, "fail_message": item.fail_message or None}
        report_failed(reporter, **facts, **ended, credits=item.credits)
    if event in ("failed", "stopped"):
        message = item.cause or item.state.value
        reporter.event(event, **facts, error=item.state.value, message=message)
    elif event is not None and not (item.cause and event == "finished"):
        names = [str(path) for path in paths] or None
        if event == "finished" and item.result:
            result = result_from_json(item)
            facts["state"] = State.SUCCESS.value
            facts["urls"] = list(result.urls)
            facts["expires_at"] = result.expires_at and result.expires_at.isoformat()
        reporter.event(event, **facts, credits=item.credits, paths=names)
    elif item.cause and item.state in (ItemState.PLANNED, ItemState.SUCCESS):
        expires_at = expiry_of(item)
        of_run = item.state is ItemState.PLANNED and item.cause == stopped
        (reporter.program_event if of_run else reporter.event)(
            "delayed",
            **facts,
            reason=item.cause,
            expires_at=expires_at and expires_at.isoformat(timespec="seconds"),
            until=expires_at and local_and_utc(expires_at),
        )


def expiry_of(item: Item) -> datetime | None:
    """When the service's links to a film that is ready end, as far as is known."""
    ready = item.state is ItemState.SUCCESS and bool(item.result)
    return result_from_json(item).expires_at if ready else None


def report_unsaved(
    reporter: Reporter, items: Sequence[Item], journal: object, words: Sequence[str] = ()
) -> None:
    """Say of films that are paid and not saved until when they are there, and how to save them.

    Args:
        reporter: prints it.
        items: the films; without any nothing is said.
        journal: how commands name the batch.
        words: the options that lead them to the same service.
    """
    if not items:
        return
    known = [at for at in map(expiry_of, items) if at is not None]
    until = f"until {local_and_utc(min(known))}" if known else "for about a day"
    first = "the first of them " if len(items) > 1 else ""
    save = command_line("batch", "save", "-o", "DIR", *words, names=[journal])
    reporter.message(
        f"{count(len(items))} paid and not saved, {first}at the service {until}. To save into "
        f"another folder: {save}"
    )


def report_failed(reporter: Reporter, **facts: Any) -> None:
    """Report to programs that a film has ended as a failure; people read what follows of it."""
    reporter.program_event("finished", **facts, state=State.FAIL.value)


def report_counts(
    reporter: Reporter,
    counts: Counts,
    status: BatchStatus,
    *,
    stopped: str | None = None,
    simulated: bool = False,
) -> None:
    """Report how many films are in which state, what the journal has cost, and the pace.

    Args:
        reporter: gets one event.
        counts: the films by state.
        status: what the journal knows.
        stopped: why nothing more was submitted.
        simulated: whether nothing was really paid.
    """
    numbers = {state.value: number for state, number in counts.items()}
    reporter.event(
        "batch",
        **numbers,
        spent=None if simulated else status.spent,
        simulated=simulated or None,
        at_risk=status.at_risk or None,
        unpriced=status.unpriced or None,
        stopped=stopped,
        takes=status.pace and status.pace.takes,
        per=status.pace and status.pace.per,
    )
    if counts.get(ItemState.UNCERTAIN):
        reporter.message(UNCERTAIN)
    if out := counts.get(ItemState.SENDING):
        reporter.message(f"Sending: no answer has come to {count(out)}. {SENDING}")


def report_estimate(reporter: Reporter, estimate: CostEstimate) -> None:
    """Report what is still to be paid."""
    priced = f", {in_credits(estimate.credits)} credits"
    if estimate.unpriced:
        some = estimate.unpriced < estimate.films
        priced = f"{priced} and {count(estimate.unpriced)}" if some else ","
        priced += " of unknown price (say --price)"
    text = f"{count(estimate.films)} to be paid{priced}"
    if estimate.fitting < estimate.films:
        text += f"; the bounds let {count(estimate.fitting)} through"
    reporter.event("estimate", **attrs.asdict(estimate))
    reporter.result(text)


def report_written(reporter: Reporter, page: Path) -> None:
    """Report where the report of a batch is, as a link that terminals and browsers open."""
    reporter.event("report", path=str(page), url=page.resolve().as_uri())
    # Imported only here: most commands write no report.
    from apikley_async.batch.report.posters import posters_available

    if not posters_available():
        missing = MissingExtraError.of(
            "  Pictures of films need more libraries", "cli", "simulator"
        )
        reporter.message(missing.message)
