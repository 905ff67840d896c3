"""Where the films of a run stand, as events, lines and an exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from apikley_async.batch import Estimate, Item, State, Status
from apikley_async.cli.exit_codes import DECIDE, FAILED, OK, RESUME, worst
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import count

__all__ = [
    "STATE_CODES",
    "Counts",
    "RunSummary",
    "exit_code_of",
    "paths_of",
    "report_counts",
    "report_estimate",
    "report_item",
]

STATE_CODES = {
    State.FAILED: FAILED,
    State.REJECTED: FAILED,
    State.EXPIRED: FAILED,
    State.UNCERTAIN: DECIDE,
    State.PLANNED: RESUME,
    State.SUBMITTED: RESUME,
    State.STALLED: RESUME,
    State.SUCCESS: RESUME,
}

Counts = Mapping[State, int]


@attrs.define
class RunSummary:
    """The films of a journal, sorted by what is to be said of them.

    A film that its manifest no longer names and that was never sent is left out.

    Attributes:
        keys: the films that the run was about; None for all.
        counts: how many of them are in which state.
        done: those that are done.
        uncertain: those that need a decision.
        others: films of the journal that are not finished, and that the run was not about.
    """

    keys: frozenset[str] | None
    counts: Counter[State] = attrs.Factory(Counter)
    done: list[Item] = attrs.Factory(list)
    uncertain: list[Item] = attrs.Factory(list)
    others: list[Item] = attrs.Factory(list)

    def add(self, item: Item) -> None:
        """Count an item."""
        withdrawn = item.gone and item.state is State.PLANNED
        if self.keys is not None and item.key not in self.keys:
            if item.state in STATE_CODES and not withdrawn:
                self.others.append(item)
            return
        if withdrawn:
            return
        self.counts[item.state] += 1
        if item.state is State.DONE:
            self.done.append(item)
        elif item.state is State.UNCERTAIN:
            self.uncertain.append(item)


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
    State.SUBMITTED: "submitted",
    State.SUCCESS: "ready",
    State.DONE: "saved",
    State.FAILED: "failed",
    State.REJECTED: "failed",
    State.EXPIRED: "failed",
    State.STALLED: "stopped",
}


def report_item(reporter: Reporter, item: Item, paths: Collection[Path]) -> None:
    """Report a film's new state; a state that needs nobody's attention has no event."""
    event = EVENTS.get(item.state)
    facts = {"key": item.key, "task_id": item.task_id, "item_state": item.state.value}
    if event in ("failed", "stopped"):
        message = item.cause or item.state.value
        reporter.event(event, **facts, error=item.state.value, message=message)
    elif event is not None and not (item.cause and event == "ready"):
        names = [str(path) for path in paths]
        reporter.event(event, **facts, credits=item.credits, paths=names)
    elif item.cause and item.state in (State.PLANNED, State.SUCCESS):
        reporter.event("delayed", **facts, reason=item.cause)


def report_counts(reporter: Reporter, counts: Counts, status: Status) -> None:
    """Report how many films are in which state, and what the journal has cost."""
    numbers = {state.value: number for state, number in counts.items()}
    reporter.event(
        "batch",
        **numbers,
        spent=status.spent,
        at_risk=status.at_risk or None,
        unpriced=status.unpriced or None,
    )


def report_estimate(reporter: Reporter, estimate: Estimate) -> None:
    """Report what is still to be paid."""
    text = f"{count(estimate.films)} to be paid, {estimate.credits:.12g} credits"
    if estimate.unpriced:
        text += f" and {count(estimate.unpriced)} of unknown price (say --price)"
    if estimate.fitting < estimate.films:
        text += f"; the bounds let {count(estimate.fitting)} through"
    reporter.event("estimate", **attrs.asdict(estimate))
    reporter.result(text)
