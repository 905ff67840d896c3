"""The report of a batch as files: which names it gets, and that nobody's files are replaced."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import quote

import attrs

from apikley_async import SavedFile
from apikley_async._disk import open_own, write_whole
from apikley_async._postgres import Dsn
from apikley_async.batch import Batch, is_manifest
from apikley_async.batch.report.advice import CommandLines
from apikley_async.batch.report.build import build_report
from apikley_async.batch.report.exports import CSV_HEADER, GENERATOR, report_csv, report_json
from apikley_async.batch.report.page import report_page
from apikley_async.batch.report.posters import make_posters
from apikley_async.batch.report.rows import JournalRows, read_rows
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.cli.journal_location import JOURNAL
from apikley_async.cli.option_types import Place
from apikley_async.cli.output.shell_words import command_line
from apikley_async.cli.output.terminal_text import plain

__all__ = ["PosterMaker", "ReportRequest", "write_report"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

NAME = "report.html"
HEAD = 4096  # bytes in which a report says what it is
ASKING = {"resolve", "resubmit", "drop", "save", "revive"}  # decisions that ask the service
PRIVATE = 0o600  # prompts are personal data


@attrs.frozen(kw_only=True)
class ReportRequest:
    """Which report, and where.

    Attributes:
        journal: where the journal is.
        name: how commands name the batch: its manifest or its journal.
        resume: the command that goes on.
        words: the options that lead commands to the same service.
        folder: where it goes, under a free name.
        target: its path, if the user has named one.
        sheet: whether it only shows storyboards, of which nothing is made yet.
    """

    journal: Place
    name: Place
    resume: str
    words: Sequence[str] = ()
    folder: Path = Path()
    target: Path | None = None
    sheet: bool = False


async def write_report(batch: Batch, request: ReportRequest) -> Path:
    """Write the report of an open batch as HTML, JSON and CSV; return the path of the page.

    Raises:
        RefusedError: another file has the name that the user gave.
        OSError: it cannot be written.
        ApikleyError: the journal cannot be read, or Jinja2 is missing.
    """
    journal = request.journal
    home = journal.resolve().parent if isinstance(journal, Path) else Path.cwd()
    rows = await read_rows(batch, home)
    return await asyncio.to_thread(_write, rows, request)


def _write(rows: JournalRows, request: ReportRequest) -> Path:
    page = _free_name(request, rows.batch_id)
    report = build_report(
        rows,
        _commands(request),
        title=_title(request.journal),
        folder=page.parent.absolute(),
        now=datetime.now(UTC),
    )
    if request.sheet:  # nothing was begun that somebody could go on with
        report = attrs.evolve(report, sheet=True, unfinished=None)
    _, data, table = _names(page)
    urls = [quote(os.fsencode(path.name)) for path in (data, table)]
    links = dict(zip(("json_url", "csv_url"), urls, strict=True))
    texts = (report_page(report, **links), report_json(report), report_csv(report))
    for path, text in zip(_names(page), texts, strict=True):
        content = text.encode(errors="replace")
        if not write_whole(path, content, mode=PRIVATE, is_ours=partial(_is_ours, path)):
            raise _taken(path)
    return page


def _title(journal: Place) -> str:
    """The name of a batch: its journal's, or its folder's where all journals have one name."""
    if isinstance(journal, Dsn):
        return str(journal.parameters.get("dbname", "films"))
    return journal.resolve().parent.name if journal.name == JOURNAL else journal.stem


# --- commands -------------------------------------------------------------------------------------


def _commands(request: ReportRequest) -> CommandLines:
    def decision(words: Sequence[str], keys: Sequence[str]) -> str:
        service = request.words if words[0] in ASKING else ()
        return command_line("batch", *words, *service, names=(request.name, *keys))

    by_manifest = isinstance(request.name, Path) and is_manifest(request.name)
    return CommandLines(decision, request.resume, by_manifest)


# --- names ----------------------------------------------------------------------------------------


def _names(page: Path) -> tuple[Path, Path, Path]:
    """The page, the JSON and the CSV of a report."""
    return page, page.with_suffix(".json"), page.with_suffix(".csv")


def _free_name(request: ReportRequest, batch_id: str) -> Path:
    """The path of the page: none of its three names is another file's.

    Raises:
        RefusedError: they are.
    """
    if request.target is not None:
        if request.target.suffix.lower() in (".json", ".csv"):
            raise RefusedError("-o: the name of the page (.html); JSON and CSV go beside it")
        for path in _names(request.target):
            if not _is_free(path):
                raise _taken(path)
        return request.target
    for name in (NAME, f"{_title(request.journal)}.{NAME}"):
        page, *others = _names(request.folder / name)
        if _is_free(page, batch_id) and all(map(_is_free, others)):
            return page
    raise _taken(request.folder / NAME)


def _is_free(path: Path, batch_id: str = "") -> bool:
    return not os.path.lexists(path) or _is_ours(path, batch_id)


def _is_ours(path: Path, batch_id: str = "") -> bool:
    """Whether a file is a report, and one of that batch, if one is given. Blocks."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace", opener=open_own) as file:
            head = file.read(HEAD)
    except OSError:
        return False
    if path.suffix == ".csv":
        return head.startswith(",".join(f'"{name}"' for name in CSV_HEADER))
    return GENERATOR in head and batch_id in head


def _taken(path: Path) -> RefusedError:
    return RefusedError(
        f"{plain(path)} exists and is no report of apikley: nothing was written. Move it, or name "
        "another file with -o"
    )


# --- posters --------------------------------------------------------------------------------------


class PosterMaker:
    """Makes posters in a thread, one film after the other, while a run goes on."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, files: Collection[SavedFile]) -> None:
        """Make the posters of a film that was saved."""
        task = asyncio.create_task(self._make(files))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, files: Collection[SavedFile]) -> None:
        async with self._turn:
            try:
                await asyncio.to_thread(make_posters, files)
            except Exception:  # a strange film must not end a run: it is saved, and paid
                logger.debug("no poster", exc_info=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for those that are not made yet; make no more after an error."""
        for task in self._tasks if kind is not None else ():
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=kind is not None)
