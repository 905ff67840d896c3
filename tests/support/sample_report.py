"""Reports for tests: of a journal's rows, of a thousand films, and full of hostile texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from manual_clock import ManualClock
from sample_batch import BEGAN, make_batch

from apikley_async.batch import Batch, ItemState
from apikley_async.batch.report.advice import CommandLines
from apikley_async.batch.report.build import build_report
from apikley_async.batch.report.model import Report, ShotLine
from apikley_async.batch.report.page import report_page
from apikley_async.batch.report.rows import JournalRows, read_rows
from apikley_async.batch.report.texts import shown
from apikley_async.cli.output.shell_words import command_line

__all__ = ["COMMANDS", "NOW", "filled", "hostile_texts", "page_of", "report_of", "rows_with"]

NOW = datetime.fromtimestamp(ManualClock(BEGAN + 3600).wall(), UTC)
COMMANDS = CommandLines(
    lambda words, keys: command_line("batch", *words, names=["campaign.yaml", *keys]),
    command_line("batch", "run", names=["campaign.yaml"]),
)


def report_of(rows: JournalRows, folder: Path, now: datetime = NOW) -> Report:
    return build_report(rows, COMMANDS, title="campaign", folder=folder / "films", now=now)


def page_of(report: Report) -> str:
    return report_page(report, json_url="report.json", csv_url="report.csv")


async def rows_with(folder: Path, works: Sequence[Any], fates: dict[str, str]) -> JournalRows:
    """The rows of a journal that is written once, without waiting for the disk each time."""
    journal = folder / "campaign.db"
    await make_batch(journal, works[:2], {})
    async with Batch.open(journal) as batch:
        await batch.add(works[2:])
        rows = await read_rows(batch, folder)
    done, attempt = rows.items[0], rows.attempts[0]
    items = [
        attrs.evolve(
            done,
            key=item.key,
            order=item.order,
            payload=item.payload,
            state=ItemState(STATES.get(fates.get(item.key, ""), "done")),
            cause=f"internal error {item.key}-1",
            fail_message=f"internal error {item.key}-1",
            task_id=f"task_{item.key}",
        )
        for item in rows.items
    ]
    began = float(attempt["began_at"])
    attempts = [
        {**attempt, "key": item.key, "task_id": item.task_id, "began_at": began + number * 0.5}
        for number, item in enumerate(items)
    ]
    events = [
        {"key": item.key, "event": event, "at": began + number * 0.5 + after}
        for number, item in enumerate(items)
        for event, after in (("intend", 0.0), ("accept", 0.2), ("succeed", 180.0), ("save", 183.0))
    ]
    files = {item.key: rows.files[done.key] for item in items}
    return attrs.evolve(rows, items=items, attempts=attempts, events=events, files=files)


STATES = {"uncertain": "uncertain", "failed": "failed"}


PIECES = (
    *("<script>alert(1)</script>", "</script>", "</style>", "<!--", "-->", "]]>"),
    *('"><img src=x onerror=alert(1)>', "' onfocus=alert(1) autofocus '", "</title>"),
    *("<svg onload=alert(1)>", "</textarea>", "javascript:alert(1)", "{{ 7 * 7 }}", "{% raw %}"),
    *("&lt;b&gt;", "&#x3c;script&#x3e;", "`${alert(1)}`", "'", '"', "\\", "<", "&"),
    *("\0", "\x1b[31m", "\u202e", "\u2028", "\u2066", "\ud800", "\ufeff", "\r\n", "\t", "\x85"),
    *("=HYPERLINK(1)", "+1", "-1", "@SUM(1)", ";=1+1", "|calc", '","=1', "\uff1d1", "%0A=1"),
    *("ß", "漢", "😀"),
)


def hostile_texts(number: int) -> list[str]:
    rng = random.Random(7)
    return ["".join(rng.choices(PIECES, k=rng.randint(1, 5))) for _ in range(number)]


def filled(report: Report, texts: Sequence[str], *, copies: int = 70) -> Report:
    """A report in which every text is one of *texts*, as far as a journal could bring it there.

    Each of its groups is there so many times.
    """
    rest = iter(texts)

    def text(longest: int = 500) -> str:
        return shown(next(rest), longest)

    groups = []
    for group in report.groups * copies:
        films = tuple(
            attrs.evolve(
                film,
                number=len(groups) * 10 + number,
                key=text() or "-",
                model=text(),
                words=text(),
                cause=text() or "-",
                task_id=text(),
                shots=tuple(ShotLine(text() or "-", 5.0) for _ in range(5)),
                files=tuple(attrs.evolve(file, path=text()) for file in film.files),
            )
            for number, film in enumerate(group.films)
        )
        groups.append(attrs.evolve(group, films=films))
    keys = [film.key for group in groups for film in group.films]
    return attrs.evolve(
        report,
        title=text() or "-",
        groups=tuple(groups),
        undecided=tuple(
            attrs.evolve(
                group,
                cause=text(),
                films=tuple(
                    attrs.evolve(film, key=keys[number], model=text() or "-", words=text())
                    for film in group.films
                ),
                ways=tuple(attrs.evolve(way, command=text()) for way in group.ways),
            )
            for number, group in enumerate(report.undecided)
        ),
        balances=(text(),),
        failures=tuple(
            attrs.evolve(group, cause=text(), keys=tuple(keys[:3])) for group in report.failures
        ),
        lost=None,
        unfinished=None,
        run=attrs.evolve(
            report.run, spans=tuple(attrs.evolve(span, key=text()) for span in report.run.spans)
        ),
    )
