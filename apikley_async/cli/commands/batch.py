"""`apikley batch ...`: the commands about manifests and their journals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from apikley_async.cli import options
from apikley_async.cli.options import BATCH_EVENTS, Settings, Spending, price

__all__ = ["batch"]

PATH = click.Path(path_type=Path)
place = click.argument("path", metavar="FILE", type=PATH)
keys = click.argument("keys", nargs=-1, metavar="[KEY...]")
undecided = click.option("--undecided", is_flag=True, help="All films that are uncertain.")
journal_only = options.as_json


@click.group()
def batch() -> None:
    """Many films from a manifest, paid once each, whatever happens in between."""


@batch.command(name="run", epilog=BATCH_EVENTS)
@place
@options.folder(None, "Where the films go.  [default: where they were saved last, or films]")
@click.option("--journal", type=PATH, help="Where it is written down.  [default: beside FILE, .db]")
@options.spending
@options.patience
@options.hooks
@options.service
def run(path: Path, journal: Path | None, spending: Spending, **others: Any) -> int:
    r"""Make the films of a manifest, or go on with those of its journal.

    \b
    FILE is .yaml, .json, .jsonl, .toml or .csv, or the journal itself (.db). Stop it as you
    like and run it again: it goes on, and pays for nothing twice.
    """
    from apikley_async.batch import is_manifest
    from apikley_async.cli.commands.generate import make
    from apikley_async.cli.commands.journals import existing, journal_of
    from apikley_async.cli.placement import Place

    async def plan(films: Any) -> Any:
        return await films.add(path, allow_duplicates=spending.allow_duplicates)

    if not is_manifest(path):
        _ = existing(path)  # a journal that is not there is a slip of the hand, no new batch
    return make(
        lambda: Place(journal_of(path, journal)),
        plan if is_manifest(path) else None,
        named=str(path),
        spending=spending,
        **others,
    )


@batch.command()
@place
@journal_only
def status(path: Path, as_json: bool) -> int:
    """Say where every film stands, and what it has cost. Another process may be running it."""
    from apikley_async.batch import State
    from apikley_async.cli.commands.journals import look
    from apikley_async.cli.engine import End, code_of, tell_counts

    async def question(films: Any, tell: Any) -> int:
        end = End(only=None)
        async for item in films.items():
            end.note(item)
            if item.state not in (State.DONE, State.DROPPED):
                why = f": {item.cause}" if item.cause else ""
                task = f" ({item.task_id})" if item.task_id else ""
                tell.answer(f"{item.key}: {item.state.value}{task}{why}")
        tell_counts(tell, end.counts, await films.status())
        return code_of(end.counts)

    return look(path, Settings(as_json=as_json), question)


@batch.command()
@place
@price
@journal_only
def estimate(path: Path, price: Any, as_json: bool) -> int:
    """Say what the films that are not yet submitted would cost. Sends nothing, keeps nothing.

    Of a manifest its films, of a journal (.db) all that it holds; before the first run too.
    """
    from apikley_async.batch import is_manifest
    from apikley_async.cli.commands.journals import existing, journal_of
    from apikley_async.cli.engine import BatchRun, Bounds, Order
    from apikley_async.cli.placement import Place
    from apikley_async.cli.runner import alone, telling

    async def plan(films: Any) -> Any:
        return await films.add(path)

    tell = telling(as_json=as_json)
    named = is_manifest(path)
    order = Order(
        place=Place(journal_of(path) if named else existing(path)),
        plan=plan if named else None,
        named=str(path),
        folder=Path(),
        bounds=Bounds(price=price),
        only=named,
    )
    return alone(BatchRun(order, Settings(as_json=as_json), tell).rehearse, tell)


@batch.command()
@place
@journal_only
def verify(path: Path, as_json: bool) -> int:
    """Check a journal and its films; exit 1 if anything is wrong."""
    from apikley_async.cli.commands.journals import look

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
@click.option("--changed", is_flag=True, help="Failed films, as FILE has them now.")
@journal_only
def retry(path: Path, keys: tuple[str, ...], changed: bool, as_json: bool) -> int:
    """Plan failed and rejected films again, all or those named. The next run pays for them."""
    from apikley_async.batch import is_manifest
    from apikley_async.cli.exit_codes import Refused

    if changed:
        if not is_manifest(path):
            raise Refused("--changed: FILE is the manifest with the new content")
        return decided(path, as_json, lambda films: films.retry_changed(path, *keys))
    return decided(path, as_json, lambda films: films.retry(*keys))


@batch.command()
@place
@keys
@undecided
@journal_only
def resubmit(path: Path, keys: tuple[str, ...], undecided: bool, as_json: bool) -> int:
    """Plan uncertain films again. What was heard after all is paid twice.

    Each is shown first: when it was sent, to which model, its first words, and what the balance
    says of that time.
    """
    check_named(keys, undecided=undecided)
    return decided(
        path,
        as_json,
        lambda films: films.resubmit(*keys, undecided=undecided),
        about=None if undecided else keys,
    )


@batch.command()
@place
@keys
@undecided
@journal_only
def drop(path: Path, keys: tuple[str, ...], undecided: bool, as_json: bool) -> int:
    """Give films up; nothing is asked of the service. Uncertain ones are shown first."""
    check_named(keys, undecided=undecided)
    return decided(
        path,
        as_json,
        lambda films: films.drop(*keys, undecided=undecided),
        about=None if undecided else keys,
    )


@batch.command()
@place
@keys
@click.option(
    "--task-id",
    "task_ids",
    required=True,
    multiple=True,
    metavar="ID",
    help="The task it became; once for each KEY, in their order.",
)
@click.option("--force", is_flag=True, help="Though the task tells something else, or nothing.")
@options.service
def resolve(
    path: Path, keys: tuple[str, ...], task_ids: tuple[str, ...], force: bool, settings: Settings
) -> int:
    """Say which tasks uncertain films became; the service is asked whether that is so."""
    from apikley_async.batch import Batch
    from apikley_async.cli.client_factory import Session, prepare
    from apikley_async.cli.commands.journals import decided, existing
    from apikley_async.cli.exit_codes import Refused
    from apikley_async.cli.runner import play, telling

    if len(keys) != len(task_ids):
        raise Refused(f"{len(keys)} KEY and {len(task_ids)} --task-id: one for each")
    tell = telling(as_json=settings.as_json)
    place = existing(path)

    async def flow(own: Session) -> int:
        async with Batch.open(place) as films:
            for key, task_id in zip(keys, task_ids, strict=True):
                resolving = films.resolve(key, task_id=task_id, client=own.client, force=force)
                await decided(one(resolving), tell)
        return 0

    return play(prepare(settings, list(task_ids)), flow, tell)


@batch.command()
@place
@keys
@options.folder(None, "Where the films go.  [default: where they were saved last]")
@click.option("--partial", is_flag=True, help="Though some links of a film cannot be used.")
@click.option("--overwrite", is_flag=True, help="Replace other files of the films' names.")
@options.service
def save(
    path: Path,
    keys: tuple[str, ...],
    folder: Path | None,
    partial: bool,
    overwrite: bool,
    settings: Settings,
) -> int:
    """Fetch films again whose files are lost, and those not saved yet. Costs nothing."""
    from apikley_async.cli.commands.journals import fetch

    return fetch(path, keys, settings, folder=folder, partial=partial, overwrite=overwrite)


@batch.command()
@place
@keys
@options.folder(None, "Where the films go.  [default: where they were saved last]")
@options.service
def revive(path: Path, keys: tuple[str, ...], folder: Path | None, settings: Settings) -> int:
    """Try once more to fetch expired films, all or those named. Costs nothing."""
    from apikley_async.cli.commands.journals import fetch

    return fetch(path, keys, settings, folder=folder, expired=True)


@batch.command()
@place
@keys
@journal_only
def purge(path: Path, keys: tuple[str, ...], as_json: bool) -> int:
    """Remove words and images of done and dropped films from the journal: they are personal data.

    What is paid is still known. Copies of the journal keep what they have.
    """
    return decided(path, as_json, lambda films: films.purge(*keys))


@batch.command()
@place
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@journal_only
def rename(path: Path, old: str, new: str, as_json: bool) -> int:
    """Give a film another key, as its manifest has it now. Nothing is sent or paid.

    Its attempts and files stay with it; the files keep their names.
    """
    return decided(path, as_json, lambda films: one(films.rename(old, new)))


@batch.command()
@place
@click.argument("target", metavar="COPY", type=PATH)
@journal_only
def backup(path: Path, target: Path, as_json: bool) -> int:
    """Copy a journal, also while it is run. A copy of the file alone may miss what was paid."""
    from apikley_async.cli.commands.journals import look

    async def question(films: Any, tell: Any) -> int:
        await films.backup(target)
        tell("backed_up", path=str(target))
        tell.say(f"The journal as it is now is in {target}.")
        return 0

    return look(path, Settings(as_json=as_json), question)


@batch.command()
@place
@journal_only
def adopt(path: Path, as_json: bool) -> int:
    """Go on with a copy that is older than another one, or has lost its log after a crash.

    Every film without a task id becomes uncertain: it may have been paid. Decide each of them
    with resolve, resubmit or drop.
    """
    from apikley_async.batch import State

    async def adopted(films: Any) -> Any:
        return [item async for item in films.items(State.UNCERTAIN)]

    return decided(path, as_json, adopted, adopt=True)


def check_named(keys: tuple[str, ...], *, undecided: bool) -> None:
    """Keys, or all that are undecided: never all because none was named."""
    if bool(keys) is undecided:
        raise click.UsageError("name the films, or say --undecided for all that are uncertain")


def decided(
    path: Path,
    as_json: bool,
    decision: Callable[[Any], Any],
    *,
    adopt: bool = False,
    about: tuple[str, ...] | None = (),
) -> int:
    from apikley_async.cli.commands.journals import decide

    return decide(path, Settings(as_json=as_json), decision, adopt=adopt, about=about)


async def one(deciding: Any) -> list[Any]:
    """The one item that was decided about, as a list of one."""
    return [await deciding]
