"""Films on the command line: planned, agreed to, made, and told of; one engine for all commands.

`generate`, `batch run`, `demo` and `preview` differ in what they plan, where their journal is and
what they may spend. What happens then is `BatchRun`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

import attrs
import click

from apikley_async._disk import try_folder
from apikley_async.batch import Batch, Estimate, Item, Plan, Price, State, Status, is_rehearsal
from apikley_async.cli.client_factory import Session
from apikley_async.cli.exit_codes import DECIDE, FAILED, OK, RESUME, NotNow, Refused, worst
from apikley_async.cli.options import Settings
from apikley_async.cli.output.reporter import Telling, count, plain
from apikley_async.cli.output.shell_words import call, same_command
from apikley_async.cli.output.undecided import facts_of, tell_balances
from apikley_async.cli.placement import Place
from apikley_async.errors import ApikleyError, JournalError, ManifestError

__all__ = [
    "BatchRun",
    "Bounds",
    "End",
    "Order",
    "code_of",
    "make_folder",
    "tell_counts",
    "tell_item",
]

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
MOST_OTHERS = 3  # films of the same journal that are named though this run is not about them
BALANCE_TIMEOUT = 10.0  # seconds: nobody waits for evidence that may not be needed
LOCK_NOTE = 1.0  # seconds of waiting for a lock before it is said

Counts = Mapping[State, int]


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


@attrs.frozen(kw_only=True)
class Order:
    """What a command asks of the engine.

    Attributes:
        place: where the journal is; a rehearsal's is kept by nobody.
        plan: plans the films; None for what the journal holds.
        named: what they come from, for a sentence.
        folder: where the films go.
        only: whether the run is about the planned films only, and not the journal's others.
        ask: whether spending has to be agreed to.
        repeats: whether the paths of films that were made before are answers too.
    """

    place: Place
    plan: Callable[[Batch], Awaitable[Plan]] | None
    named: str
    folder: Path
    bounds: Bounds = attrs.field(factory=Bounds)
    only: bool = False
    ask: bool = False
    repeats: bool = False


@attrs.define
class End:
    """Where the films of a run stand in the end; *only* are those that it was about (None: all).

    What a manifest no longer names, and was never sent, is nobody's business any more.
    """

    only: frozenset[str] | None
    counts: Counter[State] = attrs.Factory(Counter)
    done: list[Item] = attrs.Factory(list)
    uncertain: list[Item] = attrs.Factory(list)
    others: list[Item] = attrs.Factory(list)

    def note(self, item: Item) -> None:
        """Count an item."""
        dropped = item.gone and item.state is State.PLANNED
        if self.only is not None and item.key not in self.only:
            if item.state in CODES and not dropped:
                self.others.append(item)
            return
        if dropped:
            return
        self.counts[item.state] += 1
        if item.state is State.DONE:
            self.done.append(item)
        elif item.state is State.UNCERTAIN:
            self.uncertain.append(item)


class BatchRun:
    """One run of the engine: what it tells while it runs, and when it is stopped."""

    def __init__(self, order: Order, settings: Settings, tell: Telling) -> None:
        self._order = order
        self._batch: Batch | None = None
        self._settings = settings
        self._tell = tell
        self._folder = order.folder
        self._resume = same_command()

    @property
    def out(self) -> int:
        """How many submissions are out, and their answers awaited."""
        return 0 if self._batch is None else self._batch.pending

    async def flow(self, own: Session) -> int:
        """Plan, ask, make; give the exit code. Nothing is written down before consent."""
        agreed: dict[str, str] | None = None
        if self._order.ask:
            async with self.planned(private=True) as (batch, keys):
                await batch.belong_to(own.client)
                ask(await batch.estimate(price=self._order.bounds.price, keys=keys))
                agreed = await to_be_paid(batch, keys)
        elif self._order.place.others:  # they are asked before anything is written down
            async with self.planned(private=True, silent=True):
                pass
        await asyncio.to_thread(make_folder, self._folder)
        async with self.planned(silent=agreed is not None) as (batch, keys):
            if agreed is not None:
                hold_to(agreed, await to_be_paid(batch, keys))
            self._batch = batch
            stopped: asyncio.CancelledError | None = None
            pays = bool(await to_be_paid(batch, keys))
            if pays:
                await self._note_balance(own, batch)
            try:
                await self._make(own, batch, keys)
            except asyncio.CancelledError as error:  # who stops it wants to know where it stands
                stopped = error
            self._batch = None
            if pays and stopped is None:
                await self._note_balance(own, batch)
            code = await self._sum_up(batch, keys)
            if stopped is not None:
                raise stopped
            return code

    async def rehearse(self, own: Session | None = None) -> int:
        """Plan, check and estimate on a private copy of the journal; nothing is kept or sent."""
        bounds = self._order.bounds
        async with self.planned(private=True) as (batch, keys):
            spendable = None
            if own is not None:
                await batch.belong_to(own.client)
                balance = await own.client.credits()
                self._tell.say(f"Balance: {balance:.12g} credits")
                if bounds.min_balance is not None:
                    spendable = balance - bounds.min_balance
            estimate = await batch.estimate(
                price=bounds.price,
                keys=keys,
                max_credits=bounds.max_credits,
                max_tasks=bounds.max_tasks,
                spendable=spendable,
            )
            tell_estimate(self._tell, estimate)
        return OK

    @contextlib.asynccontextmanager
    async def planned(
        self, *, private: bool = False, silent: bool = False
    ) -> AsyncIterator[tuple[Batch, Collection[str] | None]]:
        """Open the journal and plan; give the batch, and the films it is about (None: all).

        With *private* that happens in a copy, which is gone afterwards.
        """
        order, keys = self._order, None
        with contextlib.ExitStack() as kept:
            journal = order.place.journal
            if journal is None:
                folder = kept.enter_context(tempfile.TemporaryDirectory())
                journal, private = Path(folder, "rehearsal.db"), True
            async with contextlib.AsyncExitStack() as opened:
                batch = await self._open(journal, opened, private=private)
                if not private:
                    await asyncio.to_thread(order.place.mark)
                if order.place.note and not silent:
                    self._tell.say(order.place.note)
                note = "taken up from its journal"
                remarks: Sequence[str] = ()
                if order.plan is not None:
                    plan = await refusing(order.plan(batch))
                    note, keys = str(plan), plan.keys if order.only else None
                    remarks = plan.remarks
                for other in order.place.others:
                    await refuse_known(other, await to_be_paid(batch, keys))
                if not silent:
                    self._tell.say(f"{order.named}: {note}")
                for remark in () if silent else remarks:
                    self._tell("remark", message=remark)
                yield batch, keys

    async def _open(
        self, journal: Path, opened: contextlib.AsyncExitStack, *, private: bool
    ) -> Batch:
        """Open the journal; say so when another process has to be waited for."""
        wait, loop = self._order.place.wait, asyncio.get_running_loop()
        told = f"Another process uses {journal}; waiting {wait:g} s at most"
        waits = wait > LOCK_NOTE and not private
        note = loop.call_later(LOCK_NOTE, self._tell.say, told) if waits else None
        try:
            return await opened.enter_async_context(Batch.open(journal, wait=wait, private=private))
        finally:
            if note is not None:
                note.cancel()

    async def _note_balance(self, own: Session, batch: Batch) -> None:
        """Evidence for what may become uncertain; nothing depends on it."""
        if self._order.place.journal is None:
            return
        try:
            async with asyncio.timeout(BALANCE_TIMEOUT):
                await batch.note_balance(own.client)
        except JournalError:
            raise
        except (ApikleyError, TimeoutError):
            return

    # --- the run ------------------------------------------------------------------------------

    async def _make(self, own: Session, batch: Batch, keys: Collection[str] | None) -> None:
        bounds = self._order.bounds
        if self._settings.simulate and keys is not None:
            self._folder = await asyncio.to_thread(rehearsal_folder, self._folder, keys)
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
            keys=keys,
        )
        making = await self._expect(batch, keys)
        bought = {*making.values()}
        watching = asyncio.create_task(self._watch(own, making))
        try:
            async with contextlib.aclosing(changes):
                async for item in changes:
                    making.pop(item.key, None)
                    if item.state is State.SUBMITTED and item.task_id:
                        making[item.key] = item.task_id
                        if item.task_id in bought:
                            continue
                    self._tell_change(own, item)
        finally:
            watching.cancel()

    async def _expect(self, batch: Batch, keys: Collection[str] | None) -> dict[str, str]:
        """Say how many films are to come; give the tasks of those that are bought, by key."""
        films, bought = 0, {}
        async for item in batch.items(*TO_COME):
            if keys is not None and item.key not in keys:
                continue
            films += not item.gone or item.state is not State.PLANNED
            if item.task_id and item.state in (State.SUBMITTED, State.STALLED):
                bought[item.key] = item.task_id
        self._tell.screen.expect(films)
        return bought

    async def _watch(self, own: Session, making: Mapping[str, str]) -> None:
        """Show how far the films are, where that is of use; asks the service nothing."""
        shown: dict[str, tuple[str, float | None]] = {}
        while self._tell.screen.lively:
            for key, task_id in [*making.items()][:WATCHED]:
                now = own.client.job(task_id).snapshot
                known = now.state.value, now.progress
                if shown.get(key) != known and not now.done:
                    shown[key] = known
                    self._tell("state", key=key, task_id=task_id, state=known[0], progress=known[1])
            await asyncio.sleep(TICK)

    def _tell_change(self, own: Session, item: Item) -> None:
        if item.state is State.UNCERTAIN and own.client.attempts.receives_callbacks:
            self._tell("listening", key=item.key, cause=item.cause)
        elif item.state is State.UNCERTAIN:
            self._tell("doubted", key=item.key, cause=item.cause)
        tell_item(self._tell, item, self.paths(item))
        if not self._order.repeats:
            self._answer(item)

    def paths(self, item: Item) -> list[Path]:
        """Where the film's files are, as the user has called the folder."""
        home = self._folder.absolute()
        return [
            self._folder / file.path.name if file.path.parent == home else file.path
            for file in item.files
        ]

    def _answer(self, item: Item) -> None:
        for path in self.paths(item) if item.state is State.DONE else ():
            self._tell.answer(path, told=True)

    # --- the end ------------------------------------------------------------------------------

    async def _sum_up(self, batch: Batch, keys: Collection[str] | None) -> int:
        """Say where the films stand, what needs a person, and the line that goes on."""
        if batch.stopped:
            self._tell.say(f"Nothing more was submitted: {batch.stopped}")
        end = End(only=None if keys is None else frozenset(keys))
        async for item in batch.items():
            end.note(item)
        tell_counts(self._tell, end.counts, await batch.status())
        end.done = [await batch.located(item) for item in end.done]
        lost = [item for item in end.done if not await asyncio.to_thread(self._is_there, item)]
        if self._order.repeats:
            done = {item.key: item for item in end.done if item not in lost}
            for key in keys or done:
                if key in done:
                    self._answer(done[key])
        await self._tell_uncertain(batch, [item.key for item in end.uncertain])
        code = code_of(end.counts)
        self._tell_ways(end.counts)
        self._tell_others(end.others)
        return worst([code, FAILED if lost else OK])

    def _is_there(self, item: Item) -> bool:
        """Whether a film that was saved is still where it was saved; says so if not. Blocks."""
        lost = [file.path for file in item.files if not file.path.is_file()]
        if not lost:
            return True
        self._tell.say(f"{item.key}: {lost[0]} is gone; the film was saved there, and is paid")
        if item.task_id and not self._settings.simulate:
            into = ("-o", str(self._folder), *self._settings.words)
            fetch = call("download", *into, names=[item.task_id])
            self._tell.say(f"  Within a day of its making: {fetch}")
        return False

    def _tell_ways(self, counts: Counts) -> None:
        """The lines that help: to go on with what is not finished, to make again what failed."""
        journal = self._order.place.journal
        failed = [state for state in (State.FAILED, State.REJECTED) if counts.get(state)]
        if failed and journal is not None:
            again = call("batch", "retry", names=[journal])
            self._tell.say(f"To make failed films again, each at a new charge: {again}")
        if any(CODES.get(state) == RESUME for state in counts):
            self._tell.say(f"To go on: {self._resume}")

    def _tell_others(self, others: Sequence[Item]) -> None:
        """Name what else the journal holds and is not finished; this run was not about it."""
        if not others:
            return
        named = ", ".join(f"{item.key} ({item.state.value})" for item in others[:MOST_OTHERS])
        more = ", ..." if len(others) > MOST_OTHERS else ""
        journal = self._order.place.journal
        look_up = f": {call('batch', 'status', names=[journal])}" if journal else ""
        self._tell.say(f"The journal also holds {count(len(others))}: {named}{more}{look_up}")

    def hurry(self, grace: float) -> None:
        """Wait *grace* seconds at most for the answers that are out."""
        if self._batch is not None:
            self._batch.grace = grace

    def tell_left(self) -> None:
        """Nothing is lost: everything stands in the journal, what is still out included."""
        if self._batch is None:  # the run has ended, and has said where it stands
            return
        if self.out:
            told = f"{count(self.out, 'submission')} may be out: the next run says what needs you"
            self._tell.say(told)
        self._tell.say(f"To go on: {self._resume}")

    async def _tell_uncertain(self, batch: Batch, keys: Sequence[str]) -> None:
        """Show what is known of each, and the ways out once for all."""
        if not keys:
            return
        journal, words = self._order.place.journal, self._settings.words
        doubts, balances = await batch.doubts(*keys)
        resolve = ("batch", "resolve", "--task-id", "TASK_ID", *words)
        for doubt in doubts:
            ways = {}
            if journal is not None:  # else it is a rehearsal's: there is nothing to decide
                names = (journal, doubt.key)
                ways["if_found"] = call(*resolve, names=names)
                ways["if_not_found"] = call("batch", "resubmit", names=names)
            self._tell("undecided", key=doubt.key, cause=doubt.cause, **facts_of(doubt), **ways)
        tell_balances(self._tell, balances)
        if journal is None:
            return
        one = keys[0] if len(keys) == 1 else "KEY"
        again = (journal, one) if len(keys) == 1 else (journal,)
        for line in (
            "  Is there a task of that time at https://app.apikley.ru?",
            f"    yes: {call(*resolve, names=(journal, one))}",
            f"    no:  {call('batch', 'resubmit', *some_or_all(keys), names=again)}",
        ):
            self._tell.say(line)


def some_or_all(keys: Sequence[str]) -> Sequence[str]:
    """The option that says all of several undecided films."""
    return ("--undecided",) if len(keys) > 1 else ()


async def refusing(planning: Awaitable[Plan]) -> Plan:
    """The plan; or the refusal, with every fault."""
    try:
        return await planning
    except ManifestError as error:
        listed = "\n".join(f"  {plain(fault)}" for fault in error.faults)
        faults = count(len(error.faults), "fault")
        raise Refused(f"{faults}, so nothing was sent:\n{listed}") from None


def rehearsal_folder(folder: Path, keys: Collection[str]) -> Path:
    """Where rehearsed films go: not where a film of another kind has one of their names. Blocks."""
    names = [folder / f"{key}.mp4" for key in keys]
    others = any(name.exists() and not is_rehearsal(name) for name in names)
    return folder / "simulated" if others else folder


async def to_be_paid(batch: Batch, keys: Collection[str] | None) -> dict[str, str]:
    """The films that a run would pay for: their digests by their keys."""
    return {
        item.key: item.digest
        async for item in batch.items(State.PLANNED)
        if not item.gone and (keys is None or item.key in keys)
    }


async def refuse_known(other: Path, films: Mapping[str, str]) -> None:
    """Refuse to pay for *films*, digests by keys, of which another journal has sent some."""
    digests = set(films.values())
    async with Batch.open(other, read_only=True) as batch:
        sent = [
            f"{item.key} ({item.state.value})"
            async for item in batch.items()
            if not item.may_change and (item.key in films or item.digest in digests)
        ]
    if sent:
        more = f" and {len(sent) - MOST_OTHERS} more" if len(sent) > MOST_OTHERS else ""
        raise NotNow(
            f"{plain(', '.join(sent[:MOST_OTHERS]))}{more}: sent already, as {plain(other)} says, "
            "where films of this folder are written down. Nothing was sent now: go on with "
            f"--journal {plain(other)}; what is to be paid again needs another folder (-o)"
        )


def hold_to(agreed: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse to pay for what nobody has agreed to; another process may have made some meanwhile."""
    if not found.items() <= agreed.items():
        raise NotNow("the films have changed since you agreed; nothing was sent, run this again")


def make_folder(folder: Path) -> None:
    """Make sure that the films will have a place before they are paid."""
    try:
        try_folder(folder)
    except OSError as error:
        raise Refused(f"-o {plain(folder)}: cannot be written: {error.strerror}") from None


# --- money ----------------------------------------------------------------------------------------


def ask(estimate: Estimate) -> None:
    """Have the spending confirmed, by somebody at a terminal or by an option."""
    if not estimate.films:
        return
    films = count(estimate.films)
    cost = f", about {estimate.credits:.12g} credits" if not estimate.unpriced else ""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused(
            f"{films} would be paid{cost}, and there is nobody to ask here; to agree, add --yes "
            f"or --max-credits:\n  {same_command('--yes')}"
        )
    if not click.confirm(f"Submit {films}{cost}?", err=True):
        raise Refused("as you wish: nothing was sent, nothing was paid")


def tell_estimate(tell: Telling, estimate: Estimate) -> None:
    """What is still to be paid, in a line."""
    told = f"{count(estimate.films)} to be paid, {estimate.credits:.12g} credits"
    if estimate.unpriced:
        told += f" and {count(estimate.unpriced)} of unknown price (say --price)"
    tell("estimate", **attrs.asdict(estimate))
    if estimate.fitting < estimate.films:
        told += f"; the bounds let {count(estimate.fitting)} through"
    tell.answer(told)


# --- what is told ---------------------------------------------------------------------------------


def tell_item(tell: Telling, item: Item, paths: Collection[Path]) -> None:
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
        tell(event, **facts, credits=item.credits, paths=[str(path) for path in paths])
    elif item.cause and item.state in (State.PLANNED, State.SUCCESS):
        tell("delayed", **facts, reason=item.cause)


def tell_counts(tell: Telling, counts: Counts, status: Status) -> None:
    """Tell where films stand, and what the journal has cost."""
    numbers = {state.value: number for state, number in counts.items()}
    tell(
        "batch",
        **numbers,
        spent=status.spent,
        at_risk=status.at_risk or None,
        unpriced=status.unpriced or None,
    )


def code_of(counts: Counts) -> int:
    """The exit code of a batch whose films stand there."""
    return worst(CODES.get(state, OK) for state in counts)
