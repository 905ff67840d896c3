"""What a report is made of: the rows of a journal, and what the disk says about its files."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from apikley_async import Storyboard, Work
from apikley_async._budget import Prices
from apikley_async.batch.budget import known_prices
from apikley_async.batch.manifest.image_files import is_image_file
from apikley_async.batch.manifest.payload import work_of
from apikley_async.batch.rehearsal import is_rehearsal
from apikley_async.batch.report.posters import poster_of
from apikley_async.batch.reports import BatchReports, BatchStatus
from apikley_async.batch.saved_files import locate
from apikley_async.batch.store.rows import read_time
from apikley_async.batch.store.values import Item
from apikley_async.batch.stored_polls import read_polls
from apikley_async.batch.stored_runs import read_runs
from apikley_async.batch.uncertain import BalanceEvidence, UncertainItem

__all__ = ["FileFacts", "JournalRows", "Row", "read_rows"]

Row: TypeAlias = Mapping[str, Any]


@attrs.frozen
class FileFacts:
    """What the disk says about a film.

    Attributes:
        here: for each of its files, whether it is there.
        posters: for each of its files, the picture that was made of it; None without.
        picture: the storyboard's own picture, if it lies in a folder of the batch.
        simulated: whether its first file was made by a simulated service.
    """

    here: tuple[bool, ...] = ()
    posters: tuple[Path | None, ...] = ()
    picture: Path | None = None
    simulated: bool = False


@attrs.frozen
class JournalRows:
    """A journal, as far as a report needs it.

    Attributes:
        batch_id: tells one batch from others; it opens nothing.
        items: all films, their files where they are now.
        works: what they are made of, by key.
        files: what the disk says, by key.
        events: the history of all films, oldest first.
        attempts: all attempts, oldest first.
        status: counts and credits.
        prices: what films cost, learned from films that are made.
        uncertain: what is known of films that need a decision.
        balances: what the account's balance says about them.
        polls: how many the runs have taken; None where that is not known.
        runs: when the latest of them began, as far as it is known.
    """

    batch_id: str
    items: Sequence[Item]
    works: Mapping[str, Work]
    files: Mapping[str, FileFacts]
    events: Sequence[Row]
    attempts: Sequence[Row]
    status: BatchStatus
    prices: Prices
    uncertain: Sequence[UncertainItem] = ()
    balances: Sequence[BalanceEvidence] = ()
    polls: int | None = None
    runs: Sequence[float] = ()


async def read_rows(batch: BatchReports, home: Path) -> JournalRows:
    """Read an open journal and look at its files; changes nothing.

    A film that its manifest no longer names and that was never sent is left out.

    Args:
        batch: open, also read only.
        home: the folder of the journal: a storyboard's picture is shown only from there, or from
            a folder that films were saved in.
    """
    items = [item async for item in batch.items() if not (item.gone and not item.attempts)]
    works = await asyncio.to_thread(lambda: {item.key: work_of(item) for item in items})
    folders = [*await batch.store.folders()]
    found = await asyncio.to_thread(lambda: [locate(item, folders) for item in items])
    files = await asyncio.to_thread(files_of, found, works, [home, *folders])
    uncertain, balances = await batch.uncertain_items()
    salt = await batch.store.salt()
    return JournalRows(
        batch_id=hashlib.sha256(b"apikley report " + salt).hexdigest()[:16],
        items=found,
        works=works,
        files=files,
        events=timed(await batch.store.events(), "at"),
        attempts=timed(await batch.store.attempts(), "began_at"),
        status=await batch.status(),
        prices=await known_prices(batch.store),
        uncertain=uncertain,
        balances=balances,
        polls=await read_polls(batch.store),
        runs=await read_runs(batch.store),
    )


def files_of(
    items: Sequence[Item], works: Mapping[str, Work], folders: Collection[Path]
) -> dict[str, FileFacts]:
    """What the disk says about each film, by key. Blocks."""
    return {
        item.key: FileFacts(
            here=tuple(file.path.is_file() for file in item.files),
            posters=tuple(poster_of(file) for file in item.files),
            picture=picture_of(works[item.key], folders),
            simulated=bool(item.files) and is_rehearsal(item.files[0].path),
        )
        for item in items
    }


def picture_of(work: Work, folders: Collection[Path]) -> Path | None:
    """The picture file of a storyboard; None without one in *folders*. Blocks.

    A journal may come from elsewhere: no file of another place is shown.
    """
    if not isinstance(work, Storyboard) or work.image is None:
        return None
    name = os.fsdecode(work.image)
    if not is_image_file(name):
        return None
    try:
        path = Path(name).resolve()
        inside = any(path.is_relative_to(folder.resolve()) for folder in folders)
        return path if inside and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a circle of links, a NUL, an endless name
        return None


def timed(rows: Sequence[Row], column: str) -> list[Row]:
    """The rows whose time is one: a journal may come from elsewhere."""
    return [row for row in rows if read_time(row[column]) is not None]
