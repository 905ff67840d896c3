"""`apikley batch status`: where the films of a journal stand, also while they are made."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from apikley_async._text import in_words, local_and_utc
from apikley_async.batch import Batch, Item, ItemState
from apikley_async.batch.store.rows import read_time
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.next_run import go_on_line
from apikley_async.cli.option_types import Place
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import in_credits, plain
from apikley_async.cli.output.uncertain import MOST_IN_FULL, report_evidence, report_ways
from apikley_async.cli.run_summary import (
    exit_code_of,
    is_withdrawn,
    report_counts,
    report_item,
    report_unsaved,
)

__all__ = ["Selection", "WorkerWatch", "follow_films", "report_status"]

ENDED = (ItemState.DONE, ItemState.DROPPED)
UNFINISHED = tuple(set(ItemState) - {*ENDED})
IN_THE_MAKING = (
    ItemState.PLANNED,
    ItemState.SENDING,
    ItemState.SUBMITTED,
    ItemState.SUCCESS,
    ItemState.STALLED,
)
RUNNING = (ItemState.SUBMITTED, ItemState.STALLED, ItemState.SUCCESS)
INTERVAL = 1.0  # seconds between two looks into the journal of another process
SILENCE = 15.0  # seconds after which nobody will take a film any more that nobody has taken
LONG_SILENCE = 600.0  # seconds without any change in a file after which nobody may be at work
REMINDER = 60.0  # seconds until that is said again

Attempt = Mapping[str, Any]


@attrs.frozen
class Selection:
    """Which films a status is about.

    Attributes:
        keys: those named; without any, all.
        failed: only those that failed, were rejected or have expired.
        undecided: only those that are uncertain, or will be if the run that sends them was killed.
        ids: print the ids of their tasks and nothing else.
    """

    keys: tuple[str, ...] = ()
    failed: bool = False
    undecided: bool = False
    ids: bool = False

    @property
    def is_part(self) -> bool:
        """Whether it is about some of the films, as the totals then are."""
        return bool(self.keys or self.states)

    @property
    def states(self) -> tuple[ItemState, ...]:
        """The states that were asked for; none if all were."""
        failed = (ItemState.FAILED, ItemState.REJECTED, ItemState.EXPIRED)
        return (
            *(failed if self.failed else ()),
            *((ItemState.UNCERTAIN, ItemState.SENDING) if self.undecided else ()),
        )

    async def items(self, batch: Batch) -> AsyncIterator[Item]:
        """The films, in their order; of a key that there is not, it is said so."""
        for key in self.keys:
            try:
                item = await batch.item(key)
            except KeyError:
                raise RefusedError(f"there is no film {plain(key)!r} in the journal") from None
            if not self.states or item.state in self.states:
                yield item
        if not self.keys:
            async for item in batch.items(*self.states):
                yield item


async def report_status(
    batch: Batch, reporter: Reporter, selection: Selection, *, named: Place, follow: bool = False
) -> int:
    """Report where films stand; return the exit code.

    Args:
        batch: open, at least for reading.
        reporter: gets a `film` event for each of the films, and one for all of them.
        selection: which films.
        named: how commands name the batch.
        follow: report what changes, until nothing is left that a run would make.
    """
    status = await batch.status()
    everything = bool(selection.is_part or reporter.as_json or follow)
    # Many uncertain films are a table of their own, with what is needed to decide.
    as_table = not selection.keys and status.counts.get(ItemState.UNCERTAIN, 0) > MOST_IN_FULL
    shown = await _report_films(batch, reporter, selection, everything=everything, short=as_table)
    if follow:
        shown = await follow_films(batch, reporter, selection, journal=named)
    counts = Counter(shown.values())
    if selection.ids:
        return exit_code_of(counts)
    if not everything:  # those that are done are counted, and not read one by one
        counts += Counter({state: status.counts.get(state, 0) for state in ENDED})
    if follow or selection.is_part:
        status = await batch.status(keys=shown if selection.is_part else None)
    # All that are uncertain now: in another process's run, those shown may be decided meanwhile.
    all_films, balances = await batch.uncertain_items()
    films = [film for film in all_films if film.key in shown]
    balances = [balance for balance in balances if any(map(balance.covers, films))]
    report_evidence(
        reporter, films, balances, event="undecided", journal=named, show=reporter.result
    )
    report_counts(reporter, counts, status)
    unsaved = [item async for item in batch.items(ItemState.SUCCESS) if item.key in shown]
    report_unsaved(reporter, unsaved, named)
    report_ways(reporter, films, named, everything=len(films) == len(all_films))
    return exit_code_of(counts)


async def _report_films(
    batch: Batch, reporter: Reporter, selection: Selection, *, everything: bool, short: bool
) -> dict[str, ItemState]:
    """Report each film; return their states by key.

    Args:
        batch, reporter, selection: see `report_status`.
        everything: whether films that have ended well are read too.
        short: whether uncertain films are shown elsewhere.
    """
    shown: dict[str, ItemState] = {}
    items = selection.items(batch) if everything or selection.ids else batch.items(*UNFINISHED)
    async for item in items:
        if is_withdrawn(item):
            continue
        shown[item.key] = item.state
        located = await batch.locate_files(item) if item.files else item
        attempts = await batch.store.attempts(item.key) if selection.keys else []
        report_film(reporter, located, attempts)
        if selection.ids:
            if item.task_id:
                reporter.result(item.task_id)
        elif short and item.state is ItemState.UNCERTAIN:
            continue
        elif selection.keys or item.state in UNFINISHED:
            for line in lines_of(located, attempts):
                reporter.result(line)
    return shown


def report_film(reporter: Reporter, item: Item, attempts: Sequence[Attempt]) -> None:
    """Report everything that is known of a film, to programs."""
    reporter.event(
        "film",
        key=item.key,
        item_state=item.state.value,
        task_id=item.task_id,
        cause=item.cause or None,
        code=item.fail_code or None,
        message=item.fail_message or None,
        credits=item.credits,
        paths=[str(file.path) for file in item.files],
        stored=[file.location or file.name for file in item.stored] or None,
        attempts=[facts_of(attempt) for attempt in attempts] or None,
    )


def facts_of(attempt: Attempt) -> dict[str, Any]:
    """What is reported of one attempt: no token, and nothing that the service has answered."""
    began_at = read_time(attempt["began_at"])
    return {
        "state": attempt["state"],
        "began_at": began_at and began_at.isoformat(timespec="seconds"),
        "task_id": attempt["task_id"],
        "code": attempt["code"],
        "credits": attempt["credits"],
        "cause": attempt["cause"],
    }


def lines_of(item: Item, attempts: Sequence[Attempt]) -> list[str]:
    """A film in words; with its attempts, each with its time."""
    task = f" ({item.task_id})" if item.task_id else ""
    lines = [f"{item.key}: {item.state.value}{task}{f': {item.cause}' if item.cause else ''}"]
    for attempt in attempts:
        began_at = read_time(attempt["began_at"])
        facts = (
            f"sent {local_and_utc(began_at)}" if began_at else "sent",
            attempt["state"],
            f"code {attempt['code']}" if attempt["code"] else "",
            attempt["task_id"] or "",
            f"{in_credits(attempt['credits'])} credits" if attempt["credits"] is not None else "",
            attempt["cause"] or "",
        )
        lines.append(f"  {', '.join(filter(None, facts))}")
    lines += [f"  {file.path}{'' if _is_here(file.path) else ': is gone'}" for file in item.files]
    lines += [f"  in a destination: {file.location or file.name}" for file in item.stored]
    return lines


def _is_here(path: Path) -> bool:
    return path.is_file()


# --- another process's run ------------------------------------------------------------------------


@attrs.define
class WorkerWatch:
    """Notices that no other process makes the films, and that one does again.

    It is given the time, and reads no clock.

    Args:
        who: makes them: "a worker" or "a run".
        missing: what is said while nobody does, and how to start one.
        silence: seconds after which nobody will.
    """

    who: str
    missing: str
    silence: float
    _since: float | None = None  # since when nobody has any of the films
    _said_at: float | None = None

    def look(self, wanting: int, claimable: int, now: float) -> str | None:
        """What is to be said of the workers now; None for nothing.

        Args:
            wanting: films that want a worker.
            claimable: those of them that no living worker has.
            now: the time, in seconds.
        """
        if claimable < wanting:
            was_missing, self._since, self._said_at = self._said_at is not None, None, None
            return f"{self.who.capitalize()} makes these films now." if was_missing else None
        if self._since is None or not wanting:
            self._since = now
        if self._said_at is not None and now < self._said_at + max(REMINDER, self.silence):
            return None
        if now < self._since + self.silence:
            return None
        self._said_at = now
        return self.missing

    @property
    def hindrance(self) -> str:
        """What keeps the films from being submitted; empty while there is a worker."""
        return "" if self._said_at is None else f"waiting for {self.who}"


async def watch_of(batch: Batch, journal: Place) -> WorkerWatch:
    """What notices that nobody makes the films of a journal.

    Workers of a shared one say what they have taken. Of a file it is only seen that nothing
    changes.
    """
    start = await go_on_line(batch, journal)
    if batch.store.shared:
        missing = "No worker makes these films: none is alive, or none may submit any more. "
        return WorkerWatch("a worker", f"{missing}To start one: {start}", SILENCE)
    missing = f"Nothing has changed for {in_words(LONG_SILENCE)}; does a run still make these films"
    return WorkerWatch("a run", f"{missing}? To go on: {start}", LONG_SILENCE)


async def follow_films(
    batch: Batch, reporter: Reporter, selection: Selection, *, journal: Place
) -> dict[str, ItemState]:
    """Report what runs in other processes change, until nothing is left that they would make.

    Args:
        batch, reporter, selection: see `report_status`.
        journal: where it is; of a shared one it is said when no worker is alive.

    Returns:
        Their states by key.
    """
    chosen = {item.key: item async for item in selection.items(batch) if not is_withdrawn(item)}
    watch = await watch_of(batch, journal)
    reporter.view.expect(
        sum(map(_is_in_the_making, chosen.values())),
        running=[plain(key) for key, item in chosen.items() if item.state in RUNNING],
        hindrance=lambda: watch.hindrance,
    )
    while any(map(_is_in_the_making, chosen.values())):
        await asyncio.sleep(INTERVAL)
        found = {item.key: item async for item in batch.items(*IN_THE_MAKING)}
        changed = await _report_changes(batch, reporter, chosen, found)
        if not selection.is_part:  # those that were added, or renamed
            chosen = found | chosen
        wanting = sum(item.state is not ItemState.SENDING for item in found.values())
        left = 0 if changed else wanting
        if batch.store.shared:
            left = await batch.store.claimable()
        if text := watch.look(wanting, left, asyncio.get_running_loop().time()):
            reporter.message(text)
    return {key: item.state for key, item in chosen.items() if not is_withdrawn(item)}


async def _report_changes(
    batch: Batch, reporter: Reporter, chosen: dict[str, Item], found: Mapping[str, Item]
) -> bool:
    """Report what has changed of the chosen films; *found* are all that are in the making.

    Returns:
        Whether anything has.
    """
    changed = False
    for key, before in [*chosen.items()]:
        if not _is_in_the_making(before):
            continue
        try:
            item = found[key] if key in found else await batch.item(key)
        except KeyError:  # a person has renamed it
            del chosen[key]
            continue
        if item.state is not before.state:
            changed = True
            located = await batch.locate_files(item)
            if item.state is ItemState.UNCERTAIN:
                reporter.event("uncertain", key=key, cause=item.cause)
            report_item(reporter, item, [file.path for file in located.files])
        chosen[key] = item
    return changed


def _is_in_the_making(item: Item) -> bool:
    """Whether a run would go on with it."""
    return item.state in IN_THE_MAKING and not is_withdrawn(item)
