"""`apikley batch ...`: the commands about manifests and their journals."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from apikley_async.cli import _options as options
from apikley_async.cli._options import EVENTS, HookOptions, Settings

__all__ = ["batch"]

BATCH_EVENTS = (
    EVENTS
    + """\b
Of a batch, beside those above; each film has its "key" and "item_state":
  batch        how many films stand where, spent, at_risk, unpriced
  undecided    cause, if_found, if_not_found (commands)
  decided      item_state after a decision
  listening    cause: it is uncertain, and a callback may still say what became of it
"""
)

PATH = click.Path(path_type=Path)
place = click.argument("path", metavar="FILE", type=PATH)
keys = click.argument("keys", nargs=-1, metavar="[KEY...]")
key = click.argument("key", metavar="KEY")
journal_only = options.as_json


def read_price(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    """`300`, or `10=150,15=270,25=270`."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return float(text)
        pairs = (part.split("=", 1) for part in text.split(","))
        return {int(n) if n.strip().isdigit() else n.strip(): float(v) for n, v in pairs}
    except ValueError:
        raise click.BadParameter("credits, or 10=150,15=270,25=270") from None


price = click.option(
    "--price",
    metavar="CREDITS",
    callback=read_price,
    help="Of a film: a number, or by duration or model: 10=150,15=270,25=270.",
)


@click.group()
def batch() -> None:
    """Many films from a manifest, paid once each, whatever happens in between."""


@batch.command(name="run", epilog=BATCH_EVENTS)
@place
@options.folder(Path("films"), "Where the films go, named after their keys.")
@click.option("--journal", type=PATH, help="Where it is written down.  [default: beside FILE, .db]")
@click.option("--max-credits", type=click.FloatRange(0), metavar="N", help="Of the whole journal.")
@click.option("--max-tasks", type=click.IntRange(1), metavar="N", help="The same in films.")
@click.option("--min-balance", type=click.FloatRange(0), metavar="N", help="To be left over.")
@price
@click.option("--retry", type=click.IntRange(0, 10), default=0, help="Failed films again: paid.")
@click.option("--overwrite", is_flag=True, help="Replace other files of the films' names.")
@click.option("--allow-duplicates", is_flag=True, help="One content under two keys is paid twice.")
@click.option("--yes", is_flag=True, help="Do not ask before spending; needed in scripts.")
@click.option("--dry-run", is_flag=True, help="Check and estimate; nothing is kept or sent.")
@options.max_running
@options.hooks
@options.service
def run(
    path: Path,
    folder: Path,
    journal: Path | None,
    yes: bool,
    dry_run: bool,
    allow_duplicates: bool,
    settings: Settings,
    hooks: HookOptions,
    **bounds: Any,
) -> int:
    r"""Make the films of a manifest, or go on with those of its journal.

    \b
    FILE is .yaml, .json, .jsonl, .toml or .csv, or the journal itself (.db). Stop it as you
    like and run it again: it goes on, and pays for nothing twice.
    """
    from apikley_async.cli._batches import BatchRun, Bounds, journal_of, planned
    from apikley_async.cli._films import call
    from apikley_async.cli._run import alone, play, telling
    from apikley_async.cli._session import Session, prepare

    rehearsal = dry_run or settings.simulate
    opened = planned(path, journal, allow_duplicates=allow_duplicates, rehearsal=rehearsal)
    tell = telling(as_json=settings.as_json, films=None if dry_run else 0)
    spend = Bounds(**bounds)

    if dry_run:

        async def rehearse() -> int:
            async with opened as (films, told):
                tell.say(f"{path}: {told}")
                tell_estimate(tell, await films.estimate(price=spend.price))
            return 0

        return alone(rehearse, tell)

    calls = None
    if hooks != HookOptions():
        from apikley_async.cli._hooks import hooks_of

        calls = hooks_of(hooks)
    opening = prepare(settings._replace(max_running=spend.max_running), hooks=calls)
    named = ("--journal", str(journal)) if journal else ()
    resume = call(
        "batch", "run", str(path), "-o", str(folder), *named, *settings.words, *hooks.words
    )
    running = BatchRun(journal_of(path, journal), folder, settings, resume=resume)

    async def flow(own: Session) -> int:
        async with opened as (films, told):
            tell.say(f"{path}: {told}")
            estimate = await films.estimate(price=spend.price)
            if estimate.films and not (settings.simulate or yes or spend.max_credits is not None):
                ask(estimate)
            return await running.run(own, films, spend, tell)

    return play(opening, flow, tell, running)


def ask(estimate: Any) -> None:
    """Have the spending confirmed, by somebody at a terminal or by an option."""
    from apikley_async.cli._exit import Refused
    from apikley_async.cli._telling import count

    films = count(estimate.films)
    cost = f", about {estimate.credits:.12g} credits" if not estimate.unpriced else ""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        words = shlex.join(click.get_current_context().find_root().obj or [])
        raise Refused(
            f"{films} would be paid{cost}, and there is nobody to ask here; to agree, add --yes "
            f"or --max-credits:\n  apikley {words} --yes"
        )
    if not click.confirm(f"Submit {films}{cost}?", err=True):
        raise Refused("as you wish: nothing was sent, nothing was paid")


def tell_estimate(tell: Any, estimate: Any) -> None:
    """What is still to be paid, in a line."""
    from apikley_async.cli._telling import count

    told = f"{count(estimate.films)} to be paid, {estimate.credits:.12g} credits"
    if estimate.unpriced:
        told += f" and {count(estimate.unpriced)} of unknown price (say --price)"
    tell("estimate", films=estimate.films, credits=estimate.credits, unpriced=estimate.unpriced)
    tell.answer(told)


@batch.command()
@place
@journal_only
def status(path: Path, as_json: bool) -> int:
    """Say where every film stands, and what it has cost. Another process may be running it."""
    from apikley_async.batch import State
    from apikley_async.cli._batches import code_of, look, tell_status

    async def question(films: Any, tell: Any) -> int:
        async for item in films.items():
            if item.state not in (State.DONE, State.DROPPED):
                why = f": {item.cause}" if item.cause else ""
                task = f" ({item.task_id})" if item.task_id else ""
                tell.answer(f"{item.key}: {item.state.value}{task}{why}")
        status = await films.status()
        tell_status(tell, status)
        return code_of(status)

    return look(path, Settings(as_json=as_json), question)


@batch.command()
@place
@price
@journal_only
def estimate(path: Path, price: Any, as_json: bool) -> int:
    """Say what the films that are not yet submitted would cost. Sends nothing."""
    from apikley_async.cli._batches import look

    async def question(films: Any, tell: Any) -> int:
        tell_estimate(tell, await films.estimate(price=price))
        return 0

    return look(path, Settings(as_json=as_json), question)


@batch.command()
@place
@journal_only
def verify(path: Path, as_json: bool) -> int:
    """Check a journal and its films; exit 1 if anything is wrong."""
    from apikley_async.cli._batches import look

    async def question(films: Any, tell: Any) -> int:
        faults = await films.verify()
        for fault in faults:
            tell.answer(fault)
        tell("verified", faults=faults)
        if not faults:
            tell.say("The journal and its films are as they should be.")
        return 1 if faults else 0

    return look(path, Settings(as_json=as_json), question)


@batch.command()
@place
@keys
@journal_only
def retry(path: Path, keys: tuple[str, ...], as_json: bool) -> int:
    """Plan failed and rejected films again, all or those named. The next run pays for them."""
    return decided(path, as_json, lambda films: films.retry(*keys))


@batch.command()
@place
@key
@journal_only
def resubmit(path: Path, key: str, as_json: bool) -> int:
    """Plan an uncertain film again. If the first was heard after all, both are paid."""
    return decided(path, as_json, lambda films: one(films.resubmit(key)))


@batch.command()
@place
@key
@journal_only
def drop(path: Path, key: str, as_json: bool) -> int:
    """Give a film up; nothing is asked of the service."""
    return decided(path, as_json, lambda films: one(films.drop(key)))


@batch.command()
@place
@key
@click.option("--task-id", required=True, metavar="ID", help="The task it became.")
@options.service
def resolve(path: Path, key: str, task_id: str, settings: Settings) -> int:
    """Say which task an uncertain film became; the service is asked whether that is so."""
    from apikley_async.batch import Batch
    from apikley_async.cli._batches import decided, existing
    from apikley_async.cli._run import play, telling
    from apikley_async.cli._session import Session, prepare

    tell = telling(as_json=settings.as_json)
    place = existing(path)

    async def flow(own: Session) -> int:
        async with Batch.open(place) as films:
            await decided(one(films.resolve(key, task_id=task_id, client=own.client)), tell)
        return 0

    return play(prepare(settings, [task_id]), flow, tell)


def decided(path: Path, as_json: bool, decision: Callable[[Any], Any]) -> int:
    from apikley_async.cli._batches import decide

    return decide(path, Settings(as_json=as_json), decision)


async def one(deciding: Any) -> list[Any]:
    """The one item that was decided about, as a list of one."""
    return [await deciding]
