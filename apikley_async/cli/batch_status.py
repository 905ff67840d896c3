"""`apikley batch status`: where the films of a journal stand, also while they are made."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from apikley_async._text import local_and_utc
from apikley_async.batch import Batch, Item, ItemState
from apikley_async.batch.store.rows import read_time
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.output.reporter import Reporter
from apikley_async.cli.output.terminal_text import plain
from apikley_async.cli.run_summary import (
    exit_code_of,
    is_withdrawn,
    report_counts,
    report_item,
)

__all__ = ["Selection", "follow_films", "report_status"]

ENDED = (ItemState.DONE, ItemState.DROPPED)
UNFINISHED = tuple(set(ItemState) - {*ENDED})
IN_THE_MAKING = (
    ItemState.PLANNED,
    ItemState.SENDING,
    ItemState.SUBMITTED,
    ItemState.SUCCESS,
    ItemState.STALLED,
)
INTERVAL = 1.0  # seconds between two looks into the journal of another process
SILENCE = 15.0  # seconds without any change after which a worker may be missing

Attempt = Mapping[str, Any]


@attrs.frozen
class Selection:
    """Which films a status is about.

    Attributes:
        keys: those named; without any, all.
        failed: only those that failed, were rejected or have expired.
        undecided: only those that are uncertain.
        ids: print the ids of their tasks and nothing else.
    """

    keys: tuple[str, ...] = ()
    failed: bool = False
    undecided: bool = False
    ids: bool = False

    @property
    def states(self) -> tuple[ItemState, ...]:
        """The states that were asked for; none if all were."""
        failed = (ItemState.FAILED, ItemState.REJECTED, ItemState.EXPIRED)
        return (
            *(failed if self.failed else ()),
            *((ItemState.UNCERTAIN,) if self.undecided else ()),
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
    batch: Batch, reporter: Reporter, selection: Selection, *, follow: bool = False
) -> int:
    """Report where films stand; return the exit code.

    Args:
        batch: open, at least for reading.
        reporter: gets a `film` event for each of the films, and one for the whole batch.
        selection: which films.
        follow: report what changes, until nothing is left that a run would make.
    """
    status = await batch.status()
    everything = bool(selection.keys or selection.states or reporter.as_json or follow)
    counts = await _report_films(batch, reporter, selection, everything=everything)
    if (
        not everything and not selection.ids
    ):  # those that are done are counted, and not read one by one
        counts += Counter({state: status.counts.get(state, 0) for state in ENDED})
    if follow:
        counts = await follow_films(batch, reporter, selection)
    if not selection.ids:
        report_counts(reporter, counts, await batch.status() if follow else status)
    return exit_code_of(counts)


async def _report_films(
    batch: Batch, reporter: Reporter, selection: Selection, *, everything: bool
) -> Counter[ItemState]:
    """Report each film; return how many of them are in which state.

    Args:
        batch, reporter, selection: see `report_status`.
        everything: whether films that have ended well are read too.
    """
    counts: Counter[ItemState] = Counter()
    items = selection.items(batch) if everything or selection.ids else batch.items(*UNFINISHED)
    async for item in items:
        if is_withdrawn(item):
            continue
        counts[item.state] += 1
        located = await batch.locate_files(item) if item.files else item
        attempts = await batch.store.attempts(item.key) if selection.keys else []
        report_film(reporter, located, attempts)
        if selection.ids:
            if item.task_id:
                reporter.result(item.task_id)
        elif selection.keys or item.state in UNFINISHED:
            for line in lines_of(located, attempts):
                reporter.result(line)
    return counts


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
            f"{attempt['credits']:.12g} credits" if attempt["credits"] is not None else "",
            attempt["cause"] or "",
        )
        lines.append(f"  {', '.join(filter(None, facts))}")
    lines += [f"  {file.path}{'' if _is_here(file.path) else ': is gone'}" for file in item.files]
    lines += [f"  in a destination: {file.location or file.name}" for file in item.stored]
    return lines


def _is_here(path: Path) -> bool:
    return path.is_file()


# --- another process's run ------------------------------------------------------------------------


async def follow_films(
    batch: Batch,
    reporter: Reporter,
    selection: Selection,
    *,
    on_silence: Callable[[], None] | None = None,
) -> Counter[ItemState]:
    """Report what runs in other processes change, until nothing is left that they would make.

    Args:
        batch, reporter, selection: see `report_status`.
        on_silence: called once when nothing has changed for a while.

    Returns:
        How many films are in which state.
    """
    chosen = {item.key: item async for item in selection.items(batch) if not is_withdrawn(item)}
    reporter.view.expect(sum(map(_is_in_the_making, chosen.values())))
    silent = 0.0
    while any(map(_is_in_the_making, chosen.values())):
        await asyncio.sleep(INTERVAL)
        changed = await _report_changes(batch, reporter, chosen)
        if not (selection.keys or selection.states):  # those that were added, or renamed
            added = {item.key: item async for item in batch.items(*IN_THE_MAKING)}
            chosen = added | chosen
        silent = 0.0 if changed else silent + INTERVAL
        if silent >= SILENCE and on_silence is not None:
            on_silence()
            on_silence = None
    return Counter(item.state for item in chosen.values() if not is_withdrawn(item))


async def _report_changes(batch: Batch, reporter: Reporter, chosen: dict[str, Item]) -> bool:
    """Look at the films that are in the making, and report what has changed; whether any has."""
    changed = False
    in_the_making = {item.key: item async for item in batch.items(*IN_THE_MAKING)}
    for key, before in [*chosen.items()]:
        if not _is_in_the_making(before):
            continue
        try:
            item = in_the_making[key] if key in in_the_making else await batch.item(key)
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
