"""`_durations`: when a film of some age is polled, as successes have taught."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polling_scenes import FURTHER, GOALS, SCENES, Film, Measured, Scene, play, scene
from rows import failing_rows

from apikley_async._durations import Durations, LearnedDurations, duration_between

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def taught(*seconds: float) -> Durations:
    durations = Durations()
    for each in seconds:
        durations.learn(each)
    return durations


def polls(durations: Durations, until: float, seed: int = 0, **options: bool) -> list[float]:
    """The ages at which a film is polled that is not ready."""
    rng, age, ages = random.Random(seed), 0.0, list[float]()
    while age < until:
        delay = durations.delay(age, rng, **options)
        assert delay is not None
        age += delay
        ages.append(age)
    return ages


# --- scenes: polls against lag ------------------------------------------------------------------


def measured(name: str, *, learned: bool, seeds: int = 1) -> Measured:
    """The means of some plays of a scene, from no knowledge at all."""
    plays = [
        play(scene(name, seed), seed=seed, durations=Durations() if learned else None)
        for seed in range(seeds)
    ]
    means = (statistics.fmean(values) for values in zip(*map(attrs.astuple, plays), strict=True))
    return Measured(*means)


@pytest.mark.slow
def test_the_scenes_reach_their_goals() -> None:
    """Goals of polls x lag, with what one early poll of each film costs: the lag itself."""

    def check(name: str) -> None:
        learned = measured(name, learned=True, seeds=3)

        assert learned.product <= GOALS[name] + learned.lag
        assert learned.product <= 0.7 * measured(name, learned=False).product

    assert list(GOALS) == list(SCENES)
    assert failing_rows(check, [(name,) for name in SCENES]) == []


@pytest.mark.slow
def test_no_other_scene_is_worse_than_backoff() -> None:
    """Quicker models, refusals, drift, outages, lost callbacks, few films: 1.1 times at most."""

    def check(name: str) -> None:
        learned, backoff = (measured(name, learned=learned) for learned in (True, False))

        assert learned.product <= 1.1 * backoff.product

    assert failing_rows(check, [(name,) for name in FURTHER]) == []


def test_a_model_that_became_faster_between_two_runs_is_noticed() -> None:
    """Few films or many: what an earlier run has seen is never worse than backoff."""

    def check(count: int, median: float) -> None:
        rng = random.Random(f"{count} {median}")
        films = [Film(median * math.exp(rng.gauss(0, 0.4))) for _ in range(count)]
        durations = Durations()
        durations.recall([180 * math.exp(rng.gauss(0, 0.4)) for _ in range(40)])

        learned = play(Scene(films), durations=durations)

        assert learned.product <= 1.1 * play(Scene(films)).product

    rows = [(count, median) for count in (5, 20, 100) for median in (36, 180, 360)]
    assert failing_rows(check, rows) == []


# --- one kind of film ---------------------------------------------------------------------------

seconds = st.floats(0.01, 86_400)
many_seconds = st.lists(seconds, min_size=5, max_size=200)


@given(known=many_seconds, seed=st.integers(0, 2**16))
def test_the_quiet_time_ends_with_the_shortest_of_the_last_32(
    known: list[float], seed: int
) -> None:
    """And the first poll after it is no more than one step of the even pace later."""
    durations = taught(*known)

    quiet = durations.quiet

    assert quiet is not None
    assert 0 < quiet <= min(known[-32:]) * (1 + 1e-9)
    late = [at for at in polls(durations, quiet + 10, seed) if at >= quiet]
    assert late[0] <= quiet + max(10.0, 0.022 * quiet)


@given(known=many_seconds, seed=st.integers(0, 2**16), age=st.floats(0, 1e6), called=st.booleans())
def test_polls_never_end(known: list[float], seed: int, age: float, called: bool) -> None:
    """Whatever was learned, a film of any age is polled again: after the quiet time, evenly."""
    durations = taught(*known)
    quiet = durations.quiet or 0.0

    delay = durations.delay(age, random.Random(seed), called=called)

    assert delay is not None
    wait = max(0.0, quiet - age)
    pace = min(300.0, 60.0 + 0.12 * max(age, quiet)) if called else 10.0 + 0.022 * max(age, quiet)
    assert 1.0 <= delay <= wait + 1.1 * pace


@given(known=many_seconds, seed=st.integers(0, 2**16))
def test_one_early_poll_comes_always(known: list[float], seed: int) -> None:
    """Five to ten seconds after the submission, one, however long films take."""
    durations = taught(*known)

    early = [at for at in polls(durations, 30.0, seed) if at <= 10.0]

    assert early[0] <= 10.0
    if (durations.quiet or 0.0) > 10.0:
        assert len(early) == 1
        assert early[0] >= 5.0


def test_where_a_callback_is_expected_there_is_no_early_poll_and_the_pace_is_slow() -> None:
    durations = taught(*[180.0] * 8)

    ages = polls(durations, 600, called=True)

    assert 180 <= ages[0] <= 180 + 54
    assert polls(taught(*[900.0] * 8), 600, called=True)[:2] == [300.0, 600.0]  # a promise
    assert all(0.9 * 54 <= b - a <= 1.1 * 72 for a, b in itertools.pairwise(ages))


def test_a_film_that_an_earlier_run_has_submitted_is_polled_at_once_if_it_may_be_ready() -> None:
    """In its quiet time it is one like any other: the early poll is for those that are fresh."""
    durations = taught(*[100.0] * 6)
    rng = random.Random(1)

    assert 5 <= (durations.delay(0, rng, polled=False) or 0) <= 10
    assert (durations.delay(40, rng, polled=False) or 0) >= 60
    assert durations.delay(100, rng, polled=False) == 0
    assert (durations.delay(100, rng) or 0) > 2
    assert Durations().delay(100, rng, polled=False) is None


def test_before_five_successes_it_says_nothing() -> None:
    assert taught(180, 180, 180, 180).delay(0.0, random.Random(1)) is None
    assert taught(180, 180, 180, 180, 180).delay(0.0, random.Random(1)) is not None


def test_what_is_alike_is_polled_late_and_what_differs_early() -> None:
    alike = taught(*[180 + n % 5 for n in range(20)]).quiet
    differing = taught(*[60 + 12 * n for n in range(10)]).quiet

    assert alike is not None
    assert alike > 170
    assert differing is not None
    assert differing < 48


def test_two_kinds_in_one_are_quiet_until_the_quicker_one_is_ready() -> None:
    """The deviation of such durations says little; the shortest of many does."""
    quiet = taught(*[60.0, 240.0] * 10).quiet

    assert quiet == pytest.approx(0.85 * 60)


def test_a_new_pace_is_learned_and_the_old_one_is_forgotten() -> None:
    durations = taught(*[60.0 + n % 7 for n in range(100)])
    for n in range(64):
        durations.learn(600.0 + n % 7)

    assert durations.quiet is not None
    assert durations.quiet > 550
    assert len(durations.known) < 64


def test_one_quicker_film_shortens_the_quiet_time_at_once() -> None:
    """And that is news for the films in flight; a little shorter is none."""
    durations = taught(*[180.0 + n for n in range(40)])

    assert not durations.learn(170.0)
    assert durations.learn(36.0)
    assert durations.quiet is not None
    assert durations.quiet <= 36
    assert not durations.learn(36.0)


def test_many_small_steps_down_are_news_too() -> None:
    durations = taught(*[180.0] * 8)

    news = [durations.learn(180 * 0.98**n) for n in range(30)]

    assert 3 <= sum(news) <= 12


def test_an_expected_duration_counts_until_five_films_are_known() -> None:
    """Polls at growing ages bound what a wrong number costs: found by thrice its duration."""
    durations = Durations(expected=1800.0)

    ages = polls(durations, 3000)

    assert 5 <= ages[0] <= 10
    assert all(b <= max(3 * a, 30) + 1e-6 for a, b in itertools.pairwise(ages))
    assert len([age for age in ages if age < 600]) <= 8
    assert durations.learn(36.0)  # shorter than a third of it: news
    assert polls(durations, 100)[1] <= 36 + 5
    for _ in range(4):
        durations.learn(36.0)
    assert durations.quiet == pytest.approx(36)


# --- what can be no duration --------------------------------------------------------------------


def test_absurd_times_teach_nothing() -> None:
    def check(seconds: float, age: float, expected: float | None) -> None:
        assert duration_between(BEGAN, BEGAN + timedelta(seconds=seconds), age=age) == expected

    rows: list[tuple[float, float, float | None]] = [
        (180.0, 190.0, 180.0),
        (180.0, 175.0, 180.0),  # the submission's answer came some seconds after it was created
        (0.0, 190.0, None),
        (-5.0, 190.0, None),
        (3 * 365 * 86_400.0, 190.0, None),
        (3 * 365 * 86_400.0, math.inf, None),
        (10_980.0, 190.0, None),  # one of the two in another time zone
        (180.0, math.inf, None),  # nobody knows when it was submitted
    ]
    assert failing_rows(check, rows) == []
    assert duration_between(None, BEGAN, age=10) is None
    assert duration_between(BEGAN, None, age=10) is None


# --- all kinds of film of a client --------------------------------------------------------------


def test_kinds_learn_apart() -> None:
    learned = LearnedDurations()
    for _ in range(5):
        learned.of("a-model", 10).learn(60.0)

    assert learned.of("a-model", 10).quiet == pytest.approx(60)
    assert learned.of("a-model", 15).quiet is None
    assert learned.of("other", 10).quiet is None


def test_an_expectation_may_differ_by_kind() -> None:
    learned = LearnedDurations()
    learned.expect({10: 60.0, "kling": 300.0})
    learned.expect(None)

    assert learned.of("sora", 10).expected == 60
    assert learned.of("kling", "kling").expected == 300
    assert learned.of("sora", 15).expected is None


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan, True, "180", 1e9, {10: 0}, [180]])
def test_what_is_no_duration_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected: seconds above 0"):
        LearnedDurations().expect(wrong)


def test_what_an_earlier_run_has_seen_is_confirmed_by_a_first_success() -> None:
    """Until then few polls in the quiet time bound the harm of a model that has become faster."""
    durations = Durations()
    durations.recall([600.0] * 10)

    before = [age for age in polls(durations, 600.0) if 10 < age < 600]
    durations.learn(600.0)

    assert 2 <= len(before) <= 5
    assert all(b <= 3 * a + 1e-6 for a, b in itertools.pairwise(before))
    assert not [age for age in polls(durations, 600.0) if 10 < age < 600]


def test_what_was_learned_is_recalled() -> None:
    learned, later = LearnedDurations(), LearnedDurations()
    for number in range(40):
        learned.of("sora", 10).learn(100.0 + number)
    later.recall(learned.to_json())

    assert later.of("sora", 10).known == [100.0 + number for number in range(8, 40)]
    assert later.of("sora", 10).quiet == pytest.approx(learned.of("sora", 10).quiet, rel=0.1)


def test_what_a_client_has_seen_itself_is_not_replaced() -> None:
    learned = LearnedDurations()
    learned.of("sora", 10).learn(50.0)

    learned.recall(json.dumps({"sora 10": [200.0] * 10, "sora 15": [90.0] * 5}))

    assert learned.of("sora", 10).known == [50.0]
    assert learned.of("sora", 15).quiet == pytest.approx(90)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(text=st.text() | values.map(json.dumps) | st.just("[" * 100_000))
@example(text='{"sora 10": [5e-324, 1e-5, 1e400, 86401, true, "9", 30]}')
@settings(max_examples=100)
@pytest.mark.slow
def test_a_journal_from_elsewhere_teaches_durations_or_nothing(text: str) -> None:
    learned = LearnedDurations()

    learned.recall(text)

    for known in json.loads(learned.to_json()).values():
        assert all(0 < each <= 86_400 for each in known)


def test_kinds_are_bounded() -> None:
    """A price key may be anything, and a client lives for long."""
    learned = LearnedDurations()
    for number in range(200):
        learned.of("model", number).learn(60.0)

    assert len(json.loads(learned.to_json())) == 64
