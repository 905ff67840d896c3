"""Charts of the runs as geometry for SVG: films over time, submissions against the limit. Pure.

Time without any film is cut out of the axis. All films share one path for each part of their life,
so that a thousand of them stay small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import attrs

from apikley_async._rate import LIMIT
from apikley_async.batch.report.history import in_window, parted, starts_of_runs
from apikley_async.batch.report.model import Category, RunFigures, Span

__all__ = ["Chart", "Label", "pace", "timeline"]

WIDTH = 1000.0
NAMES = 130.0  # pixels for the names of films
MOST_NAMED = 60  # films; more have no room for names
MOST_DRAWN = 4000  # films
MOST_RUNS = 6  # pieces of the axis; the last ones
BREAK = 18.0  # pixels between two runs
TICK_SPACE = 110.0  # pixels between two times on the axis, at least
TICK_ROOM = 28.0  # pixels for half a time, so that none is cut at an edge
STEPS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, 86_400),
)
BINS = 240
LEAST = {"uncertain": 14.0}  # pixels: what has no length must still be seen


@attrs.frozen
class Label:
    """A text at a point."""

    x: float
    y: float
    text: str


@attrs.frozen
class Chart:
    """A picture 1000 pixels wide.

    Attributes:
        height: in pixels.
        paths: the data of SVG paths, by what they show.
        thickness: of a line that stands for a film.
        names: of films, at their lines.
        ticks: times below the axis.
        breaks: where time is cut out.
        level: the height of the limit's line; None without.
        left_out: films that are not drawn.
    """

    height: float
    paths: dict[str, str]
    thickness: float
    names: tuple[Label, ...] = ()
    ticks: tuple[Label, ...] = ()
    breaks: tuple[float, ...] = ()
    level: float | None = None
    left_out: int = 0


@attrs.frozen
class Piece:
    """One run on the axis: its time, and its place in pixels."""

    start: float
    end: float
    left: float
    right: float

    def x(self, at: float) -> float:
        """The place of a time."""
        share = (min(max(at, self.start), self.end) - self.start) / (self.end - self.start)
        return self.left + share * (self.right - self.left)


@attrs.frozen
class Axis:
    """Time from left to right, in pieces."""

    pieces: tuple[Piece, ...]

    def piece(self, at: float) -> Piece | None:
        """The piece that a time lies in."""
        return next((each for each in self.pieces if each.start <= at <= each.end), None)

    def ticks(self, y: float) -> Iterator[Label]:
        """Times along the axis, in local time."""
        for piece in self.pieces:
            room = max(1.0, (piece.right - piece.left) / TICK_SPACE)
            span = piece.end - piece.start
            step = next((step for step in STEPS if span / step <= room), math.ceil(span / room))
            clock = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86_400 else "%d %b"
            at = -(-piece.start // step) * step
            while at <= piece.end:
                local = datetime.fromtimestamp(at, UTC).astimezone()
                if TICK_ROOM <= piece.x(at) <= WIDTH - TICK_ROOM:
                    yield Label(piece.x(at), y, f"{local:{clock}}")
                at += step

    @property
    def breaks(self) -> tuple[float, ...]:
        """The places between two pieces."""
        return tuple(piece.left - BREAK / 2 for piece in self.pieces[1:])


def left_of(run: RunFigures) -> float:
    """Where the axis begins: right of the films' names, if there is room for them."""
    return NAMES if len(run.spans) <= MOST_NAMED else 10.0


def axis_of(spans: Sequence[Span], left: float) -> Axis:
    """The axis for some spans, which are in the order of their start: the last runs only."""
    runs: dict[float, float] = {}
    for span, start in zip(spans, starts_of_runs(spans), strict=True):
        runs[start] = max(runs.get(start, start + 1.0), last_of(span))
    shown = sorted(runs.items())[-MOST_RUNS:]
    room = WIDTH - left - BREAK * (len(shown) - 1) - 10.0
    total = sum(end - start for start, end in shown)
    least = 40.0
    spread = room - least * len(shown)
    pieces, at = [], left
    for start, end in shown:
        width = least + spread * (end - start) / total
        pieces.append(Piece(start, end, at, at + width))
        at += width + BREAK
    return Axis(tuple(pieces))


def last_of(span: Span) -> float:
    return span.ended or span.ready or span.accepted or span.sent


def timeline(run: RunFigures) -> Chart | None:
    """Films over time: one line each, in the order in which they were sent."""
    if not run.spans:
        return None
    named, left = len(run.spans) <= MOST_NAMED, left_of(run)
    axis = axis_of(run.spans, left)
    shown = [span for span in run.spans if axis.piece(span.sent)][-MOST_DRAWN:]
    row = min(16.0, max(1.0, 640.0 / len(shown)))
    parts: dict[str, list[str]] = {}
    names = []
    for number, span in enumerate(shown):
        y = 8.0 + row * (number + 0.5)
        for kind, begin, end in parts_of(span, axis, run.pauses):
            parts.setdefault(kind, []).append(
                f"M{number_of(begin)} {number_of(y)}H{number_of(end)}"
            )
        if named:
            names.append(Label(left - 8.0, y, span.key))
    height = 8.0 + row * len(shown) + 26.0
    return Chart(
        height,
        {kind: "".join(lines) for kind, lines in parts.items()},
        max(0.8, row * 0.62),
        tuple(names),
        tuple(axis.ticks(height - 6.0)),
        axis.breaks,
        left_out=len(run.spans) - len(shown),
    )


def parts_of(
    span: Span, axis: Axis, pauses: Iterable[tuple[float, float]]
) -> Iterator[tuple[str, float, float]]:
    """The parts of a film's life: what each is, from where, to where."""
    piece = axis.piece(span.sent)
    if piece is None:
        return
    end = piece.end if span.ended is None else span.ended
    if span.category is Category.UNCERTAIN or span.accepted is None:
        points = [("uncertain", span.sent, end)]
    elif span.ready is None:
        kind = "failed" if span.category is Category.FAILED else "making"
        points = [("sending", span.sent, span.accepted), (kind, span.accepted, end)]
    else:
        points = [
            ("sending", span.sent, span.accepted),
            ("making", span.accepted, span.ready),
            *(
                ("idle" if idle else "saving", begin, until)
                for begin, until, idle in parted(span.ready, end, pauses)
            ),
        ]
    for kind, begin, until in points:
        yield kind, piece.x(begin), max(piece.x(until), piece.x(begin) + LEAST.get(kind, 0.6))


def pace(run: RunFigures) -> Chart | None:
    """Submissions in ten seconds, against the limit."""
    if not run.spans or not run.sent:
        return None
    left = left_of(run)
    axis = axis_of(run.spans, left)
    most = max(run.busiest, LIMIT)
    height, base = 140.0, 114.0
    heights: dict[int, int] = {}
    for at, number in zip(run.sent, in_window(run.sent), strict=True):
        if piece := axis.piece(at):
            column = int(piece.x(at) / WIDTH * BINS)
            heights[column] = max(heights.get(column, 0), number)
    scale = 84.0 / most
    bars = "".join(
        f"M{number_of((column + 0.5) * WIDTH / BINS)} {base:g}V{number_of(base - number * scale)}"
        for column, number in sorted(heights.items())
    )
    return Chart(
        height,
        {"pace": bars},
        WIDTH / BINS * 0.7,
        ticks=tuple(axis.ticks(height - 6.0)),
        breaks=axis.breaks,
        level=base - LIMIT * scale,
    )


def number_of(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.1f}".removesuffix(".0")
