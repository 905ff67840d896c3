"""Batches on the command line: a manifest or its journal in, events and an exit code out."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import attrs

from apikley_async.batch import Batch, Item, Price, State, Status
from apikley_async.cli._exit import DECIDE, FAILED, OK, RESUME, Refused, worst
from apikley_async.cli._films import call
from apikley_async.cli._options import Settings
from apikley_async.cli._run import alone, telling
from apikley_async.cli._session import Session
from apikley_async.cli._telling import Telling, count, plain
from apikley_async.errors import ManifestError

__all__ = ["BatchRun", "Bounds", "decide", "decided", "existing", "journal_of", "look", "planned"]

CODES = {
    State.FAILED: FAILED,
    State.REJECTED: FAILED,
    State.EXPIRED: FAILED,
    State.UNCERTAIN: DECIDE,
    State.PLANNED: RESUME,
    State.SUBMITTED: RESUME,
    State.STALLED: RESUME,
    State.SUCCESS: RESUME,
}


TO_COME = (State.PLANNED, State.SUBMITTED, State.STALLED, State.SUCCESS)
WATCHED = 20  # no terminal has room for more
TICK = 0.25


@attrs.frozen
class Bounds:
    """What a run may spend, and how."""

    max_credits: float | None = None
    max_tasks: int | None = None
    min_balance: float | None = None
    price: Price = None
    retry: int = 0
    overwrite: bool = False
    max_running: int = 100


def journal_of(path: Path, journal: Path | None = None) -> Path:
    """The journal that belongs to *path*: itself, or the one beside the manifest."""
    if journal is not None:
        return journal
    return path if path.suffix == ".db" else path.with_suffix(".db")


@contextlib.asynccontextmanager
async def planned(
    path: Path, journal: Path | None, *, allow_duplicates: bool, rehearsal: bool
) -> AsyncIterator[tuple[Batch, str]]:
    """Open the batch with its manifest planned; give it, and in words what was planned.

    A *rehearsal* is planned in a journal that nobody keeps.
    """
    with contextlib.ExitStack() as kept:
        place = journal_of(path, journal)
        if rehearsal:
            place = Path(kept.enter_context(tempfile.TemporaryDirectory())) / "rehearsal.db"
        async with Batch.open(place) as batch:
            told = "taken up from its journal"
            if path.suffix != ".db":
                try:
                    told = str(await batch.add(path, allow_duplicates=allow_duplicates))
                except ManifestError as error:
                    listed = "\n".join(f"  {plain(fault)}" for fault in error.faults)
                    faults = count(len(error.faults), "fault")
                    raise Refused(f"{faults}, so nothing was sent:\n{listed}") from None
            yield batch, told


class BatchRun:
    """One run of a batch: what it tells while it runs, and when it is stopped.

    Args:
        journal: where the batch is written down.
        folder: where the films go.
        settings: lead other commands to the same service.
        resume: the command that goes on.
    """

    def __init__(self, journal: Path, folder: Path, settings: Settings, *, resume: str) -> None:
        self.out = 0
        self._journal = journal
        self._folder = folder
        self._settings = settings
        self._resume = resume

    async def run(self, own: Session, batch: Batch, bounds: Bounds, tell: Telling) -> int:
        """Run it to its end, and give the exit code."""
        changes = batch.run(
            own.client,
            folder=self._folder,
            max_running=bounds.max_running,
            max_credits=bounds.max_credits,
            max_tasks=bounds.max_tasks,
            min_balance=bounds.min_balance,
            price=bounds.price,
            retry=bounds.retry,
            overwrite=bounds.overwrite,
            every_change=True,
        )
        making = await self._expect(batch, tell)
        bought = {*making.values()}
        watching = asyncio.create_task(self._watch(own, making, tell))
        try:
            async with contextlib.aclosing(changes):
                async for item in changes:
                    making.pop(item.key, None)
                    if item.state is State.SUBMITTED and item.task_id:
                        making[item.key] = item.task_id
                        if item.task_id in bought:
                            continue
                    if item.state is State.UNCERTAIN and own.client.hears_callbacks:
                        tell("listening", key=item.key, cause=item.cause)
                    tell_item(tell, item)
        finally:
            watching.cancel()
        status = await batch.status()
        if batch.stopped:
            tell.say(f"Nothing more was submitted: {batch.stopped}")
        tell_status(tell, status)
        async for item in batch.items(State.UNCERTAIN):
            self._tell_uncertain(tell, item)
        if not status.finished:
            tell.say(f"To go on: {self._resume}")
        return code_of(status)

    async def _expect(self, batch: Batch, tell: Telling) -> dict[str, str]:
        """Say how many films are to come; give the tasks of those that are bought, by key."""
        films, bought = 0, {}
        async for item in batch.items(*TO_COME):
            films += not item.gone or item.state is not State.PLANNED
            if item.task_id and item.state in (State.SUBMITTED, State.STALLED):
                bought[item.key] = item.task_id
        tell.screen.expect(films)
        return bought

    async def _watch(self, own: Session, making: Mapping[str, str], tell: Telling) -> None:
        """Show how far the films are, where that is of use; asks the service nothing."""
        shown: dict[str, tuple[str, float | None]] = {}
        while tell.screen.lively:
            for key, task_id in [*making.items()][:WATCHED]:
                now = own.client.job(task_id).snapshot
                known = now.state.value, now.progress
                if shown.get(key) != known and not now.done:
                    shown[key] = known
                    tell("state", key=key, task_id=task_id, state=known[0], progress=known[1])
            await asyncio.sleep(TICK)

    def tell_left(self) -> None:
        """Nothing is lost: everything stands in the journal."""

    def _tell_uncertain(self, tell: Telling, item: Item) -> None:
        path = str(self._journal)
        words = self._settings.words
        tell(
            "undecided",
            key=item.key,
            cause=item.cause,
            if_found=call("batch", "resolve", path, item.key, "--task-id", "TASK_ID", *words),
            if_not_found=call("batch", "resubmit", path, item.key),
        )


def tell_item(tell: Telling, item: Item) -> None:
    """Tell of a change; what is only on its way is not worth a word."""
    event = {
        State.SUBMITTED: "submitted",
        State.SUCCESS: "ready",
        State.DONE: "saved",
        State.FAILED: "failed",
        State.REJECTED: "failed",
        State.EXPIRED: "failed",
        State.STALLED: "stopped",
    }.get(item.state)
    facts = {"key": item.key, "task_id": item.task_id, "item_state": item.state.value}
    if event in ("failed", "stopped"):
        tell(event, **facts, error=item.state.value, message=item.cause or item.state.value)
    elif event is not None and not (item.cause and event == "ready"):
        paths = [str(file.path) for file in item.files]
        tell(event, **facts, credits=item.credits, paths=paths)
        for path in paths:
            tell.answer(Path(path), told=True)
    elif item.cause and item.state in (State.PLANNED, State.SUCCESS):
        tell("delayed", **facts, reason=item.cause)


def tell_status(tell: Telling, status: Status) -> None:
    """Tell where the batch stands, and what it has cost."""
    counts = {state.value: number for state, number in status.counts.items()}
    tell(
        "batch",
        **counts,
        spent=status.spent,
        at_risk=status.at_risk or None,
        unpriced=status.unpriced or None,
    )


def code_of(status: Status) -> int:
    """The exit code of a batch as it stands."""
    return worst(CODES.get(state, OK) for state in status.counts)


def look(
    path: Path, settings: Settings, question: Callable[[Batch, Telling], Awaitable[int]]
) -> int:
    """Put a question to a journal, without its owner noticing and without the service."""
    tell = telling(as_json=settings.as_json)

    async def flow() -> int:
        async with Batch.open(existing(path), read_only=True) as batch:
            return await question(batch, tell)

    return alone(flow, tell)


def decide(
    path: Path, settings: Settings, decision: Callable[[Batch], Awaitable[list[Item]]]
) -> int:
    """Carry out a person's decision about items, and tell where they stand then."""
    tell = telling(as_json=settings.as_json)

    async def flow() -> int:
        async with Batch.open(existing(path)) as batch:
            await decided(decision(batch), tell)
        return OK

    return alone(flow, tell)


async def decided(deciding: Awaitable[list[Item]], tell: Telling) -> None:
    """Tell where items stand after a decision, or why it does not apply to them."""
    try:
        items = await deciding
    except KeyError as error:
        raise Refused(f"there is no film {plain(error.args[0])!r} in the journal") from None
    except (LookupError, ManifestError) as error:
        raise Refused(plain(error)) from None
    for item in items:
        tell("decided", key=item.key, item_state=item.state.value)


def existing(path: Path) -> Path:
    """The journal of *path*, which must be there."""
    journal = journal_of(path)
    if not journal.exists():
        raise Refused(f"{plain(journal)}: there is no such journal")
    return journal
