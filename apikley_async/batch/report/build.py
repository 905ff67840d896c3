"""Makes the report of rows. Pure: the clock and the report's own place are handed in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import attrs

from apikley_async import Storyboard, Work
from apikley_async.batch.report.advice import (
    CommandLines,
    decide_all,
    failure_groups,
    failure_of,
    lost_group,
    undecided_groups,
    unfinished_group,
)
from apikley_async.batch.report.history import FilmTimes, paid_too_often, run_figures, times_of
from apikley_async.batch.report.model import (
    CATEGORIES,
    Category,
    Film,
    FilmFile,
    FilmGroup,
    Report,
    ShotLine,
    Totals,
)
from apikley_async.batch.report.rows import FileFacts, JournalRows
from apikley_async.batch.report.texts import shown, without_links
from apikley_async.batch.states import ItemState
from apikley_async.batch.store.rows import read_time
from apikley_async.batch.store.values import Item
from apikley_async.batch.uncertain import excerpt

__all__ = ["build_report"]

LINK_LIFETIME = timedelta(hours=24)
TAKE = re.compile(r"\.[0-9]{1,3}$")
LONGEST_SCENE = 20_000  # characters
PLAYABLE = {".mp4", ".mov", ".m4v", ".webm"}
FAILED = (ItemState.FAILED, ItemState.REJECTED, ItemState.EXPIRED)


def build_report(
    rows: JournalRows, commands: CommandLines, *, title: str, folder: Path, now: datetime
) -> Report:
    """The report of a batch.

    Args:
        rows: what its journal and its folder say.
        commands: spells the commands to type.
        title: the name of the batch.
        folder: where the report will lie: the links to files are relative to it.
        now: the time.
    """
    times = times_of(rows.items, rows.events)
    takes = takes_of(rows.items)
    films = {
        item.key: film_of(item, number, rows, times[item.key], takes[item.key][1], folder)
        for number, item in enumerate(rows.items, 1)
    }
    ordered = [*films.values()]
    return Report(
        title=shown(title, 200),
        batch_id=rows.batch_id,
        made_at=now,
        totals=totals_of(rows, ordered),
        undecided=undecided_groups(rows, commands),
        decide_all=decide_all(rows, commands),
        balances=tuple(balance.sentence for balance in rows.balances),
        failures=failure_groups(rows, films, commands),
        lost=lost_group(ordered, commands, now),
        unfinished=unfinished_group(ordered, commands, max(rows.runs, default=0.0)),
        groups=grouped(ordered, {key: group for key, (group, _) in takes.items()}),
        run=attrs.evolve(
            run_figures(rows.items, times, rows.events, rows.attempts, rows.runs), polls=rows.polls
        ),
    )


def takes_of(items: Sequence[Item]) -> dict[str, tuple[str, int]]:
    """By key, the first key with the same content, and the number of the take; 0 if it is alone.

    The takes of `kitten` are `kitten`, `kitten.2`, `kitten.3`; films whose content was purged look
    alike, so the names count as well.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for item in items:
        groups.setdefault((TAKE.sub("", item.key), item.payload), []).append(item.key)
    return {
        key: (keys[0], number if len(keys) > 1 else 0)
        for keys in groups.values()
        for number, key in enumerate(keys, 1)
    }


def grouped(films: Sequence[Film], group_of: Mapping[str, str]) -> tuple[FilmGroup, ...]:
    """Films with their takes beside each other, in the order of the first of each."""
    groups: dict[str, list[Film]] = {}
    for film in films:
        groups.setdefault(group_of[film.key], []).append(film)
    return tuple(FilmGroup(tuple(takes)) for takes in groups.values())


# --- one film -------------------------------------------------------------------------------------


def film_of(
    item: Item, number: int, rows: JournalRows, times: FilmTimes, take: int, folder: Path
) -> Film:
    """One film as the report shows it."""
    work, facts = rows.works[item.key], rows.files[item.key]
    category = CATEGORIES[item.state]
    if item.state is ItemState.DONE and not all(facts.here):
        category = Category.LOST
    board = work if isinstance(work, Storyboard) else None
    return Film(
        number=number,
        key=item.key,
        state=item.state,
        category=category,
        model=shown(work.model, 200),
        portrait=board is not None and board.aspect_ratio == "portrait",
        seconds=float(board.duration) if board else None,
        shots=shots_of(work),
        take=take,
        words=shown(excerpt(work), 200),
        cause=failure_of(item) if item.state in FAILED else without_links(item.cause),
        task_id=shown(item.task_id or "", 200),
        attempts=item.attempts,
        credits=item.credits,
        files=files_of_film(item, facts, folder),
        stored=tuple(shown(file.location or file.name, 300) for file in item.stored),
        picture=relative_url(facts.picture, folder) if facts.picture else "",
        simulated=facts.simulated,
        sent_at=read_time(times.sent),
        ready_at=read_time(times.ready),
        saved_at=read_time(times.ended) if item.state is ItemState.DONE else None,
        made_in=times.made_in,
        link_ends_at=link_end_of(item),
    )


def shots_of(work: Work) -> tuple[ShotLine, ...]:
    """The shots of a storyboard; of another model its prompt."""
    if isinstance(work, Storyboard):
        return tuple(
            ShotLine(shown(shot.scene, LONGEST_SCENE), seconds)
            for shot, seconds in zip(work.shots, work.durations, strict=True)
        )
    text = excerpt(work, LONGEST_SCENE)
    return (ShotLine(text, None),) if text else ()


def files_of_film(item: Item, facts: FileFacts, folder: Path) -> tuple[FilmFile, ...]:
    """The saved files of a film."""
    return tuple(
        FilmFile(
            path=os.fsencode(file.path).decode(errors="replace"),
            url=relative_url(file.path, folder),
            size=file.size,
            here=here,
            poster=relative_url(poster, folder) if poster else "",
            playable=file.path.suffix.lower() in PLAYABLE,
        )
        for file, here, poster in zip(item.files, facts.here, facts.posters, strict=True)
    )


def relative_url(path: Path, folder: Path) -> str:
    """The URL of a file for a page in *folder*: relative where both are on one drive."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # Windows has several drives
        return path.absolute().as_uri()
    return quote(os.fsencode(Path(relative).as_posix()))


def link_end_of(item: Item) -> datetime | None:
    """When the service's links to a film are expected to end; None if that is not known."""
    try:
        fields = json.loads(item.result) if item.result else {}
    except (ValueError, RecursionError):
        fields = {}
    known = read_time(fields.get("expires_at")) if isinstance(fields, dict) else None
    if known is None and item.success_at is not None:
        return item.success_at + LINK_LIFETIME
    return known


# --- the first sentence ---------------------------------------------------------------------------


def totals_of(rows: JournalRows, films: Sequence[Film]) -> Totals:
    """The figures of the first sentence."""
    counts = {
        category: number
        for category in Category
        if (number := sum(film.category is category for film in films))
    }
    costs = [each["credits"] for each in rows.attempts if each["credits"]]
    ends = [
        film.link_ends_at
        for film in films
        if film.link_ends_at is not None
        and (film.category is Category.LOST or film.state is ItemState.SUCCESS)
    ]
    here = [film for film in films if film.category is Category.HERE]
    return Totals(
        films=len(films),
        counts=counts,
        spent=rows.status.spent,
        per_film=sum(costs) / len(costs) if costs else None,
        at_risk=rows.status.at_risk,
        unpriced=rows.status.unpriced,
        first_link_ends_at=min(ends, default=None),
        paid_twice=paid_too_often(rows.attempts, rows.events),
        simulated=bool(here) and all(film.simulated for film in here),
        stored=sum(bool(film.stored) for film in here),
    )
