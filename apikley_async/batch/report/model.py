"""The report as a value: everything that a page, JSON or CSV shows, and nothing else.

No token, signed link, API key, metadata or raw answer of the service is in it. Texts are foreign:
they are as the journal has them, cut and made printable, and every output escapes them itself.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime

import attrs

from apikley_async.batch.states import ItemState

__all__ = [
    "CATEGORIES",
    "Advice",
    "Category",
    "FailureGroup",
    "Film",
    "FilmFile",
    "FilmGroup",
    "Report",
    "RunFigures",
    "ShotLine",
    "Span",
    "Spread",
    "Totals",
    "UndecidedFilm",
    "UndecidedGroup",
]


class Category(enum.StrEnum):
    """What a film means for a person."""

    HERE = "here"
    """Done, and its files are on the disk, or were put into a destination."""
    UNCERTAIN = "uncertain"
    """It may have been paid: a person decides."""
    FAILED = "failed"
    """Failed, refused, or its links have expired."""
    LOST = "lost"
    """Done, but a file is not where it was saved."""
    UNFINISHED = "unfinished"
    """The next run goes on with it."""
    DROPPED = "dropped"
    """Given up by a person."""


CATEGORIES: Mapping[ItemState, Category] = {
    ItemState.PLANNED: Category.UNFINISHED,
    ItemState.SENDING: Category.UNFINISHED,
    ItemState.UNCERTAIN: Category.UNCERTAIN,
    ItemState.SUBMITTED: Category.UNFINISHED,
    ItemState.SUCCESS: Category.UNFINISHED,
    ItemState.DONE: Category.HERE,
    ItemState.FAILED: Category.FAILED,
    ItemState.REJECTED: Category.FAILED,
    ItemState.STALLED: Category.UNFINISHED,
    ItemState.EXPIRED: Category.FAILED,
    ItemState.DROPPED: Category.DROPPED,
}
"""The category of each state; a done film without its files is `LOST`."""


@attrs.frozen
class ShotLine:
    """One shot: its text, and its seconds (None where the model has no shots)."""

    text: str
    seconds: float | None


@attrs.frozen
class FilmFile:
    """A saved file.

    Attributes:
        path: where it is, or was.
        url: the same, relative to the report; percent-encoded.
        size: in bytes.
        here: whether it is there.
        poster: the URL of a picture that was made of it, relative to the report; empty without.
        playable: whether it is a film, by its name; otherwise a picture or a sound.
    """

    path: str
    url: str
    size: int
    here: bool
    poster: str = ""
    playable: bool = True


@attrs.frozen
class Film:
    """One film of the batch.

    Attributes:
        number: its place in the batch, from 1.
        key: its name.
        state: as the journal has it.
        category: what that means for a person.
        model: the service's name of the model.
        portrait: whether it is upright.
        seconds: of the whole film; None for a model without.
        shots: its storyboard, or the prompt of another model.
        take: its number among takes of the same content, from 1; 0 where it has no others.
        words: the first words of its text.
        cause: why it is in this state, for a person; without links.
        task_id: of the paid task; empty without.
        attempts: how often it was sent.
        credits: what it has cost, as far as known.
        files: what was saved.
        stored: where it is in a destination: the locations, or names, of its files.
        picture: the URL of the storyboard's own picture, relative to the report; empty without.
        simulated: whether it was made by a simulated service, and cost nothing.
        sent_at, ready_at, saved_at: when its last attempt was sent, when its film was ready, and
            when its files were here.
        made_in: seconds from the acceptance until the film was ready; from its attempt, where the
            task was found out later.
        link_ends_at: when the service's links to it are expected to end.
    """

    number: int
    key: str
    state: ItemState
    category: Category
    model: str
    portrait: bool
    seconds: float | None
    shots: tuple[ShotLine, ...]
    take: int
    words: str
    cause: str
    task_id: str
    attempts: int
    credits: float | None
    files: tuple[FilmFile, ...]
    stored: tuple[str, ...]
    picture: str
    simulated: bool
    sent_at: datetime | None
    ready_at: datetime | None
    saved_at: datetime | None
    made_in: float | None
    link_ends_at: datetime | None


@attrs.frozen
class FilmGroup:
    """The takes of one content, or a single film."""

    films: tuple[Film, ...]


@attrs.frozen
class Advice:
    """One way out: what it is for, the command to type, and what it costs."""

    when: str
    command: str
    cost: str


@attrs.frozen
class UndecidedFilm:
    """A film that may have been paid.

    Attributes:
        key: its name.
        sent_at: when its last uncertain attempt began.
        model: what it was sent to.
        words: the first words of its text.
        credits: what was set aside for it; None without a price.
        evidence: what the account's balance says of that time, in a few words.
        lost: whether its attempt is missing in an adopted journal: if it was sent at all, then
            before *sent_at*.
    """

    key: str
    sent_at: datetime
    model: str
    words: str
    credits: float | None
    evidence: str
    lost: bool


@attrs.frozen
class UndecidedGroup:
    """Films that may have been paid, for one cause and within a minute, and the ways out.

    Attributes:
        cause: why they are uncertain.
        films: the oldest first.
        ways: what may be decided about all of them.
    """

    cause: str
    films: tuple[UndecidedFilm, ...]
    ways: tuple[Advice, ...]


@attrs.frozen
class FailureGroup:
    """Films that failed for one cause.

    Attributes:
        title: what happened, in a few words.
        cause: the service's or our words.
        keys: of the films.
        cure: what to do, and whether the same input can succeed.
        ways: the commands.
    """

    title: str
    cause: str
    keys: tuple[str, ...]
    cure: str
    ways: tuple[Advice, ...]


@attrs.frozen
class Totals:
    """The figures of the first sentence.

    Attributes:
        films: of the batch, without those that were withdrawn before they were sent.
        counts: films by category; categories without films are left out.
        spent: credits of accepted films, as far as known.
        per_film: the mean of films whose cost is known; None without any.
        at_risk: credits of uncertain attempts, which may have been charged.
        unpriced: attempts whose credits nobody knows.
        first_link_ends_at: when the first link to a film ends that is not on the disk.
        paid_twice: films that were paid more often than a person has asked for.
        simulated: whether all films that are here were made by a simulated service.
        stored: films that are in a destination, and not in a folder.
    """

    films: int
    counts: Mapping[Category, int]
    spent: float
    per_film: float | None
    at_risk: float
    unpriced: int
    first_link_ends_at: datetime | None
    paid_twice: tuple[str, ...]
    simulated: bool
    stored: int = 0


@attrs.frozen
class Spread:
    """The median and the 95th percentile of some seconds, and how many there were."""

    count: int
    median: float
    high: float


@attrs.frozen
class Span:
    """One attempt on the time axis; times in seconds since 1970.

    Attributes:
        key: of its film.
        sent: when it began.
        accepted: when the task was known.
        ready: when the film was ready.
        ended: when it was saved, or failed; None while it goes on.
        category: of its film.
    """

    key: str
    sent: float
    accepted: float | None
    ready: float | None
    ended: float | None
    category: Category


@attrs.frozen
class RunFigures:
    """What the journal says about the runs.

    Attributes:
        spans: the attempts that were accepted or are uncertain, in the order of their start.
        waited: seconds from the start of a run until a film was sent.
        made: seconds from the acceptance until the film was ready.
        fetched: seconds from then until it was saved, without those in which no run went on.
        refused: submissions that the service refused because of its rate limit.
        postponed: submissions that it refused for the whole account.
        unsent: attempts that never left this machine.
        busiest: the most submissions in any ten seconds.
        sent: when each submission was sent, in order; in seconds since 1970.
        polls: how many polls the runs have taken; None where that is not known.
        pauses: from when to when no run went on, in order, as far as it is known.
    """

    spans: tuple[Span, ...]
    waited: Spread | None
    made: Spread | None
    fetched: Spread | None
    refused: int
    postponed: int
    unsent: int
    busiest: int
    sent: tuple[float, ...]
    polls: int | None = None
    pauses: tuple[tuple[float, float], ...] = ()


@attrs.frozen
class Report:
    """Everything that is shown.

    Attributes:
        title: the name of the batch.
        sheet: whether it only shows storyboards, of which nothing is made yet.
        batch_id: tells the reports of one batch from those of others; it opens nothing.
        made_at: when the report was made.
        totals: the figures of the first sentence.
        undecided: films that need a decision, those of one cause and time together.
        decide_all: ways out for all of them at once; empty where there are not several groups.
        balances: sentences about the account's balance around uncertain attempts.
        failures: failed films by cause.
        lost: keys of films whose files are lost, with what to do; None without any.
        unfinished: keys of films that the next run goes on with; None without any.
        groups: all films, takes together, in the order of the batch.
        run: how the runs went.
    """

    title: str
    batch_id: str
    made_at: datetime
    totals: Totals
    undecided: tuple[UndecidedGroup, ...]
    decide_all: tuple[Advice, ...]
    balances: tuple[str, ...]
    failures: tuple[FailureGroup, ...]
    lost: FailureGroup | None
    unfinished: FailureGroup | None
    groups: tuple[FilmGroup, ...]
    run: RunFigures
    sheet: bool = False

    @property
    def films(self) -> tuple[Film, ...]:
        """All films, in the order in which they are shown."""
        return tuple(film for group in self.groups for film in group.films)
