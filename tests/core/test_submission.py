"""The module that pays: once per film, recorded around the POST, finished whoever leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from typing import Any

import attrs
import pytest
from turns import StrikingLoop, at_every_turn
from volume import volume

from apikley_async import (
    ApikleyError,
    Attempt,
    Callbacks,
    ClientClosedError,
    InsufficientCreditsError,
    InvalidRequestError,
    Limiter,
    MaintenanceError,
    ModelTask,
    RateLimiter,
    RateLimitError,
    Recorder,
    ServerError,
    StoryboardError,
    SubmissionUncertainError,
    UnansweredError,
    UnreachableError,
    Verdict,
    Work,
)
from apikley_async._jobs import Bought, Jobs
from apikley_async._submission import Group, Submission, Submitter
from apikley_async.testing import LoopClock, Reply, Request, reply

pytestmark = pytest.mark.virtual

WORK = ModelTask("model", {"prompt": "A lighthouse at dawn."})
ACCEPTED = reply({"taskId": "task_1"})
THROTTLED = reply(None, code=429, msg="slow down", status=429)
BROKE = reply(None, code=402, msg="no credits")
GATEWAY = Reply(502, "<html>bad gateway</html>")
UNREACHED = UnreachableError("nobody there")
WRONG_CERTIFICATE = UnreachableError("not theirs", permanent=True)
UNHEARD = UnansweredError("reset")

Turn = Reply | Exception


class StepTransport:
    """Takes some steps before the first byte and some after it, so that tests can come between.

    Attributes:
        begun: requests that set out; `left`: those whose first byte left.
    """

    def __init__(
        self,
        *turns: Turn,
        before: int = 3,
        after: int = 3,
        connected_in: float = 0,
        answer_in: float = 0,
    ) -> None:
        self.turns = list(turns)
        self.before, self.after = before, after
        self.connected_in, self.answer_in = connected_in, answer_in
        self.begun: list[Request] = []
        self.left: list[Request] = []
        self.at: list[float] = []
        self.closed = 0
        self.accepted = 0

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        self.begun.append(request)
        self.at.append(asyncio.get_running_loop().time())
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        await steps(self.before)
        await asyncio.sleep(self.connected_in)
        if isinstance(turn, UnreachableError):
            raise UnreachableError(turn.message, permanent=turn.permanent)
        if on_sent is not None:
            on_sent()
        self.left.append(request)
        await steps(self.after)
        await asyncio.sleep(self.answer_in)
        if isinstance(turn, Exception):
            raise turn
        if turn is ACCEPTED:  # each is another task
            self.accepted += 1
            return reply({"taskId": f"task_{self.accepted}"})
        return turn

    async def aclose(self) -> None:
        self.closed += 1


class NestedTransport(StepTransport):
    """The same in a task of its own: a cancel arrives there one turn later."""

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        task = asyncio.create_task(super().send(request, on_sent=on_sent))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            await asyncio.wait({task})
        return task.result()


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Book:
    """A user's own recorder, which takes its time."""

    def __init__(self, pause: int = 2) -> None:
        self.pause = pause
        self.lines: list[tuple[str, str]] = []
        self.attempts: list[Attempt] = []

    async def intend(self, token: str, request: Request) -> None:
        await steps(self.pause)
        self.lines.append(("intend", token))

    async def settle(self, outcome: Attempt) -> None:
        await steps(self.pause)
        self.lines.append(("settle", outcome.token))
        self.attempts.append(outcome)

    @property
    def verdicts(self) -> list[Verdict]:
        return [attempt.verdict for attempt in self.attempts]


async def no_upload() -> None:
    return


@attrs.define
class Desk:
    """A submitter and everything around it that a test looks at."""

    transport: StepTransport
    book: Any = attrs.Factory(Book)
    limiter: Any = attrs.Factory(lambda: RateLimiter(5, 10.0, rng=random.Random(1)))
    callbacks: Any = None
    retry_for: float = 600.0
    not_created: frozenset[int] = frozenset()
    upload: Any = attrs.Factory(lambda: no_upload)
    settled: list[Attempt] = attrs.Factory(list)
    unclaimed: list[str] = attrs.Factory(list)
    uncertain: list[SubmissionUncertainError] = attrs.Factory(list)
    jobs: Jobs = attrs.Factory(Jobs)
    submitter: Submitter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.submitter = Submitter(
            self.transport,
            self.limiter,
            self,  # uploads
            self,  # matching
            self,  # jobs
            retry_for=self.retry_for,
            not_created=self.not_created,
            clock=LoopClock(),
            rng=random.Random(7),
        )

    def url_for(self, token: str) -> str | None:
        return self.callbacks.url_for(token) if self.callbacks else None

    def settle(self, attempt: Attempt) -> None:
        self.settled.append(attempt)

    async def urls_of(self, work: Work) -> dict[str, str]:
        await self.upload()
        return {}

    def is_new(self, task_id: str) -> bool:
        return self.jobs.is_new(task_id)

    def report_bought(self, bought: Bought) -> None:
        self.unclaimed.append(bought.task_id)

    def report_uncertain(self, error: SubmissionUncertainError) -> None:
        self.uncertain.append(error)

    def submit(self) -> asyncio.Task[str]:
        submission = Submission(WORK, recorder=self.book)
        return asyncio.create_task(self.submitter.submit(submission))

    async def quiet(self) -> None:
        while self.submitter.pending:
            await asyncio.wait(set(self.submitter._all._tasks))  # noqa: SLF001 - of no caller
        await steps(3)

    async def close(self, grace: float = 30.0) -> None:
        try:
            await self.submitter.drain(grace)
        finally:
            await self.submitter.end()

    def is_idle(self) -> bool:
        """Nothing runs, and no place is lost."""
        return self.limiter.in_flight == 0 and not self.submitter.pending


def now() -> float:
    return asyncio.get_running_loop().time()


async def end_of(task: asyncio.Task[str]) -> str | BaseException:
    return (await asyncio.gather(task, return_exceptions=True))[0]


# --- one attempt ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "error", "verdict", "http", "code"),
    [
        (ACCEPTED, None, Verdict.ACCEPTED, 200, 200),
        (BROKE, InsufficientCreditsError, Verdict.REFUSED, 200, 402),
        (reply(None, code=422, status=422), InvalidRequestError, Verdict.REFUSED, 422, 422),
        (Reply(302), ApikleyError, Verdict.REFUSED, 302, 302),
        (GATEWAY, SubmissionUncertainError, Verdict.UNCERTAIN, 502, 502),
        (reply(None), SubmissionUncertainError, Verdict.UNCERTAIN, 200, 200),
        (Reply(200, '{"code": 2'), SubmissionUncertainError, Verdict.UNCERTAIN, 200, 200),
        (UNHEARD, SubmissionUncertainError, Verdict.UNCERTAIN, None, None),
        (RuntimeError("a bug"), SubmissionUncertainError, Verdict.UNCERTAIN, None, None),
        (WRONG_CERTIFICATE, UnreachableError, Verdict.UNSENT, None, None),
    ],
)
async def test_one_attempt_and_what_is_written_down(
    turn: Turn,
    error: type[Exception] | None,
    verdict: Verdict,
    http: int | None,
    code: int | None,
) -> None:
    """Each outcome is raised or returned, and settled with what is known of it (A1 to A5)."""
    desk = Desk(StepTransport(turn))

    end = await end_of(desk.submit())

    assert end == "task_1" if error is None else isinstance(end, error)
    (attempt,) = desk.book.attempts
    assert (attempt.verdict, attempt.http, attempt.code) == (verdict, http, code)
    assert attempt.task_id == ("task_1" if error is None else None)
    assert attempt.raw == (turn.text if isinstance(turn, Reply) else "")
    assert bool(attempt.cause) is (error is not None)
    assert desk.book.lines == [("intend", attempt.token), ("settle", attempt.token)]
    assert len(desk.transport.begun) == 1
    assert desk.is_idle()
    assert (desk.unclaimed, desk.uncertain) == ([], [])


@pytest.mark.parametrize("turn", [GATEWAY, reply(None), UNHEARD, RuntimeError("a bug")])
async def test_a_doubt_says_all_there_is_to_know(turn: Turn) -> None:
    """The error carries the token that names the attempt, the cause and the answer (A1)."""
    desk = Desk(StepTransport(turn))

    doubt = await end_of(desk.submit())

    assert isinstance(doubt, SubmissionUncertainError)
    (attempt,) = desk.book.attempts
    assert (doubt.token, doubt.cause, doubt.raw) == (attempt.token, attempt.cause, attempt.raw)
    assert doubt.cause
    assert doubt.cause in str(doubt)
    assert doubt.at == attempt.ended_at >= attempt.began_at > 0
    assert "Do not simply submit again" in str(doubt)


async def test_what_the_answer_held_is_kept_to_64_kilobytes() -> None:
    desk = Desk(StepTransport(Reply(500, "x" * 100_000)))

    doubt = await end_of(desk.submit())

    assert isinstance(doubt, SubmissionUncertainError)
    assert len(doubt.raw) == len(desk.book.attempts[0].raw) == 64 * 1024


async def test_a_task_id_counts_whatever_else_the_answer_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A film that was bought is bought, and the contradiction is logged (A6)."""
    desk = Desk(StepTransport(reply({"taskId": "task_9"}, code=429, status=429)))

    with caplog.at_level(logging.WARNING):
        assert await desk.submit() == "task_9"

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "task_9" in caplog.text
    assert "429" in caplog.text


async def test_codes_that_create_nothing_are_tried_again() -> None:
    """Each try is an attempt of its own, written down before and after. (A4)"""
    busy = reply(None, code=500)
    desk = Desk(StepTransport(busy, busy, ACCEPTED), not_created=frozenset({500}))

    assert await desk.submit() == "task_1"

    assert desk.book.verdicts == [Verdict.NOT_CREATED, Verdict.NOT_CREATED, Verdict.ACCEPTED]
    assert len({attempt.token for attempt in desk.book.attempts}) == 3


async def test_it_is_tried_three_times_more_at_most() -> None:
    """Then `submit` raises, and the next one may go on. (A4)"""
    busy = reply(None, code=500)
    desk = Desk(StepTransport(*[busy] * 9), not_created=frozenset({500}))

    error = await end_of(desk.submit())

    assert isinstance(error, ServerError)
    assert error.resumable
    assert "nothing is created" in error.message
    assert desk.book.verdicts == [Verdict.NOT_CREATED] * 4


async def test_every_attempt_has_a_token_of_its_own() -> None:
    """128 random bits, and the same in the callback URL (A16)."""

    class Hooks:
        def url_for(self, token: str) -> str | None:
            return f"https://hooks.test/{token}"

    assert isinstance(Hooks(), Callbacks)
    desk = Desk(StepTransport(UNREACHED, UNREACHED, ACCEPTED), callbacks=Hooks())

    await desk.submit()

    tokens = [attempt.token for attempt in desk.book.attempts]
    assert len(set(tokens)) == 3
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)
    urls = [(request.body or {})["callBackUrl"] for request in desk.transport.begun]
    assert urls == [f"https://hooks.test/{token}" for token in tokens]


# --- again ---------------------------------------------------------------------------------------


async def test_what_was_never_sent_is_tried_again() -> None:
    """Unsent is retried with growing pauses, and paid once (A15)."""
    desk = Desk(StepTransport(*[UNREACHED] * 5, ACCEPTED))

    assert await desk.submit() == "task_1"

    assert len(desk.transport.begun) == 6
    assert len(desk.transport.left) == 1
    pauses = [b - a for a, b in zip(desk.transport.at, desk.transport.at[1:], strict=False)]
    assert all(0.7 * 2**n <= pause <= 2**n + 0.01 for n, pause in enumerate(pauses))
    assert desk.book.verdicts == [Verdict.UNSENT] * 5 + [Verdict.ACCEPTED]


async def test_what_was_throttled_is_tried_again() -> None:
    """A refusal for pace is no failure (R4)."""
    desk = Desk(StepTransport(*[THROTTLED] * 4, ACCEPTED))

    assert await desk.submit() == "task_1"

    assert desk.book.verdicts == [Verdict.THROTTLED] * 4 + [Verdict.ACCEPTED]
    assert desk.is_idle()


async def test_patience_ends_with_what_was_never_sent() -> None:
    desk = Desk(StepTransport(UNREACHED), retry_for=100)

    end = await end_of(desk.submit())

    assert isinstance(end, UnreachableError)
    assert 60 <= now() <= 100
    assert desk.is_idle()


async def test_patience_ends_with_a_service_that_only_throttles() -> None:
    desk = Desk(StepTransport(THROTTLED), retry_for=100)

    end = await end_of(desk.submit())

    assert isinstance(end, RateLimitError)
    assert 30 <= now() <= 300
    assert desk.is_idle()


async def test_waiting_in_line_uses_up_no_patience() -> None:
    """Patience is for trouble: a long line before the limiter is none."""
    limiter = RateLimiter(1, 100.0)
    desk = Desk(
        StepTransport(ACCEPTED, ACCEPTED, UNREACHED, ACCEPTED),
        limiter=limiter,
        retry_for=50,
    )

    ends = await asyncio.gather(*(desk.submit() for _ in range(3)))

    assert ends == ["task_1", "task_2", "task_3"]
    assert now() > 200


@pytest.mark.parametrize("turn", [GATEWAY, UNHEARD, BROKE, WRONG_CERTIFICATE, reply(None)])
async def test_nothing_else_is_ever_tried_again(turn: Turn) -> None:
    """Not even after an hour (A1 to A5, A24)."""
    desk = Desk(StepTransport(turn, ACCEPTED))

    end = await end_of(desk.submit())
    await asyncio.sleep(3600)

    assert isinstance(end, ApikleyError)
    assert len(desk.transport.begun) == 1


async def test_an_uncertain_attempt_keeps_its_place_for_a_minute() -> None:
    """Its request may still arrive, so it goes on counting (R1)."""
    desk = Desk(StepTransport(GATEWAY, ACCEPTED), limiter=RateLimiter(1, 10.0))

    await end_of(desk.submit())
    await desk.submit()

    assert desk.transport.at[1] == pytest.approx(60)


# --- the recorder --------------------------------------------------------------------------------


class Leased(Book):
    """A recorder whose intents hold for half a minute; it may take its time for the first one."""

    def __init__(self, first: float = 0.0) -> None:
        super().__init__()
        self.first = first

    async def intend(  # type: ignore[override]
        self, token: str, request: Request
    ) -> timedelta:
        pause, self.first = self.first, 0.0
        await super().intend(token, request)
        await asyncio.sleep(pause)
        return timedelta(seconds=30)


async def test_what_was_written_down_long_ago_is_not_sent() -> None:
    """Others may have taken it over: it is unsent, and tried again with a new intent. (J5)"""
    desk = Desk(StepTransport(ACCEPTED, connected_in=31), book=Leased(), retry_for=120)

    assert isinstance(await end_of(desk.submit()), UnreachableError)

    assert desk.transport.left == []
    assert set(desk.book.verdicts) == {Verdict.UNSENT}
    assert len(desk.book.verdicts) == len(desk.transport.begun) > 2
    assert desk.is_idle()


@pytest.mark.parametrize("returned", [0, 1, 7.5, True, "INSERT 0 1", object()])
async def test_what_a_database_returns_bounds_nothing(returned: Any) -> None:
    """A recorder often ends with `return await rows.execute(...)`: a count, an id, a status."""

    class Rows(Book):
        async def intend(self, token: str, request: Request) -> Any:
            await super().intend(token, request)
            return returned

    desk = Desk(StepTransport(ACCEPTED, connected_in=9), book=Rows())

    assert await desk.submit() == "task_1"

    assert desk.book.verdicts == [Verdict.ACCEPTED]


@pytest.mark.parametrize(
    ("writing", "connecting", "verdicts"),
    [
        (31, 0, [Verdict.UNSENT, Verdict.ACCEPTED]),
        (16, 15, [Verdict.UNSENT, Verdict.ACCEPTED]),
        (14, 15, [Verdict.ACCEPTED]),
    ],
)
async def test_an_intent_is_as_old_as_its_call(
    writing: float, connecting: float, verdicts: list[Verdict]
) -> None:
    """The answer to its COMMIT may be what is late."""
    desk = Desk(StepTransport(ACCEPTED, connected_in=connecting), book=Leased(writing))

    assert await desk.submit() == "task_1"

    assert desk.book.verdicts == verdicts
    assert len(desk.transport.left) == 1


async def test_the_intent_is_safe_before_the_first_byte() -> None:
    """`intend` has returned before anything is begun, and `settle` before the caller knows (I5)."""
    desk = Desk(StepTransport(ACCEPTED))
    seen: list[str] = []

    class Witness(Book):
        async def intend(self, token: str, request: Request) -> None:
            await super().intend(token, request)
            seen.append(f"intended, {len(desk.transport.begun)} begun")

        async def settle(self, outcome: Attempt) -> None:
            seen.append(f"settling, caller {'knows' if submitting.done() else 'waits'}")
            await asyncio.sleep(5)
            seen.append(f"settled, caller {'knows' if submitting.done() else 'waits'}")

    assert isinstance(Witness(), Recorder)
    desk.book = Witness()
    submitting = desk.submit()
    await submitting

    assert seen == ["intended, 0 begun", "settling, caller waits", "settled, caller waits"]


class FullDiskError(Exception):
    """A recorder's own trouble."""


async def test_an_intent_that_cannot_be_written_down_prevents_the_request() -> None:
    """No journal, no purchase (J1)."""

    class Full(Book):
        async def intend(self, token: str, request: Request) -> None:
            await steps(2)
            raise FullDiskError

    desk = Desk(StepTransport(ACCEPTED), book=Full())

    assert isinstance(await end_of(desk.submit()), FullDiskError)
    assert desk.transport.begun == []
    assert desk.is_idle()


@pytest.mark.parametrize("turn", [ACCEPTED, GATEWAY])
def test_an_outcome_that_cannot_be_written_down_is_not_lost(turn: Turn) -> None:
    """The recorder fails after the fact: what was bought is reported, exactly once (J2)."""
    seen: set[type] = set()

    class Full(Book):
        async def settle(self, outcome: Attempt) -> None:
            await steps(2)
            raise FullDiskError

    async def scenario(loop: StrikingLoop) -> None:
        desk = Desk(StepTransport(turn), book=Full())
        submitting = desk.submit()
        loop.strike = submitting.cancel
        end = await end_of(submitting)
        await desk.quiet()

        sent = len(desk.transport.left)
        assert desk.unclaimed == (["task_1"] * sent if turn is ACCEPTED else [])
        assert len(desk.uncertain) == (sent if turn is GATEWAY else 0)
        assert desk.is_idle()
        seen.add(type(end))

    at_every_turn(scenario)

    assert seen == {asyncio.CancelledError, FullDiskError}


@pytest.mark.parametrize("turn", [ACCEPTED, GATEWAY])
@pytest.mark.parametrize(
    "error",
    [
        UNREACHED,
        RateLimitError("slow"),
        MaintenanceError("later"),
        StoryboardError("url: none, so nothing was sent"),
        SubmissionUncertainError("a film of its own", token="another"),
        ClientClosedError("closed: nothing was sent"),
        UnansweredError("no answer"),
    ],
)
async def test_what_a_recorder_s_own_calls_raise_is_not_about_the_attempt(
    turn: Turn, error: ApikleyError
) -> None:
    """It may ask for the balance, say. Nobody who would send again may take that for an answer."""

    class Asking(Book):
        async def settle(self, outcome: Attempt) -> None:
            raise error

    desk = Desk(StepTransport(turn), book=Asking())

    end = await end_of(desk.submit())

    assert type(end) is ApikleyError
    assert (end.task_id, end.__cause__) == ("task_1" if turn is ACCEPTED else None, error)
    known = "the film is paid, and in unclaimed" if turn is ACCEPTED else "a film may be paid"
    assert f"{error.message}; {known}" in end.message
    assert len(desk.transport.left) == len(desk.unclaimed) + len(desk.uncertain) == 1


async def test_what_a_recorder_s_own_submission_left_uncertain_is_not_about_the_attempt() -> None:
    """It was not sent, so nobody has to find out what became of it."""

    class Submitting(Book):
        async def intend(self, token: str, request: Request) -> timedelta | None:
            raise SubmissionUncertainError("a film of its own", token="another")

    desk = Desk(StepTransport(ACCEPTED), book=Submitting())

    end = await end_of(desk.submit())

    assert (type(end), "nothing was sent" in str(end)) == (ApikleyError, True)
    assert (desk.unclaimed, desk.uncertain, len(desk.transport.left)) == ([], [], 0)


class Torn:
    """A limiter that cannot give a slot back, as one whose database has gone."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise self.error

    @contextlib.asynccontextmanager
    async def running_slot(self) -> AsyncIterator[None]:
        yield

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        return


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), UNREACHED, ServerError("down")])
@pytest.mark.parametrize(("turn", "end"), [(ACCEPTED, str), (GATEWAY, SubmissionUncertainError)])
async def test_a_limiter_that_fails_after_the_fact_loses_no_film(
    turn: Turn, end: type, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """What became of the attempt counts, and nothing is sent a second time."""
    assert isinstance(Torn(error), Limiter)
    desk = Desk(StepTransport(turn), limiter=Torn(error))

    assert isinstance(await end_of(desk.submit()), end)

    assert len(desk.transport.left) == 1
    assert (desk.unclaimed, desk.uncertain) == ([], [])
    assert "could not be given back" in caplog.text


@pytest.mark.parametrize("closes", [True, False])
async def test_a_slot_that_is_slow_to_be_given_back_is_waited_for(closes: bool) -> None:
    """Neither a closing nor a cancel cuts a limiter of the user's own short."""
    seen: list[str] = []

    class Slow:
        @contextlib.asynccontextmanager
        async def slot(self) -> AsyncIterator[None]:
            yield
            await asyncio.sleep(5)
            seen.append("given back")

        @contextlib.asynccontextmanager
        async def running_slot(self) -> AsyncIterator[None]:
            yield

        def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
            return

    desk = Desk(StepTransport(ACCEPTED), limiter=Slow())
    submitting = desk.submit()
    await asyncio.sleep(1)
    if closes:
        await desk.close()
    else:
        submitting.cancel()
    end = await end_of(submitting)
    await desk.quiet()

    assert seen == ["given back"]
    assert end == "task_1" if closes else desk.unclaimed == ["task_1"]


async def test_a_limiter_of_ones_own_sees_every_attempt() -> None:
    """Slots surround attempts, and what ends them passes through."""
    seen: list[str] = []

    class Own:
        @contextlib.asynccontextmanager
        async def slot(self) -> AsyncIterator[None]:
            seen.append("in")
            try:
                yield
            except ApikleyError as error:
                seen.append(type(error).__name__)
                raise
            seen.append("out")

        @contextlib.asynccontextmanager
        async def running_slot(self) -> AsyncIterator[None]:
            yield

        def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
            return

    desk = Desk(StepTransport(THROTTLED, UNREACHED, ACCEPTED), limiter=Own())

    await desk.submit()

    assert seen == [
        *("in", "RateLimitError"),
        *("in", "UnreachableError"),
        *("in", "out"),
    ]


class Watched:
    """A limiter that keeps what passed through its slots; it may swallow that, too."""

    def __init__(self, *, swallows: bool = False) -> None:
        self.passed: list[type[BaseException] | None] = []
        self.swallows = swallows

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            self.passed.append(type(error))
            if not self.swallows:
                raise
        else:
            self.passed.append(None)

    running_slot = slot

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        return


def test_of_an_attempt_that_never_began_the_limiter_learns_just_that() -> None:
    """Cancelled at every turn: it is `UnreachableError` as long as nothing has left."""
    seen = set[tuple[int, type[BaseException] | None]]()

    async def scenario(loop: StrikingLoop) -> None:
        desk = Desk(StepTransport(ACCEPTED), limiter=Watched())
        submitting = desk.submit()
        loop.strike = submitting.cancel
        end = await end_of(submitting)
        await desk.quiet()

        assert isinstance(end, asyncio.CancelledError | str)
        seen.update((len(desk.transport.left), passed) for passed in desk.limiter.passed)

    at_every_turn(scenario)

    assert seen == {(0, UnreachableError), (1, None)}


@pytest.mark.parametrize("swallows", [False, True])
async def test_an_intent_that_cannot_be_written_down_costs_no_slot(swallows: bool) -> None:
    """The limiter sees that nothing began; the caller gets the recorder's own error."""

    class Full(Book):
        async def intend(self, token: str, request: Request) -> None:
            raise FullDiskError

    desk = Desk(StepTransport(ACCEPTED), book=Full(), limiter=Watched(swallows=swallows))

    assert isinstance(await end_of(desk.submit()), FullDiskError)
    assert desk.limiter.passed == [UnreachableError]
    assert desk.transport.begun == []


async def test_a_slot_comes_back_at_once_when_nothing_was_sent() -> None:
    """A full disk for twenty submissions: the twenty-first need not wait ten seconds."""

    class Full(Book):
        async def intend(self, token: str, request: Request) -> None:
            raise FullDiskError

    desk = Desk(StepTransport(ACCEPTED), book=Full())
    for _ in range(20):
        assert isinstance(await end_of(desk.submit()), FullDiskError)
    desk.book = Book()

    assert await desk.submit() == "task_1"
    assert now() == 0


@pytest.mark.parametrize("turn", [GATEWAY, UNHEARD, BROKE])
async def test_a_limiter_that_swallows_errors_makes_nobody_pay_twice(turn: Turn) -> None:
    """What a slot does not let through is raised all the same."""
    desk = Desk(StepTransport(turn, ACCEPTED), limiter=Watched(swallows=True))

    end = await end_of(desk.submit())

    assert isinstance(end, SubmissionUncertainError | InsufficientCreditsError)
    assert len(desk.transport.begun) == 1


# --- cancelling the caller, at every turn --------------------------------------------------------

SCRIPTS: dict[str, tuple[Turn, ...]] = {
    "accepted": (ACCEPTED,),
    "uncertain": (GATEWAY,),
    "unanswered": (UNHEARD,),
    "refused": (BROKE,),
    "throttled first": (THROTTLED, ACCEPTED),
    "unreachable first": (UNREACHED, ACCEPTED),
}


def check_account(desk: Desk, end: str | BaseException) -> None:
    """What left is written down, and known to the caller or reported: exactly one of the two."""
    book, left = desk.book, desk.transport.left
    assert [line[0] for line in book.lines] == ["intend", "settle"] * (len(book.lines) // 2)
    received = [v for v in book.verdicts if v is not Verdict.UNSENT]
    assert len(received) == len(left)
    bought = book.verdicts.count(Verdict.ACCEPTED)
    doubts = book.verdicts.count(Verdict.UNCERTAIN)
    assert len(desk.unclaimed) == (bought if not isinstance(end, str) else 0)
    assert len(desk.uncertain) == (doubts if not isinstance(end, SubmissionUncertainError) else 0)
    assert bought + doubts <= 1
    assert desk.is_idle()


TRANSPORTS = pytest.mark.parametrize("transport", [StepTransport, NestedTransport])


@TRANSPORTS
@pytest.mark.parametrize("script", SCRIPTS)
def test_cancelling_the_caller_at_any_turn(script: str, transport: type[StepTransport]) -> None:
    """Before the first byte nothing is sent any more; after it the attempt is finished (A10)."""
    seen: set[str] = set()

    async def scenario(loop: StrikingLoop) -> None:
        desk = Desk(transport(*SCRIPTS[script]))
        submitting = desk.submit()
        arrived: list[int] = []

        def strike() -> None:
            submitting.cancel()
            # The cancel arrives in this turn; what has left by its end has left.
            loop.call_soon(loop.call_soon, lambda: arrived.append(len(desk.transport.left)))

        loop.strike = strike
        end = await end_of(submitting)
        await desk.quiet()

        if isinstance(end, asyncio.CancelledError):
            assert arrived == [len(desk.transport.left)]
        check_account(desk, end)
        assert not any("closed" in doubt.cause for doubt in desk.uncertain)
        seen.add(f"{len(desk.transport.left)} sent, {type(end).__name__}")

    at_every_turn(scenario)

    # The strikes met every phase, or they would prove nothing.
    assert {"0 sent, CancelledError", "1 sent, CancelledError"} <= seen
    assert any("CancelledError" not in end for end in seen)


@pytest.mark.parametrize("which", range(3))
def test_one_who_leaves_disturbs_nobody_else(which: int) -> None:
    """Three share a limiter of one place; one is cancelled, the others get their films (I14)."""

    async def scenario(loop: StrikingLoop) -> None:
        limiter = RateLimiter(1, 5.0, clock=LoopClock())
        desk = Desk(StepTransport(ACCEPTED), limiter=limiter)
        submitting = [desk.submit() for _ in range(3)]
        loop.strike = submitting[which].cancel
        ends = await asyncio.gather(*submitting, return_exceptions=True)
        await desk.quiet()

        others = {end for number, end in enumerate(ends) if number != which}
        assert len(others) == 2
        assert others <= {"task_1", "task_2", "task_3"}
        assert desk.book.verdicts.count(Verdict.ACCEPTED) == len(desk.transport.left)
        assert len(desk.unclaimed) == len(desk.transport.left) - len(
            [end for end in ends if isinstance(end, str)]
        )
        assert desk.is_idle()

    at_every_turn(scenario)


async def test_an_abandoned_submission_is_not_tried_again() -> None:
    """Nobody waits for it: an unsent attempt stays unsent."""
    desk = Desk(StepTransport(THROTTLED, ACCEPTED, answer_in=5))
    submitting = desk.submit()
    await asyncio.sleep(2)

    submitting.cancel()
    await end_of(submitting)
    await desk.quiet()
    await asyncio.sleep(3600)

    assert desk.book.verdicts == [Verdict.THROTTLED]
    assert len(desk.transport.begun) == 1


@TRANSPORTS
async def test_what_was_not_sent_ends_with_its_caller(transport: type[StepTransport]) -> None:
    """Nobody goes on connecting, or standing in line, for a film that nobody wants."""
    desk = Desk(transport(ACCEPTED, connected_in=60), limiter=RateLimiter(1, 10.0))
    connecting, in_line = desk.submit(), desk.submit()
    await asyncio.sleep(1)

    connecting.cancel()
    in_line.cancel()
    await asyncio.wait({connecting, in_line})
    await desk.quiet()

    assert now() == pytest.approx(1)
    assert desk.transport.left == []
    assert desk.book.verdicts == [Verdict.UNSENT]
    assert desk.is_idle()


async def test_the_caller_is_free_at_once() -> None:
    """A cancelled caller does not wait for the answer to what it set in motion (A10)."""
    desk = Desk(StepTransport(ACCEPTED, answer_in=60))
    submitting = desk.submit()
    await asyncio.sleep(1)

    submitting.cancel()
    await end_of(submitting)

    assert now() == pytest.approx(1)
    await desk.quiet()
    assert now() == pytest.approx(60)
    assert desk.unclaimed == ["task_1"]


async def test_a_users_own_timeout_is_a_cancel_like_any_other() -> None:
    desk = Desk(StepTransport(ACCEPTED, answer_in=60))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await desk.submitter.submit(Submission(WORK, recorder=desk.book))
    await desk.quiet()

    assert desk.unclaimed == ["task_1"]


async def test_a_bug_of_an_abandoned_submission_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Book):
        async def intend(self, token: str, request: Request) -> None:
            await steps(5)
            raise FullDiskError

    desk = Desk(StepTransport(ACCEPTED), book=Broken())
    submitting = desk.submit()
    await steps(4)
    submitting.cancel()
    await end_of(submitting)
    await desk.quiet()

    assert [r.getMessage() for r in caplog.records] == [
        "an abandoned submission ended in FullDiskError"
    ]


# --- closing, at every turn ----------------------------------------------------------------------


@TRANSPORTS
@pytest.mark.parametrize("grace", [30, 0])
@pytest.mark.parametrize("script", SCRIPTS)
def test_closing_at_any_turn(script: str, grace: float, transport: type[StepTransport]) -> None:
    """What is out gets its answer, what is not out stays at home, nobody is left out (C5, C6)."""
    seen: set[str] = set()

    async def scenario(loop: StrikingLoop) -> None:
        desk = Desk(transport(*SCRIPTS[script]))
        submitting = desk.submit()
        struck = asyncio.Event()
        loop.strike = struck.set
        quitting = asyncio.create_task(struck.wait())
        await asyncio.wait({submitting, quitting}, return_when=asyncio.FIRST_COMPLETED)
        quitting.cancel()
        left = len(desk.transport.left)

        await desk.close(grace)

        assert desk.is_idle()
        assert len(desk.transport.left) == left
        end = await end_of(submitting)
        seen.add(f"{left} sent, {type(end).__name__}")
        last = desk.book.verdicts[-1] if desk.book.verdicts else Verdict.UNSENT
        if isinstance(end, ClientClosedError):
            spent = last in (Verdict.ACCEPTED, Verdict.UNCERTAIN) or desk.unclaimed
            assert ("nothing was sent" in str(end)) is not bool(spent or desk.uncertain)
        if grace:
            check_account(desk, end)
            assert desk.unclaimed == desk.uncertain == []
            assert isinstance(end, str) is (last is Verdict.ACCEPTED)
            assert isinstance(end, SubmissionUncertainError) is (last is Verdict.UNCERTAIN)
        bought = [verdict for verdict in desk.book.verdicts if verdict is Verdict.ACCEPTED]
        known = isinstance(end, str | SubmissionUncertainError)
        assert known + len(desk.unclaimed) + len(desk.uncertain) <= 1
        assert known or not bought or desk.unclaimed

    at_every_turn(scenario, step=volume(3, 1))

    assert "0 sent, ClientClosedError" in seen
    assert any("ClientClosedError" not in end for end in seen)


async def test_closing_waits_for_an_answer_as_long_as_it_is_told() -> None:
    desk = Desk(StepTransport(ACCEPTED, answer_in=29))
    submitting = desk.submit()
    await asyncio.sleep(0.5)

    await desk.close(grace=30)

    assert now() == pytest.approx(29)
    assert await submitting == "task_1"


async def test_closing_waits_for_an_answer_though_there_was_quiet_before() -> None:
    """An earlier film has come and gone: that quiet says nothing about the one that is out."""
    desk = Desk(StepTransport(ACCEPTED))
    assert await desk.submit() == "task_1"
    await desk.quiet()
    desk.transport.answer_in = 29
    submitting = desk.submit()
    await asyncio.sleep(0.5)

    await desk.close(grace=30)

    assert await submitting == "task_2"
    assert desk.book.verdicts == [Verdict.ACCEPTED] * 2


async def test_closing_waits_for_the_last_answer_not_for_the_first() -> None:
    desk = Desk(StepTransport(ACCEPTED, answer_in=5))
    first = desk.submit()
    await asyncio.sleep(0.5)
    desk.transport.answer_in = 25
    last = desk.submit()
    await asyncio.sleep(0.5)

    await desk.close(grace=30)

    assert await asyncio.gather(first, last) == ["task_1", "task_2"]
    assert now() == pytest.approx(25.5)


async def test_what_is_not_answered_in_time_is_uncertain() -> None:
    desk = Desk(StepTransport(ACCEPTED, answer_in=100))
    submitting = desk.submit()
    await asyncio.sleep(1)

    await desk.close(grace=30)
    end = await end_of(submitting)

    assert now() == pytest.approx(31)
    assert isinstance(end, SubmissionUncertainError)
    assert "closed" in end.cause
    assert desk.book.verdicts == [Verdict.UNCERTAIN]
    assert desk.is_idle()


@pytest.mark.parametrize("turn", [ACCEPTED, GATEWAY])
async def test_a_recorder_that_hangs_does_not_hang_the_closing(turn: Turn) -> None:
    """The grace ends; what was bought is reported, and its caller gets the place."""

    class Slow(Book):
        async def settle(self, outcome: Attempt) -> None:
            await asyncio.sleep(1000)

    desk = Desk(StepTransport(turn), book=Slow())
    submitting = desk.submit()
    await asyncio.sleep(1)

    await desk.close(grace=30)
    end = await end_of(submitting)

    assert now() == pytest.approx(36)
    assert isinstance(end, ClientClosedError)
    assert "nothing was sent" not in str(end)
    if turn is ACCEPTED:
        assert (end.task_id, desk.unclaimed) == ("task_1", ["task_1"])
    else:
        assert len(desk.uncertain) == 1


@pytest.mark.parametrize("turn", [ACCEPTED, GATEWAY])
async def test_what_is_being_written_down_is_written_to_its_end(turn: Turn) -> None:
    """Without any grace for answers, a recorder that takes two seconds still gets them."""

    class Slow(Book):
        async def settle(self, outcome: Attempt) -> None:
            await asyncio.sleep(2)
            await super().settle(outcome)

    desk = Desk(StepTransport(turn), book=Slow())
    submitting = desk.submit()
    await asyncio.sleep(1)

    await desk.close(grace=0)
    end = await end_of(submitting)

    assert now() == pytest.approx(2)
    assert len(desk.book.verdicts) == 1
    assert end == "task_1" if turn is ACCEPTED else isinstance(end, SubmissionUncertainError)
    assert desk.unclaimed == desk.uncertain == []


async def test_an_intent_that_is_being_written_down_is_settled_when_everything_ends() -> None:
    """It is cut off by no end, so that no journal is left with an intent that nobody settles."""

    class Slow(Book):
        async def intend(self, token: str, request: Request) -> None:
            await asyncio.sleep(2)
            await super().intend(token, request)

    desk = Desk(StepTransport(ACCEPTED), book=Slow())
    submitting = desk.submit()
    await asyncio.sleep(1)

    await desk.close(grace=0)

    assert isinstance(await end_of(submitting), ClientClosedError)
    assert [line[0] for line in desk.book.lines] == ["intend", "settle"]
    assert desk.book.verdicts == [Verdict.UNSENT]
    assert desk.transport.begun == []


async def test_who_waits_at_a_closed_gate_goes_home_at_once() -> None:
    """A throttled submission holds up no closing (C5)."""
    throttled = reply({"retryAfter": 200}, code=429, status=429)
    desk = Desk(StepTransport(throttled))
    submitting = [desk.submit() for _ in range(8)]
    await asyncio.sleep(20)

    await desk.close(grace=30)

    assert now() == pytest.approx(20)
    ends = [await end_of(task) for task in submitting]
    assert all(isinstance(end, ClientClosedError) for end in ends)
    assert desk.is_idle()


async def test_nothing_is_sent_once_the_closing_has_begun() -> None:
    """An intent that was being written down is settled as unsent."""

    class Slow(Book):
        async def intend(self, token: str, request: Request) -> None:
            await asyncio.sleep(5)
            await super().intend(token, request)

    desk = Desk(StepTransport(ACCEPTED), book=Slow())
    submitting = desk.submit()
    await asyncio.sleep(1)

    await desk.close(grace=30)

    assert now() == pytest.approx(5)
    assert isinstance(await end_of(submitting), ClientClosedError)
    assert desk.transport.begun == []
    assert desk.book.verdicts == [Verdict.UNSENT]
    with pytest.raises(ClientClosedError, match="nothing was sent"):
        await desk.submitter.submit(Submission(WORK))


@pytest.mark.parametrize("after", [0, 0.1, 10])
async def test_closing_can_itself_be_cut_short(after: float) -> None:
    """A cancelled drain gives up its grace, and still leaves nothing running (C6)."""
    desk = Desk(StepTransport(ACCEPTED, answer_in=100))
    submitting = desk.submit()
    await asyncio.sleep(1)
    closing = asyncio.create_task(desk.close(grace=30))
    await asyncio.sleep(after)

    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert now() == pytest.approx(1 + after)
    if after:
        assert isinstance(await end_of(submitting), SubmissionUncertainError)
    else:
        await desk.close(grace=0)
        await end_of(submitting)
    assert desk.is_idle()


# --- groups ---------------------------------------------------------------------------------------


def grouped(desk: Desk, group: Group) -> asyncio.Task[str]:
    return asyncio.create_task(
        desk.submitter.submit(Submission(WORK, recorder=desk.book, group=group))
    )


@TRANSPORTS
async def test_a_group_stops_what_is_not_out_and_waits_for_what_is(
    transport: type[StepTransport],
) -> None:
    """Only its own: others of the same submitter go on."""
    desk = Desk(transport(ACCEPTED, answer_in=20), limiter=RateLimiter(2, 10.0))
    group = Group(LoopClock(), recorded=True)
    out, other, in_line = grouped(desk, group), desk.submit(), grouped(desk, group)
    await asyncio.sleep(1)
    assert (group.in_flight, group.pending) == (1, 2)

    await group.drain(grace=30)

    assert now() == pytest.approx(20)
    assert {await out, await other} == {"task_1", "task_2"}
    error = await end_of(in_line)
    assert isinstance(error, ClientClosedError)
    assert str(error).startswith("Submitting was stopped: nothing was sent")
    assert isinstance(await end_of(grouped(desk, group)), ClientClosedError)
    assert await desk.submit() == "task_3"
    assert desk.is_idle()


@pytest.mark.parametrize("turn", [ACCEPTED, GATEWAY, UNHEARD])
@pytest.mark.parametrize("recorded", [False, True])
def test_of_a_group_that_records_nothing_is_reported_twice(turn: Turn, recorded: bool) -> None:
    """Cancelled at every turn: what left is written down; it is reported only where that is all."""
    seen = set[int]()

    async def scenario(loop: StrikingLoop) -> None:
        desk = Desk(StepTransport(turn))
        submitting = grouped(desk, Group(LoopClock(), recorded=recorded))
        loop.strike = submitting.cancel
        end = await end_of(submitting)
        await desk.quiet()

        left = len(desk.transport.left)
        assert [v for v in desk.book.verdicts if v is not Verdict.UNSENT] == (
            [Verdict.ACCEPTED if turn is ACCEPTED else Verdict.UNCERTAIN] * left
        )
        reported = len(desk.unclaimed) + len(desk.uncertain)
        cancelled = isinstance(end, asyncio.CancelledError)
        assert reported == (left if cancelled and not recorded else 0)
        assert desk.is_idle()
        seen.add(left)

    at_every_turn(scenario)

    assert seen == {0, 1}


@pytest.mark.parametrize("turn", [ACCEPTED, GATEWAY])
async def test_what_a_group_could_not_write_down_is_reported(turn: Turn) -> None:
    """The second attempt of a submission, too: the first was written down."""

    class Fills(Book):
        async def settle(self, outcome: Attempt) -> None:
            if outcome.verdict is not Verdict.THROTTLED:
                raise FullDiskError
            await super().settle(outcome)

    desk = Desk(StepTransport(THROTTLED, turn), book=Fills())
    submitting = grouped(desk, Group(LoopClock(), recorded=True))

    assert isinstance(await end_of(submitting), FullDiskError)
    assert desk.book.verdicts == [Verdict.THROTTLED]
    assert desk.unclaimed == (["task_1"] if turn is ACCEPTED else [])
    assert len(desk.uncertain) == (turn is GATEWAY)


async def test_a_stopped_group_does_not_go_on_after_a_429() -> None:
    """What was out is throttled: it is not sent again."""
    desk = Desk(StepTransport(THROTTLED, ACCEPTED, answer_in=5))
    group = Group(LoopClock(), recorded=True)
    submitting = grouped(desk, group)
    await asyncio.sleep(1)

    await group.drain(grace=30)

    assert now() == pytest.approx(5)
    assert isinstance(await end_of(submitting), ClientClosedError)
    assert desk.book.verdicts == [Verdict.THROTTLED]
    assert len(desk.transport.begun) == 1


async def test_an_upload_is_stopped_with_its_group() -> None:
    """It costs nothing, so nobody waits for it."""

    async def upload() -> None:
        await asyncio.sleep(600)

    desk = Desk(StepTransport(ACCEPTED), upload=upload)
    group = Group(LoopClock(), recorded=True)
    submission = Submission(WORK, recorder=desk.book, group=group)
    submitting = asyncio.create_task(desk.submitter.submit(submission))
    await asyncio.sleep(1)

    await group.drain(grace=30)

    assert now() == pytest.approx(1)
    assert isinstance(await end_of(submitting), ClientClosedError)
    assert desk.transport.begun == []


# --- one id for two submissions -------------------------------------------------------------------


async def test_an_answer_that_names_the_task_of_another_submission_is_uncertain() -> None:
    """Two callers would wait for one film, and nobody would know of the other one, paid or not."""
    same = reply({"taskId": "task_of_the_first"})
    desk = Desk(StepTransport(same, same, ACCEPTED))

    first = await desk.submit()
    second = await end_of(desk.submit())
    third = await desk.submit()

    assert (first, third) == ("task_of_the_first", "task_1")
    assert isinstance(second, SubmissionUncertainError)
    assert second.cause == (
        "the answer names task_of_the_first, which is the task of another submission"
    )
    assert (second.http, second.token) == (200, desk.book.attempts[1].token)
    assert "task_of_the_first" in second.raw
    verdicts = [Verdict.ACCEPTED, Verdict.UNCERTAIN, Verdict.ACCEPTED]
    assert desk.book.verdicts == verdicts
    assert [attempt.task_id for attempt in desk.book.attempts] == [first, None, third]
    assert desk.is_idle()
