"""`generate_many`: no more is bought than can be run, and everything bought is counted once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turns import StrikingLoop, at_every_turn
from volume import volume

from apikley_async import (
    Backoff,
    Completed,
    Failed,
    Job,
    ModelTask,
    Outcome,
    Result,
    Snapshot,
    SystemClock,
)
from apikley_async._generate import MaintenanceGate, ManyFilms, Save, Works
from apikley_async._limiter import running_slots
from apikley_async.errors import (
    ClientClosedError,
    DownloadError,
    InsufficientCreditsError,
    JobFailedError,
    JobTimeoutError,
    MaintenanceError,
    ServerError,
    SubmissionUncertainError,
)
from apikley_async.virtual import VirtualLoop

virtual = pytest.mark.virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def work(number: int) -> ModelTask:
    return ModelTask("a-model", {"number": number})


def number_of(outcome: Outcome) -> int:
    assert isinstance(outcome.work, ModelTask)
    number: int = outcome.work.input["number"]
    return number


class FilmMaker:
    """Makes films as a client does, and keeps the books: what was bought, yielded, left.

    A film takes 0.1 s before it is bought and *length(number)* seconds after. Numbers in *fail*
    end badly, those in *doubt* end without an answer; from *poor* on the credits do not suffice.
    """

    def __init__(
        self,
        slots: int = 3,
        *,
        length: Any = lambda number: 10.0,
        fail: frozenset[int] = frozenset(),
        doubt: frozenset[int] = frozenset(),
        poor: int | None = None,
    ) -> None:
        self.slots = running_slots(slots, SystemClock())
        self.poor = poor
        self.halted = asyncio.Event()
        self._length, self._fail, self._doubt = length, fail, doubt
        self.pulled: list[int] = []
        self.bought: list[int] = []
        self.doubted: list[int] = []
        self.left: list[str] = []
        self.left_in_doubt: list[str] = []
        self.running = self.most_running = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.jobs: dict[int, Job] = {}

    def making(
        self, works: Works, *, window: int | None = None, save: Save | None = None
    ) -> ManyFilms:
        return ManyFilms(self, works, window=window or self.slots.count, save=save)

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        return self.slots.slot()

    def leave_behind(self, job: Job) -> None:
        self.left.append(job.task_id)

    def report_uncertain(self, error: SubmissionUncertainError) -> None:
        self.left_in_doubt.append(error.token)

    def stop(self) -> None:
        self.halted.set()

    def works(self, count: int | None = None) -> Iterator[ModelTask]:
        for number in itertools.count() if count is None else range(count):
            self.pulled.append(number)
            yield work(number)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def make(self, index: int, work: Any, metadata: Any) -> Outcome:
        number: int = work.input["number"]
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await SystemClock().sleep(0.1, self.halted)
            if self.halted.is_set():
                return Failed(index, work, ClientClosedError("Submitting was stopped"))
            if self.poor is not None and number >= self.poor:
                return Failed(index, work, InsufficientCreditsError("no", code=402))
            if number in self._doubt:
                self.doubted.append(number)
                doubt = SubmissionUncertainError("no answer", token=f"token_{number}")
                return Failed(index, work, doubt)
            return await self._film(index, work, number)
        finally:
            self.running -= 1

    async def _film(self, index: int, work: Any, number: int) -> Outcome:
        self.bought.append(number)
        job = self.jobs[number] = job_of(number)
        try:
            await asyncio.sleep(self._length(number))
        except asyncio.CancelledError:
            self.left.append(job.task_id)
            raise
        if number in self._fail:
            return Failed(index, work, JobFailedError("failed", task_id=job.task_id), job)
        return Completed(index, work, job, Result(job.task_id, ("https://films.test/1.mp4",)))

    def settle(self, yielded: list[Outcome]) -> None:
        """Check the books: everything is somewhere, nothing is anywhere twice."""
        assert all(outcome.index == number_of(outcome) for outcome in yielded)
        accounted = [f"task_{number_of(o)}" for o in yielded if o.job is not None] + self.left
        assert sorted(accounted) == sorted(f"task_{number}" for number in self.bought)
        doubts = [o.error for o in yielded if isinstance(o.error, SubmissionUncertainError)]
        reported = [error.token for error in doubts] + self.left_in_doubt
        assert sorted(reported) == sorted(f"token_{number}" for number in self.doubted)
        assert self.running == 0
        assert self.slots.in_use == 0
        assert not self.tasks


def job_of(number: int) -> Job:
    rng = random.Random(1)
    return Job(f"task_{number}", poll=never, polling=Backoff(), clock=SystemClock(), rng=rng)


async def never(task_id: str) -> Snapshot:
    raise NotImplementedError


async def collect(making: ManyFilms, *, ordered: bool = False) -> list[Outcome]:
    return [outcome async for outcome in making.outcomes(ordered=ordered)]


def nobody_else() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


# --- outcomes ------------------------------------------------------------------------------------


def test_an_outcome_unwraps_to_its_result_or_raises() -> None:
    """One word for whoever wants an exception after all."""
    result, error = Result("task_1", ()), JobFailedError("failed")

    assert Completed(0, work(0), job_of(0), result).unwrap() is result
    with pytest.raises(JobFailedError, match="failed"):
        Failed(0, work(0), error).unwrap()


def test_outcomes_can_be_sent_on_as_json() -> None:
    """With the film, the task, and what was saved or went wrong; without the metadata."""
    path, error = Path("films/1.mp4"), ServerError("no", code=500)
    result = Result("task-0", ("https://films.test/1.mp4",))
    made = Completed(0, work(0), job_of(0), result, (path,), metadata="mine")
    common = {"work": dict(work(1).to_dict()), "index": 1}

    completed, failed = made.to_dict(), Failed(1, work(1), error, metadata="mine").to_dict()

    assert json.loads(json.dumps([completed, failed])) == [completed, failed]
    assert (completed["task_id"], completed["result"]) == (job_of(0).task_id, result.to_dict())
    assert (completed["ok"], completed["paths"]) == (True, [str(path)])
    assert failed == {**common, "ok": False, "task_id": None, "error": error.to_dict()}
    assert "mine" not in str([completed, failed])


@virtual
@pytest.mark.parametrize("ordered", [False, True])
async def test_films_come_as_they_finish_or_in_order(ordered: bool) -> None:
    """By default whoever is ready first; in order a slow one holds up those behind it."""
    maker = FilmMaker(4, length=lambda number: [40.0, 10.0, 30.0, 20.0][number])

    outcomes = await collect(maker.making(maker.works(4)), ordered=ordered)

    assert [o.index for o in outcomes] == ([0, 1, 2, 3] if ordered else [1, 3, 2, 0])
    maker.settle(outcomes)


@virtual
@pytest.mark.parametrize("ordered", [False, True])
async def test_no_works_no_outcomes(ordered: bool) -> None:
    maker = FilmMaker()

    assert await collect(maker.making([]), ordered=ordered) == []
    maker.settle([])


@virtual
async def test_one_failure_stops_nothing() -> None:
    """Failures are values among the others."""
    maker = FilmMaker(fail=frozenset({1, 4}))

    outcomes = await collect(maker.making(maker.works(6)), ordered=True)

    assert [type(outcome.error) for outcome in outcomes] == [
        JobFailedError if number in (1, 4) else type(None) for number in range(6)
    ]
    maker.settle(outcomes)


@virtual
@pytest.mark.parametrize("kind", ["list", "iterator", "async generator", "async iterable"])
async def test_works_may_come_in_any_shape(kind: str) -> None:
    """Anything that can be iterated, either way."""
    maker = FilmMaker()

    async def generator() -> AsyncIterator[ModelTask]:
        for item in maker.works(5):
            await asyncio.sleep(1)
            yield item

    class Iterable:
        def __aiter__(self) -> AsyncIterator[ModelTask]:
            return generator()

    shapes: dict[str, Any] = {
        "list": list(maker.works(5)),
        "iterator": maker.works(5),
        "async generator": generator(),
        "async iterable": Iterable(),
    }

    outcomes = await collect(maker.making(shapes[kind]), ordered=True)

    assert [number_of(outcome) for outcome in outcomes] == [0, 1, 2, 3, 4]
    maker.settle(outcomes)


# --- back-pressure -------------------------------------------------------------------------------


@virtual
async def test_it_pulls_only_what_it_can_run() -> None:
    """Of an endless input no more is taken than there are slots for."""
    maker = FilmMaker(3)
    outcomes = maker.making(maker.works()).outcomes(ordered=False)
    yielded = []

    async with contextlib.aclosing(outcomes):
        async for outcome in outcomes:
            yielded.append(outcome)
            assert len(maker.pulled) <= len(yielded) + 3
            if len(yielded) == 30:
                break

    assert maker.most_running == 3
    maker.settle(yielded)


@virtual
@pytest.mark.parametrize("ordered", [False, True])
async def test_a_slow_consumer_slows_the_buying(ordered: bool) -> None:
    """Whoever takes an outcome a minute gets no heap of paid films behind it."""
    maker = FilmMaker(3, length=lambda number: 1.0)
    yielded = list[Outcome]()

    async for outcome in maker.making(maker.works(12)).outcomes(ordered=ordered):
        yielded.append(outcome)
        await asyncio.sleep(60)
        assert len(maker.bought) <= len(yielded) - 1 + 3

    assert len(yielded) == 12
    maker.settle(yielded)


@virtual
async def test_slots_are_shared_with_others() -> None:
    """What else runs on the same slots counts."""
    maker = FilmMaker(2)
    async with maker.slots.slot():
        waiting = asyncio.create_task(collect(maker.making(maker.works(4))))
        await asyncio.sleep(100)
        assert maker.most_running == 1

    maker.settle(await waiting)


@virtual
async def test_a_slow_source_delays_no_outcome() -> None:
    """What is ready is yielded while the next work is still being thought of."""
    maker = FilmMaker(3, length=lambda number: 1.0)
    arrived = list[float]()

    async def slow() -> AsyncIterator[ModelTask]:
        for item in maker.works(3):
            yield item
            await asyncio.sleep(100)

    async for _ in maker.making(slow()).outcomes(ordered=False):
        arrived.append(now())

    assert arrived == pytest.approx([1.1, 101.1, 201.1])


@virtual
async def test_a_source_may_need_the_last_slot_itself() -> None:
    """Works that are made of other films: nobody holds a slot while he waits for a work."""
    maker = FilmMaker(1)

    async def of_other_films() -> AsyncIterator[ModelTask]:
        for item in maker.works(3):
            async with maker.slots.slot():
                await asyncio.sleep(5)
            yield item
        assert maker.slots.in_use <= 1

    async with asyncio.timeout(100):
        maker.settle(await collect(maker.making(of_other_films())))


@virtual
async def test_an_idle_source_leaves_all_slots_to_others() -> None:
    """A queue that is empty for hours does not keep others from making films."""
    maker = FilmMaker(1)
    works = asyncio.Queue[ModelTask]()

    async def queued() -> AsyncIterator[ModelTask]:
        while True:
            yield await works.get()

    consumer = asyncio.create_task(collect(maker.making(queued())))
    await asyncio.sleep(1)
    assert maker.slots.in_use == 0
    works.put_nowait(work(0))
    await asyncio.sleep(1)
    assert maker.bought == [0]
    consumer.cancel()
    await asyncio.wait({consumer})
    maker.settle([])


@virtual
async def test_a_work_that_waits_for_a_slot_does_not_outlast_the_account() -> None:
    """It was pulled and not sent: it is yielded with the error, not when others are ready."""
    maker = FilmMaker(1, poor=0)
    yielded = list[Outcome]()

    async def source() -> AsyncIterator[ModelTask]:
        for item in maker.works(9):
            yield item
            await asyncio.sleep(0.05)

    async def consume() -> None:
        async for outcome in maker.making(source(), window=9).outcomes(ordered=False):
            yielded.append(outcome)

    async def somebody_else() -> None:
        await asyncio.sleep(0.02)
        async with maker.slots.slot():
            await asyncio.sleep(1000)

    other = asyncio.create_task(somebody_else())
    with pytest.raises(InsufficientCreditsError):
        await consume()

    assert now() < 1
    await other
    assert sorted(outcome.index for outcome in yielded) == maker.pulled == [0, 1]
    assert {type(outcome.error) for outcome in yielded} == {InsufficientCreditsError}
    maker.settle(yielded)
    assert nobody_else()


@virtual
async def test_a_slot_that_is_refused_ends_the_run() -> None:
    """By a limiter of the user, for example: no further work is pulled for nothing."""

    class Refusing(FilmMaker):
        def running_slot(self) -> AbstractAsyncContextManager[None]:
            if len(self.pulled) == 3:
                raise ZeroDivisionError("the limiter's own")
            return super().running_slot()

    maker, yielded = Refusing(9), list[Outcome]()

    async def consume() -> None:
        async for outcome in maker.making(maker.works(20)).outcomes(ordered=True):
            yielded.append(outcome)

    with pytest.raises(ZeroDivisionError):
        await consume()

    assert maker.pulled == [0, 1, 2]
    assert [outcome.ok for outcome in yielded] == [True, True, False]
    assert isinstance(yielded[2].error.__cause__, ZeroDivisionError)  # type: ignore[union-attr]
    maker.settle(yielded)
    assert nobody_else()


@given(
    slots=st.integers(1, 4),
    lengths=st.lists(st.sampled_from([0.0, 0.0, 1.0, 5.0, 5.0, 60.0]), max_size=14),
    fail=st.frozensets(st.integers(0, 13), max_size=4),
    doubt=st.frozensets(st.integers(0, 13), max_size=3),
    poor=st.none() | st.integers(0, 13),
    ordered=st.booleans(),
    busy=st.sampled_from([0.0, 2.0, 30.0]),
    stop_after=st.none() | st.integers(1, 14),
)
@settings(max_examples=80)
def test_the_books_always_balance(
    slots: int,
    lengths: list[float],
    fail: frozenset[int],
    doubt: frozenset[int],
    poor: int | None,
    ordered: bool,
    busy: float,
    stop_after: int | None,
) -> None:
    """Any input, any consumer: what was bought is yielded or left behind, once (C1, I2)."""

    async def main() -> None:
        maker = FilmMaker(slots, length=lengths.__getitem__, fail=fail, doubt=doubt, poor=poor)
        making = maker.making(maker.works(len(lengths)))
        yielded = []
        ended = contextlib.suppress(InsufficientCreditsError)
        with ended:
            async with contextlib.aclosing(making.outcomes(ordered=ordered)) as outcomes:
                async for outcome in outcomes:
                    yielded.append(outcome)
                    await asyncio.sleep(busy)
                    if len(yielded) == stop_after:
                        break
        assert maker.most_running <= slots
        assert len(maker.pulled) <= len(yielded) + slots
        if stop_after is None:
            assert sorted(o.index for o in yielded) == maker.pulled
        if stop_after is None and poor is None:
            assert len(yielded) == len(lengths)
        if ordered:
            assert [o.index for o in yielded] == list(range(len(yielded)))
        maker.settle(yielded)
        assert nobody_else()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


# --- a broken input ------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("error", [ValueError("line 3"), ExceptionGroup("two", [OSError()])])
async def test_an_error_of_the_input_comes_last(ordered: bool, error: Exception) -> None:
    """First everything that was bought is handed on, then it is raised as it is."""
    maker = FilmMaker(5)
    yielded = list[Outcome]()

    def broken() -> Iterator[ModelTask]:
        yield from maker.works(2)
        raise error

    async def consume() -> None:
        async for outcome in maker.making(broken()).outcomes(ordered=ordered):
            yielded.append(outcome)

    with pytest.raises(type(error)) as caught:
        await consume()

    assert caught.value is error
    assert [outcome.index for outcome in yielded] == [0, 1]
    maker.settle(yielded)


@virtual
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("kind", ["iterator", "async generator", "waiting for ever", "stubborn"])
async def test_an_error_of_the_account_ends_the_pulling_and_comes_last(
    ordered: bool, kind: str
) -> None:
    """Not one film more is pulled; each that was pulled is yielded once, then it is raised."""
    maker = FilmMaker(4, poor=5)
    yielded = list[Outcome]()

    async def source() -> AsyncGenerator[ModelTask, None]:
        for item in maker.works(100):
            yield item
            if kind != "async generator" and len(maker.pulled) == 7:
                try:
                    await asyncio.sleep(10_000)
                except asyncio.CancelledError:
                    if kind != "stubborn":
                        raise

    async def consume() -> None:
        works = maker.works(100) if kind == "iterator" else source()
        async for outcome in maker.making(works).outcomes(ordered=ordered):
            yielded.append(outcome)

    with pytest.raises(InsufficientCreditsError):
        await consume()

    assert sorted(maker.bought) == [0, 1, 2, 3, 4]
    assert len(maker.pulled) <= 10
    assert sorted(outcome.index for outcome in yielded) == maker.pulled
    assert all((o.error is None) == (o.index < 5) for o in yielded)
    assert {type(o.error) for o in yielded if o.index >= 5} == {InsufficientCreditsError}
    assert now() < 40
    maker.settle(yielded)
    assert nobody_else()


class PoorAtOnce(FilmMaker):
    """The first film ends with an error of the account some turns of the loop after *poor_now*."""

    def __init__(self, turns: int) -> None:
        super().__init__(1)
        self.turns = turns
        self.poor_now = asyncio.Event()

    async def make(self, index: int, work: Any, metadata: Any) -> Outcome:
        if index == 0:
            await self.poor_now.wait()
            for _ in range(self.turns):
                await asyncio.sleep(0)
            return Failed(index, work, InsufficientCreditsError("no", code=402))
        return await super().make(index, work, metadata)


@virtual
@pytest.mark.parametrize("turns", range(8))
async def test_an_error_of_the_account_as_the_next_film_is_pulled(turns: int) -> None:
    """That film has not begun to wait for a slot yet, and is yielded all the same."""
    maker = PoorAtOnce(turns)
    yielded = list[Outcome]()

    async def source() -> AsyncGenerator[ModelTask, None]:
        for item in maker.works(3):
            yield item
            await maker.poor_now.wait()

    async def consume() -> None:
        async for outcome in maker.making(source(), window=3).outcomes(ordered=True):
            yielded.append(outcome)

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(1)
    maker.poor_now.set()
    with pytest.raises(InsufficientCreditsError):
        await consumer

    assert [outcome.index for outcome in yielded] == maker.pulled
    assert {type(outcome.error) for outcome in yielded} == {InsufficientCreditsError}


def test_an_error_of_the_account_at_any_turn_loses_nothing() -> None:
    """Whatever the driver does when it is stopped: the books balance, and no slot is lost."""

    async def scenario(loop: StrikingLoop) -> None:
        maker = FilmMaker(2, length=[5.0, 0.0, 1.0, 0.0, 5.0, 0.3].__getitem__)
        yielded = list[Outcome]()

        async def source() -> AsyncGenerator[ModelTask, None]:
            for item in maker.works(6):
                await asyncio.sleep(0.05)
                yield item

        def strike() -> None:
            maker.poor = 0

        async def consume() -> None:
            async for outcome in maker.making(source()).outcomes(ordered=False):
                yielded.append(outcome)

        consumer = asyncio.create_task(consume())
        loop.strike = strike
        await asyncio.wait({consumer})

        error = consumer.exception()
        assert isinstance(error, InsufficientCreditsError) or (error is None and len(yielded) == 6)
        assert sorted(outcome.index for outcome in yielded) == maker.pulled
        maker.settle(yielded)
        assert nobody_else()

    at_every_turn(scenario)


class Maintained:
    """Submits as a client does, under maintenance for *minutes*; notes when it was asked."""

    def __init__(self, minutes: float) -> None:
        self.asked = list[float]()
        self.stopped = False
        self._ends = minutes * 60

    async def submit(self) -> Job:
        if self.stopped:
            raise ClientClosedError("Submitting was stopped")
        self.asked.append(now())
        await asyncio.sleep(0.1)
        if now() < self._ends:
            raise MaintenanceError("maintenance", code=455)
        return job_of(1)


@virtual
async def test_maintenance_pauses_all_that_is_submitted() -> None:
    """It is no film's failure: each is submitted again, and a pause is one for all."""
    service = Maintained(minutes=5)
    gate = MaintenanceGate(SystemClock())

    await asyncio.gather(*(gate.through(service.submit) for _ in range(3)))

    assert service.asked == pytest.approx([0.0] * 3 + [120.1] * 3 + [420.2] * 3)


@virtual
async def test_maintenance_that_lasts_is_an_error() -> None:
    service = Maintained(minutes=60)

    with pytest.raises(MaintenanceError):
        await MaintenanceGate(SystemClock()).through(service.submit)

    assert service.asked == pytest.approx([0.0, 120.1, 420.2, 1020.3])


@virtual
async def test_a_pause_for_maintenance_ends_when_submitting_is_stopped() -> None:
    service = Maintained(minutes=60)
    gate = MaintenanceGate(SystemClock())
    waiting = asyncio.create_task(gate.through(service.submit))
    await asyncio.sleep(10)

    service.stopped = True
    gate.stop()
    with pytest.raises(ClientClosedError):
        await waiting
    assert now() == 10


@virtual
async def test_what_is_no_input_says_so() -> None:
    """A single storyboard in the place of many."""
    maker = FilmMaker()

    with pytest.raises(TypeError, match="not iterable"):
        await collect(maker.making(work(1)))  # type: ignore[arg-type]

    maker.settle([])


@virtual
async def test_the_source_is_read_by_one_task() -> None:
    """A generator with a time-out or a task group across its yields works."""
    maker = FilmMaker()

    async def guarded() -> AsyncIterator[ModelTask]:
        async with asyncio.timeout(1000), asyncio.TaskGroup():
            for item in maker.works(5):
                yield item

    maker.settle(await collect(maker.making(guarded())))


@virtual
async def test_a_source_that_swallows_its_cancel_buys_nothing_more() -> None:
    """After the consumer has left nothing is bought, whatever the input does."""
    maker = FilmMaker(3)

    async def stubborn() -> AsyncIterator[ModelTask]:
        yield work(0)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        yield work(1)

    outcomes = maker.making(stubborn()).outcomes(ordered=False)
    first = await anext(outcomes)
    await outcomes.aclose()
    await asyncio.sleep(100)

    assert maker.bought == [0]
    maker.settle([first])


# --- leaving in the middle -----------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("how", ["aclose", "collected", "raise"])
async def test_breaking_off_leaves_by_name_what_was_bought(how: str, ordered: bool) -> None:
    """Closed, forgotten or ended by an error: paid films are reported, nothing runs on (C7)."""
    maker = FilmMaker(4, length=lambda number: [10.0, 1.0, 1.0, 60.0, 60.0][number])
    yielded = list[Outcome]()

    async def consume() -> None:
        outcomes = maker.making(maker.works(5)).outcomes(ordered=ordered)
        async for outcome in outcomes:
            yielded.append(outcome)
            await asyncio.sleep(0.5)
            if how == "aclose":
                await outcomes.aclose()
            if how == "raise":
                raise ZeroDivisionError
            break

    with contextlib.suppress(ZeroDivisionError):
        await consume()
    gc.collect()
    await asyncio.sleep(1)

    assert len(yielded) == 1
    assert len(maker.left) >= 3
    maker.settle(yielded)


async def saved_slowly(result: Result) -> list[Path]:
    await asyncio.sleep(0.4)
    return [Path(f"{result.task_id}.mp4")]


@pytest.mark.parametrize("save", [None, saved_slowly], ids=["", "saved"])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_cancel_at_any_moment_loses_nothing(
    ordered: bool, again: bool, save: Save | None
) -> None:
    """The consumer is cancelled, even a second time: the books balance (C1, C14, I2, I9)."""

    async def scenario(loop: StrikingLoop) -> None:
        lengths = [5.0, 0.0, 1.0, 0.0, 5.0, 0.3]
        maker = FilmMaker(
            2,
            length=lengths.__getitem__,
            fail=frozenset({2}),
            doubt=frozenset({3}),
        )
        yielded = list[Outcome]()

        async def consume() -> None:
            making = maker.making(maker.works(6), save=save)
            async for outcome in making.outcomes(ordered=ordered):
                yielded.append(outcome)
                await asyncio.sleep(0.2)

        def strike() -> None:
            consumer.cancel()
            if again:
                loop.call_soon(consumer.cancel)

        consumer = asyncio.create_task(consume())
        loop.strike = strike
        await asyncio.wait({consumer})
        await asyncio.sleep(0.01)  # a loop that was left is closed by the collector, soon after

        assert consumer.cancelled() or len(yielded) == 6
        assert nobody_else()
        maker.settle(yielded)
        # All slots are there: as many as ever can run.
        slots = FilmMaker(2)
        slots.slots = maker.slots
        slots.settle(await collect(slots.making(slots.works(4))))

    at_every_turn(scenario, step=volume(3, 1))


@pytest.mark.parametrize("ordered", [False, True])
def test_closing_at_any_moment_hangs_nobody(ordered: bool) -> None:
    """The tasks are ended from outside, as a closing client does: the consumer sees it (C5)."""

    async def scenario(loop: StrikingLoop) -> None:
        maker = FilmMaker(2, length=[5.0, 0.0, 1.0, 0.0, 5.0, 0.3].__getitem__)
        yielded = list[Outcome]()

        async def source() -> AsyncGenerator[ModelTask, None]:
            for item in maker.works(6):
                await asyncio.sleep(0.05)
                yield item

        async def consume() -> None:
            async for outcome in maker.making(source()).outcomes(ordered=ordered):
                yielded.append(outcome)

        consumer = asyncio.create_task(consume())
        loop.strike = lambda: [task.cancel() for task in maker.tasks]
        await asyncio.wait({consumer})

        assert not consumer.cancelled()
        error = consumer.exception()
        assert isinstance(error, ClientClosedError) or (error is None and len(yielded) == 6)
        assert nobody_else()
        maker.settle(yielded)

    at_every_turn(scenario)


def test_ending_one_film_at_any_moment_loses_no_slot() -> None:
    """A film that is ended before it begins gives its slot back, too (C4)."""

    async def scenario(loop: StrikingLoop) -> None:
        maker = FilmMaker(1, length=lambda number: 0.2)

        def end_films() -> None:
            for task in maker.tasks:
                if "_film" in repr(task.get_coro()):
                    task.cancel()

        consumer = asyncio.create_task(collect(maker.making(maker.works(3), window=9)))
        loop.strike = end_films
        await asyncio.wait({consumer})

        assert consumer.exception() is None or isinstance(consumer.exception(), ClientClosedError)
        assert len(maker.pulled) == 3
        assert maker.slots.in_use == 0
        assert nobody_else()

    at_every_turn(scenario)


def test_a_run_that_ends_takes_everything_with_it() -> None:
    """`asyncio.run` is over in the middle: no slot is lost, no task complains."""
    maker = FilmMaker(2)

    async def main() -> None:
        outcomes = maker.making(maker.works()).outcomes(ordered=False)
        await anext(outcomes)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())

    assert maker.slots.in_use == 0
    assert sorted(maker.left) == [f"task_{number}" for number in maker.bought[1:]]


# --- saving --------------------------------------------------------------------------------------


@virtual
async def test_a_film_that_is_saved_holds_no_slot() -> None:
    """Others are made meanwhile; it is yielded when its files are there."""
    maker = FilmMaker(1, length=lambda number: 1.0)
    ready = dict[int, float]()

    async def save(result: Result) -> list[Path]:
        await asyncio.sleep(5)
        return [Path(f"{result.task_id}.mp4")]

    making = maker.making(maker.works(3), window=3, save=save)
    async for outcome in making.outcomes(ordered=False):
        ready[outcome.index] = now()
        assert outcome.ok
        assert outcome.paths == (Path(f"task_{outcome.index}.mp4"),)

    assert ready == pytest.approx({0: 6.1, 1: 7.2, 2: 8.3})


@virtual
async def test_a_film_that_is_not_saved_has_failed_with_its_job() -> None:
    """A host's trouble is one film's; the others are saved."""
    maker = FilmMaker(3)

    async def save(result: Result) -> list[Path]:
        if result.task_id == "task_1":
            raise DownloadError("broken off")
        return []

    outcomes = await collect(maker.making(maker.works(3), save=save), ordered=True)

    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert outcomes[1].job is maker.jobs[1]
    maker.settle(outcomes)


@virtual
async def test_a_disk_that_fails_stops_the_buying() -> None:
    """As a 402 does: what runs is followed and yielded, then the error is raised (D13)."""
    maker = FilmMaker(2)
    outcomes: list[Outcome] = []

    async def save(result: Result) -> list[Path]:
        raise DownloadError("the disk is full", affects_all=True)

    async def consume() -> None:
        making = maker.making(maker.works(), save=save)
        async for outcome in making.outcomes(ordered=False):
            outcomes.append(outcome)  # noqa: PERF401 - it raises in the end

    with pytest.raises(DownloadError, match="the disk is full"):
        await consume()

    assert len(maker.bought) <= 4
    assert all(isinstance(outcome.error, DownloadError) for outcome in outcomes)
    maker.settle(outcomes)


@virtual
async def test_a_film_of_words_has_no_file() -> None:
    """Another model's answer without a link: it is made, and nothing is to be saved."""

    class Words(FilmMaker):
        async def make(self, index: int, work: Any, metadata: Any) -> Outcome:
            return Completed(index, work, job_of(index), Result("task_0", ()))

    outcomes = await collect(Words().making([work(0)], save=saved_slowly))

    assert [(outcome.ok, outcome.to_dict()["paths"]) for outcome in outcomes] == [(True, [])]


# --- what may be running -------------------------------------------------------------------------


@virtual
async def test_an_uncertain_film_keeps_its_slot() -> None:
    """It may be running, so its slot is free after half an hour; the others go on (R13)."""
    maker = FilmMaker(2, doubt=frozenset({0}))
    ready = dict[int, float]()

    async for outcome in maker.making(maker.works(5)).outcomes(ordered=False):
        ready[outcome.index] = now()

    assert ready == pytest.approx({0: 0.1, 1: 10.1, 2: 20.2, 3: 30.3, 4: 40.4})


@virtual
async def test_all_uncertain_is_half_an_hour_of_waiting() -> None:
    maker = FilmMaker(2, doubt=frozenset({0, 1}))

    outcomes = await collect(maker.making(maker.works(3)))

    assert now() == pytest.approx(1810.2)
    maker.settle(outcomes)


@virtual
async def test_an_uncertain_outcome_that_nobody_took_is_reported() -> None:
    """Broken off while an uncertain outcome waits: its token is not lost (I2)."""
    maker = FilmMaker(3, doubt=frozenset({1}), length=lambda number: 5.0)
    outcomes = maker.making(maker.works(3)).outcomes(ordered=True)
    waiting = asyncio.ensure_future(anext(outcomes))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait({waiting})

    assert maker.left_in_doubt == ["token_1"]


@virtual
async def test_what_is_finished_after_the_consumer_left_is_left_behind() -> None:
    """A film that could not be stopped any more is not forgotten (A10)."""

    class Unstoppable(FilmMaker):
        async def make(self, index: int, work: Any, metadata: Any) -> Outcome:
            film = asyncio.ensure_future(super().make(index, work, metadata))
            while not film.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({film})
            return await film

    maker = Unstoppable(2, length=lambda number: 1.0)
    outcomes = maker.making(maker.works(2)).outcomes(ordered=False)
    waiting = asyncio.ensure_future(anext(outcomes))
    await asyncio.sleep(0.5)
    waiting.cancel()
    await asyncio.wait({waiting})

    assert waiting.cancelled()
    maker.settle([])
    assert maker.bought == [0, 1]


@virtual
async def test_a_time_out_is_left_behind_as_well() -> None:
    """Not ready in time, and nobody took the outcome: the film goes on and has a name."""

    class Late(FilmMaker):
        async def make(self, index: int, work: Any, metadata: Any) -> Outcome:
            outcome = await super().make(index, work, metadata)
            return Failed(index, work, JobTimeoutError("late", job=outcome.job), outcome.job)

    maker = Late(2)
    outcomes = maker.making(maker.works(2)).outcomes(ordered=False)
    first = await anext(outcomes)
    await outcomes.aclose()

    assert isinstance(first.error, JobTimeoutError)
    assert maker.left == ["task_1"]
