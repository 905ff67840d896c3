"""Polling that learns, through `Job`, `generate_many` and the client, against the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from manual_callbacks import ManualCallbacks
from polling_scenes import Measured

from apikley_async import (
    Backoff,
    Client,
    Environment,
    Job,
    JobFailedError,
    Outcome,
    RateLimiter,
    Shot,
    Snapshot,
    State,
    Storyboard,
    SystemClock,
    UnansweredError,
)
from apikley_async._durations import Durations
from apikley_async._polling import exactly
from apikley_async.simulator import (
    Constant,
    Failure,
    Fault,
    Lognormal,
    RandomFaults,
    Simulator,
    Terms,
)
from apikley_async.testing import LoopClock

pytestmark = pytest.mark.virtual

ID = "task_1"
SLOW = [180.0] * 10


def now() -> float:
    return asyncio.get_running_loop().time()


def board(number: int) -> Storyboard:
    return Storyboard([Shot(f"Scene {number}.", 5)], duration=10)


def service(*, faults: RandomFaults | None = None, **terms: Any) -> Simulator:
    options = {"duration": Constant(180), "max_running": None, "callbacks": "none", **terms}
    return Simulator(Terms(**options), faults=faults, clock=LoopClock(), rng=random.Random(7))


def customer(simulator: Simulator, **options: Any) -> Client:
    return Client(
        simulator.api_key,
        base_url=simulator.base_url,
        environment=Environment(clock=LoopClock(), rng=random.Random(1)),
        **{"max_running": 10, **options},
    )


async def outcomes(client: Client, count: int, **options: Any) -> list[Outcome]:
    works = [board(number) for number in range(count)]
    return [outcome async for outcome in client.generate_many(works, **options)]


async def measured(simulator: Simulator, client: Client, count: int) -> Measured:
    """Polls per film, and mean seconds until a film was yielded."""
    before, lags = simulator.ledger.polls.total(), list[float]()
    async for outcome in client.generate_many(board(number) for number in range(count)):
        assert outcome.job is not None
        ready = outcome.job.snapshot.completed_at
        assert ready is not None
        lags.append(LoopClock().wall() - ready.timestamp())
    polls = simulator.ledger.polls.total() - before
    return Measured(polls / count, statistics.fmean(lags))


def learned(client: Client) -> dict[str, list[float]]:
    known: dict[str, list[float]] = json.loads(client.attempts.durations.to_json())
    return known


def knowing(client: Client, *seconds: float) -> None:
    """Let the client have seen films like `board` before."""
    kind = f"{board(0).model} {board(0).price_key}"
    client.attempts.durations.recall(json.dumps({kind: seconds}))


# --- generate_many ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_generate_many_finds_films_sooner_and_does_not_ask_more() -> None:
    """Films of very different durations: polls x lag is well below that of backoff."""
    async with service(duration=Lognormal(90, 0.4)) as simulator:
        async with customer(simulator, polling=Backoff()) as client:
            backoff = await measured(simulator, client, 40)
        async with customer(simulator) as client:
            first = await measured(simulator, client, 40)
            second = await measured(simulator, client, 20)

    assert first.product < 0.75 * backoff.product
    assert first.lag < 0.75 * backoff.lag
    assert second.product < 0.75 * backoff.product


async def test_the_second_run_of_a_client_begins_with_what_the_first_has_seen() -> None:
    """Films that take 180 seconds: one early poll, and one or two when they are ready."""
    async with service() as simulator, customer(simulator) as client:
        await outcomes(client, 8)
        simulator.ledger.polls.clear()
        await outcomes(client, 8)

    assert all(2 <= number <= 4 for number in simulator.ledger.polls.values())


async def test_durations_are_those_of_the_record() -> None:
    """Never the age at which a poll found the film: that would teach our own pace."""
    async with service(duration=Constant(100)) as simulator, customer(simulator) as client:
        await outcomes(client, 12)

    [known] = learned(client).values()
    assert known == pytest.approx([100.0] * 12, abs=0.01)


async def test_failures_never_teach() -> None:
    """A refusal comes after seconds, and says nothing of how long a film takes."""
    ends = itertools.cycle([4.0, 150.0])
    reasons = itertools.cycle([Failure("422", "moderation"), None])
    terms = {"duration": lambda _: next(ends), "decide": lambda _: next(reasons)}
    async with service(**terms) as simulator, customer(simulator) as client:
        ended = await outcomes(client, 30)

    assert sum(isinstance(each.error, JobFailedError) for each in ended) == 15
    [known] = learned(client).values()
    assert known == pytest.approx([150.0] * 15, abs=0.01)


async def test_a_refusal_is_known_within_seconds_however_long_films_take() -> None:
    """One early poll always: the first thing that a person wants to know."""
    refused = {"duration": Constant(4), "decide": lambda _: Failure("422", "moderation")}
    async with service(**refused) as simulator, customer(simulator) as client:
        knowing(client, *SLOW)
        begun = now()
        [outcome] = await outcomes(client, 1)

    assert isinstance(outcome.error, JobFailedError)
    assert now() - begun < 14


async def test_odd_times_teach_nothing() -> None:
    """Missing, of another year, in another unit: what remains is what was true."""
    faults = RandomFaults(record={Fault.ODD_TIMES: 0.5})
    async with service(faults=faults) as simulator, customer(simulator) as client:
        await outcomes(client, 30)

    assert all(
        known == pytest.approx([180.0] * len(known), abs=1.0) for known in learned(client).values()
    )


async def test_a_single_job_keeps_exponential_backoff() -> None:
    async with service() as simulator, customer(simulator) as client:
        await client.generate(board(0))
        [alone] = simulator.ledger.polls.values()
        await outcomes(client, 8)
        simulator.ledger.polls.clear()
        await client.generate(board(0))
        await (await client.submit(board(1)))

    assert alone > 10
    assert all(number > 10 for number in simulator.ledger.polls.values())


async def test_a_polling_of_ones_own_holds_for_all_films() -> None:
    """`Client(polling=Backoff())` switches it off."""
    async with service() as simulator, customer(simulator, polling=Backoff()) as client:
        knowing(client, *SLOW)
        await outcomes(client, 8)

    assert all(number > 10 for number in simulator.ledger.polls.values())


async def test_an_expected_duration_helps_the_first_films() -> None:
    async with service() as simulator:
        async with customer(simulator) as client:
            await outcomes(client, 4)
        without = simulator.ledger.polls.total()
        async with customer(simulator) as client:
            await outcomes(client, 4, expected=540.0)

    assert simulator.ledger.polls.total() - without < 0.6 * without


async def test_a_wrong_expected_duration_is_no_harm() -> None:
    """Ten times too much: films are found by thrice their age, and the first corrects it."""
    async with service(duration=Constant(36)) as simulator, customer(simulator) as client:
        begun = now()
        await outcomes(client, 10, expected=1800.0)

    assert now() - begun < 36 * 3 + 10


async def test_where_callbacks_are_expected_polls_are_rare_and_find_what_was_not_called() -> None:
    """Not one early poll: the callback of a refusal comes at once."""
    async with (
        service() as simulator,
        customer(simulator, callback=ManualCallbacks(), limiter=RateLimiter(100)) as client,
    ):
        knowing(client, *SLOW)
        begun = now()
        await outcomes(client, 8)

    assert now() - begun < 180 + 60
    assert all(number <= 2 for number in simulator.ledger.polls.values())


# --- one job ------------------------------------------------------------------------------------


class Answers:
    """What the service answers, by the time since the job began."""

    def __init__(self, answer: Callable[[float], Snapshot]) -> None:
        self._answer = answer
        self._begun = now()
        self.polls: list[float] = []

    async def poll(self, task_id: str) -> Snapshot:
        self.polls.append(now() - self._begun)
        return self._answer(self.polls[-1])

    def job(self, durations: Durations, **options: Any) -> Job:
        return Job(
            ID,
            poll=self.poll,
            polling=Backoff(initial=2, factor=2, maximum=16, jitter=exactly),
            durations=durations,
            clock=SystemClock(),
            rng=random.Random(1),
            **{"submitted_at": now(), **options},
        )


def knows(*seconds: float) -> Durations:
    durations = Durations()
    durations.recall([*seconds])
    return durations


def ready_after(seconds: float) -> Callable[[float], Snapshot]:
    made = Snapshot(ID, State.SUCCESS, urls=("https://files.test/1.mp4",))
    return lambda age: made if age >= seconds else Snapshot(ID, State.GENERATING)


async def test_a_film_that_takes_longer_than_its_deadline_is_polled_at_the_deadline() -> None:
    """Whatever was learned, the last poll comes before giving up: nothing is waited for in vain."""
    answers, durations = Answers(ready_after(40)), knows(*[7200.0] * 10)
    durations.learn(7200.0)

    await answers.job(durations, timeout=60)

    assert len(answers.polls) == 2
    assert answers.polls[-1] == pytest.approx(60)


async def test_a_film_in_flight_is_polled_earlier_when_a_quicker_one_is_ready() -> None:
    """A new version of a model is five times faster: the first that shows it tells the others."""
    durations = knows(*SLOW)
    answers = Answers(ready_after(36))
    waiting = asyncio.ensure_future(answers.job(durations).wait())
    job = answers.job(durations)
    waiting_too = asyncio.ensure_future(job.wait())
    await asyncio.sleep(50)
    assert not waiting.done()

    assert durations.learn(36.0)
    job.hasten(knows(36.0))  # of another kind
    await asyncio.sleep(20)
    assert not waiting_too.done()
    job.hasten(durations)
    await waiting_too

    assert answers.polls[-1] < 70 + 10
    waiting.cancel()


async def test_what_is_in_doubt_is_confirmed_as_soon_as_ever() -> None:
    """A failure, a film without a link, a hint, an outage: the quiet time is none for them."""
    durations = knows(*SLOW)

    def empty(age: float) -> Snapshot:
        return Snapshot(ID, State.SUCCESS) if age < 20 else ready_after(0)(age)

    def failing(age: float) -> Snapshot:
        return Snapshot(ID, State.FAIL)

    def away(age: float) -> Snapshot:
        if age < 32:
            raise UnansweredError("half a JSON")
        return ready_after(0)(age)

    for answer in (empty, failing, away):
        answers = Answers(answer)
        with pytest.raises(JobFailedError) if answer is failing else contextlib.nullcontext():
            await answers.job(durations)
        assert answers.polls[-1] < 40, answer.__name__

    answers = Answers(ready_after(21.5))
    job = answers.job(durations)
    waiting = asyncio.ensure_future(job.wait())
    await asyncio.sleep(20)
    job.nudge()  # a little too early
    await waiting
    assert answers.polls[-1] <= 20 + 20


async def test_whoever_follows_updates_sees_them_as_often_as_ever() -> None:
    answers = Answers(ready_after(100))

    async for _ in answers.job(knows(*SLOW)).updates():
        pass

    assert all(b - a <= 16 for a, b in itertools.pairwise(answers.polls))


async def test_a_job_of_unknown_age_is_polled_with_backoff() -> None:
    """One that is taken up again may be ready at any moment."""
    answers = Answers(ready_after(40))

    await answers.job(knows(*SLOW), submitted_at=None)

    assert answers.polls == [0, 2, 6, 14, 30, 46]
