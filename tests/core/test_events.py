"""Events: what `on_event` is given, when, and what it can never break or show."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from images import png
from manual_clock import ManualClock

from apikley_async import (
    Client,
    Environment,
    JobFailedError,
    Recorder,
    Shot,
    State,
    Storyboard,
    SubmissionUncertainError,
)
from apikley_async import events as module
from apikley_async.events import (
    Emitter,
    Event,
    Finished,
    Polled,
    PollFailed,
    Retrying,
    Saved,
    Submitted,
    Throttled,
    Uncertain,
    Uploaded,
)
from apikley_async.simulator import Constant, Fault, Simulator, Terms, Throttle
from apikley_async.testing import LoopClock, Request
from apikley_async.webhook import Callback

KITTEN = Storyboard([Shot("A kitten.", 5), Shot("It purrs.", 5)], duration=10)


def world(terms: Terms | None = None) -> Simulator:
    terms = terms or Terms(duration=Constant(60))
    return Simulator(terms, clock=LoopClock(), rng=random.Random(7))


def customer(simulator: Simulator, on_event: Callable[[Event], object], **options: Any) -> Client:
    return Client(
        simulator.api_key,
        base_url=simulator.base_url,
        on_event=on_event,
        environment=Environment(clock=LoopClock(), rng=random.Random(1)),
        **options,
    )


# --- which events, and when ----------------------------------------------------------------------


@pytest.mark.virtual
async def test_a_film_from_its_image_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "kitten.png").write_bytes(png(512, 512))
    board = attrs.evolve(KITTEN, image=tmp_path / "kitten.png")
    events: list[Event] = []
    async with world() as simulator, customer(simulator, events.append) as client:
        result = await client.generate(board, metadata="mine")
        [path] = await client.save(result, tmp_path)

    polled = [event for event in events if isinstance(event, Polled)]
    uploaded, submitted, finished, saved = (e for e in events if not isinstance(e, Polled))
    size = (tmp_path / "kitten.png").stat().st_size
    assert isinstance(uploaded, Uploaded)
    assert (uploaded.size, uploaded.content_type) == (size, "image/png")
    assert isinstance(submitted, Submitted)
    assert (submitted.task_id, submitted.model) == (result.task_id, board.model)
    assert (submitted.work, submitted.metadata) == (board, "mine")
    assert isinstance(finished, Finished)
    assert (finished.state, finished.credits) == (State.SUCCESS, result.credits)
    assert (finished.work, finished.metadata) == (board, "mine")
    assert 60 <= (finished.seconds or 0) <= 90
    assert isinstance(saved, Saved)
    assert (saved.task_id, saved.path, saved.size) == (result.task_id, path, path.stat().st_size)
    assert [event.state for event in polled][-1] is State.SUCCESS
    assert {event.task_id for event in polled} == {result.task_id}
    assert events.index(polled[-1]) == events.index(finished) - 1


@pytest.mark.virtual
async def test_a_submission_is_an_event_when_it_is_written_down() -> None:
    """A recorder knows of a task before anybody else does."""
    seen: list[str] = []

    class Book(Recorder):
        async def intend(self, token: str, request: Request) -> None:
            seen.append("intend")

        async def settle(self, attempt: object) -> None:
            await asyncio.sleep(1)
            seen.append("settle")

    def on_event(event: Event) -> None:
        seen.append(event.name)

    async with world() as simulator, customer(simulator, on_event) as client:
        await client.submit(KITTEN, recorder=Book())

    assert seen == ["intend", "settle", "submitted"]


@pytest.mark.virtual
async def test_what_goes_wrong_is_an_event() -> None:
    """Each trouble once, with its reason, in the order in which it happened."""
    events: list[Event] = []
    terms = Terms(duration=Constant(60), fail_rate=1.0)
    async with world(terms) as simulator, customer(simulator, events.append) as client:
        simulator.script("create", [Fault.throttled(Throttle.SECONDS, 7), Fault.RESET_AFTER])
        with pytest.raises(SubmissionUncertainError):
            await client.generate(KITTEN, metadata=1)
        simulator.script("record", [Fault.HTTP_502])
        simulator.script("credits", [Fault.HTTP_503])
        await client.credits()
        with pytest.raises(JobFailedError):
            await client.generate(KITTEN, metadata=2)

    throttled, uncertain, retrying, *rest = (e for e in events if not isinstance(e, Polled))
    submitted, poll_failed, finished = rest
    assert isinstance(throttled, Throttled)
    assert (throttled.retry_after, throttled.metadata) == (7, 1)
    assert isinstance(uncertain, Uncertain)
    assert (uncertain.metadata, uncertain.work, bool(uncertain.cause)) == (1, KITTEN, True)
    assert isinstance(retrying, Retrying)
    assert (retrying.call, retrying.task_id) == ("/api/v1/chat/credit", None)
    assert retrying.delay > 0
    assert isinstance(submitted, Submitted)
    assert isinstance(poll_failed, PollFailed)
    assert (poll_failed.task_id, poll_failed.code) == (submitted.task_id, 502)
    assert isinstance(finished, Finished)
    assert (finished.state, finished.fail_code) == (State.FAIL, "500")
    assert finished.metadata == 2


@pytest.mark.virtual
async def test_retries_of_what_is_sure_not_to_be_paid_are_events() -> None:
    """A code of `not_created`, and a download that breaks off."""
    events: list[Event] = []
    async with (
        world() as simulator,
        customer(simulator, events.append, not_created={500}) as client,
    ):
        simulator.script("create", [Fault.HTTP_500])
        simulator.script("file", [Fault.CUT])
        result = await client.generate(KITTEN, metadata="mine")
        async with client.stream(result) as chunks:
            async for _ in chunks:
                pass

    submission, download = (event for event in events if isinstance(event, Retrying))
    assert (submission.call, submission.work, submission.metadata) == ("submission", KITTEN, "mine")
    assert (download.call, download.task_id, download.work) == ("download", result.task_id, None)


# --- what they can never break -------------------------------------------------------------------


@pytest.mark.virtual
@pytest.mark.parametrize("raised", [ZeroDivisionError, asyncio.CancelledError])
async def test_what_it_raises_is_logged_and_harms_no_film(
    raised: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor a `CancelledError`, as the result of a cancelled future is: nobody is cancelled."""

    def on_event(event: Event) -> None:
        raise raised(event.name)

    async with world() as simulator, customer(simulator, on_event) as client:
        result = await client.generate(KITTEN)
        [path] = await client.save(result, tmp_path)

    assert path.is_file()
    logged = [record for record in caplog.records if "on_event" in record.message]
    assert {record.levelname for record in logged} == {"WARNING"}
    assert all(record.exc_info for record in logged)
    names = {"submitted", "polled", "finished", "saved"}
    assert {record.message for record in logged} == {
        f"on_event has raised at {name!r}" for name in names
    }


def test_what_is_slow_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()

    def on_event(event: Event) -> None:
        clock.time += 0.05 if isinstance(event, Uploaded) else 0.2

    emit = Emitter(on_event, clock)
    emit(Uploaded(1, "image/png", 1.0))
    assert caplog.records == []
    emit(PollFailed("t", "UnreachableError", None, "no"))
    emit(PollFailed("t", "UnreachableError", None, "no"))

    [record] = caplog.records
    assert "on_event took 0.2 s at 'poll_failed'" in record.message


class Asynchronous:
    async def __call__(self, event: Event) -> None: ...

    async def method(self, event: Event) -> None: ...


async def a_function(event: Event) -> None: ...


@pytest.mark.parametrize(
    "wrong",
    [a_function, functools.partial(a_function), Asynchronous(), Asynchronous().method],
    ids=["function", "partial", "object", "method"],
)
def test_coroutine_functions_are_refused_by_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match="on_event: a plain callable, not a coroutine function"):
        Client("key", on_event=wrong)


def test_what_is_no_callable_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="on_event: a callable, not int"):
        Client("key", on_event=7)  # type: ignore[arg-type]


# --- what they show ------------------------------------------------------------------------------

KINDS = [getattr(module, name) for name in module.__all__ if name != "Event"]


def test_names_are_the_classes_in_snake_case() -> None:
    assert [kind.name for kind in KINDS] == [
        *("finished", "poll_failed", "polled", "retrying", "saved"),
        *("submitted", "throttled", "uncertain", "uploaded"),
    ]


def test_as_plain_json_values() -> None:
    """Without the work, whose prompts are personal, and without what the caller knows it by."""
    submitted = Submitted("t", "m", 0.5, KITTEN, object())
    saved = Saved("t", Path("a.mp4"), 3, "00", 1.5)
    polled = Polled("t", "m", State.QUEUING, 50.0, "")

    assert submitted.to_dict() == {
        "event": "submitted",
        "task_id": "t",
        "model": "m",
        "seconds": 0.5,
    }
    assert json.loads(json.dumps(saved.to_dict())) == {
        "event": "saved",
        "task_id": "t",
        "path": "a.mp4",
        "size": 3,
        "sha256": "00",
        "seconds": 1.5,
        "stored_as": None,
        "location": None,
    }
    assert json.loads(json.dumps(polled.to_dict()))["state"] == "queuing"
    assert "kitten" not in repr(submitted)


@pytest.mark.virtual
async def test_no_event_holds_a_secret(tmp_path: Path) -> None:
    """No key, token, callback URL or link, whatever the service says in its messages."""
    shown: list[str] = []
    tokens: list[str] = []

    class Book(Recorder):
        async def intend(self, token: str, request: Request) -> None:
            tokens.append(token)

        async def settle(self, attempt: object) -> None: ...

    def on_event(event: Event) -> None:
        values = attrs.asdict(event, recurse=False)
        shown.append(json.dumps(event.to_dict()) + repr(event))
        shown.append(
            repr(
                {name: value for name, value in values.items() if name not in ("work", "metadata")}
            )
        )

    (tmp_path / "kitten.png").write_bytes(png(512, 512))
    board = attrs.evolve(KITTEN, image=tmp_path / "kitten.png")
    callback = Callback("https://me.example/hook")
    async with world() as simulator:
        options: dict[str, Any] = {"callback": callback, "not_created": {500}}
        async with customer(simulator, on_event, **options) as client:
            key = simulator.api_key
            told = f"see https://me.example/hook/x and Bearer {key}"
            simulator.script("create", [Fault.code(500, told), Fault.code(429, told), Fault.OK])
            simulator.script("record", [Fault.code(500, told)])
            simulator.script("upload", [Fault.HTTP_502])
            simulator.script("file", [Fault.CUT])
            job = await client.submit(board, recorder=Book())
            result = await job
            await client.save(result, tmp_path)
            simulator.script("create", [Fault.RESET_AFTER])
            with pytest.raises(SubmissionUncertainError):
                await client.submit(KITTEN, recorder=Book())

    everything = "\n".join(shown)
    for kind in KINDS:
        assert f'"event": "{kind.name}"' in everything, kind
    assert job.token
    secrets = [simulator.api_key, "me.example", "://", job.token, *tokens, *result.urls]
    assert [secret for secret in secrets if secret in everything] == []


@pytest.mark.virtual
async def test_nothing_is_emitted_from_another_task_than_ours() -> None:
    """On the loop and at once: a callable may set an asyncio event."""
    finished = asyncio.Event()

    def on_event(event: Event) -> None:
        asyncio.get_running_loop()
        if isinstance(event, Finished):
            finished.set()

    async with world() as simulator, customer(simulator, on_event) as client:
        job = await client.submit(KITTEN)
        waiting = asyncio.ensure_future(job.wait())
        await finished.wait()
        assert job.done
        await waiting
