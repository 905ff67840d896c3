"""Wrong kinds of argument are refused by name; what a person sees of values and lost clients."""

# mypy: disable-error-code="unused-awaitable,arg-type"

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import gc
import math
import random
import subprocess
import sys
import warnings
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from apikley_async import (
    Attempt,
    Backoff,
    Client,
    Environment,
    JobTimeoutError,
    ModelTask,
    RateLimiter,
    Request,
    Result,
    Shot,
    Storyboard,
    StoryboardError,
    Verdict,
)
from apikley_async.simulator import Constant, Simulator, Terms
from apikley_async.testing import LoopClock, ScriptedTransport, reply

KEY = "a-key-that-opens-nothing"
RESULT = Result("t", ("https://films.example/1.mp4",))
KITTEN = Storyboard([Shot("A kitten wakes up and looks at the world.", 5), Shot("It purrs.", 5)])


# --- at construction -----------------------------------------------------------------------------

WRONG: dict[str, list[object]] = {
    "base_url": [5, b"https://api.example"],
    "limiter": [5, object()],
    "max_running": ["5", None, True],
    "polling": [5, (2, 20)],
    "callback": ["https://me.example/hook", 5],
    "recorder": [5, object()],
    "timeouts": [30, (1, 2)],
    "proxy": [5, b"http://proxy"],
    "trust_env": ["yes", 1, None],
    "allow_private": ["no", 0],
    "environment": [5, {}],
    "on_event": [5],
}


def test_a_client_names_the_argument_of_a_wrong_kind() -> None:
    """At once, as a TypeError, and without showing the value."""
    believed = []
    for name, values in WRONG.items():
        for value in values:
            try:
                Client(KEY, **{name: value})
            except TypeError as error:
                if str(error).startswith(f"{name}: ") and type(value).__name__ in str(error):
                    continue
            believed.append((name, value))

    assert believed == []


def test_a_refusal_shows_neither_key_nor_proxy() -> None:
    """A traceback may show the locals of its frames."""
    with pytest.raises(TypeError) as caught:
        Client(KEY, proxy="http://me:a-password@proxy.example", limiter=5)
    frame = caught.traceback[-1].frame
    shown = repr({name: value for name, value in frame.f_locals.items() if name != "self"})
    assert KEY not in shown
    assert "a-password" not in shown


MADE: dict[str, Callable[[], object]] = {
    "limit: ": lambda: RateLimiter("20"),
    "limit: a": lambda: RateLimiter(True),
    "per: ": lambda: RateLimiter(20, "10"),
    "max_running: ": lambda: RateLimiter(max_running="5"),
    "clock: ": lambda: RateLimiter(clock=5),
    "rng: ": lambda: RateLimiter(rng=5),
    "jitter: ": lambda: Backoff(jitter=5),
    "clock: a Clock": lambda: Environment(clock=5),
    "rng: a random": lambda: Environment(rng=5),
    "transport: ": lambda: Environment(transport=5),
    "connector: ": lambda: Environment(connector=5),
}


def test_so_do_the_values_that_it_takes() -> None:
    for begins, make in MADE.items():
        with pytest.raises(TypeError) as caught:
            make()
        assert str(caught.value).startswith(begins)


# --- in calls ------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Client], Any]] = {
    "recorder: ": lambda client: client.submit(KITTEN, recorder=5),
    "timeout: ": lambda client: client.generate(KITTEN, timeout="60"),
    "task_id: ": lambda client: client.poll(None),
    "url: ": lambda client: client.download_url(5),
    "result: a Result, as awaiting a job gives, not Job": lambda client: client.save(
        client.job("t"), "films"
    ),
    "works: ": lambda client: anext(client.generate_many(5)),
    "works: storyboards, tasks or pairs, not Storyboard; put it into a list": lambda client: anext(
        client.generate_many(KITTEN)
    ),
    "works: storyboards": lambda client: anext(client.generate_many("kitten.json")),
    "timeout: s": lambda client: anext(client.generate_many([KITTEN], timeout="60")),
    "ordered: ": lambda client: anext(client.generate_many([KITTEN], ordered="no")),
    "save_to: ": lambda client: anext(client.generate_many([KITTEN], save_to=5)),
    "timeout: seconds": lambda client: client.job("t").wait("60"),
    "timeout: seconds, not": lambda client: anext(client.job("t").updates("60")),
    "timeout: seconds, not s": lambda client: client.attempts.recover("t", timeout="60"),
    "target: ": lambda client: client.save(RESULT, 5),
    "overwrite: ": lambda client: client.save(RESULT, "films", overwrite="no"),
    "index: ": lambda client: client.stream(RESULT, "0").__aenter__(),
    "grace: ": lambda client: client.aclose(grace="30"),
    "result: a Result": lambda client: client.stream(5).__aenter__(),
}


@pytest.mark.virtual
async def test_calls_name_the_argument_of_a_wrong_kind() -> None:
    """Before anything is sent."""
    async with Client(KEY, base_url="http://127.0.0.1:9") as client:
        for begins, call in CALLS.items():
            with pytest.raises(TypeError) as caught:
                await call(client)
            assert str(caught.value).startswith(begins)
        with pytest.raises(StoryboardError, match="task_id: a word without spaces, not 5"):
            client.job(5)
        for blank in ("", " ", "two words", "line\n"):
            with pytest.raises(StoryboardError, match="task_id: a word without spaces, not "):
                client.job(blank)
            with pytest.raises(StoryboardError, match="task_id: a word without spaces, not "):
                await client.poll(blank)
            with pytest.raises(StoryboardError, match="url: one of the URLs of a result"):
                await client.download_url(blank)
        with pytest.raises(StoryboardError, match=r"token: what job\.token was"):
            client.job("t", token=5)
        with pytest.raises(StoryboardError, match="callback_url: a URL as text, not int"):
            await client.submit(KITTEN, callback_url=5)


VALUES: dict[str, Callable[[Client], Any]] = {
    "timeout: a number of seconds, not nan": lambda client: client.job("t").wait(math.nan),
    "timeout: a number of s": lambda client: anext(client.job("t").updates(math.nan)),
    "timeout: a number": lambda client: client.generate(KITTEN, timeout=math.nan),
    "timeout: 0 seconds or more, not -1": lambda client: client.generate(KITTEN, timeout=-1),
    "timeout: 0": lambda client: anext(client.generate_many([KITTEN], timeout=-1)),
    "timeout: ": lambda client: client.attempts.recover("t", timeout=math.nan),
    "grace: a number of seconds, not nan": lambda client: client.aclose(grace=math.nan),
}


@pytest.mark.virtual
async def test_calls_name_the_argument_whose_value_is_none() -> None:
    """No bound holds on NaN; and a film whose time is over before it begins is not bought."""
    transport = ScriptedTransport([])
    environment = Environment(transport=transport)
    async with Client(KEY, environment=environment) as client:
        for begins, call in VALUES.items():
            with pytest.raises(ValueError, match="seconds") as caught:
                await call(client)
            assert str(caught.value).startswith(begins)

    assert transport.requests == []


@pytest.mark.virtual
async def test_a_refused_wait_leaves_nobody_behind() -> None:
    """The time for which a job is polled begins when somebody really waits for it."""
    waiting = reply({"taskId": "t", "model": "m", "state": "waiting"})
    environment = Environment(transport=ScriptedTransport([waiting] * 1000), clock=LoopClock())
    async with Client(KEY, environment=environment, job_timeout=100) as client:
        job = client.job("t")
        with pytest.raises(TypeError):
            await job.wait("60")
        await asyncio.sleep(60)
        began = asyncio.get_running_loop().time()
        with pytest.raises(JobTimeoutError):
            await job

    assert asyncio.get_running_loop().time() - began == pytest.approx(100, abs=1)


# --- what is false and is no None ----------------------------------------------------------------


class Listed(list[object]):
    """A recorder, callbacks and a limiter of a user, which is empty at first, and so false."""

    async def intend(self, token: str, request: Request) -> None:
        self.append(("intend", token))

    async def settle(self, attempt: Attempt) -> None:
        self.append(("settle", attempt.token))

    def url_for(self, token: str) -> str:
        self.append(("url", token))
        return f"https://me.example/{token}"

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        self.append("slot")
        yield

    def running_slot(self) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    def remember(self, attempts: Iterable[tuple[float, bool]]) -> None: ...


@pytest.mark.virtual
async def test_objects_of_the_user_that_are_empty_are_used_all_the_same() -> None:
    """A recorder that begins as an empty list would not be asked before money is spent."""
    recorder, callback, limiter = Listed(), Listed(), Listed()
    environment = Environment(transport=ScriptedTransport([reply({"taskId": "t"})]))
    async with Client(KEY, environment=environment, limiter=limiter, callback=callback) as client:
        await client.submit(KITTEN, recorder=recorder)

    [(intended, token), settled] = recorder
    assert (intended, settled) == ("intend", ("settle", token))
    assert callback == [("url", token)]
    assert limiter == ["slot"]


# --- what is shown -------------------------------------------------------------------------------


def test_works_are_shown_by_their_first_words() -> None:
    board = Storyboard(
        [Shot("A kitten\nin orange headphones eats a slice of cake.")],
        duration=10,
        image="a.png",
        model="sora-3",
    )
    words = "'A kitten in orange headphones eats a ...'"
    assert repr(board) == f"<Storyboard {words}: 1 shot, 10 s, landscape, an image, sora-3>"
    task = ModelTask("kling/video", {"prompt": "A lighthouse at dawn."})
    assert repr(task) == "<ModelTask kling/video: 'A lighthouse at dawn.'>"
    assert repr(ModelTask("kling/video", {"prompt": 5})) == "<ModelTask kling/video>"


@pytest.mark.virtual
async def test_a_job_shows_which_storyboard_it_is() -> None:
    simulator = Simulator(Terms(duration=Constant(9)), clock=LoopClock(), rng=random.Random(1))
    async with simulator, Client(simulator.api_key, base_url=simulator.base_url) as client:
        job = await client.submit(KITTEN)
        assert repr(job) == (
            f"<Job {job.task_id} waiting: <Storyboard 'A kitten wakes up and looks at the wo...': "
            "2 shots, 15 s, landscape>>"
        )
        assert repr(client.job("task_9")) == "<Job task_9 unknown>"


def test_words_are_enums_of_text() -> None:
    assert issubclass(Verdict, enum.StrEnum)
    assert f"{Verdict.NOT_CREATED}" == "not_created"


# --- a job is awaited, and is no coroutine -------------------------------------------------------


@pytest.mark.virtual
async def test_a_job_in_a_task_of_its_own() -> None:
    """`create_task` takes coroutines: `job.wait()` is one."""
    simulator = Simulator(Terms(duration=Constant(9)), clock=LoopClock(), rng=random.Random(1))
    async with simulator, Client(simulator.api_key, base_url=simulator.base_url) as client:
        job = await client.submit(KITTEN)
        with pytest.raises(TypeError, match="a coroutine was expected"):
            asyncio.create_task(job)  # noqa: RUF006
        assert await asyncio.create_task(job.wait()) == job.snapshot.result()
        assert await asyncio.gather(job, job) == [job.snapshot.result()] * 2


# --- a client that nobody has closed -------------------------------------------------------------


@pytest.mark.parametrize("used", ["credits", "film"])
async def test_an_unclosed_client_is_one_warning(used: str, tmp_path: Path) -> None:
    """Ours, which says what to do, and none of aiohttp's; its connections are closed."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: told.append(facts["message"]))
    async with Simulator(Terms(duration=Constant(0.01))) as simulator:
        client = Client(
            simulator.api_key,
            base_url=simulator.base_url,
            polling=Backoff(initial=0.01, maximum=0.02),
        )
        if used == "film":
            await client.save(await client.generate(KITTEN), tmp_path)
        await client.credits()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del client
            for _ in range(3):
                gc.collect()
                await asyncio.sleep(0)

    hint = "use `async with Client()`, or await client.aclose()"
    message = f"unclosed client of {simulator.base_url}: {hint}"
    assert [(w.category, str(w.message)) for w in caught] == [(ResourceWarning, message)]
    assert told == []


@pytest.mark.virtual
async def test_a_job_outlives_the_name_of_its_client() -> None:
    """Whoever holds a job holds what it polls with: nothing is closed under it."""
    simulator = Simulator(Terms(duration=Constant(9)), clock=LoopClock(), rng=random.Random(1))

    async def submitted() -> tuple[Any, Any]:
        client = Client(simulator.api_key, base_url=simulator.base_url)
        return await client.submit(KITTEN), client.aclose

    async with simulator:
        job, close = await submitted()
        gc.collect()
        assert isinstance(await job, Result)
        await close()


def test_a_closed_client_is_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        async def main() -> None:
            async with (
                Simulator() as simulator,
                Client(simulator.api_key, base_url=simulator.base_url) as client,
            ):
                await client.credits()

        asyncio.run(main())
        gc.collect()
    assert [w for w in caught if "unclosed client" in str(w.message)] == []


# --- without an event loop of asyncio ------------------------------------------------------------


def test_without_an_event_loop_there_is_a_sentence() -> None:
    """As under trio, which drives the same coroutines with a loop of its own."""
    for call in (Client(KEY).credits, functools.partial(Client(KEY).submit, KITTEN)):
        coroutine = call()
        with pytest.raises(RuntimeError, match=r"runs on asyncio, and no event loop .* Under trio"):
            coroutine.send(None)


def test_a_client_that_is_lost_at_exit_says_so_once() -> None:
    """A script that keeps it in a global until its end."""
    program = (
        "import asyncio\n"
        "from apikley_async import Client\n"
        "from apikley_async.simulator import Simulator\n"
        "async def main():\n"
        "    global client\n"
        "    async with Simulator() as simulator:\n"
        "        client = Client(simulator.api_key, base_url=simulator.base_url)\n"
        "        await client.credits()\n"
        "asyncio.run(main())\n"
        "del client\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr.lower().count("unclosed") == 1
    assert "unclosed client of http://127.0.0.1" in ran.stderr
    assert "never awaited" not in ran.stderr
