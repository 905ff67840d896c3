"""Journals on the command line: found, looked at, and decided about."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from apikley_async.batch import Batch, Item, State, is_manifest
from apikley_async.cli.client_factory import Session, prepare
from apikley_async.cli.engine import End, code_of, tell_item
from apikley_async.cli.exit_codes import OK, Refused
from apikley_async.cli.options import Settings
from apikley_async.cli.output.reporter import Telling, count, plain
from apikley_async.cli.output.undecided import tell_doubts
from apikley_async.cli.runner import alone, play, telling
from apikley_async.errors import ManifestError

__all__ = ["decide", "decided", "existing", "fetch", "journal_of", "look"]


def journal_of(path: Path, journal: Path | None = None) -> Path:
    """The journal that belongs to *path*: itself, or the one beside the manifest."""
    if journal is not None:
        return journal
    return path.with_suffix(".db") if is_manifest(path) else path


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
    path: Path,
    settings: Settings,
    decision: Callable[[Batch], Awaitable[list[Item]]],
    *,
    adopt: bool = False,
    about: Collection[str] | None = (),
) -> int:
    """Carry out a person's decision about items, and tell where they stand then.

    *about* names films whose evidence is shown first, where they are uncertain (None: all).
    """
    tell = telling(as_json=settings.as_json)

    async def flow() -> int:
        async with Batch.open(existing(path), adopt=adopt) as batch:
            uncertain = [item.key async for item in batch.items(State.UNCERTAIN)]
            shown = [key for key in uncertain if about is None or key in about]
            if shown:
                tell_doubts(tell, *await batch.doubts(*shown))
            await decided(decision(batch), tell)
        return OK

    return alone(flow, tell)


def fetch(
    path: Path,
    keys: Sequence[str],
    settings: Settings,
    *,
    expired: bool = False,
    **how: Any,
) -> int:
    """Fetch films that are paid: lost ones, or *expired* ones; give the exit code."""
    tell = telling(as_json=settings.as_json, films=0)

    async def flow(own: Session) -> int:
        end = End(only=None)
        async with Batch.open(existing(path)) as batch:
            chosen = list(keys)
            try:
                if expired:
                    chosen = [item.key for item in await batch.revive(*keys)]
                    if not chosen:
                        tell.say("no film is expired")
                        return OK
                fetched = batch.save(own.client, *chosen, **how)
                async with contextlib.aclosing(fetched) as items:
                    async for item in items:
                        end.note(item)
                        tell_item(tell, item, [file.path for file in item.files])
            except KeyError as error:
                raise Refused(f"there is no film {plain(error.args[0])!r} in the journal") from None
            except ManifestError as error:
                raise Refused(plain(error)) from None
        tell.say(f"{count(len(end.done))} fetched")
        return code_of(end.counts)

    return play(prepare(settings, finished=True), flow, tell)


async def decided(deciding: Awaitable[list[Item]], tell: Telling) -> None:
    """Tell where items stand after a decision, or why it does not apply to them."""
    try:
        items = await deciding
    except KeyError as error:
        raise Refused(f"there is no film {plain(error.args[0])!r} in the journal") from None
    except (LookupError, ManifestError) as error:
        raise Refused(plain(error)) from None
    for item in items:
        cause = item.cause if item.cause.startswith("insisted") else None
        tell("decided", key=item.key, item_state=item.state.value, cause=cause)


def existing(path: Path) -> Path:
    """The journal of *path*, which must be there."""
    journal = journal_of(path)
    if not journal.exists():
        raise Refused(f"{plain(journal)}: there is no such journal")
    return journal
