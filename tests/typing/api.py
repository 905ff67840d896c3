"""The front door, used as a user would: type-checked with mypy and pyright, never executed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, assert_type

from apikley_async import (
    ApikleyError,
    Attempt,
    Backoff,
    Blame,
    Callbacks,
    Client,
    Clock,
    Completed,
    Environment,
    Failed,
    Images,
    Job,
    JobFailedError,
    JobTimeoutError,
    Limiter,
    ModelTask,
    Outcome,
    Price,
    RateLimiter,
    RateLimitError,
    Recorder,
    Result,
    Shot,
    Snapshot,
    State,
    Storyboard,
    StoryboardError,
    SubmissionUncertainError,
    SystemClock,
    Timeouts,
    Urls,
    Verdict,
    Work,
    with_images,
)
from apikley_async.errors import InsufficientCreditsError
from apikley_async.testing import FakeClock, Reply, Request, ScriptedTransport, exactly, reply

# --- values ---------------------------------------------------------------------------------------

kitten = Storyboard(
    shots=[
        Shot("A fluffy kitten in orange headphones eats a slice of cake.", duration=7.5),
        Shot("The cake is gone; the same kitten licks its lips.", 7.5),
    ],
    duration=15,
    aspect_ratio="landscape",
    image="kitten.png",
)
assert_type(kitten.shots, tuple[Shot, ...])
assert_type(kitten.shots[0].scene, str)
assert_type(kitten.shots[0].duration, float | None)
assert_type(kitten.durations, tuple[float, ...])
assert_type(kitten.duration, Literal[10, 15, 25])

Storyboard([Shot("A lighthouse.", 5)], image=Path("kitten.png"))
Storyboard([Shot("A lighthouse.", 5)], image="https://files.example.com/kitten.png")
Storyboard((Shot("A lighthouse.", n) for n in (1, 2)), aspect_ratio="portrait")
Storyboard([{"scene": "A lighthouse.", "duration": 5}])
Storyboard([Shot("A lighthouse."), Shot("Fog.", None)], duration=25)
ModelTask("kling-2.6/text-to-video", {"prompt": "A lighthouse at dawn.", "duration": 5})

# What a type checker should catch before the service has to.
Storyboard([Shot("A lighthouse.", 5)], aspect_ratio="square")  # type: ignore[arg-type]
Storyboard([Shot("A lighthouse.", 5)], duration="15")  # type: ignore[arg-type]
Storyboard([Shot("A lighthouse.", 5)], 15)  # type: ignore[call-arg]
Storyboard(["A lighthouse."])  # type: ignore[list-item]
Shot("A lighthouse.", "5")  # type: ignore[arg-type]
Storyboard([Shot("A lighthouse.", 5)], duration=12)  # type: ignore[arg-type]
Storyboard([Shot("A lighthouse.", 5)], duration=10.0)  # type: ignore[arg-type]
Shot("A lighthouse.", seconds=5)  # type: ignore[call-arg]
ModelTask("model", ["prompt"])  # type: ignore[arg-type]
ModelTask("model", images={"frames": ["a.png", Path("b.png")], "face": "https://x.test/c.png"})
ModelTask("model", images={"face": None})  # type: ignore[dict-item]
Storyboard([Shot("A lighthouse.", 5)], model="sora/s-2pro")


class Wakes:
    """A typed model of one's own."""

    model = "kling-2.6/image-to-video"
    price_key = 5
    images: Images = {"image_urls": [Path("kitten.png")]}  # noqa: RUF012

    def wire_input(self, urls: Urls, /) -> Mapping[str, Any]:
        return {"prompt": "It wakes up.", **urls}

    def to_dict(self, images: Images | None = None, /) -> Mapping[str, Any]:
        names = with_images(self.images if images is None else images, str)
        return {"task": {"model": self.model, "input": {}, "images": names}}


async def works(client: Client) -> None:
    work: Work = Wakes()
    _ = await client.submit(work)
    assert_type(await client.generate(Wakes()), Result)
    assert_type(InsufficientCreditsError().resumable, bool)
    assert_type(InsufficientCreditsError().blames, Blame)
    async for outcome in client.generate_many([Wakes(), kitten]):
        assert_type(outcome.work, Work)


def bounded() -> Client:
    prices: Price = {10: 150, "kling-2.6/text-to-video": 99.5}
    return Client(max_credits=5_000, max_tasks=40, prices=prices)


kitten.duration = 25  # type: ignore[misc]


# --- one film -------------------------------------------------------------------------------------


async def one_film() -> None:
    async with Client() as client:
        assert_type(client, Client)
        job: Job = await client.submit(kitten)
        result = await job
        paths = await client.save(result, "films/")

    assert_type(job.task_id, str)
    assert_type(job.snapshot, Snapshot)
    assert_type(job.state, State)
    assert_type(job.done, bool)
    assert_type(result, Result)
    assert_type(result.urls, tuple[str, ...])
    assert_type(result.task_id, str)
    assert_type(result.credits, float | None)
    assert_type(result.expires_at, datetime | None)
    assert_type(result.raw, Mapping[str, Any])
    assert_type(paths, list[Path])


async def by_hand(client: Client) -> None:
    job: Job = client.job("task_1")
    async for snapshot in job.updates():
        assert_type(snapshot, Snapshot)
        assert_type(snapshot.progress, float | None)
        assert_type(snapshot.done, bool)
    assert_type(await job.wait(timeout=60), Result)
    assert_type(await job.wait(), Result)
    assert_type(await asyncio.gather(job, job), tuple[Result, Result])
    job.nudge()
    assert_type(await client.poll("task_1"), Snapshot)
    assert_type(await client.generate(kitten, timeout=3600), Result)
    assert_type(await client.credits(), float)
    assert_type(await client.upload("kitten.png"), str)
    assert_type(await client.upload(Path("kitten.png")), str)
    assert_type(await client.upload(b"\x89PNG"), str)
    with Path("kitten.png").open("rb") as file:
        assert_type(await client.upload(file), str)
    assert_type(await client.download_url("https://results.example.com/1.mp4"), str)
    await client.save(await job, Path("films"), overwrite=True)
    job = await client.submit(kitten, callback_url="https://hooks.example.com/?token=4f1c")
    await client.aclose(grace=5)

    job = await client.submit("A lighthouse.")  # type: ignore[arg-type]
    await client.generate([kitten])  # type: ignore[arg-type]


# --- many films -----------------------------------------------------------------------------------


def endless() -> Iterator[Storyboard]:
    while True:
        yield kitten


async def trickle() -> AsyncIterator[Work]:
    yield kitten
    yield ModelTask("kling-2.6/text-to-video", {"prompt": "A lighthouse at dawn."})


async def as_batches_do(client: Client, error: SubmissionUncertainError) -> None:
    group = client.attempts.group()
    job = await client.attempts.submit(kitten, recorder=MyRecorder(), group=group)
    found = await client.attempts.recover(error)
    later = await client.attempts.recover(error.token, timeout=5)
    assert_type([job, found, later], list[Job])
    assert_type(await client.attempts.confirm("task", tokens=["t"]), Snapshot | None)
    assert_type(client.attempts.receives_callbacks, bool)
    async with client.attempts.running_slot():
        group.stop()
    await group.drain(30)


async def many_films(client: Client) -> None:
    async for outcome in client.generate_many([kitten, kitten], ordered=True):
        assert_type(outcome, Completed | Failed)
        assert_type(outcome.index, int)
        assert_type(outcome.job, Job | None)
        assert_type(outcome.unwrap(), Result)
        if outcome.error is None:
            assert_type(outcome, Completed)
            assert_type(outcome.paths, tuple[Path, ...])
        else:
            assert_type(outcome, Failed)
            assert_type(outcome.error, ApikleyError)
        if outcome.ok is True:
            _ = assert_type(outcome.job, Job)
            assert_type(outcome.result, Result)
        match outcome:
            case Completed(result=result):
                assert_type(result, Result)
            case Failed(error=error):
                assert_type(error.resumable, bool)
    outcomes: list[Outcome] = [each async for each in client.generate_many([kitten])]
    print(outcomes)
    async for outcome in client.generate_many(endless()):
        assert_type(outcome.result, Result | None)
    async for outcome in client.generate_many(trickle(), timeout=3600):
        print(outcome.work)
    assert_type(client.unclaimed, list[Job])


# --- errors ---------------------------------------------------------------------------------------


async def what_can_go_wrong(client: Client) -> Result | None:
    try:
        return await client.generate(kitten)
    except StoryboardError as error:
        assert_type(error.faults, tuple[str, ...])
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
    except InsufficientCreditsError as error:
        assert_type(error.code, int | None)
    except SubmissionUncertainError as error:
        assert_type(error.token, str)
        assert_type(error.cause, str)
        assert_type(error.http, int | None)
        assert_type(error.raw, str)
        assert_type(error.at, float | None)
    except JobFailedError as error:
        assert_type(error.fail_code, str)
        assert_type(error.fail_message, str)
    except JobTimeoutError as error:
        if error.job is not None:
            result: Result = await error.job.wait(60)
            return result
    except ApikleyError as error:
        assert_type(error.message, str)
        assert_type(error.task_id, str | None)
    return None


# --- what can be handed in ------------------------------------------------------------------------


class MyLimiter:
    """Nobody has to inherit: a limiter is whatever has these three methods."""

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        yield

    def running_slot(self) -> AbstractAsyncContextManager[None]:
        return self.slot()

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
        print(list(attempts))


class MyRecorder:
    async def intend(self, token: str, request: Request) -> None:
        print(token, request.method, request.path)

    async def settle(self, attempt: Attempt) -> None:
        assert_type(attempt.verdict, Verdict)
        assert_type(attempt.task_id, str | None)


class MyCallbacks:
    def url_for(self, token: str) -> str | None:
        return f"https://hooks.example.com/{token}"


class MyClock:
    def now(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, delay: float, wake: asyncio.Event | None = None) -> None:
        return


def no_jitter(delay: float, rng: random.Random) -> float:
    return delay


limiters: list[Limiter] = [RateLimiter(), RateLimiter(limit=5, per=1.0), MyLimiter()]
recorder: Recorder = MyRecorder()
callbacks: Callbacks = MyCallbacks()
clocks: list[Clock] = [SystemClock(), FakeClock(), MyClock()]


async def handed_in() -> None:
    client = Client(
        "key",
        base_url="https://api.example.com",
        limiter=limiters[0],
        max_running=10,
        polling=Backoff(initial=2, factor=1.5, maximum=20, jitter=no_jitter),
        callback=callbacks,
        timeouts=Timeouts(connect=10, read=120, idle=60),
        job_timeout=1800,
        retry_for=600,
        proxy=None,
        allow_private=True,
        user_agent="studio/1.0",
        not_created={500},
        environment=Environment(clock=clocks[0], rng=random.Random(1)),
    )
    job: Job = await client.submit(kitten, recorder=recorder)
    print(job)
    Client("key", limiter=object())  # type: ignore[arg-type]
    Client("key", "https://api.example.com")  # type: ignore[call-arg]


# --- users' own tests -----------------------------------------------------------------------------


async def a_test_of_their_own() -> None:
    transport = ScriptedTransport(
        [
            reply({"taskId": "task_1"}),
            Reply(503, "<html>"),
            RateLimitError("slow down", retry_after=2),
            lambda request: reply({"state": "waiting"}, msg=request.path),
        ]
    )
    clock = FakeClock()
    client = Client(
        environment=Environment(transport=transport, clock=clock), polling=Backoff(jitter=exactly)
    )
    assert_type(await (await client.submit(kitten)), Result)
    assert_type(transport.requests, list[Request])
    assert_type(clock.slept, list[float])
