"""The report as data: JSON of a documented form, and CSV for spreadsheets. Pure."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from apikley_async._text import shorten
from apikley_async.batch.report.model import (
    FailureGroup,
    Film,
    Report,
    RunFigures,
    Spread,
    UndecidedGroup,
)
from apikley_async.batch.report.texts import sentence

__all__ = ["CSV_HEADER", "GENERATOR", "cell", "report_csv", "report_json"]

GENERATOR = "apikley batch report"
VERSION = 1  # of the form of the JSON; a new field changes it not, another meaning does
CSV_HEADER = (
    *("key", "state", "needs", "take", "credits", "seconds", "shots", "model"),
    *(
        "attempts",
        "sent_at",
        "ready_at",
        "saved_at",
        "made_in",
        "task_id",
        "file",
        "words",
        "cause",
    ),
)
# Where a spreadsheet takes a text for a formula: at its beginning, and behind a separator if it
# splits a quoted cell after all.
FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@|%\uff1d\uff0b\uff0d\uff20])")
LONGEST_CELL = 30_000  # characters; Excel cuts a cell at 32,767


# --- JSON -----------------------------------------------------------------------------------------


def report_json(report: Report) -> str:
    """The report as JSON; `docs/report.schema.json` describes it."""
    totals = report.totals
    value = {
        "generator": GENERATOR,
        "version": VERSION,
        "batch": report.batch_id,
        "title": report.title,
        "made_at": _time(report.made_at),
        "sentence": "".join(text for text, _ in sentence(totals, report.made_at)).strip(),
        "totals": {
            **attrs.asdict(totals, recurse=False),
            "counts": dict(totals.counts),
            "first_link_ends_at": _time(totals.first_link_ends_at),
            "paid_twice": list(totals.paid_twice),
        },
        "undecided": [_undecided(group) for group in report.undecided],
        "decide_all": [attrs.asdict(way) for way in report.decide_all],
        "balances": list(report.balances),
        "failures": [_group(group) for group in report.failures],
        "lost": _group(report.lost),
        "unfinished": _group(report.unfinished),
        "films": [_film(film) for film in report.films],
        "run": _run(report.run),
    }
    return json.dumps(_finite(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """A value that JSON can spell: it has no word for infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _undecided(group: UndecidedGroup) -> dict[str, Any]:
    films = [{**attrs.asdict(film), "sent_at": _time(film.sent_at)} for film in group.films]
    return {**attrs.asdict(group), "films": films}


def _group(group: FailureGroup | None) -> dict[str, Any] | None:
    return None if group is None else attrs.asdict(group)


def _film(film: Film) -> dict[str, Any]:
    value: dict[str, Any] = attrs.asdict(film)
    del value["number"]
    for name in ("sent_at", "ready_at", "saved_at", "link_ends_at"):
        value[name] = _time(getattr(film, name))
    return value


def _run(run: RunFigures) -> dict[str, Any]:
    spreads: Mapping[str, Spread | None] = {
        "waited": run.waited,
        "made": run.made,
        "fetched": run.fetched,
    }
    return {
        **{name: spread and attrs.asdict(spread) for name, spread in spreads.items()},
        "refused": run.refused,
        "postponed": run.postponed,
        "unsent": run.unsent,
        "busiest": run.busiest,
        "polls": run.polls,
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")


# --- CSV ------------------------------------------------------------------------------------------


def report_csv(report: Report) -> str:
    """The films as CSV, one row each; no cell is a formula. Begins with a byte order mark."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(CSV_HEADER)
    for film in report.films:
        writer.writerow([cell(value) for value in _row(film)])
    return "\ufeff" + text.getvalue()


def _row(film: Film) -> tuple[Any, ...]:
    return (
        film.key,
        film.state.value,
        film.category.value,
        film.take or "",
        film.credits,
        film.seconds,
        len(film.shots),
        film.model,
        film.attempts,
        _time(film.sent_at),
        _time(film.ready_at),
        _time(film.saved_at),
        None if film.made_in is None else round(film.made_in, 1),
        film.task_id,
        " ".join((*(file.path for file in film.files), *film.stored)),
        film.words,
        film.cause,
    )


def cell(value: Any) -> Any:
    """A cell; of a text, whatever a spreadsheet would run begins with an apostrophe."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    return FORMULA.sub(r"\1\2'", shorten(" ".join(value.split()), LONGEST_CELL))
