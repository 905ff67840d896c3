"""The history of films: when each was sent, accepted, ready and saved. Pure."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from apikley_async.batch.report.model import CATEGORIES, Category, RunFigures, Span, Spread
from apikley_async.batch.report.rows import Row
from apikley_async.batch.states import ItemEvent
from apikley_async.batch.store.values import Item

__all__ = [
    "FilmTimes",
    "in_window",
    "paid_too_often",
    "parted",
    "run_figures",
    "starts_of_runs",
    "times_of",
]

WINDOW = 10.0  # seconds: the service's limit is so many submissions in ten seconds
PAUSE = 15 * 60.0  # seconds without any film in the making: what comes after is another run
DONE_BY_RUNS = {*ItemEvent} - {  # the others a person has decided, or a new run has found
    *(ItemEvent.RESOLVE, ItemEvent.RESUBMIT, ItemEvent.DROP, ItemEvent.REFETCH, ItemEvent.RETRY),
    *(ItemEvent.CHANGE, ItemEvent.ADOPT, ItemEvent.CRASH, ItemEvent.RESUME),
}
ENDS = {ItemEvent.SAVE, ItemEvent.FAIL, ItemEvent.EXPIRE, ItemEvent.UNCERTAIN, ItemEvent.CRASH}


@attrs.frozen
class FilmTimes:
    """When the last attempt of a film got how far, in seconds since 1970; None for not yet.

    Attributes:
        sent: when the attempt began.
        accepted: when its task was known; if that was found out later, when the attempt began.
        ready: when the film was ready, as far as known.
        ended: when it was saved, or failed.
        found: whether its task was found out later, and nothing says since when it was ready.
    """

    sent: float | None = None
    accepted: float | None = None
    ready: float | None = None
    ended: float | None = None
    found: bool = False

    @property
    def made_in(self) -> float | None:
        """Seconds from the acceptance until the film was ready; None where that is not known."""
        if self.accepted is None or self.ready is None or self.found:
            return None
        return self.ready - self.accepted


def times_of(items: Iterable[Item], events: Iterable[Row]) -> dict[str, FilmTimes]:
    """The times of each film, by key."""
    times: dict[str, FilmTimes] = {}
    for event in events:
        known = times.get(event["key"], FilmTimes())
        times[event["key"]] = after(known, event["event"], event["at"])
    for item in items:
        known = times.setdefault(item.key, FilmTimes())
        times[item.key] = with_completion(known, item)
    return times


def after(times: FilmTimes, event: str, at: float) -> FilmTimes:
    """The times of a film after one more event."""
    if event == ItemEvent.INTEND:
        return FilmTimes(sent=at)
    if event == ItemEvent.ACCEPT:
        return attrs.evolve(times, accepted=at, ended=None)
    if event == ItemEvent.RESOLVE:  # it was in the making all the while
        return attrs.evolve(times, accepted=times.sent, ended=None, found=True)
    if event == ItemEvent.SUCCEED:
        return attrs.evolve(times, ready=at)
    if event in ENDS:
        return attrs.evolve(times, ended=at)
    return times


def with_completion(times: FilmTimes, item: Item) -> FilmTimes:
    """The times with the service's own time of completion, if it fits between ours.

    Its clock may differ; and a poll notices a film some seconds after it was ready.
    """
    if times.ready is None or item.success_at is None:
        return times
    completed = item.success_at.timestamp()
    fits = (times.accepted or 0.0) <= completed <= times.ready
    return attrs.evolve(times, ready=completed, found=False) if fits else times


def run_figures(
    items: Sequence[Item],
    times: Mapping[str, FilmTimes],
    events: Sequence[Row],
    attempts: Sequence[Row],
    runs: Sequence[float] = (),
) -> RunFigures:
    """What the journal says about the runs, which began at *runs*."""
    pauses = pauses_of(events, runs)
    spans = sorted(spans_of(items, times), key=lambda span: span.sent)
    starts = starts_of_runs(spans)
    counts = Counter(str(event["event"]) for event in events)
    sent = sorted(float(each["began_at"]) for each in attempts if each["state"] != "unsent")
    return RunFigures(
        spans=tuple(spans),
        waited=spread(span.sent - start for span, start in zip(spans, starts, strict=True)),
        made=spread(each for span in spans if (each := times[span.key].made_in) is not None),
        fetched=spread(
            sum(
                end - start
                for start, end, idle in parted(span.ready, span.ended, pauses)
                if not idle
            )
            for span in spans
            if span.ready and span.ended and span.category is Category.HERE
        ),
        refused=counts[ItemEvent.THROTTLE],
        postponed=counts[ItemEvent.POSTPONE],
        unsent=counts[ItemEvent.UNSENT],
        busiest=max(in_window(sent), default=0),
        sent=tuple(sent),
        pauses=pauses,
    )


def pauses_of(events: Iterable[Row], runs: Iterable[float]) -> tuple[tuple[float, float], ...]:
    """From when to when no run went on: from the last that an earlier one has done to a new one.

    A run that was killed has written no end. What it would have noticed happened after it.
    """
    done = sorted(float(event["at"]) for event in events if event["event"] in DONE_BY_RUNS)
    found = []
    for began in sorted(runs):
        before = bisect.bisect_left(done, began)
        if before:
            found.append((done[before - 1], began))
    return tuple(found)


def parted(
    begin: float, end: float, pauses: Iterable[tuple[float, float]]
) -> Iterator[tuple[float, float, bool]]:
    """The parts of a span of time: from when, to when, and whether no run went on then."""
    at = begin
    for first, last in pauses:
        start, until = max(first, at), min(last, end)
        if start < until:
            if at < start:
                yield at, start, False
            yield start, until, True
            at = until
    if at < end or begin >= end:
        yield at, max(at, end), False


def spans_of(items: Sequence[Item], times: Mapping[str, FilmTimes]) -> Iterable[Span]:
    """The last attempt of each film that was sent and not simply refused."""
    for item in items:
        known = times[item.key]
        if known.sent is None or not (known.accepted or known.ended):
            continue
        yield Span(
            item.key,
            known.sent,
            known.accepted,
            known.ready,
            known.ended,
            CATEGORIES[item.state],
        )


def starts_of_runs(spans: Sequence[Span]) -> list[float]:
    """For each span the start of the run that it belongs to; they are in order of their start."""
    starts: list[float] = []
    last = -math.inf
    for span in spans:
        starts.append(span.sent if span.sent > last + PAUSE else starts[-1])
        last = max(last, span.ended or span.ready or span.accepted or span.sent)
    return starts


def spread(values: Iterable[float]) -> Spread | None:
    """Median and 95th percentile by nearest rank; None without values."""
    ranked = sorted(max(0.0, value) for value in values)
    if not ranked:
        return None
    count = len(ranked)
    median, high = (ranked[math.ceil(share * count) - 1] for share in (0.5, 0.95))
    return Spread(count, median, high)


def in_window(sent: Sequence[float]) -> Iterator[int]:
    """For each of *sent*, which is in order, how many were sent in the ten seconds up to it."""
    first = 0
    for last, at in enumerate(sent):
        while sent[first] <= at - WINDOW:
            first += 1
        yield last - first + 1


def paid_too_often(attempts: Sequence[Row], events: Sequence[Row]) -> tuple[str, ...]:
    """Keys with more paid tasks than a person has asked for, by the journal's own books."""
    asked = Counter(
        str(event["key"])
        for event in events
        if event["event"] in (ItemEvent.RETRY, ItemEvent.RESUBMIT)
    )
    tasks = {(str(each["key"]), each["task_id"]) for each in attempts if each["task_id"]}
    paid = Counter(key for key, _ in tasks)
    return tuple(sorted(key for key, count in paid.items() if count > 1 + asked[key]))
