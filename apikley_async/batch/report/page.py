"""The report as one HTML page, which needs no network and no other file but films and pictures.

Every text is escaped by Jinja2. The policy in the page lets only this script and this style run,
by their hashes, and pictures and films come from the page's own place only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apikley_async import __version__
from apikley_async._rate import LIMIT
from apikley_async._text import count, in_credits, local_and_utc
from apikley_async.batch.report import charts
from apikley_async.batch.report.model import (
    Category,
    Film,
    FilmGroup,
    Report,
    RunFigures,
    UndecidedFilm,
    UndecidedGroup,
)
from apikley_async.batch.report.texts import duration, sentence
from apikley_async.batch.states import ItemState
from apikley_async.errors import MissingExtraError

if TYPE_CHECKING:
    import jinja2

__all__ = ["report_page"]

PAGE = Path(__file__).with_name("page")
ROOM_FOR_SCENES = 400_000  # bytes of a page; more are cut, each scene at the same length
MOST_UNDECIDED = 12  # groups that are shown with all that is known; more films are listed
MOST_FILMS = 5000  # on the page; JSON and CSV have all of them
MOST_EAGER = 200  # films whose posters are loaded at once, so that they are printed as well
MOST_KEYS = 24  # that are listed of a group of failures
WORDS: Mapping[Category, str] = {
    Category.HERE: "here",
    Category.UNCERTAIN: "undecided",
    Category.FAILED: "failed",
    Category.LOST: "file lost",
    Category.UNFINISHED: "not finished",
    Category.DROPPED: "dropped",
}


def report_page(report: Report, *, json_url: str, csv_url: str) -> str:
    """The report as HTML.

    Args:
        report: what it shows.
        json_url, csv_url: the same as data, relative to the page.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    template = compiled_template()
    style = text_of("report.css") + "".join(width_rules(report))
    script = text_of("report.js")
    page = template.render(
        report=report,
        policy=policy_of(script, style),
        style=style,
        script=script,
        json_url=json_url,
        csv_url=csv_url,
        **facts_of(report),
    )
    return page.lstrip()


@cache
def compiled_template() -> jinja2.Template:
    """The page, compiled once in a process: that takes longer than to fill in most pages."""
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError.of("a report as a page needs Jinja2", "cli") from None

    engine = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return engine.from_string(text_of("report.html"))


def text_of(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def policy_of(script: str, style: str) -> str:
    """What the page may do: this script, this style, pictures and films from its own place."""
    # A file has no origin, so that `self` may match no file: those have a scheme of their own.
    return (
        f"default-src 'none'; script-src '{digest_of(script)}'; style-src '{digest_of(style)}'; "
        "img-src 'self' file: data:; media-src 'self' file:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def digest_of(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def facts_of(report: Report) -> dict[str, Any]:
    """The values and functions that the template uses besides the report."""
    timeline = charts.timeline(report.run)
    shares, groups = shares_of(report), groups_shown(report)
    return {
        "here": report.totals.counts.get(Category.HERE, 0),
        "sentence": sentence(report.totals, report.made_at),
        "shares": shares,
        "legend": ", ".join(f"{each['number']} {WORDS[each['category']]}" for each in shares),
        "words": WORDS,
        "groups": groups,
        "numbers": {film.key: film.number for group in groups for film in group.films},
        "left_out": len(report.films) - sum(len(group.films) for group in groups),
        "most_keys": MOST_KEYS,
        "most_undecided": MOST_UNDECIDED,
        "more_undecided": films_in(report.undecided[MOST_UNDECIDED:]),
        "number_undecided": len(films_in(report.undecided)),
        "timeline": timeline,
        "timeline_text": count(len(report.run.spans)),
        "pace": charts.pace(report.run),
        "limit": LIMIT,
        "figures": [*figures_of(report.run)],
        "version": __version__,
        "in_credits": in_credits,
        "both_times": local_and_utc,
        "local_time": lambda at: f"{at.astimezone():%H:%M:%S}",
        "cut": cutter(report),
        "lazy": len(report.films) > MOST_EAGER,
        "facts": facts_line,
        "label_of": label_of,
        "sortable": sortable,
        "seconds": lambda value: f"{value:.1f}".removesuffix(".0"),
        "width": width_class,
    }


# --- the first sentence's bar ---------------------------------------------------------------------


def shares_of(report: Report) -> list[dict[str, Any]]:
    """The categories as parts of a bar of 1000 pixels."""
    shares, at, gap = [], 0.0, 3.0
    for category, number in report.totals.counts.items():
        width = 1000.0 * number / max(1, report.totals.films)
        shown = max(1.0, width - (gap if at + width < 999.0 else 0.0))
        path = f"M{at:.1f} 0h{shown:.1f}v10h-{shown:.1f}z"
        shares.append({"category": category, "number": number, "path": path})
        at += width
    return shares


# --- what needs a person --------------------------------------------------------------------------


def films_in(groups: Iterable[UndecidedGroup]) -> list[UndecidedFilm]:
    """The films of some groups."""
    return [film for group in groups for film in group.films]


# --- films ----------------------------------------------------------------------------------------


def groups_shown(report: Report) -> Sequence[FilmGroup]:
    """The films of the page: all, or of very many those that need somebody first."""
    if len(report.films) <= MOST_FILMS:
        return report.groups
    ranked = sorted(
        report.groups, key=lambda group: all(film.category is Category.HERE for film in group.films)
    )
    kept, films = set[int](), 0
    for group in ranked:
        films += len(group.films)
        if films > MOST_FILMS:
            break
        kept.add(group.films[0].number)
    return [group for group in report.groups if group.films[0].number in kept]


def label_of(film: Film) -> str:
    """The state of a film in a word or two."""
    if film.category in (Category.LOST, Category.UNCERTAIN):
        return WORDS[film.category]
    return "ready" if film.state is ItemState.SUCCESS else film.state.value


def facts_line(film: Film) -> str:
    """What it has cost, how long it is, how long it took, and when it was sent."""
    facts = []
    if film.take:
        facts.append(f"take {film.take}")
    if film.credits is not None:
        facts.append(f"{in_credits(film.credits)} credits")
    if film.seconds is not None:
        facts.append(f"{film.seconds:g} s")
    if film.made_in is not None:
        facts.append(f"made in {duration(film.made_in)}")
    if film.sent_at is not None:
        facts.append(f"{film.sent_at.astimezone():%d %b %H:%M}")
    if film.attempts > 1:
        facts.append(f"sent {film.attempts} times")
    return " · ".join(facts)


def sortable(film: Film) -> Iterator[tuple[str, str]]:
    """The numbers that films are sorted by, by the names of their attributes."""
    values = {
        "c": film.credits,
        "m": film.made_in,
        "t": film.sent_at.timestamp() if film.sent_at else None,
    }
    for name, value in values.items():
        if value:
            yield name, f"{value:.0f}"


def width_class(seconds: float) -> str:
    """The class of a shot in the strip, which is as wide as the shot is long."""
    return f"d{round(seconds * 10)}"


def width_rules(report: Report) -> Iterator[str]:
    """The style of each width that is used. A `style` attribute is what the policy forbids."""
    tenths = {
        round(shot.seconds * 10)
        for film in report.films
        for shot in film.shots
        if shot.seconds is not None
    }
    for width in sorted(tenths):
        yield f".d{width}{{flex-grow:{max(width, 1)}}}\n"


def cutter(report: Report) -> Callable[[str], str]:
    """A function that cuts scenes, so that those of a large batch fit into the page together."""
    sizes = [len(shot.text.encode()) for group in report.groups for shot in group.films[0].shots]
    low, high = 40, max(sizes, default=0)
    if sum(sizes) <= ROOM_FOR_SCENES:
        return lambda text: text
    while low < high:  # the longest cut with which all of them fit
        middle = (low + high + 1) // 2
        fits = sum(min(size, middle) for size in sizes) <= ROOM_FOR_SCENES
        low, high = (middle, high) if fits else (low, middle - 1)
    return lambda text: cut(text, low)


def cut(text: str, size: int) -> str:
    """A text of at most so many bytes; dots when something was cut."""
    encoded = text.encode()
    if len(encoded) <= size:
        return text
    return f"{encoded[: size - 3].decode(errors='ignore').rstrip()}…"


# --- the run --------------------------------------------------------------------------------------


def figures_of(run: RunFigures) -> Iterator[dict[str, str]]:
    """The figures below the chart: name, value and a note."""
    for name, spread in (
        ("Waited to be sent", run.waited),
        ("In the making", run.made),
        ("Until saved", run.fetched),
    ):
        if spread is not None:
            note = f"median; 95 % within {duration(spread.high)}"
            yield {"name": name, "value": duration(spread.median), "note": note}
    if run.sent:
        note = f"submissions in the busiest ten seconds; the limit is {LIMIT}"
        yield {"name": "Pace", "value": f"{run.busiest}", "note": note}
    if run.polls is not None:
        films = sum(span.accepted is not None for span in run.spans)
        note = f"{run.polls / films:.1f} a film; " if films else ""
        note += "of runs that were not killed"
        yield {"name": "Polls", "value": f"{run.polls:,}", "note": note}
    note = "submissions over the rate limit"
    yield {"name": "Refused", "value": f"{run.refused}", "note": note}
    if run.postponed:
        note = "submissions, for the whole account"
        yield {"name": "Postponed", "value": f"{run.postponed}", "note": note}
    if run.unsent:
        yield {"name": "Never left", "value": f"{run.unsent}", "note": "attempts; not paid"}
