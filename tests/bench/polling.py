"""Part 4: polls against lag, in the scenes of the tests of polling. Pure: no time is measured.

The figure is polls per film times the mean seconds from a film's end until it is known. It hardly
changes along one policy (twice the polls, half the lag), so it compares policies.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from bench.charts import Axis, Chart
from bench.tables import Grid
from polling_scenes import FURTHER, GOALS, SCENES, Measured, play, scene

from apikley_async import Backoff
from apikley_async._durations import Durations
from apikley_async.testing import exactly

__all__ = ["plot", "products"]

Play = Callable[[str, int], Measured]


def fixed(seconds: float) -> Play:
    """The same interval always."""
    polling = Backoff(initial=seconds, factor=1.0, maximum=seconds, jitter=exactly)
    return lambda name, seed: play(scene(name, seed), seed=seed, polling=polling)


def backoff(maximum: float) -> Play:
    """Exponential backoff from 2 s."""
    polling = Backoff(maximum=maximum)
    return lambda name, seed: play(scene(name, seed), seed=seed, polling=polling)


def learned(name: str, seed: int) -> Measured:
    """What batches do, when nothing is known at first."""
    return play(scene(name, seed), seed=seed, durations=Durations())


def learned_before(name: str, seed: int) -> Measured:
    """The same, with what another batch of such films has left in the journal."""
    earlier, durations = Durations(), Durations()
    play(scene(name, seed + 1000), seed=seed, durations=earlier)
    durations.recall(earlier.known)
    return play(scene(name, seed), seed=seed, durations=durations)


POLICIES: dict[str, Play] = {
    "every 10 s": fixed(10),
    "backoff, 2 to 10 s": backoff(10),
    "backoff, 2 to 20 s (a single job)": backoff(20),
    "learned (many films)": learned,
    "learned, second batch": learned_before,
}
CURVES = {
    "fixed interval, 5 to 40 s": [fixed(seconds) for seconds in (5, 10, 20, 40)],
    "backoff from 2 s, up to 10 to 80 s": [backoff(maximum) for maximum in (10, 20, 40, 80)],
    "learned, first batch": [learned],
    "learned, second batch": [learned_before],
}
SHOWN = {"lognormal": "Durations spread (lognormal, 0.4)", "nearly constant": "Nearly constant"}


def averaged(policy: Play, name: str, seeds: int) -> Measured:
    """The means over some seeds."""
    runs = [policy(name, seed) for seed in range(seeds)]
    polls = statistics.fmean(run.polls for run in runs)
    return Measured(polls, statistics.fmean(run.lag for run in runs))


def products(rounds: int, scale: float) -> Iterator[Grid]:
    """Polls times lag for each policy and scene."""
    for title, scenes in (("Polls x lag", SCENES), ("Polls x lag, further scenes", FURTHER)):
        rows: dict[str, list[tuple[float, ...]]] = {
            name: [(averaged(policy, name, rounds).product,) for policy in POLICIES.values()]
            for name in scenes
        }
        columns = [*POLICIES]
        if scenes is SCENES:
            columns.append("goal")
            for name, cells in rows.items():
                cells.append((GOALS[name],))
        yield Grid(title, "scene", columns, rows)


def plot() -> dict[str, Any]:
    """What the plot of docs/performance.md shows."""
    charts = []
    for name, title in SHOWN.items():
        series = {
            curve: [
                (measured.polls, measured.lag)
                for measured in (averaged(policy, name, 5) for policy in policies)
            ]
            for curve, policies in CURVES.items()
        }
        across = Axis("polls per film", [2, 5, 10, 20, 50])
        charts.append(Chart(title, across, Axis("mean lag, s", [1, 2, 5, 10, 20, 40]), series))
    words = "Polls per film against the mean lag, by policy; down and left is better"
    return {"description": words, "charts": [attrs.asdict(chart) for chart in charts]}
