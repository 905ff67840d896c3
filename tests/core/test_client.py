"""The client, over real sockets: what is paid, what is asked again, and how all of it ends."""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import random
import re
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
import trustme
from conftest import CANARY_KEY
from filehost import film
from manual_callbacks import ManualCallbacks
from rawserver import (
    Act,
    Line,
    Names,
    RawServer,
    ReceivedRequest,
    answers,
    breaks_off,
    closes,
    envelope,
    hangs,
    in_turn,
    reserved_port,
    resets,
    says,
    service,
)
from threads import another_loop
from turns import StrikingLoop, at_every_turn
from volume import volume

from apikley_async import (
    ApiError,
    ApikleyError,
    Attempt,
    AuthenticationError,
    Backoff,
    Client,
    ClientClosedError,
    Environment,
    InsufficientCreditsError,
    InvalidRequestError,
    Job,
    JobTimeoutError,
    ModelTask,
    RateLimiter,
    RateLimitError,
    Result,
    ServerError,
    State,
    Storyboard,
    StoryboardError,
    SubmissionUncertainError,
    Timeouts,
    UnansweredError,
    UnreachableError,
    Verdict,
)
from apikley_async import __version__ as version
from apikley_async._callbacks import Listener
from apikley_async.testing import FakeClock, LoopClock, Request, ScriptedTransport, reply
from apikley_async.virtual import VirtualLoop

WORK = ModelTask("model", {"prompt": "A lighthouse at dawn."})
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\2\0\0\0\2\0\x08\2\0\0\0" + b"picture" * 100
OK = b"HTTP/1.1 200 OK\r\n"


def customer(base_url: str, **options: Any) -> Client:
    given = {
        name: options.pop(name) for name in ("clock", "transport", "connector") if name in options
    }
    environment = Environment(**{"clock": LoopClock(), "rng": random.Random(1)} | given)
    return Client(CANARY_KEY, base_url=base_url, environment=environment, **options)


def now() -> float:
    return asyncio.get_running_loop().time()


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def end_of(work: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> Any:
    return (await asyncio.gather(work, return_exceptions=True))[0]


def others() -> set[asyncio.Task[Any]]:
    """The tasks that run beside this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


class Book:
    """A recorder of the user's own."""

    def __init__(self) -> None:
        self.intents: list[str] = []
        self.attempts: list[Attempt] = []

    async def intend(self, token: str, request: Request) -> None:
        await asyncio.sleep(0)
        self.intents.append(token)

    async def settle(self, outcome: Attempt) -> None:
        await asyncio.sleep(0)
        self.attempts.append(outcome)


# --- one POST, whatever comes back ---------------------------------------------------------------


async def processes_then_resets(line: Line, _request: ReceivedRequest) -> None:
    """The task is made, and the answer is lost."""
    await asyncio.sleep(0.2)
    line.reset()


def headed(*fields: bytes) -> bytes:
    return OK + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


PAGE = b"<html><h1>502 Bad Gateway</h1></html>"
TASK = envelope({"taskId": "task_1"})

DOUBTFUL: dict[str, tuple[Act, int | None, str]] = {
    "a reset after processing": (processes_then_resets, None, ""),
    "a reset at once": (resets, None, ""),
    "hanging up": (closes, None, ""),
    "silence": (hangs, None, ""),
    "HTTP 500": (answers(envelope(code=500, msg="oops"), 500), 500, "oops"),
    "code 500": (answers(envelope(code=500, msg="oops")), 200, "oops"),
    "code 501": (answers(envelope(code=501, msg="failed")), 200, "failed"),
    "HTTP 502 with a page": (answers(PAGE, 502, kind="text/html"), 502, "Bad Gateway"),
    "HTTP 503": (answers(b"", 503, Retry_After="5"), 503, ""),
    "HTTP 504": (answers(b"", 504), 504, ""),
    "HTTP 408": (answers(b"", 408), 408, ""),
    "HTTP 409": (answers(b"", 409), 409, ""),
    "an unknown code": (answers(envelope(code=777)), 200, "777"),
    "half a JSON": (answers(TASK[:-9]), 200, '{"code": 200'),
    "half a body": (breaks_off(headed(b"Content-Length: 900") + TASK[:9]), 200, '{"code":'),
    "no id": (answers(envelope({})), 200, "data"),
    "an id that is none": (answers(envelope({"taskId": ["task_1"]})), 200, "taskId"),
    "nothing": (answers(b""), 200, ""),
    "a page": (answers(PAGE, kind="text/html"), 200, "html"),
    "bad HTTP": (breaks_off(b"HTTP/1.1 abc OK\r\n\r\n"), None, ""),
    "no HTTP": (breaks_off(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), None, ""),
    "bad gzip": (answers(b"hello", Content_Encoding="gzip"), 200, ""),
    "headers too large": (breaks_off(headed(b"X-Large: " + b"x" * 70_000)), None, ""),
    "too large a body": (answers(b'{"pad": "' + b"x" * 2**21 + b'"}'), 200, "xxx"),
}


@pytest.mark.virtual
@pytest.mark.parametrize("case", DOUBTFUL)
async def test_a_doubtful_answer_is_paid_for_once(case: str) -> None:
    """One POST on the server's tally, and an error that tells all we know (A1 to A5)."""
    act, http, said = DOUBTFUL[case]
    book = Book()
    async with RawServer(service(createTask=act)) as server:
        async with customer(server.url, timeouts=Timeouts(read=5)) as client:
            with pytest.raises(SubmissionUncertainError) as caught:
                await client.submit(WORK, recorder=book)
            await asyncio.sleep(3600)

        assert len(server.created) == 1
    doubt = caught.value
    (attempt,) = book.attempts
    assert book.intents == [attempt.token] == [doubt.token]
    assert attempt.verdict is Verdict.UNCERTAIN
    assert doubt.cause
    assert (doubt.http, attempt.http) == (http, http)
    assert said in doubt.raw == attempt.raw
    assert len(doubt.raw) <= 64 * 1024
    assert (client.unclaimed, client.uncertain) == ([], [])


@pytest.mark.virtual
async def test_an_answer_that_hangs_after_the_id_is_an_answer() -> None:
    """The film is known although the rest of its answer never came (A6)."""
    act = says(headed(b"Content-Length: 900") + TASK)
    async with RawServer(service(createTask=act)) as server:
        async with customer(server.url, timeouts=Timeouts(read=5)) as client:
            job = await client.submit(WORK)

        assert len(server.created) == 1
    assert job.task_id == "task_1"


@pytest.mark.virtual
async def test_an_answer_in_hand_is_an_answer_when_the_client_is_closed() -> None:
    """What has come until then counts as it does when no more comes in time (A6)."""
    act = says(headed(b"Content-Length: 900") + TASK)
    async with RawServer(service(createTask=act)) as server:
        client = customer(server.url, timeouts=Timeouts(read=50))
        submitting = asyncio.create_task(client.submit(WORK))
        await asyncio.sleep(5)
        await client.aclose(grace=1)
        job = await submitting

        assert len(server.created) == 1
    assert job.task_id == "task_1"
    assert (client.unclaimed, client.uncertain) == ([], [])


# --- never sent: again, and paid once ------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's certificates
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, name: str = "127.0.0.1", **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


def front(behind: RawServer, *greetings: Callable[[Line], Awaitable[None]]) -> RawServer:
    """A server that greets the first connections so, and passes the others on."""
    left = list(greetings)

    async def greet(line: Line) -> None:
        if left:
            await left.pop(0)(line)
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", behind.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(line.reader, writer), pump(reader, line.writer))

    return RawServer(greet=greet)


async def resets_at_hello(line: Line) -> None:
    await line.reader.read(5)
    line.reset()


async def silent_at_hello(line: Line) -> None:
    await line.reader.read()


@pytest.mark.virtual
async def test_a_refused_connection_is_tried_again_and_paid_once() -> None:
    """The service comes back after 20 s: the film is submitted then (A15)."""
    book = Book()
    with reserved_port() as port:
        async with customer(f"http://127.0.0.1:{port}") as client:
            submitting = asyncio.create_task(client.submit(WORK, recorder=book))
            await asyncio.sleep(20)
            async with RawServer(port=port) as server:
                job = await submitting

                assert len(server.created) == 1
    assert job.task_id == "task_1"
    assert 20 < now() < 40
    verdicts = [attempt.verdict for attempt in book.attempts]
    assert verdicts == [Verdict.UNSENT] * (len(verdicts) - 1) + [Verdict.ACCEPTED]
    assert len(verdicts) > 3


@pytest.mark.virtual
@pytest.mark.parametrize("script", [("error",) * 3, ("late error",) * 2], ids=lambda s: s[0])
async def test_a_name_that_is_not_found_is_looked_up_again_and_paid_once(
    script: tuple[str, ...], authority: trustme.CA
) -> None:
    """DNS fails or says nothing: nothing was sent (A15, N5)."""
    names = Names(*script)
    connect = functools.partial(aiohttp.TCPConnector, resolver=names)
    async with RawServer(ssl=serving(authority, "api.test")) as server:
        url = f"https://api.test:{server.port}"
        async with customer(url, connector=connect, ssl=trusting(authority)) as client:
            await client.submit(WORK)

        assert len(server.created) == 1
    assert names.asked == len(script) + 1
    assert 2 < now() < 60


@pytest.mark.virtual
@pytest.mark.parametrize("greeting", [resets_at_hello, silent_at_hello])
async def test_a_handshake_that_fails_is_tried_again_and_paid_once(
    greeting: Callable[[Line], Awaitable[None]], authority: trustme.CA
) -> None:
    """A reset or a time-out before the request is no doubt (A15)."""
    async with (
        RawServer(ssl=serving(authority)) as server,
        front(server, greeting, greeting) as door,
    ):
        url = f"https://127.0.0.1:{door.port}"
        async with customer(url, ssl=trusting(authority)) as client:
            await client.submit(WORK)
        await door.quiet()

        assert len(server.created) == 1
        assert door.connections == 3


@pytest.mark.virtual
async def test_patience_ends_after_ten_minutes() -> None:
    """What cannot be sent is given up in the end, unpaid (A15)."""
    with reserved_port() as port:
        async with customer(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(UnreachableError):
                await client.submit(WORK)

    assert 500 < now() <= 600


@pytest.mark.virtual
@pytest.mark.parametrize("ask", ["submit", "credits", "look", "upload"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda ca: serving(ca, "elsewhere.test"),
        lambda ca: serving(ca, not_after=datetime.now(UTC) - timedelta(days=1)),
        lambda _ca: serving(trustme.CA()),
    ],
    ids=["wrong host", "expired", "self-signed"],
)
async def test_a_wrong_certificate_is_raised_at_once(
    wrong: Callable[[trustme.CA], ssl.SSLContext], ask: str, authority: trustme.CA
) -> None:
    """Nothing is sent, and nothing is tried again (N1)."""
    async with RawServer(ssl=wrong(authority)) as server:
        async with customer(server.url, ssl=trusting(authority)) as client:
            asking: Callable[[], Awaitable[Any]] = {
                "submit": lambda: client.submit(WORK),
                "credits": client.credits,
                "look": lambda: client.poll("task_1"),
                "upload": lambda: client.upload(PICTURE),
            }[ask]
            with pytest.raises(UnreachableError, match="certificate") as caught:
                await asking()

        assert caught.value.permanent
        assert (server.requests, server.bytes_received) == ([], 0)
    assert now() < 1


@pytest.mark.virtual
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_the_submission_is_a_refusal(status: int) -> None:
    """Raised, one sent, never followed (A13)."""
    async with RawServer() as other:
        moved = answers(b"", status, Location=f"{other.url}/api/v1/jobs/createTask")
        async with RawServer(service(createTask=moved)) as server, customer(server.url) as client:
            with pytest.raises(ApiError, match="redirect"):
                await client.submit(WORK)

            assert len(server.created) == 1
        assert other.connections == 0


@pytest.mark.virtual
async def test_a_429_is_waited_out_and_paid_once() -> None:
    refuses = answers(envelope(code=429), 429, Retry_After="7")
    act = in_turn(refuses, refuses, answers(TASK))
    async with RawServer(service(createTask=act)) as server, customer(server.url) as client:
        job = await client.submit(WORK)

        assert len(server.created) == 3
    assert job.task_id == "task_1"
    assert now() >= 14


@pytest.mark.virtual
@pytest.mark.parametrize("status", [401, 402, 403, 404, 422, 433, 455, 505])
async def test_a_refusal_is_raised_at_once(status: int) -> None:
    """A no is a no, whether HTTP or the body says it (A24 to A26)."""
    for http in (200, 400):
        act = answers(envelope(code=status, msg="no"), http)
        async with RawServer(service(createTask=act)) as server, customer(server.url) as client:
            with pytest.raises(ApiError) as caught:
                await client.submit(WORK)

            assert len(server.created) == 1
        assert caught.value.code == status
        assert not isinstance(caught.value, SubmissionUncertainError)
    assert now() < 1


# --- questions -----------------------------------------------------------------------------------

TROUBLE: dict[str, Act] = {
    "reset": resets,
    "closed": closes,
    "502": answers(PAGE, 502, kind="text/html"),
    "half a JSON": answers(b'{"code": 2'),
    "429": answers(envelope(code=429), 429),
}


@pytest.mark.virtual
@pytest.mark.parametrize("trouble", TROUBLE)
async def test_a_question_is_asked_until_it_is_answered(trouble: str) -> None:
    """Asking twice costs nothing, uploads included, and each upload sends all its bytes (U6)."""
    act = TROUBLE[trouble]
    credit = in_turn(act, act, answers(envelope(640.25)))
    stored = answers(envelope({"downloadUrl": "https://files.test/a.png"}))
    upload = in_turn(act, act, stored)
    link = in_turn(act, act, answers(envelope("https://temporary.test/film.mp4")))
    parts = service(credit=credit, file_stream_upload=upload, download_url=link)
    async with RawServer(parts) as server, customer(server.url) as client:
        assert await client.credits() == 640.25
        assert await client.upload(PICTURE) == "https://files.test/a.png"
        assert (
            await client.download_url("https://results.test/film.mp4")
            == "https://temporary.test/film.mp4"
        )

        uploads = [received for received in server.requests if "upload" in received.path]
        assert len(uploads) >= 3
        assert all(PICTURE in received.body for received in uploads)
    assert 2 < now() < 120


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (hangs, UnansweredError),
        (resets, UnansweredError),
        (answers(PAGE, 502), ServerError),
        (answers(envelope(code=429), 429), RateLimitError),
    ],
)
async def test_a_question_nobody_answers_is_given_up(act: Act, error: type[ApikleyError]) -> None:
    """`Timeouts.answer` bounds all tries together, and one more."""
    async with RawServer(act) as server, customer(server.url) as client:
        with pytest.raises(error):
            await client.credits()

        assert len(server.requests) >= 3
    assert 60 < now() < 160


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (422, InvalidRequestError)]
)
async def test_a_question_that_is_refused_is_not_asked_again(
    status: int, error: type[ApikleyError]
) -> None:
    act = answers(envelope(code=status), status)
    async with RawServer(act) as server, customer(server.url) as client:
        with pytest.raises(error):
            await client.credits()

        assert len(server.requests) == 1


@pytest.mark.virtual
@pytest.mark.parametrize("act", [resets, answers(b"", 500), answers(b"<html>")])
async def test_a_look_is_one_question(act: Act) -> None:
    """A job has a patience of its own; `client.poll` says what this one look brought."""
    async with RawServer(answers(b"", 500)) as server, customer(server.url) as client:
        with pytest.raises(ApikleyError):
            await client.poll("task_1")

        assert len(server.looks) == 1
    assert now() < 1


@pytest.mark.virtual
async def test_a_429_for_a_look_slows_the_looks_and_not_the_submissions() -> None:
    """Each has a pace of its own (R10)."""
    look = in_turn(answers(envelope(code=429), 429, Retry_After="50"), service())
    async with RawServer(service(recordInfo=look)) as server, customer(server.url) as client:
        with pytest.raises(RateLimitError):
            await client.poll("task_1")
        await client.submit(WORK)
        assert now() < 1
        await client.poll("task_1")

        assert now() >= 50
        assert len(server.created) == 1


@pytest.mark.virtual
async def test_a_429_for_a_submission_slows_the_submissions_and_not_the_looks() -> None:
    create = in_turn(answers(envelope(code=429), 429, Retry_After="50"), answers(TASK))
    async with RawServer(service(createTask=create)) as server, customer(server.url) as client:
        submitting = asyncio.create_task(client.submit(WORK))
        await asyncio.sleep(1)
        await client.poll("task_1")
        await client.credits()
        assert now() == pytest.approx(1, abs=0.5)
        await submitting

        assert now() >= 50
        assert len(server.looks) == 1


@pytest.mark.virtual
async def test_a_job_looks_through_an_outage() -> None:
    """Five minutes of resets, half answers and refusals end no job (P2, P3, R10, N9)."""
    done = service()
    acts = [resets, closes, answers(PAGE, 502), answers(b"{"), answers(envelope(code=429), 429)]

    async def look(line: Line, received: ReceivedRequest) -> None:
        await (done if now() > 300 else random.Random(now()).choice(acts))(line, received)

    async with RawServer(service(recordInfo=look)) as server, customer(server.url) as client:
        result = await (await client.submit(WORK))

        assert len(server.created) == 1
    assert result.urls == ("https://results.test/film.mp4",)
    assert 300 < now() < 420


OUTAGES = {"resets": resets, "hangs up": closes, "a page with 502": answers(PAGE, 502)}


@pytest.mark.virtual
@pytest.mark.parametrize("kind", OUTAGES)
async def test_an_outage_is_asked_no_more_often_than_a_service_in_health(kind: str) -> None:
    """Many jobs in five minutes of outage: at most 1.3 times the usual questions (R11)."""

    async def questions(look: Act) -> int:
        async with RawServer(service(recordInfo=look)) as server, customer(server.url) as client:
            jobs = [client.job(f"task_{number}", known=True) for number in range(volume(8, 40))]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(300):
                    await asyncio.gather(*jobs)
            return len(server.looks)

    usual = await questions(still_waits)

    assert await questions(OUTAGES[kind]) <= 1.3 * usual


# --- protocols of the user's own -----------------------------------------------------------------


@pytest.mark.virtual
async def test_the_recorder_knows_before_the_server_does() -> None:
    """When the first byte arrives, its token is written down already (I5)."""
    book = Book()
    known: list[bool] = []

    class Hooks:
        def url_for(self, token: str) -> str | None:
            return f"https://hooks.test/done?token={token}"

    async def create(line: Line, received: ReceivedRequest) -> None:
        url = received.json()["callBackUrl"]
        known.append(url.endswith(book.intents[-1]) and not book.attempts)
        await answers(TASK)(line, received)

    async with RawServer(service(createTask=create)) as server:
        async with customer(server.url, callback=Hooks()) as client:
            await client.submit(WORK, recorder=book)
            with pytest.raises(SubmissionUncertainError):  # this service names one task twice
                await client.submit(WORK, callback_url="https://mine.test/hook")

        urls = [received.json()["callBackUrl"] for received in server.created]
    assert known[0]
    assert urls[1] == "https://mine.test/hook"
    assert [attempt.task_id for attempt in book.attempts] == ["task_1"]


@pytest.mark.virtual
async def test_a_limiter_of_ones_own_surrounds_attempts_and_films() -> None:
    seen: list[str] = []

    class Own:
        @contextlib.asynccontextmanager
        async def slot(self) -> AsyncIterator[None]:
            seen.append("slot")
            yield
            seen.append("no slot")

        @contextlib.asynccontextmanager
        async def running_slot(self) -> AsyncIterator[None]:
            seen.append("running slot")
            yield
            seen.append("no running slot")

        def remember(self, attempts: Iterable[tuple[float, bool]]) -> None:
            seen.append("remember")

    async with RawServer() as server, customer(server.url, limiter=Own()) as client:
        await client.submit(WORK)
        await client.generate(WORK)

    once = ["slot", "no slot"]
    assert seen == [*once, "running slot", *once, "no running slot"]


@pytest.mark.virtual
@pytest.mark.parametrize("many", [False, True])
async def test_a_film_is_there_although_its_running_slot_cannot_be_given_back(
    many: bool, tmp_path: Path
) -> None:
    class Torn(RateLimiter):
        @contextlib.asynccontextmanager
        async def running_slot(self) -> AsyncIterator[None]:
            yield
            raise ConnectionResetError

    async with RawServer() as server, customer(server.url, limiter=Torn()) as client:
        if many:
            outcomes = client.generate_many([WORK], save_to=tmp_path)
            assert [outcome.job is not None async for outcome in outcomes] == [True]
        else:
            assert (await client.generate(WORK)).task_id


@pytest.mark.virtual
async def test_a_film_is_unclaimed_if_its_caller_leaves_while_the_slot_is_given_back() -> None:
    class Slow(RateLimiter):
        @contextlib.asynccontextmanager
        async def running_slot(self) -> AsyncIterator[None]:
            yield
            given_back.set()
            await asyncio.sleep(5)

    given_back = asyncio.Event()
    async with RawServer() as server, customer(server.url, limiter=Slow()) as client:
        generating = asyncio.create_task(client.generate(WORK))
        await given_back.wait()
        generating.cancel()
        await asyncio.wait({generating})

        assert generating.cancelled()
        assert [job.state for job in client.unclaimed] == [State.SUCCESS]


@pytest.mark.virtual
@pytest.mark.parametrize(
    "url", ["not a url", "ftp://a.test/", "https://user:word@a.test/", "", "https://"]
)
async def test_a_callback_url_is_looked_at_before_anything_is_sent(url: str) -> None:
    async with RawServer() as server, customer(server.url) as client:
        with pytest.raises(StoryboardError, match="callback_url"):
            await client.submit(WORK, callback_url=url)

        assert server.connections == 0


@pytest.mark.virtual
async def test_only_works_can_be_submitted() -> None:
    async with RawServer() as server, customer(server.url) as client:
        with pytest.raises(
            StoryboardError, match="work: a Storyboard, a ModelTask or a Work of your own, not dict"
        ):
            await client.submit({"model": "x"})  # type: ignore[arg-type]

        assert server.connections == 0


@pytest.mark.virtual
async def test_an_image_is_uploaded_first_and_only_once(tmp_path: Path) -> None:
    picture = tmp_path / "kitten.png"
    picture.write_bytes(PICTURE)
    board = Storyboard([{"scene": "A kitten.", "duration": 5}], image=picture)
    async with RawServer() as server, customer(server.url) as client:
        await client.submit(board)
        await client.submit(board)

        assert [received.path.rsplit("/")[-1] for received in server.requests] == [
            "file-stream-upload",
            "createTask",
            "createTask",
        ]
        for received in server.created:
            assert received.json()["input"]["image_urls"] == ["https://files.test/image.png"]


@pytest.mark.virtual
async def test_an_image_at_home_is_not_sent_to_the_service() -> None:
    """The service could not fetch it, and would charge for the try (U8)."""
    board = Storyboard([{"scene": "A.", "duration": 5}], image="http://127.0.0.1:1/a.png")
    client = Client(
        CANARY_KEY,
        base_url="https://api.test",
        environment=Environment(transport=ScriptedTransport([])),
    )

    async with client:
        with pytest.raises(StoryboardError, match="image"):
            await client.submit(board)


# --- cancelling, at every turn of the loop -------------------------------------------------------


def bought(server: RawServer) -> list[str]:
    return [f"task_{number}" for number in range(1, len(server.created) + 1)]


async def slow_service(line: Line, received: ReceivedRequest) -> None:
    await asyncio.sleep(0.1)
    await _everything(line, received)


_everything = service()


@pytest.mark.parametrize("what", ["submit", "generate"])
def test_a_caller_who_is_cancelled_at_any_turn(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every film the server has made is in the caller's hands or in `unclaimed` (A10, C4)."""

    async def scenario(loop: StrikingLoop) -> None:
        caplog.clear()
        limiter = RateLimiter(3, 10, rng=random.Random(1))
        book = Book()
        async with RawServer(service()) as server:
            async with customer(server.url, limiter=limiter) as client:
                calls: dict[str, Callable[[], Coroutine[Any, Any, Job | Result]]] = {
                    "submit": lambda: client.submit(WORK, recorder=book),
                    "generate": lambda: client.generate(WORK),
                }
                task = asyncio.create_task(calls[what]())
                loop.strike = task.cancel
                end = await end_of(task)
                arrived_then = len(server.created)
                unclaimed_then = len(client.unclaimed)
                await client.aclose()

            known = [end.task_id] if isinstance(end, Job | Result) else []
            left = [job.task_id for job in client.unclaimed]
            assert sorted(known + left) == bought(server)
            assert arrived_then <= len(server.created) <= arrived_then + 1
            assert unclaimed_then <= len(left)
            assert client.uncertain == []
            assert isinstance(end, Job | Result | asyncio.CancelledError)
            warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
            assert len(warnings) == len(left)
            assert all(task_id in warnings[0] for task_id in left)
            if what == "submit":
                accepted = [a for a in book.attempts if a.verdict is Verdict.ACCEPTED]
                assert len(accepted) == len(server.created)
                assert book.intents == [attempt.token for attempt in book.attempts]
            assert limiter.in_flight == client.attempts.running.in_use == 0
        assert others() == set()

    at_every_turn(scenario)


@pytest.mark.parametrize("what", ["look", "credits", "upload", "save", "wait"])
def test_a_question_that_is_cancelled_at_any_turn(what: str, tmp_path: Path) -> None:
    """It ends at once, leaves nothing behind, and the client is as good as before (C4, N8)."""
    movie = film()

    async def scenario(loop: StrikingLoop) -> None:
        film_act = answers(movie, kind="video/mp4")
        async with RawServer(film_act) as host, RawServer(slow_service) as server:
            async with customer(server.url) as client:
                calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
                    "look": lambda: client.poll("task_1"),
                    "credits": client.credits,
                    "upload": lambda: client.upload(PICTURE),
                    "save": lambda: client.save(
                        Result("task_1", (f"{host.url}/film.mp4",)), tmp_path
                    ),
                    "wait": lambda: client.job("task_1").wait(),
                }
                task = asyncio.create_task(calls[what]())
                loop.strike = task.cancel
                began = now()
                await asyncio.wait({task})
                assert now() - began < 5
                assert task.cancelled() or task.exception() is None
                assert client.attempts.settings.call_limiter.in_flight == 0
                await client.credits()
            assert others() <= {*server.tasks, *host.tasks}
        assert others() == set()
        assert not [*tmp_path.glob(".*")]
        for path in tmp_path.iterdir():
            assert path.read_bytes() == movie
            path.unlink()

    at_every_turn(scenario, step=volume(3, 1))


@pytest.mark.virtual
async def test_an_uncertain_film_of_a_cancelled_caller_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What may have been bought is in `uncertain` and in one warning (I2)."""
    act = in_turn(processes_then_resets)
    async with RawServer(service(createTask=act)) as server, customer(server.url) as client:
        submitting = asyncio.create_task(client.submit(WORK))
        await asyncio.sleep(0.1)
        submitting.cancel()
        await end_of(submitting)
        await client.aclose()

        assert len(server.created) == 1
    (doubt,) = client.uncertain
    assert isinstance(doubt, SubmissionUncertainError)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    reported = [warning.getMessage() for warning in warnings]
    assert [line.partition(":")[0] for line in reported] == [
        "uncertain",
        "a film may be paid and nobody waits for it",
    ]
    assert all(doubt.token in line for line in reported)


@pytest.mark.virtual
async def test_logs_say_what_is_asked_throttled_tried_again_and_uncertain(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """DEBUG for each request, INFO for each retry, WARNING for a doubt; no secret in any."""
    caplog.set_level(logging.DEBUG, "apikley_async")
    hook, signed = "https://hooks.test/a-secret-token", "https://films.test/1.mp4?signed=1"
    echo = answers(envelope(None, code=500, msg=f"no {hook}\nand no {signed}"))
    busy = answers(envelope(None, code=429, msg="later"))
    act = service(
        createTask=in_turn(busy, echo),
        credit=in_turn(resets, busy, answers(envelope(7))),
        recordInfo=in_turn(answers(TASK)),
    )
    async with RawServer(act) as server, customer(server.url) as client:
        assert await client.credits() == 7
        with pytest.raises(SubmissionUncertainError, match="a-secret-token"):
            await client.submit(WORK, callback_url=hook)

    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    lines = [re.sub(r"[0-9.]+ (?=m?s)", "0 ", line) for line in lines]
    lines = [re.sub(r"[0-9a-f]{32}|[0-9a-f]{8}", "<token>", line) for line in lines]
    lines = [re.sub("answer: [A-Za-z]+", "answer", line) for line in lines]
    cause = "HTTP 200, code 500: no <url> and no <url>"
    credit, create = "GET /api/v1/chat/credit", "POST /api/v1/jobs/createTask"
    assert lines == [
        f"DEBUG {credit}: UnansweredError in 0 ms, attempt 1",
        f"INFO {credit}: 127.0.0.1 was asked but did not answer; retrying in 0 s",
        f"DEBUG {credit}: HTTP 200 in 0 ms, attempt 2",
        "INFO throttled: the service asks for no pause",
        f"INFO {credit}: The request for credits was refused: later; retrying in 0 s",
        f"DEBUG {credit}: HTTP 200 in 0 ms, attempt 3",
        f"DEBUG {create}: HTTP 200 in 0 ms, attempt <token>",
        "INFO throttled: the service asks for no pause",
        f"DEBUG {create}: HTTP 200 in 0 ms, attempt <token>",
        f"WARNING uncertain: a film may be paid, attempt <token>: {cause}",
    ]


@pytest.mark.virtual
async def test_an_answer_that_is_always_slow_is_read_in_the_end() -> None:
    """After two polls that were cut off the next may take twice as long, up to `answer`."""
    times = list[float]()

    async def slow(line: Line, received: ReceivedRequest) -> None:
        times.append(now())
        await asyncio.sleep(delay)
        await _everything(line, received)

    async with RawServer(service(recordInfo=slow)) as server, customer(server.url) as client:
        for delay, polls in ((20, 1), (45, 3), (100, 5)):
            times.clear()
            task_id = f"task_{delay}"
            await client.job(task_id)
            assert len(times) == polls

        times.clear()
        delay = 500  # never: each poll ends all the same
        with pytest.raises(JobTimeoutError):
            await client.job("task_9").wait(timeout=1000)
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 145


@pytest.mark.virtual
async def test_a_run_that_is_broken_off_reports_its_doubts() -> None:
    """What a `generate_many` nobody reads any more may have bought is in `uncertain` (I2)."""
    act = service(createTask=in_turn(answers(TASK), resets), recordInfo=still_waits)
    async with RawServer(act) as server, customer(server.url) as client:
        outcomes = client.generate_many([WORK] * 2, ordered=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await anext(outcomes)  # the first is not ready, and the second waits behind it

        assert len(server.created) == 2
    assert len(client.uncertain) == len(client.unclaimed) == 1


@pytest.mark.virtual
async def test_a_generate_that_is_cancelled_leaves_its_job() -> None:
    """Under a user's own time-out too; the job can be awaited, and the slot is free (A10)."""
    waits = answers(envelope({"taskId": "task_1", "state": "generating"}))
    look = in_turn(waits, waits, waits, service())
    async with RawServer(service(recordInfo=look)) as server, customer(server.url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await client.generate(WORK)

        (job,) = client.unclaimed
        assert client.attempts.running.in_use == 0
        assert (await job).task_id == "task_1"
        assert len(server.created) == 1


@pytest.mark.virtual
async def test_a_generate_that_fails_while_looking_says_which_film() -> None:
    """A film that is paid for is named by whatever ends the waiting for it (I2)."""
    act = service(recordInfo=answers(envelope(code=401), 401))
    async with RawServer(act) as server, customer(server.url) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.generate(WORK)
        assert caught.value.task_id == "task_1"

        other = answers(envelope({"taskId": "task_2"}))
        server.act = service(createTask=other, recordInfo=hangs)
        with pytest.raises(JobTimeoutError) as late:
            await client.generate(WORK, timeout=20)
        assert late.value.task_id == "task_2"
        assert late.value.job.task_id == "task_2"


# --- closing -------------------------------------------------------------------------------------


@attrs.frozen
class Use:
    """What goes on in a client when it is closed."""

    client: Client
    host: RawServer
    folder: Path

    def calls(self) -> dict[str, Coroutine[Any, Any, Any]]:
        client = self.client
        links = (f"{self.host.url}/film.mp4",)

        async def many() -> list[Any]:
            return [outcome async for outcome in client.generate_many([WORK] * 3)]

        async def follow() -> list[Any]:
            return [snapshot async for snapshot in client.job("task_77").updates()]

        return {
            "submit": client.submit(WORK),
            "generate": client.generate(WORK),
            "many": many(),
            "look": client.poll("task_1"),
            "wait": client.job("task_78").wait(),
            "follow": follow(),
            "credits": client.credits(),
            "upload": client.upload(PICTURE),
            "save": client.save(Result("task_1", links), self.folder),
        }


USES = ["submit", "generate", "many", "look", "wait", "follow", "credits", "upload", "save"]


@pytest.mark.parametrize("use", USES)
def test_closing_at_any_turn(use: str, tmp_path: Path) -> None:
    """Whoever waits gets an answer or ClientClosedError; no task, line or film is left (C5, C6)."""
    movie = film()

    async def scenario(loop: StrikingLoop) -> None:
        async with (
            RawServer(answers(movie, kind="video/mp4")) as host,
            RawServer(service(recordInfo=still_waits)) as server,
        ):
            client = customer(server.url)
            await client.__aenter__()
            calls = Use(client, host, tmp_path).calls()
            call = calls.pop(use)
            for unused in calls.values():
                unused.close()
            task = asyncio.create_task(call)
            struck = asyncio.Event()
            loop.strike = struck.set
            quitting = asyncio.create_task(struck.wait())
            await asyncio.wait({task, quitting}, timeout=6, return_when=asyncio.FIRST_COMPLETED)
            quitting.cancel()

            began = now()
            await client.aclose()
            end = await end_of(task)

            assert now() - began < 1
            allowed = ClientClosedError, Job, float, str, list
            assert isinstance(end, allowed) or type(end).__name__ == "Snapshot"
            known = [end.task_id] if isinstance(end, Job) else []
            if use == "many" and isinstance(end, list):
                known = [outcome.job.task_id for outcome in end if outcome.job]
            left = {job.task_id for job in client.unclaimed}
            assert left | set(known) == set(bought(server))
            assert client.uncertain == []
            assert client.attempts.running.in_use == client.limiter.in_flight == 0  # type: ignore[attr-defined]
            await server.quiet()
            await host.quiet()
        assert others() <= {quitting}
        assert not [*tmp_path.glob(".*")]
        for path in tmp_path.iterdir():
            assert path.read_bytes() == movie
            path.unlink()

    at_every_turn(scenario, step=volume(3, 1))


async def still_waits(line: Line, received: ReceivedRequest) -> None:
    task_id = received.target.rpartition("taskId=")[2]
    await answers(envelope({"taskId": task_id, "state": "waiting"}))(line, received)


@pytest.mark.parametrize("repetitions", [1, 3])
def test_a_closing_that_is_cancelled_at_any_turn_still_closes(repetitions: int) -> None:
    """Cancelled once or again and again, it leaves nothing behind, and the cancel goes on (C5)."""

    async def scenario(loop: StrikingLoop) -> None:
        slow = service(recordInfo=still_waits, createTask=late_answer)
        async with RawServer(slow) as server:
            client = customer(server.url)
            uses = [
                asyncio.create_task(client.submit(WORK)),
                asyncio.create_task(client.generate(WORK)),
                asyncio.create_task(client.job("task_77").wait()),
            ]
            await asyncio.sleep(0.5)
            closing = asyncio.create_task(client.aclose())
            cancels = 0

            def strike() -> None:
                nonlocal cancels
                cancels += 1
                closing.cancel()
                if cancels < repetitions:
                    loop.call_soon(strike)

            loop.strike = strike
            await asyncio.wait({closing})
            assert closing.cancelled() or closing.exception() is None
            if not client.attempts.sessions.closed:  # it was cancelled before it had begun
                await client.aclose()
            assert repr(client).endswith(" closed>")
            await asyncio.wait(uses)

            found = len(client.unclaimed) + len(client.uncertain)
            reported = sum(
                isinstance(use.exception() or use.result(), Job | SubmissionUncertainError)
                for use in uses
            )
            assert found + reported >= len(server.created) == 2
            await server.quiet()
            await client.aclose()
        assert others() == set()

    at_every_turn(scenario)


async def late_answer(line: Line, received: ReceivedRequest) -> None:
    await asyncio.sleep(5)
    await _everything(line, received)


@pytest.mark.virtual
async def test_closing_again_and_by_several_is_closing_once() -> None:
    """Idempotent; all of them return when it is done (C5)."""
    async with RawServer(service(createTask=late_answer)) as server:
        client = customer(server.url)
        submitting = asyncio.create_task(client.submit(WORK))
        await asyncio.sleep(1)

        await asyncio.gather(client.aclose(), client.aclose(), client.aclose())

        assert now() == pytest.approx(5, abs=0.1)
        assert (await submitting).task_id
        await client.aclose()
        assert now() == pytest.approx(5, abs=0.1)


@pytest.mark.virtual
async def test_closing_drains_for_as_long_as_its_grace() -> None:
    async with RawServer(service(createTask=hangs)) as server:
        client = customer(server.url)
        book = Book()
        submitting = asyncio.create_task(client.submit(WORK, recorder=book))
        await asyncio.sleep(1)

        await client.aclose(grace=12)

        assert now() == pytest.approx(13, abs=0.1)
        (attempt,) = book.attempts  # written down before the closing is over
        assert "closed" in attempt.cause
        assert isinstance(await end_of(submitting), SubmissionUncertainError)
        assert len(server.created) == 1


@pytest.mark.virtual
async def test_closing_does_not_wait_for_a_stuck_upload() -> None:
    """A server that stops reading keeps neither the closing nor a line (C5, N8)."""

    async def stops_reading(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(500)

    async with RawServer(greet=stops_reading) as server:
        client = customer(server.url)
        uploading = asyncio.create_task(client.upload(PICTURE + bytes(9_000_000)))
        await asyncio.sleep(5)

        await client.aclose()

        assert now() < 6
        assert isinstance(await end_of(uploading), ClientClosedError)


@pytest.mark.virtual
async def test_a_closed_client_says_so() -> None:
    async with RawServer() as server:
        client = customer(server.url)
        async with client:
            job = await client.submit(WORK)
        connections = server.connections

        calls: list[Coroutine[Any, Any, Any]] = [client.submit(WORK), client.generate(WORK)]
        calls += [client.poll("task_1"), client.credits(), client.upload(PICTURE), job.wait()]
        for call in calls:
            assert isinstance(await end_of(call), ClientClosedError)
        with pytest.raises(ClientClosedError):
            async for _ in client.generate_many([WORK]):
                pass
        assert client.job("task_5").task_id == "task_5"  # no request, so no need to be open

        assert server.connections == connections
    assert "closed" in repr(client)


@pytest.mark.virtual
async def test_it_can_be_entered_again() -> None:
    """The same client, opened anew; jobs of before go on (C12)."""
    async with RawServer() as server:
        client = customer(server.url)
        async with client:
            job = await client.submit(WORK)
        async with client:
            assert (await job).urls
            await client.submit(WORK)

        assert len(server.created) == 2


@pytest.mark.virtual
async def test_entering_while_it_closes_waits_for_the_closing() -> None:
    async with RawServer(service(createTask=late_answer)) as server:
        client = customer(server.url)
        submitting = asyncio.create_task(client.submit(WORK))
        await asyncio.sleep(1)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(1)

        async with client:
            assert now() == pytest.approx(5, abs=0.1)
            await closing
            assert await client.credits() == 640.25
        await submitting

        assert len(server.created) == 1


class BrokenTransport(ScriptedTransport):
    async def aclose(self) -> None:
        raise OSError("cannot close")


@pytest.mark.virtual
async def test_a_closing_that_fails_is_a_closing() -> None:
    """What a transport of the user's own raises is reported, and the client can be opened again."""
    client = customer("https://api.test", transport=BrokenTransport([reply(1), reply(2)]))
    with pytest.raises(OSError, match="cannot close"):
        async with client:
            assert await client.credits() == 1
    with pytest.raises(OSError, match="cannot close"):
        async with client:
            assert await client.credits() == 2


# --- loops, threads, processes -------------------------------------------------------------------


@contextlib.contextmanager
def served() -> Iterator[RawServer]:
    """A server in a thread of its own, for tests with more than one loop."""
    ready = threading.Event()
    box: dict[str, Any] = {}

    async def serve() -> None:
        async with RawServer() as server:
            box.update(server=server, stop=asyncio.Event(), loop=asyncio.get_running_loop())
            ready.set()
            await box["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield box["server"]
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join()


def open_files() -> int:
    gc.collect()
    return len([*Path("/proc/self/fd").iterdir()])


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts the files this process has open in /proc"
)


@needs_proc
def test_one_client_in_two_runs() -> None:
    """Made outside of a loop, used in two, one after the other; nothing is left of either (C12)."""
    with served() as server:
        before = open_files()
        client = customer(server.url, polling=Backoff(initial=0.01))

        async def main() -> str:
            async with client:
                result = await client.generate(WORK)
                await client.credits()
            assert others() == set()
            return result.task_id

        assert [asyncio.run(main()), asyncio.run(main())] == ["task_1", "task_2"]
        server.idle.wait()
        assert open_files() == before


@needs_proc
def test_nothing_is_left_after_closing_in_the_middle() -> None:
    """No task, no socket, no file, no complaint (C5, N8)."""

    async def main() -> None:
        async with RawServer(late_answer) as server:
            before = open_files()
            client = customer(server.url)
            uses: list[Coroutine[Any, Any, Any]] = [client.generate(WORK) for _ in range(5)]
            uses += [client.credits(), client.poll("task_9"), client.upload(PICTURE)]
            tasks = [asyncio.create_task(use) for use in uses]
            await asyncio.sleep(1)
            assert open_files() >= before + 7

            await client.aclose()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            await server.quiet()

            assert all(isinstance(end, ClientClosedError) for end in ends)
            assert len(client.unclaimed) == len(server.created) == 5
            assert open_files() == before
        assert others() == set()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_a_loop_that_died_around_it_does_not_matter() -> None:
    """Not closed, but its loop is gone: the next loop opens it anew."""
    client = customer("https://api.test", transport=ScriptedTransport([reply(1), reply(2)]))

    assert asyncio.run(client.credits()) == 1
    assert asyncio.run(client.credits()) == 2
    asyncio.run(client.aclose())
    with pytest.raises(ClientClosedError):
        asyncio.run(client.credits())


def test_closing_never_hangs_after_a_loop_was_closed_around_an_awaited_job() -> None:
    """The job of a loop that is gone is still held: later closings close all the same."""
    waiting = {"taskId": "task_1", "state": "generating"}
    client = customer("https://api.test", transport=ScriptedTransport([reply(waiting), reply(1)]))
    job = client.job("task_1")
    loop = asyncio.new_event_loop()
    task = loop.create_task(job.wait())
    while job.state is State.UNKNOWN:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def use() -> float:
        async with client:
            credits_left = await client.credits()
        await asyncio.wait_for(client.aclose(), 20)
        return credits_left

    assert asyncio.run(use()) == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's own
    task.get_coro().close()  # type: ignore[union-attr]


def test_running_slots_of_a_closed_loop_are_free_again() -> None:
    """A loop that is closed around a film takes no place among those that run with it."""
    created = reply({"taskId": "task_1"})
    film = {"taskId": "task_2", "state": "success", "resultJson": '{"resultUrls":["https://f/1"]}'}
    answers = [created, reply({"taskId": "task_2"}), reply(film)]
    client = customer(
        "https://api.test", transport=ScriptedTransport(answers), max_running=1, clock=FakeClock()
    )
    loop = asyncio.new_event_loop()
    task = loop.create_task(client.generate(WORK))
    for _ in range(50):
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def use() -> str:
        async with client:
            return (await client.generate(WORK)).task_id

    assert asyncio.run(use()) == "task_2"
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's own
    task.get_coro().close()  # type: ignore[union-attr]


async def test_closing_never_hangs_after_listening_could_not_be_ended() -> None:
    """Callbacks of the user's own may fail: that is raised once, and the client is closed."""

    class Failing(ManualCallbacks):
        def listen(self, hear: Listener) -> Callable[[], None]:
            def end() -> None:
                raise ZeroDivisionError

            return end

    client = customer(
        "https://api.test", transport=ScriptedTransport([reply(1)]), callback=Failing()
    )
    await client.credits()
    with pytest.raises(ZeroDivisionError):
        await client.aclose()
    await asyncio.wait_for(client.aclose(), 20)


def test_many_films_end_where_their_limiter_is_in_use_in_another_loop() -> None:
    """It is no film's failure: not one more is pulled after it."""
    limiter, pulled = RateLimiter(), list[int]()

    async def hold() -> None:
        async with limiter.slot():
            await asyncio.sleep(60)

    def works() -> Iterator[ModelTask]:
        for number in range(200):
            pulled.append(number)
            yield WORK

    async def use() -> None:
        transport = ScriptedTransport([])
        async with Client(
            "key", environment=Environment(transport=transport), limiter=limiter, max_running=3
        ) as client:
            async for outcome in client.generate_many(works()):
                assert outcome.error is not None
                assert isinstance(outcome.error.__cause__, RuntimeError)

    with another_loop(hold), pytest.raises(RuntimeError, match="in another event loop"):
        asyncio.run(use())
    assert len(pulled) <= 3


def test_two_loops_at_once_are_one_too_many() -> None:
    """A clear error in the other loop, and the first one is not disturbed (C12)."""
    client = customer("https://api.test", transport=ScriptedTransport([reply(1), reply(2)]))

    async def elsewhere() -> None:
        for call in (client.credits(), client.submit(WORK), client.aclose()):
            with pytest.raises(ClientClosedError, match="another event loop"):
                await call
        with pytest.raises(ClientClosedError, match="another event loop"):
            async with client:
                pass

    async def main() -> None:
        async with client:
            assert await client.credits() == 1
            await asyncio.to_thread(asyncio.run, elsewhere())
            assert await client.credits() == 2

    asyncio.run(main())


def run_script(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script), *args],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def complaints_in(stderr: str) -> list[str]:
    """What a child had to say, except that the machine is busy (asyncio's debug mode does)."""
    return [line for line in stderr.splitlines() if not line.startswith("Executing <")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_it_says_so() -> None:
    """A child that inherits an open client must not touch its connections (C12)."""
    script = """
        import asyncio, os
        from apikley_async import Client, ClientClosedError, Environment
        from apikley_async.testing import ScriptedTransport, reply

        transport = ScriptedTransport([reply(1), reply(2)])
        client = Client("key", environment=Environment(transport=transport))

        async def child():
            for call in (client.credits(), client.aclose()):
                try:
                    await call
                except ClientClosedError as error:
                    print("child:", error, flush=True)

        loop = asyncio.new_event_loop()
        print(loop.run_until_complete(client.credits()), flush=True)
        if (pid := os.fork()) == 0:
            asyncio.run(child())
            os._exit(0)
        os.waitpid(pid, 0)
        print(loop.run_until_complete(client.credits()), flush=True)
        loop.run_until_complete(client.aclose())
        loop.close()
    """

    done = run_script(script)

    assert complaints_in(done.stderr) == []
    first, *child, last = done.stdout.splitlines()
    assert (first, last) == ("1.0", "2.0")
    assert len(child) == 2
    assert all("before a fork" in line for line in child)


INTERRUPTED = """
    import asyncio, sys
    from apikley_async import Client, ModelTask

    client = Client("key-of-a-child", base_url=sys.argv[1])

    async def main():
        async with client:
            try:
                await client.{call}(ModelTask("model", {{"prompt": "x"}}))
            except asyncio.CancelledError:
                print("interrupted", flush=True)
                raise

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("unclaimed:", *(job.task_id for job in client.unclaimed), flush=True)
"""


@pytest.mark.parametrize("call", ["submit", "generate"])
async def test_ctrl_c_during_the_request_loses_no_film(call: str) -> None:
    """A real SIGINT under a real asyncio.run: the answer is awaited, the film is named (A11)."""
    arrived, interrupted = asyncio.Event(), asyncio.Event()

    async def create(line: Line, received: ReceivedRequest) -> None:
        arrived.set()
        await interrupted.wait()
        await answers(TASK)(line, received)

    async with RawServer(service(createTask=create)) as server:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "error", "-c"),
            textwrap.dedent(INTERRUPTED).format(call=call),
            server.url,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout is not None
        await arrived.wait()

        child.send_signal(2)
        said = await child.stdout.readline()
        interrupted.set()
        rest, complaints = await child.communicate()

        assert len(server.created) == 1
    assert said == b"interrupted\n"
    assert rest == b"unclaimed: task_1\n"
    reported = "film task_1 is paid and nobody waits for it; see unclaimed"
    assert complaints_in(complaints.decode()) == [reported]
    assert child.returncode == 0


# --- building one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"base_url": "http://api.apikley.ru"}, "base_url: https"),
        ({"base_url": "https://a.test?x=1"}, "base_url"),
        ({"proxy": "socks5://a.test"}, "proxy: an http"),
        ({"proxy": "http://[::1"}, "proxy: an http"),
        ({"proxy": ""}, "proxy: an http"),
        ({"trust_env": True}, "trust_env: HTTPS_PROXY: an http"),
        ({"ssl": False}, "verification is not turned off"),
        ({"ssl": True}, "ssl.SSLContext"),
        ({"max_running": 0}, "max_running: a whole number"),
        ({"max_running": float("inf")}, "max_running: a whole number"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(
    options: Any, reported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent, in a sentence that names the rule (S9, N1)."""
    monkeypatch.setenv("https_proxy", "socks5://me:opens-nothing@a.test")
    with pytest.raises(ValueError, match=reported):
        Client(CANARY_KEY, **options)


@pytest.mark.parametrize("key", ["", "  ", "two words", "a\nb", "ключ", "\ufeffkey", b"key", 5])
def test_what_cannot_be_a_key_is_refused(key: Any) -> None:
    """Before anything is sent (S8)."""
    with pytest.raises(AuthenticationError, match="api_key"):
        Client(key)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationError, match="APIKLEY_API_KEY"):
        Client()
    monkeypatch.setenv("APIKLEY_API_KEY", f" {CANARY_KEY}\n")
    monkeypatch.setenv("APIKLEY_BASE_URL", "http://127.0.0.1:8000")

    assert repr(Client()) == "<Client 127.0.0.1 not yet open>"
    assert Client().attempts.settings.key.reveal() == CANARY_KEY
    monkeypatch.setenv("APIKLEY_BASE_URL", "http://elsewhere.test")
    with pytest.raises(ValueError, match="https"):
        Client()


def test_no_file_is_searched_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `.env` that lies around, here or above, is nobody's word (S7)."""
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder in (tmp_path, inner):
        (folder / ".env").write_text(f"APIKLEY_API_KEY={CANARY_KEY}\n")
    monkeypatch.chdir(inner)

    with pytest.raises(AuthenticationError, match="APIKLEY_API_KEY"):
        Client()


def test_with_a_transport_of_ones_own_no_key_is_needed() -> None:
    client = Client(environment=Environment(transport=ScriptedTransport([reply(7)])))

    assert asyncio.run(client.credits()) == 7


@pytest.mark.parametrize("task_id", ["", "two words", "line\nbreak", None, "x" * 300])
def test_a_job_needs_an_id(task_id: Any) -> None:
    with pytest.raises(StoryboardError, match="task_id"):
        customer("https://api.test").job(task_id)


def test_one_film_is_one_job() -> None:
    """Taken up twice it is the same job, so that two awaiters cost one stream of looks (P11)."""
    client = customer("https://api.test")

    assert client.job("task_1") is (job := client.job("task_1"))
    assert job is not client.job("task_2")


@pytest.mark.virtual
async def test_only_what_goes_wrong_is_told() -> None:
    """A refusal for want of money is that, and nothing is left in doubt."""
    act = service(createTask=answers(envelope(code=402, msg="top up")))
    async with RawServer(act) as server, customer(server.url) as client:
        with pytest.raises(InsufficientCreditsError, match="top up"):
            await client.generate(WORK)

        assert (client.unclaimed, client.uncertain) == ([], [])
        assert len(server.created) == 1


async def test_every_request_says_who_asks() -> None:
    """The name and version of ours, or what the caller says; no header holds anything else."""
    async with RawServer() as server, customer(server.url) as client:
        await client.credits()
        async with customer(server.url, user_agent="studio/1.0") as other:
            await other.credits()

    agents = [received.headers["user-agent"] for received in server.requests]
    assert agents == [f"apikley-async/{version}", "studio/1.0"]
    for wrong in ("", "a\nb", "\u00e9", None):
        with pytest.raises(ValueError, match="user_agent"):
            Client("key-0000", user_agent=wrong)  # type: ignore[arg-type]
