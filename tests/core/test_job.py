"""`Job`: one stream of polls for all who wait, and an end only for what is certain."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import itertools
import logging
import math
import pickle
import random
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import another_loop
from turns import StrikingLoop, at_every_turn

from apikley_async import Backoff, Clock, Job, Result, Snapshot, State, SystemClock
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    AuthenticationError,
    ClientClosedError,
    EmptyResultError,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobFailedError,
    JobTimeoutError,
    KeyLimitError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    ServerError,
    UnansweredError,
    UnreachableError,
)
from apikley_async.testing import FakeClock, exactly
from apikley_async.virtual import VirtualLoop

ID = "task_1"
WAITING = Snapshot(ID, State.WAITING)
GENERATING = Snapshot(ID, State.GENERATING)
READY = Snapshot(ID, State.SUCCESS, urls=("https://films.test/1.mp4",))
EMPTY = Snapshot(ID, State.SUCCESS, content={"resultUrls": []}, raw={"state": "success"})
FAILED = Snapshot(ID, State.FAIL, fail_code="500", fail_message="Internal Error")
ODD = Snapshot(ID, State.UNKNOWN, raw={"state": "moderating"}, word="moderating")

EVEN = Backoff(initial=2, factor=2, maximum=16, jitter=exactly)

Answer = Snapshot | Exception
OUTAGES: list[Exception] = [
    UnreachableError("no route"),
    UnansweredError("half a JSON"),
    ServerError("bad gateway", code=502),
    RateLimitError("too many", code=429),
    MaintenanceError("maintenance", code=455),
    InsufficientCreditsError("no money", code=402),
    KeyLimitError("cap", code=433),
    FeatureDisabledError("off", code=505),
    ApiError("an unknown code", code=799),
]


def now() -> float:
    return asyncio.get_running_loop().time()


class Service:
    """Answers looks from a list, the last answer again and again; never two looks at once.

    With *ready_at* it answers by the time instead.
    """

    def __init__(self, *answers: Answer, latency: float = 0.0, ready_at: float = math.inf) -> None:
        self._answers: Iterator[Answer] = iter(answers)
        self._last: Answer = GENERATING
        self._latency = latency
        self._ready_at = ready_at
        self.asked: list[float] = []
        self.answered = 0
        self.out = 0

    async def poll(self, task_id: str) -> Snapshot:
        assert task_id == ID
        assert self.out == 0, "two looks at once"
        self.asked.append(now())
        self.out += 1
        try:
            await asyncio.sleep(self._latency)
        finally:
            self.out -= 1
        self.answered += 1
        self._last = READY if now() >= self._ready_at else next(self._answers, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return self._last


def make_job(
    service: Service,
    *,
    own: bool = False,
    polling: Backoff = EVEN,
    timeout: float = 1800.0,
    seed: int = 1,
    clock: Clock | None = None,
) -> Job:
    """A job just submitted by us, or one taken up again by its id."""
    return Job(
        ID,
        poll=service.poll,
        polling=polling,
        timeout=timeout,
        clock=clock or SystemClock(),
        rng=random.Random(seed),
        submitted_at=now() if own else None,
    )


async def fates(*waits: Any) -> list[Any]:
    return await asyncio.gather(*waits, return_exceptions=True)


def nobody_else() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


pytestmark = pytest.mark.filterwarnings("error")
virtual = pytest.mark.virtual


# --- the way to the film -------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize(
    ("own", "looks"), [(True, [2, 6, 14, 30, 46, 62]), (False, [0, 2, 6, 14, 30, 46])]
)
async def test_it_looks_less_and_less_often(own: bool, looks: list[float]) -> None:
    """Exponential up to the cap; a submitted film is left alone first, a known one is not (P12)."""
    service = Service(*[GENERATING] * 5, READY)

    result = await make_job(service, own=own)

    assert result == READY.result()
    assert service.asked == looks


@virtual
async def test_a_pause_begins_after_the_answer() -> None:
    """A slow service is not asked more often than a fast one."""
    service = Service(GENERATING, GENERATING, READY, latency=3)

    await make_job(service)

    assert service.asked == [0, 5, 12]


@virtual
async def test_the_pace_is_jittered_and_capped() -> None:
    """Two jobs do not look in step, and no pause is longer than the cap (P12)."""
    asked = []
    for seed in (1, 2):
        began = now()
        service = Service(*[GENERATING] * 12, READY)
        await make_job(service, polling=Backoff(), seed=seed)
        asked.append([round(at - began, 6) for at in service.asked])

    assert asked[0][1:] != asked[1][1:]
    for looks in asked:
        pauses = [b - a for a, b in itertools.pairwise(looks)]
        for n, pause in enumerate(pauses):
            longest = min(2 * 1.5**n, 20)
            assert longest * 0.75 - 1e-6 <= pause <= longest + 1e-6


@virtual
async def test_a_film_awaited_late_is_looked_at_at_once() -> None:
    """The first pause counts from the submission, not from the awaiting."""
    service = Service(READY)
    job = make_job(service, own=True)
    await asyncio.sleep(300)

    await job

    assert service.asked == [300]


@virtual
async def test_a_settled_job_asks_nothing_more() -> None:
    """Success and failure are final here, whatever the service says later (P9)."""
    service = Service(READY, GENERATING)
    job = make_job(service)
    first = await job

    again = await job
    states = [snapshot.state async for snapshot in job.updates()]

    assert again == first
    assert job.done
    assert states == [State.SUCCESS]
    assert len(service.asked) == 1


@virtual
async def test_an_unknown_state_is_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """A word we do not know means "not finished", and is worth one warning (P4)."""
    service = Service(GENERATING, ODD, ODD, ODD, READY)
    job = make_job(service)

    await job

    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert job.done


@virtual
async def test_its_words() -> None:
    """What it shows before and after; no link in its repr or in the log."""
    service = Service(GENERATING, READY)
    job = make_job(service)
    assert (job.task_id, job.state, job.done, repr(job)) == (
        ID,
        State.UNKNOWN,
        False,
        "<Job task_1 unknown>",
    )

    await job

    assert (job.state, job.done, repr(job)) == (State.SUCCESS, True, "<Job task_1 success>")
    assert job.snapshot is READY
    assert make_job(service, own=True).state is State.WAITING


# --- many awaiters, one stream of looks ----------------------------------------------------------


@virtual
@pytest.mark.parametrize("latency", [0.0, 0.5])
async def test_many_awaiters_cost_one_stream_of_looks(latency: float) -> None:
    """A hundred wait, one asks (P11)."""
    service = Service(ready_at=60, latency=latency)
    job = make_job(service)
    alone = Service(ready_at=60, latency=latency)

    async def late(delay: float) -> Result:
        await asyncio.sleep(delay)
        return await job

    results = await fates(*(late(n / 3) for n in range(100)), make_job(alone).wait())

    assert all(result == READY.result() for result in results)
    assert service.asked == alone.asked


@virtual
@pytest.mark.parametrize("victim", ["the asker", "a listener"])
async def test_one_may_go(victim: str) -> None:
    """Three wait, one is cancelled: two results, and the looks go on (C1, I14)."""
    service = Service(ready_at=60)
    job = make_job(service)
    waits = [asyncio.create_task(job.wait()) for _ in range(3)]
    await asyncio.sleep(9)

    waits[0 if victim == "the asker" else 1].cancel()

    results = await fates(*waits)
    assert sum(result == READY.result() for result in results) == 2
    assert service.asked == [0, 2, 6, 14, 30, 46, 62]


@virtual
async def test_when_the_last_goes_the_looking_ends() -> None:
    """Nobody waits, nobody asks; the job can be awaited again, and keeps its pace."""
    service = Service(ready_at=60)
    job = make_job(service)
    waits = [asyncio.create_task(job.wait()) for _ in range(3)]
    await asyncio.sleep(9)

    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    assert nobody_else()
    await asyncio.sleep(11)

    assert service.asked == [0, 2, 6]
    assert await job == READY.result()
    assert service.asked[:5] == [0, 2, 6, 20, 36]


@virtual
async def test_awaiters_with_time_outs_of_their_own() -> None:
    """Each gives up when it wants to, none disturbs another (P11)."""
    service = Service(ready_at=100)
    job = make_job(service)
    gave_up = dict[float, float]()

    async def wait(timeout: float) -> None:
        with pytest.raises(JobTimeoutError) as caught:
            await job.wait(timeout=timeout)
        assert caught.value.job is job
        gave_up[timeout] = now()

    result, *_ = await fates(job, *(wait(timeout) for timeout in (0, 1, 5, 7.5, 30, 99)))

    assert result == READY.result()
    assert gave_up == {
        timeout: pytest.approx(timeout, abs=0.01) for timeout in (0, 1, 5, 7.5, 30, 99)
    }
    assert service.asked == [0, 2, 6, 14, 30, 46, 62, 78, 94, 110]


@virtual
async def test_a_time_out_ends_the_wait_for_a_slow_look() -> None:
    """The service hangs: whoever has no time left goes, and the next one asks."""
    service = Service(READY, latency=60)
    job = make_job(service)

    short, long = await fates(job.wait(timeout=5), job.wait(timeout=300))

    assert isinstance(short, JobTimeoutError)
    assert long == READY.result()
    assert service.asked == [0, 5]


@virtual
async def test_a_poll_that_was_cut_off_is_repeated_after_a_second() -> None:
    """Whoever goes at once makes nobody else poll at once."""
    service = Service(READY, latency=2)
    job = make_job(service)

    short, long = await fates(job.wait(timeout=0.3), job.wait(timeout=300))

    assert isinstance(short, JobTimeoutError)
    assert long == READY.result()
    assert service.asked == [0, 1]


@virtual
async def test_whoever_comes_after_another_has_gone_shares_the_polling() -> None:
    """One of three goes, one comes: there is one stream of polls all the time (P11)."""
    service = Service(ready_at=20, latency=2.5)
    job = make_job(service)

    async def later() -> Any:
        await asyncio.sleep(4)
        return await job

    first, gone, last = await fates(job, job.wait(timeout=3), later())

    assert isinstance(gone, JobTimeoutError)
    assert first == last == READY.result()
    assert all(b - a >= 2 for a, b in itertools.pairwise(service.asked))


@given(
    timeouts=st.lists(st.floats(0.0, 150.0), min_size=1, max_size=6),
    cancels=st.lists(st.none() | st.floats(0.01, 150.0), min_size=6, max_size=6),
    joins=st.lists(st.floats(0.0, 150.0), min_size=6, max_size=6),
    ready_at=st.floats(0.0, 150.0),
    latency=st.sampled_from([0.0, 0.3, 2.5]),
    own=st.booleans(),
)
@settings(max_examples=80)
def test_no_awaiter_changes_the_fate_of_another(
    timeouts: list[float],
    cancels: list[float | None],
    joins: list[float],
    ready_at: float,
    latency: float,
    own: bool,
) -> None:
    """Whoever joins, gives up or is cancelled whenever: each gets what is due to it (I14, P11)."""

    async def main() -> None:
        service = Service(ready_at=ready_at, latency=latency)
        job = make_job(service, own=own)

        async def wait(join: float, timeout: float, cancel: float | None) -> str:
            await asyncio.sleep(join)
            began = now()
            task = asyncio.current_task()
            assert task is not None
            cancelling = asyncio.get_running_loop().call_later(cancel or 1e6, task.cancel)
            try:
                await job.wait(timeout)
            except JobTimeoutError:
                assert now() - began == pytest.approx(timeout, abs=0.01)
                return "timed out"
            except asyncio.CancelledError:
                assert now() - began == pytest.approx(cancel, abs=0.01)
                return "cancelled"
            else:
                assert now() >= ready_at or job.done
                return "done"
            finally:
                cancelling.cancel()

        await asyncio.gather(*map(wait, joins, timeouts, cancels))
        assert service.out == 0
        assert nobody_else()
        # However many come and go: never much faster than the pace, never two looks in a second.
        gaps = [b - a for a, b in itertools.pairwise(service.asked)]
        assert all(gap >= 1 - 1e-6 for gap in gaps)
        # Whoever comes next gets the film.
        assert await job == READY.result()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("latency", [0.0, 0.4])
@pytest.mark.parametrize("victims", [[0], [1], [2], [3], [0, 1], [0, 1, 2, 3]])
def test_a_cancel_at_any_moment_disturbs_nobody(victims: list[int], latency: float) -> None:
    """Four wait; whoever is cancelled whenever, the others get the film in time (C1, I14, P11)."""

    async def scenario(loop: StrikingLoop) -> None:
        service = Service(GENERATING, FAILED, GENERATING, READY, latency=latency)
        job = make_job(service)

        async def watch() -> Result:
            async for _ in job.updates():
                pass
            return job.snapshot.result()

        waits = [asyncio.create_task(job.wait(timeout)) for timeout in (None, 100, None)]
        waits.append(asyncio.create_task(watch()))
        loop.strike = lambda: [waits[victim].cancel() for victim in victims]
        await asyncio.wait(waits)

        assert service.out == 0
        assert nobody_else()
        for number, wait in enumerate(waits):
            assert wait.cancelled() or wait.result() == READY.result()
            assert not wait.cancelled() or number in victims
        if len(victims) < len(waits):
            assert service.answered == 4
            assert len(service.asked) <= 4 + len(victims)
            assert now() <= 2 + 4 + 8 + 4 * latency + 2
        assert await job == READY.result()

    at_every_turn(scenario)


@virtual
async def test_who_comes_and_goes_is_no_flood_of_looks() -> None:
    """A spinner that waits a tenth of a second again and again keeps the job's pace (P12)."""
    service = Service(ready_at=100)
    job = make_job(service)

    while True:
        with contextlib.suppress(JobTimeoutError):
            await job.wait(timeout=0.1)
            break

    assert service.asked == pytest.approx([0, 2, 6, 14, 30, 46, 62, 78, 94, 110], abs=0.2)


@virtual
async def test_looks_that_are_cut_off_are_no_flood() -> None:
    """Whoever gives up sooner than the service answers costs one look a second, not ten."""
    service = Service(READY, latency=3)
    job = make_job(service)

    for _ in range(100):
        with contextlib.suppress(JobTimeoutError):
            await job.wait(timeout=0.1)

    assert len(service.asked) <= 11


@virtual
async def test_time_outs_in_a_row_let_others_live() -> None:
    """Two whose deadline has come, and one who at once awaits again: no loop without a breath."""
    service = Service(ready_at=5000)
    job = make_job(service, polling=Backoff(jitter=exactly), timeout=1000)
    ended = list[float]()

    async def stubborn() -> Result:
        while True:
            try:
                return await job
            except JobTimeoutError:
                ended.append(now())

    async def once() -> None:
        await job

    results = await fates(stubborn(), once(), stubborn())

    assert [type(result) for result in results] == [Result, JobTimeoutError, Result]
    assert ended[:8] == pytest.approx([1000, 1000, 2000, 2000, 3000, 3000, 4000, 4000], abs=1)
    assert ended[8:] == pytest.approx([5000] * len(ended[8:]), abs=1)


def test_it_is_not_awaited_in_two_threads_loops() -> None:
    """Who listens here would not be woken by who polls there: an error, and no hang."""
    job = make_job(Service())

    async def elsewhere() -> None:
        await job.wait()

    with another_loop(elsewhere), pytest.raises(RuntimeError, match="in another event loop"):
        asyncio.run(job.wait(timeout=5))


def test_a_nudge_from_another_thread_is_followed_at_once() -> None:
    """A callback may be received elsewhere than where the job is awaited."""
    asked, clock = threading.Semaphore(0), FakeClock()

    async def poll(task_id: str) -> Snapshot:
        asked.release()
        return GENERATING

    async def only_when_woken(delay: float, wake: asyncio.Event | None = None) -> None:
        await (wake or asyncio.Event()).wait()

    clock.sleep = only_when_woken  # type: ignore[method-assign]
    job = Job(ID, poll=poll, polling=EVEN, clock=clock, rng=random.Random(1))

    async def elsewhere() -> None:
        await job.wait()

    with another_loop(elsewhere):
        assert asked.acquire(timeout=20)
        clock.advance(1.5)  # before the next poll is due
        job.nudge()
        assert asked.acquire(timeout=20)


def test_a_loop_that_was_closed_around_an_awaited_job_does_not_matter() -> None:
    """The next loop polls itself, and closing tells nobody who is gone."""
    clock = FakeClock()
    job = Job(
        ID, poll=Service(GENERATING, READY).poll, polling=EVEN, clock=clock, rng=random.Random(1)
    )
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(job.wait())
    listening = loop.create_task(job.wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    job.detach(ClientClosedError("closed"))
    job.nudge()
    assert asyncio.run(job.wait()) == READY.result()
    for task in (waiting, listening):  # nobody will ever end them, and nobody is to be notified
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's own
        task.get_coro().close()  # type: ignore[union-attr]


def test_it_can_be_awaited_in_two_loops_one_after_another() -> None:
    """A script of several `asyncio.run` may keep its jobs."""
    clock = FakeClock()
    asked = list[float]()

    async def poll(task_id: str) -> Snapshot:
        asked.append(clock.now())
        return READY if clock.now() > 20 else GENERATING

    job = Job(ID, poll=poll, polling=EVEN, clock=clock, rng=random.Random(1))

    async def first() -> None:
        forgotten = asyncio.create_task(job.wait())
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=10)
        assert not forgotten.done()

    asyncio.run(first())
    assert asyncio.run(job.wait()) == READY.result()
    assert asked == [0, 2, 6, 14, 30]


# --- deadlines -----------------------------------------------------------------------------------


@virtual
async def test_a_deadline_is_no_failure() -> None:
    """We stop looking; the error carries the job, which can be awaited again."""
    service = Service(ready_at=2000)
    job = make_job(service)

    with pytest.raises(JobTimeoutError, match="Not ready after 1800 s, generating") as caught:
        await job

    assert now() == pytest.approx(1800, abs=0.01)
    assert caught.value.task_id == ID
    assert await caught.value.job == READY.result()
    assert now() <= 2016


@virtual
@pytest.mark.parametrize("timeout", [0, -1])
async def test_no_time_at_all_is_over_at_once(timeout: float) -> None:
    job = make_job(Service(READY))

    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=timeout)

    assert now() == 0


@virtual
async def test_a_time_out_longer_than_the_deadline_changes_nothing() -> None:
    job = make_job(Service(), polling=Backoff(), timeout=50)

    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=1e9)

    assert now() == pytest.approx(50, abs=0.01)


@virtual
async def test_a_deadline_is_counted_from_when_somebody_awaits() -> None:
    """Who gave up after 40 of 50 seconds and comes back later has 50 seconds again."""
    job = make_job(Service(ready_at=80), polling=EVEN, timeout=50)

    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=40)
    await asyncio.sleep(5)

    assert await job == READY.result()


@virtual
async def test_an_error_is_told_to_those_who_awaited_then_and_to_nobody_later() -> None:
    """One follower is slow to take it in; whoever cured the key may go on meanwhile (A25)."""
    job = make_job(Service(GENERATING, AuthenticationError("bad key", code=401), READY))

    async def slow() -> None:
        async for snapshot in job.updates():
            await asyncio.sleep(100 if snapshot == GENERATING else 0)

    following = asyncio.create_task(slow())
    with pytest.raises(AuthenticationError):
        await job.wait(timeout=120)
    assert not following.done()

    assert await job == READY.result()
    await fates(following)


@virtual
async def test_after_a_long_pause_the_looks_are_close_again() -> None:
    """A job that nobody awaited for an hour may be ready any moment: the pace begins anew."""
    service = Service()
    job = make_job(service)
    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=100)
    await asyncio.sleep(3600)
    service.asked.clear()

    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=31)

    assert [at - 3700 for at in service.asked] == [0, 2, 6, 14, 30]


@virtual
async def test_the_end_is_told_once() -> None:
    """Whoever counts the films that have ended counts each once, however many await it."""
    reported: list[Snapshot] = []
    job = Job(
        ID,
        poll=Service(GENERATING, READY).poll,
        polling=EVEN,
        clock=SystemClock(),
        rng=random.Random(1),
        ended=lambda job, age: reported.append(job.snapshot),
    )

    await asyncio.gather(job, job.wait(), job.wait())
    await job

    assert reported == [READY]


@virtual
async def test_the_last_trouble_is_told() -> None:
    """Whoever reads the error learns that the service was away, not only that it took long."""
    job = make_job(Service(ServerError("The poll was refused: bad gateway")))

    with pytest.raises(JobTimeoutError, match="bad gateway"):
        await job.wait(timeout=5)


@virtual
async def test_a_result_found_in_time_is_not_thrown_away() -> None:
    """Settled by another awaiter in the moment of the deadline: settled."""
    service = Service(READY, latency=10)
    job = make_job(service)

    results = await fates(job.wait(timeout=10.002), job.wait(timeout=50))

    assert results[1] == READY.result()
    assert await job == READY.result()


@virtual
async def test_a_deadline_between_two_numbers_ends_nevertheless() -> None:
    """Rounding of the clock never keeps a wait alive or busy (R14)."""
    await asyncio.sleep(1 / 3)
    service = Service()
    job = make_job(
        service, polling=Backoff(initial=1 / 7, factor=1.1, maximum=1 / 3), timeout=1e3 / 7
    )

    with pytest.raises(JobTimeoutError):
        await job

    assert now() == pytest.approx(1 / 3 + 1e3 / 7, abs=0.01)


def test_its_time_out_pickles_without_the_job() -> None:
    """In another process only the id is left."""
    error = JobTimeoutError("late", task_id=ID, job=lambda: None)

    there = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert (there.task_id, there.job) == (ID, None)


# --- outages -------------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
async def test_an_outage_never_ends_a_job(error: Exception) -> None:
    """Five minutes of it, and the film is found (P2, P3, R10)."""
    service = Service(GENERATING, *[error] * 22, ready_at=300)
    job = make_job(service)

    assert await job == READY.result()
    assert 300 <= now() <= 316


@virtual
async def test_a_long_outage_ends_with_the_deadline_only() -> None:
    """Six hours without an answer: the deadline ends the wait, and the film is still found (P2)."""
    service = Service(*[random.Random(1).choice(OUTAGES) for _ in range(1500)], ready_at=21_600)
    job = make_job(service)
    deadlines = 0

    while not job.done:
        try:
            await job
        except JobTimeoutError:
            deadlines += 1

    assert deadlines == 11  # the last poll of the twelfth finds it
    assert len(service.asked) < 21_600 / 16 + 60


@virtual
async def test_an_unexpected_error_is_loud_and_harms_nobody_else() -> None:
    """A defect in the looking is raised to whoever asked; the others go on (C8)."""
    service = Service(GENERATING, ZeroDivisionError("a defect"), TimeoutError("another"), READY)
    job = make_job(service)

    results = await fates(*(job.wait() for _ in range(4)))

    assert [type(result).__name__ for result in results] == [
        "ZeroDivisionError",
        "TimeoutError",
        "Result",
        "Result",
    ]


# --- before giving up ----------------------------------------------------------------------------


@virtual
async def test_it_polls_once_more_before_it_gives_up_at_the_deadline() -> None:
    """A film that was ready since the last poll is not reported as a time-out (DESIGN, Waiting)."""
    service = Service(ready_at=49)
    polling = Backoff(initial=40, maximum=40, jitter=exactly)

    results = await fates(*[make_job(service, own=True, polling=polling, timeout=50).wait()])

    assert results == [READY.result()]
    assert service.asked == [40, 50]


@virtual
async def test_many_who_give_up_together_poll_once_more_together() -> None:
    service = Service()
    job = make_job(service, polling=Backoff(initial=40, maximum=40, jitter=exactly), timeout=50)

    results = await fates(job.wait(), job.wait(), job.wait())

    assert [type(result) for result in results] == [JobTimeoutError] * 3
    assert service.asked == [0, 40, 50]


@virtual
async def test_the_last_poll_ends_too() -> None:
    """A service that does not answer holds nobody up for more than half a minute."""
    job = make_job(Service(latency=500), polling=Backoff(), timeout=50)

    with pytest.raises(JobTimeoutError):
        await job

    assert now() <= 80


async def test_after_a_suspension_it_polls_before_it_gives_up() -> None:
    """The machine slept over the time-out; the film has been ready for long."""
    clock = FakeClock()
    asked = list[float]()

    async def poll(task_id: str) -> Snapshot:
        asked.append(clock.now())
        if len(asked) == 1:
            return GENERATING
        return READY

    class Slept(FakeClock):
        async def sleep(self, seconds: float, until: asyncio.Event | None = None) -> None:
            await clock.sleep(3600)

        def now(self) -> float:
            return clock.now()

    job = Job(ID, poll=poll, polling=EVEN, clock=Slept(), rng=random.Random(1))

    assert await job.wait(timeout=60) == READY.result()
    assert len(asked) == 2


async def test_an_answer_that_waited_through_a_suspension_is_not_the_last_word() -> None:
    """The machine slept while a poll was out: what it asked is as old as the question."""
    for wait in (60.0, None):  # a time-out of the awaiter's, and the deadline
        clock, asked = FakeClock(), list[float]()

        async def poll(
            task_id: str, clock: FakeClock = clock, asked: list[float] = asked
        ) -> Snapshot:
            asked.append(clock.now())
            if len(asked) > 1:
                return READY
            clock.advance(3600)
            return GENERATING

        job = Job(ID, poll=poll, polling=EVEN, clock=clock, rng=random.Random(1))

        assert await job.wait(timeout=wait) == READY.result()
        assert asked == [0, 3600]


# --- words that nobody knows ---------------------------------------------------------------------

LATE = Snapshot(
    ID,
    State.UNKNOWN,
    urls=("https://films.test/1.mp4?sign=1",),
    word="archived",
    progress=100,
)
AGAIN_SIGNED = attrs.evolve(LATE, urls=("https://films.test/1.mp4?sign=2",))


@virtual
async def test_a_link_under_an_unknown_word_is_believed_when_it_lasts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three polls that agree, the last a minute after the first, with a warning (DESIGN)."""
    job = make_job(Service(LATE, AGAIN_SIGNED))

    with caplog.at_level(logging.WARNING, "apikley_async"):
        result = await job

    assert result.urls == AGAIN_SIGNED.urls
    assert 60 <= now() <= 80
    assert "archived" in caplog.text


@virtual
@pytest.mark.parametrize(
    "answers",
    [
        [attrs.evolve(LATE, progress=99)],
        [attrs.evolve(LATE, progress=None)],
        [attrs.evolve(LATE, urls=())],
        [LATE, attrs.evolve(LATE, word="moderating")] * 400,
        [LATE, attrs.evolve(LATE, urls=("https://films.test/2.mp4",))] * 400,
        [LATE, GENERATING] * 400,
        [LATE, NotFoundError("no such task", code=404)] * 400,
    ],
    ids=["99", "no progress", "no link", "another word", "another link", "relapse", "missing"],
)
async def test_an_unknown_word_is_no_success_otherwise(answers: list[Answer]) -> None:
    job = make_job(Service(*answers), polling=EVEN, timeout=1000)

    with pytest.raises(JobTimeoutError) as caught:
        await job

    assert not job.done
    assert job.snapshot.word == "" or job.snapshot.word in str(caught.value)


@virtual
async def test_the_time_outs_message_and_the_repr_show_the_word() -> None:
    job = make_job(Service(ODD))
    with pytest.raises(JobTimeoutError, match="moderating"):
        await job.wait(timeout=10)

    assert repr(job) == "<Job task_1 unknown ('moderating')>"


@virtual
async def test_words_that_change_all_the_time_are_no_flood_of_warnings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two that alternate are logged once each; of one film a few are logged at most."""
    other = attrs.evolve(ODD, word="retrying")
    steps = [attrs.evolve(ODD, word=f"step {number} of 90") for number in range(90)]
    for answers, reported in (([ODD, other] * 40, 2), (steps, 8)):
        caplog.clear()
        await make_job(Service(*answers, READY), polling=EVEN, timeout=5000)
        warned = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warned) == reported


# --- what must be seen to last -------------------------------------------------------------------


@virtual
@pytest.mark.parametrize(
    ("own", "grace", "latest"), [(True, 600, 620), (False, 10, 26)], ids=["our own", "re-attached"]
)
async def test_a_missing_task_is_given_time(own: bool, grace: float, latest: float) -> None:
    """A brand-new task may be unknown for a while; a typo must not hang (P1)."""
    service = Service(NotFoundError("no such task", code=404, task_id=ID))
    job = make_job(service, own=own)

    with pytest.raises(NotFoundError) as caught:
        await job

    assert caught.value.task_id == ID
    assert grace <= now() - service.asked[0] <= latest
    assert not job.done


@virtual
async def test_a_missing_task_may_turn_up() -> None:
    """Nine minutes of 404 after our own submission, then the film (P1)."""
    service = Service(*[NotFoundError("no such task")] * 36, ready_at=560)

    assert await make_job(service, own=True) == READY.result()


@virtual
async def test_a_task_that_was_seen_is_given_the_long_grace() -> None:
    """An id that was taken up again and answered is no typo (P1)."""
    service = Service(GENERATING, NotFoundError("no such task"))
    job = make_job(service)

    with pytest.raises(NotFoundError):
        await job

    assert now() >= 600


@virtual
async def test_a_task_that_turned_up_is_given_all_its_time_again() -> None:
    """Missing, seen, and missing again much later: the second time begins there."""
    service = Service(NotFoundError("none"), *[GENERATING] * 45, NotFoundError("none"), READY)

    assert await make_job(service, own=True) == READY.result()
    assert now() > 700


@virtual
async def test_only_what_was_observed_counts_as_missing() -> None:
    """404, eleven minutes of outage, 404: the outage is no sight of a missing task (P1)."""
    gone, away = NotFoundError("no such task"), UnansweredError("nothing")
    service = Service(gone, *[away] * 45, gone, gone, READY)

    assert await make_job(service, own=True) == READY.result()
    assert now() > 660


@virtual
async def test_a_time_without_looks_is_no_observation() -> None:
    """404, nobody looks for an hour, 404: that is two looks, not an hour of missing (P1)."""
    gone = NotFoundError("no such task")
    service = Service(GENERATING, gone, gone, gone, gone, gone, READY)
    job = make_job(service)
    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=15)
    assert len(service.asked) == 4

    await asyncio.sleep(3600)

    assert await job == READY.result()


@virtual
async def test_short_waits_do_not_hide_a_typo() -> None:
    """The grace goes on from one short wait to the next (P1)."""
    job = make_job(Service(NotFoundError("no such task")))

    async def spin() -> None:
        while True:
            with contextlib.suppress(JobTimeoutError):
                await job.wait(timeout=3)

    with pytest.raises(NotFoundError):
        await spin()

    assert 10 <= now() <= 20


@virtual
@pytest.mark.parametrize("error", [NotFoundError("no such task"), EMPTY])
async def test_a_grace_begins_anew_when_the_job_is_awaited_again(error: Answer) -> None:
    """What was raised once is not raised again at the next look."""
    service = Service(GENERATING, error)
    job = make_job(service)
    took = []
    for _ in range(2):
        began = now()
        with pytest.raises((NotFoundError, EmptyResultError)):
            await job
        took.append(now() - began)

    assert min(took) >= 300


@virtual
async def test_a_failure_counts_when_it_is_seen_twice() -> None:
    """One `fail` may be a slip: the second look decides (P9, A27)."""
    service = Service(GENERATING, FAILED, FAILED)
    job = make_job(service)

    with pytest.raises(JobFailedError, match="500 Internal Error") as caught:
        await job

    assert (caught.value.task_id, caught.value.fail_code) == (ID, "500")
    assert service.asked == [0, 2, 6]
    assert job.done
    with pytest.raises(JobFailedError):
        await job
    assert len(service.asked) == 3


@virtual
@pytest.mark.parametrize("between", [READY, GENERATING, UnansweredError("nothing")])
async def test_a_failure_that_was_a_slip_is_forgotten(between: Answer) -> None:
    """fail, then something else: the film is not given up (P9)."""
    service = Service(FAILED, between, READY)

    assert await make_job(service) == READY.result()


@virtual
async def test_two_failures_count_only_one_after_the_other() -> None:
    """Something else between them makes each a slip of its own, however many there are (P9)."""
    service = Service(*[FAILED, GENERATING] * 4, READY)

    assert await make_job(service) == READY.result()


@virtual
async def test_an_outage_says_nothing_about_a_failure() -> None:
    """fail, no answer, fail: that is a failure seen twice (P9)."""
    service = Service(FAILED, UnansweredError("nothing"), FAILED, READY)

    with pytest.raises(JobFailedError):
        await make_job(service)

    assert len(service.asked) == 3


@virtual
async def test_a_failure_is_confirmed_across_waits() -> None:
    """The first look in one wait, the second in another."""
    job = make_job(Service(FAILED))

    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=1)
    with pytest.raises(JobFailedError):
        await job.wait(timeout=10)


@virtual
async def test_a_success_without_a_link_is_read_again() -> None:
    """For five minutes at least, then it is raised, and may be awaited again (P5)."""
    service = Service(GENERATING, EMPTY, ready_at=500)
    job = make_job(service)

    with pytest.raises(EmptyResultError) as caught:
        await job

    assert 300 <= now() - service.asked[1] <= 320
    assert caught.value.raw == {"state": "success"}
    assert (job.done, job.state) == (False, State.GENERATING)
    assert await job == READY.result()


@virtual
async def test_an_outage_is_no_reading_of_an_empty_result() -> None:
    """Empty, five minutes of outage, empty: two readings are not five minutes of reading (P5)."""
    service = Service(EMPTY, *[ServerError("away")] * 25, EMPTY, EMPTY, READY)

    assert await make_job(service) == READY.result()
    assert now() > 330


# --- what a look may end -------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("The poll was refused: bad key", code=401),
        InvalidRequestError("The poll was refused: wrong", code=422),
        ClientClosedError("The client was closed"),
    ],
)
async def test_what_will_not_pass_is_told_to_all(error: ApikleyError) -> None:
    """One look, an error for each awaiter, and the job can be awaited again (A25)."""
    service = Service(GENERATING, error, READY)
    job = make_job(service)

    results = await fates(*(job.wait() for _ in range(5)))

    assert service.asked == [0, 2]
    assert all(type(result) is type(error) for result in results)
    assert {str(result) for result in results} == {str(error)}
    assert len({id(result) for result in results}) == 5
    assert await job == READY.result()
    assert len(service.asked) == 3


@virtual
async def test_each_awaiter_gets_an_error_of_its_own() -> None:
    """A traceback shows the way of one awaiter, not of five; no other error hides behind it."""
    job = make_job(Service(AuthenticationError("bad key", code=401)))

    results = await fates(*(job.wait() for _ in range(5)))

    for result in results:
        assert result.__context__ is None
        assert result.__cause__ is None
        frames = [frame.name for frame in traceback.extract_tb(result.__traceback__)]
        assert frames.count("_step") == 1
        assert copy.copy(result).code == 401


@virtual
@pytest.mark.parametrize("state", ["pause", "look"])
async def test_detached_awaiters_get_the_error(state: str) -> None:
    """A client that closes sends all awaiters away; the film goes on, the job lives (C5)."""
    service = Service(GENERATING, READY, latency=0.0 if state == "pause" else 2.0)
    job = make_job(service)
    waits = [asyncio.create_task(job.wait()) for _ in range(3)]
    await asyncio.sleep(1)

    job.detach(ClientClosedError("The client was closed", task_id=ID))

    results = await fates(*waits)
    assert all(isinstance(result, ClientClosedError) for result in results)
    assert now() <= 2
    assert await job == READY.result()


async def test_detaching_a_job_nobody_awaits_does_nothing() -> None:
    job = make_job(Service(READY))

    job.detach(ClientClosedError("The client was closed"))

    assert (await job).urls


def test_a_detach_at_any_moment_ends_every_wait() -> None:
    """Whenever a client closes: nobody hangs, nothing runs on (C5, I9)."""

    async def scenario(loop: StrikingLoop) -> None:
        service = Service(GENERATING, GENERATING, READY, latency=0.3)
        job = make_job(service)
        waits = [asyncio.create_task(job.wait()) for _ in range(3)]
        loop.strike = lambda: job.detach(ClientClosedError("The client was closed"))
        await asyncio.wait(waits)

        assert nobody_else()
        assert {type(wait.exception()) for wait in waits} <= {ClientClosedError, type(None)}
        assert now() <= 6.9

    at_every_turn(scenario)


@virtual
@pytest.mark.parametrize("doubtful", [FAILED, EMPTY])
async def test_what_must_be_seen_to_last_is_looked_at_again_soon(doubtful: Snapshot) -> None:
    """However slow the pace is, as it is where callbacks come: within 20 seconds."""
    service = Service(doubtful, READY)

    await make_job(service, polling=Backoff(initial=600, factor=1, maximum=600, jitter=exactly))

    assert service.asked == [0, 20]


# --- nudges --------------------------------------------------------------------------------------


@virtual
async def test_a_nudge_that_came_too_early_is_followed_up_soon() -> None:
    """The callback overtook the service's own books: the next look is 20 seconds away at most."""
    service = Service(GENERATING, GENERATING, READY)
    job = make_job(service, polling=Backoff(initial=600, factor=1, maximum=600, jitter=exactly))
    asyncio.get_running_loop().call_later(100, job.nudge)

    await job

    assert service.asked == [0, 100, 120]


@virtual
async def test_a_clock_may_wait_in_a_task_of_its_own() -> None:
    """Who has joined just before the end is woken, although the clock begins to wait after it."""

    class TaskClock(SystemClock):
        async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
            waiting = asyncio.ensure_future((wake or asyncio.Event()).wait())
            await asyncio.wait({waiting}, timeout=max(delay, 0.0))
            waiting.cancel()

    joined: list[asyncio.Task[Result]] = []

    class Joined(Service):
        async def poll(self, task_id: str) -> Snapshot:
            snapshot = await super().poll(task_id)
            joined.append(asyncio.create_task(job.wait()))
            await asyncio.sleep(0)
            return snapshot

    job = make_job(Joined(READY), clock=TaskClock())
    await job.wait()
    ended = now()
    await asyncio.gather(*joined)

    assert now() == ended


@virtual
async def test_a_nudge_ends_the_pause() -> None:
    """A callback says that there is news: the next look comes at once (API 9)."""
    service = Service(ready_at=33)
    job = make_job(service)
    asyncio.get_running_loop().call_later(33, job.nudge)

    await job

    assert now() == 33
    assert service.asked == [0, 2, 6, 14, 30, 33]


@virtual
async def test_a_nudge_decides_nothing() -> None:
    """Only a look settles a job: after a false hint the looking goes on as before."""
    service = Service(ready_at=60)
    job = make_job(service)
    asyncio.get_running_loop().call_later(20, job.nudge)

    await job

    assert service.asked == [0, 2, 6, 14, 20, 36, 52, 68]


@virtual
async def test_a_flood_of_nudges_is_no_flood_of_looks() -> None:
    """A hundred hints a second cost one look a second at most."""
    service = Service(ready_at=30, latency=0.2)
    job = make_job(service)

    async def flood() -> None:
        while not job.done:
            job.nudge()
            await asyncio.sleep(0.01)

    await asyncio.gather(job, job.wait(), flood())

    gaps = [b - a for a, b in itertools.pairwise(service.asked)]
    assert min(gaps) >= 1
    assert len(service.asked) <= 32


@virtual
async def test_a_nudge_during_a_look_is_not_lost() -> None:
    """The answer may have been on its way already: look again in a second, not in sixteen."""
    service = Service(*[GENERATING] * 5, READY, latency=0.5)
    job = make_job(service)
    asyncio.get_running_loop().call_later(32.2, job.nudge)

    await job

    assert service.asked == [0, 2.5, 7, 15.5, 32, 33.5]


@virtual
async def test_a_nudge_before_anybody_waits_is_not_lost() -> None:
    """The callback was faster than the awaiting: no first pause."""
    service = Service(READY)
    job = make_job(service, own=True)

    job.nudge()
    await job

    assert service.asked == [0]


@virtual
async def test_a_nudge_after_the_end_does_nothing() -> None:
    service = Service(READY)
    job = make_job(service)
    await job

    job.nudge()
    await job

    assert len(service.asked) == 1


# --- updates -------------------------------------------------------------------------------------


def progress(value: float) -> Snapshot:
    return attrs.evolve(GENERATING, progress=value)


@virtual
async def test_updates_tell_what_is_new() -> None:
    """The present state at once, then each that differs, the final one last."""
    answers = (
        WAITING,
        WAITING,
        progress(5),
        progress(5),
        ServerError("away"),
        progress(60),
        READY,
    )
    service = Service(*answers)
    job = make_job(service, own=True)

    seen = [(snapshot.state.value, snapshot.progress) async for snapshot in job.updates()]

    assert seen == [("waiting", None), ("generating", 5), ("generating", 60), ("success", None)]


@virtual
async def test_updates_tell_of_a_new_word() -> None:
    """A word that nobody knows is news when it changes."""
    other = attrs.evolve(ODD, word="retrying")
    job = make_job(Service(GENERATING, ODD, ODD, other, READY))

    words = [snapshot.word async for snapshot in job.updates()]

    assert words == ["", "", "moderating", "retrying", ""]


@virtual
async def test_many_may_follow_and_many_may_wait() -> None:
    """Five followers and five awaiters cost one stream of looks (P11)."""
    answers: Sequence[Answer] = [WAITING, progress(5), progress(60), READY]
    service = Service(*answers, latency=0.3)
    job = make_job(service)

    async def follow() -> list[State]:
        return [snapshot.state async for snapshot in job.updates()]

    seen = await fates(*(follow() for _ in range(5)), *(job.wait() for _ in range(5)))

    assert all(states[-1] is State.SUCCESS and len(states) == 5 for states in seen[:5])
    assert seen[5:] == [READY.result()] * 5
    assert len(service.asked) == len(answers)


@virtual
@pytest.mark.parametrize("final", [READY, FAILED])
async def test_a_failure_is_the_last_snapshot(final: Snapshot) -> None:
    """`updates` ends with it and does not raise it."""
    job = make_job(Service(GENERATING, final, final))

    seen = [snapshot async for snapshot in job.updates()]

    assert seen[-1] is final


@virtual
@pytest.mark.parametrize("busy", [0, 1])
async def test_a_slow_consumer_still_gets_the_end(busy: int) -> None:
    """It settled through another awaiter meanwhile: the final snapshot comes nevertheless."""
    service = Service(GENERATING, ready_at=20)
    job = make_job(service)
    waiting = asyncio.create_task(job.wait())
    seen = list[State]()

    async for snapshot in job.updates():
        if len(seen) == busy:
            await asyncio.sleep(100)
        seen.append(snapshot.state)

    assert seen[-1] is State.SUCCESS
    assert waiting.done()
    assert await waiting == READY.result()
    assert now() == pytest.approx(100, abs=0.01)


@virtual
async def test_a_slow_consumer_holds_up_nobody() -> None:
    """Whoever is busy with an update does not keep the others from looking."""
    service = Service(GENERATING, ready_at=20)
    job = make_job(service)

    async def slow() -> None:
        async for _ in job.updates():
            await asyncio.sleep(1000)

    busy = asyncio.create_task(slow())
    await asyncio.sleep(0.5)
    assert await job == READY.result()
    assert now() <= 31
    await busy


@virtual
@pytest.mark.parametrize("how", ["break", "aclose", "cancel"])
async def test_whoever_stops_following_leaves_nothing(how: str) -> None:
    """Break off, close or cancel: nothing runs on, and the others get the film (C1)."""
    service = Service(GENERATING, ready_at=60)
    job = make_job(service)
    waiting = asyncio.create_task(job.wait())
    await asyncio.sleep(0)

    async def follow() -> None:
        updates = job.updates()
        async for snapshot in updates:
            if how == "break" and snapshot.state is State.GENERATING:
                break
            if how == "aclose" and snapshot.state is State.GENERATING:
                await updates.aclose()

    following = asyncio.create_task(follow())
    await asyncio.sleep(10)
    following.cancel()
    await asyncio.wait({following})

    assert asyncio.all_tasks() == {asyncio.current_task(), waiting}
    assert following.cancelled() == (how == "cancel")
    assert await waiting == READY.result()


@virtual
async def test_updates_raise_the_deadline() -> None:
    """Only the failure is a snapshot; what stops the looking is raised."""
    seen = list[State]()
    job = make_job(Service())

    async def follow() -> None:
        async for snapshot in job.updates(timeout=50):
            seen.append(snapshot.state)

    with pytest.raises(JobTimeoutError):
        await follow()

    assert seen == [State.UNKNOWN, State.GENERATING]
    assert now() == pytest.approx(50, abs=0.01)


@virtual
async def test_it_does_not_pickle_and_says_what_to_keep() -> None:
    """It polls in one process; an id goes anywhere."""
    for carry in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"keep its task_id, and its token .* client\.job"):
            carry(make_job(Service()))


@virtual
async def test_a_forgotten_follower_lets_the_deadline_be_new() -> None:
    """One follower sleeps over the deadline; whoever awaits then gets a whole one."""
    service = Service(ready_at=3000)
    job = make_job(service)
    updates = job.updates()
    await anext(updates)
    await anext(updates)
    with pytest.raises(JobTimeoutError):
        await job

    assert await job == READY.result()
    await updates.aclose()


@virtual
async def test_what_it_keeps_is_little() -> None:
    """No answer, error or frame of a look stays alive through the pause."""
    service = Service(ServerError("away"))
    job = make_job(service)

    with pytest.raises(JobTimeoutError):
        await job.wait(timeout=5)

    assert not any(isinstance(held, BaseException) for held in gc.get_referents(job))
