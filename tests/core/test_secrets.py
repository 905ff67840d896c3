"""The key: one header of the requests to the API's origin, and nowhere else in the world.

A canary stands for it. The tests look for it in everything a program could write down: errors
with the locals of their frames, logs at DEBUG, reprs, pickles, and what other hosts were sent.
"""

# mypy: disable-error-code="unused-awaitable"

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import pickle
import random
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from conftest import CANARY_KEY
from filehost import film
from rawserver import (
    Act,
    Line,
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
    service,
)
from rich.pretty import pretty_repr
from volume import volume

from apikley_async import (
    ApikleyError,
    AuthenticationError,
    Client,
    ClientClosedError,
    Environment,
    JobFailedError,
    ModelTask,
    Result,
    Storyboard,
    SubmissionUncertainError,
    Timeouts,
    UnreachableError,
)
from apikley_async._secret import HiddenHeader
from apikley_async.testing import LoopClock, Request
from apikley_async.webhook import Callback, Inbox, Receiver

WORK = ModelTask("model", {"prompt": "A lighthouse at dawn."})
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\2\0\0\0\2\0\x08\2\0\0\0" + b"picture" * 100
TASK = envelope({"taskId": "task_1"})

pytestmark = pytest.mark.virtual


def customer(base_url: str, **options: Any) -> Client:
    environment = Environment(clock=LoopClock(), rng=random.Random(1))
    return Client(CANARY_KEY, base_url=base_url, environment=environment, **options)


# --- looking for it ------------------------------------------------------------------------------


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and all that hangs on it."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is not None and found not in seen:
            seen.append(found)
            waiting += [found.__cause__, found.__context__]
            waiting += getattr(found, "exceptions", ())
    yield from seen


def written_down(error: BaseException) -> str:
    """All that a logger, a crash report or a pickle could make of an error."""
    shown = []
    for found in chain(error):
        traced = traceback.TracebackException.from_exception(
            found, capture_locals=True, compact=True
        )
        shown += traced.format(chain=False)
        shown += [repr(found), str(found), repr(found.args), repr(vars(found))]
        if isinstance(found, ApikleyError):
            pickled = pickle.dumps(found)
            shown += [pickled.decode("latin-1"), repr(vars(pickle.loads(pickled)))]  # noqa: S301
    return "\n".join(shown)


def check(error: BaseException) -> None:
    assert CANARY_KEY not in written_down(error)
    for found in chain(error):
        assert not type(found).__module__.startswith("aiohttp"), f"{found!r} left the house"


@pytest.fixture(autouse=True)
def _every_log_is_read(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test here does: no logger of anybody prints the key, at DEBUG and with locals."""
    with caplog.at_level(logging.DEBUG):
        yield
    for record in [*caplog.get_records("setup"), *caplog.get_records("call")]:
        assert CANARY_KEY not in logging.Formatter().format(record)
        assert CANARY_KEY not in repr(vars(record))
        if record.exc_info and record.exc_info[1]:
            check(record.exc_info[1])


@pytest.fixture
async def talkative() -> AsyncIterator[None]:
    """In debug mode asyncio tells of every callback."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    yield
    loop.set_debug(False)


def test_the_search_finds_what_it_looks_for() -> None:
    """The errors of aiohttp do hold the key, and the checks above would see it (S2)."""

    async def careless() -> None:
        async with RawServer(answers(b"", 404)) as server, aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {CANARY_KEY}"}
            async with session.get(server.url, headers=headers) as response:
                response.raise_for_status()

    with pytest.raises(aiohttp.ClientResponseError) as caught:
        asyncio.run(careless())

    assert CANARY_KEY in written_down(caught.value)
    with pytest.raises(AssertionError):
        check(caught.value)


# --- errors --------------------------------------------------------------------------------------

ECHO = json.dumps({"code": 401, "msg": f"no such key: {CANARY_KEY}", "data": CANARY_KEY}).encode()
ESCAPED = b'{"code": 422, "msg": "%s"}' % "".join(f"\\u{ord(c):04x}" for c in CANARY_KEY).encode()

ACTS: dict[str, Act] = {
    "reset": resets,
    "closed": closes,
    "silence": hangs,
    "bad HTTP": breaks_off(b"HTTP/1.1 abc OK\r\n\r\n"),
    "half a body": breaks_off(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"),
    "bad gzip": answers(b"hello", Content_Encoding="gzip"),
    "bad chunks": breaks_off(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n"),
    "too large headers": breaks_off(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"),
    "401": answers(envelope(code=401), 401),
    "402": answers(envelope(code=402)),
    "429": answers(envelope(code=429), 429, Retry_After="400"),
    "500": answers(envelope(code=500), 500),
    "502": answers(b"<html>", 502, kind="text/html"),
    "307": answers(b"", 307, Location="https://elsewhere.test/"),
    "an echo": answers(ECHO, 401),
    "an escaped echo": answers(ESCAPED),
    "an echo in a header": answers(envelope(code=400, msg="no"), 400, Retry_After=CANARY_KEY),
    "an echo in a redirect": answers(b"", 302, Location=f"https://a.test/?key={CANARY_KEY}"),
    "an echo in a page": answers(b"<pre>Bearer %s</pre>" % CANARY_KEY.encode(), 503),
    "an echo that breaks off": breaks_off(
        b"HTTP/1.1 500 No\r\nContent-Length: 900\r\n\r\nBearer %s" % CANARY_KEY.encode()
    ),
    "an echo in bad HTTP": breaks_off(f"HTTP/1.1 {CANARY_KEY} OK\r\n\r\n".encode()),
    "an echo in a bad header": breaks_off(f"HTTP/1.1 200 OK\r\n{CANARY_KEY}\r\n\r\n".encode()),
}

QUESTIONS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "submit": lambda client: client.submit(WORK),
    "generate": lambda client: client.generate(WORK),
    "look": lambda client: client.poll("task_1"),
    "credits": lambda client: client.credits(),
    "upload": lambda client: client.upload(PICTURE),
    "link": lambda client: client.download_url("https://results.test/film.mp4"),
}


@pytest.mark.usefixtures("talkative")
@pytest.mark.parametrize("act", ACTS)
async def test_no_error_holds_the_key(act: str) -> None:
    """Whatever went wrong with any question, and however the error is written down (S2 to S4).

    By default each act meets a submission, and one other question, from act to act another one.
    """
    timeouts = Timeouts(read=20)
    submit, *others = QUESTIONS.values()
    for ask in (submit, *volume([others[list(ACTS).index(act) % len(others)]], others)):
        async with RawServer(ACTS[act]) as server:
            async with customer(server.url, timeouts=timeouts, retry_for=20) as client:
                with pytest.raises(ApikleyError) as caught:
                    await ask(client)

            assert server.requests
        check(caught.value)


@pytest.mark.usefixtures("talkative")
@pytest.mark.parametrize("question", QUESTIONS)
async def test_an_unreachable_service_does_not_bring_it_out(question: str) -> None:
    timeouts = Timeouts(read=20)
    for scheme in ("http", "https"):
        with reserved_port() as port:
            url = f"{scheme}://127.0.0.1:{port}"
            async with customer(url, timeouts=timeouts, retry_for=20) as client:
                with pytest.raises(UnreachableError) as caught:
                    await QUESTIONS[question](client)
        check(caught.value)


@pytest.mark.usefixtures("talkative")
async def test_tls_trouble_does_not_bring_it_out() -> None:
    """A wrong certificate, a broken handshake, a proxy that says no."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    refuses = breaks_off(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
    async with RawServer(ssl=context) as server, RawServer(refuses) as plain:
        for base_url, proxy in (
            (server.url, None),
            (plain.url.replace("http", "https"), None),
            ("https://api.test", plain.url.replace("//", f"//user:{CANARY_KEY}@")),
        ):
            async with customer(base_url, proxy=proxy, retry_for=20) as client:
                with pytest.raises(UnreachableError) as caught:
                    await client.submit(WORK)
                del proxy  # it holds the canary, and these are locals of a test
            check(caught.value)


@pytest.mark.usefixtures("talkative")
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_cancelled_call_does_not_bring_it_out(question: str) -> None:
    """Cancelled at different depths, the traceback shows frames but no key (S4)."""
    for steps in volume((1, 8, 20), (1, 4, 8, 12, 16, 20, 30)):
        async with RawServer(hangs) as server, customer(server.url) as client:
            task = asyncio.ensure_future(QUESTIONS[question](client))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            await client.aclose(grace=0)
            check(caught.value)
            for doubt in client.uncertain:
                check(doubt)


@pytest.mark.usefixtures("talkative")
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_timeout_of_the_users_does_not_bring_it_out(question: str) -> None:
    async with RawServer(hangs) as server, customer(server.url) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(3):
                await QUESTIONS[question](client)
        await client.aclose(grace=0)
        check(caught.value)


@pytest.mark.usefixtures("talkative")
@pytest.mark.parametrize("grace", [0, 5])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_closing_does_not_bring_it_out(question: str, grace: float) -> None:
    async with RawServer(hangs) as server, customer(server.url) as client:
        task = asyncio.ensure_future(QUESTIONS[question](client))
        await asyncio.sleep(1)
        await client.aclose(grace=grace)
        with pytest.raises((ClientClosedError, SubmissionUncertainError)) as caught:
            await task
        check(caught.value)


@pytest.mark.usefixtures("talkative")
async def test_retries_pile_up_no_errors_of_others() -> None:
    """Ten different failures before the last one: none of them hangs on it."""
    act = in_turn(resets, closes, *ACTS.values())
    async with RawServer(act) as server:
        async with customer(server.url, timeouts=Timeouts(read=1000)) as client:
            with pytest.raises(ApikleyError) as caught:
                await client.credits()

        assert len(server.requests) > 5
    assert [*chain(caught.value)] == [caught.value]


@pytest.mark.usefixtures("talkative")
async def test_errors_of_the_users_own_do_not_bring_it_out() -> None:
    """A recorder, a limiter or a callback of the user's fails around the request."""

    class Book:
        async def intend(self, token: str, request: Request) -> None:
            return

        async def settle(self, outcome: object) -> None:
            raise KeyError(f"no room for {outcome}")

    async with RawServer(resets) as server, customer(server.url) as client:
        with pytest.raises(KeyError) as caught:
            await client.submit(WORK, recorder=Book())
        check(caught.value)
        check(client.uncertain[0])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: f"{key}\r\nX-Injected: 1",
        lambda key: f"{key} {key}",
        lambda key: f"\ufeff{key}",
        lambda key: f'"{key}"',
        lambda key: f"{key}\0",
        lambda key: f"ключ{key}",
        lambda key: key.encode(),
        lambda key: [key],
    ],
)
def test_a_key_that_is_refused_is_not_shown(
    spoil: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the message nor among the locals, given or from the environment (S8, S4)."""
    with pytest.raises(AuthenticationError) as caught:
        Client(spoil(CANARY_KEY))
    check(caught.value)

    if isinstance(spoil(""), str) and "\0" not in spoil(""):  # what an environment can hold
        monkeypatch.setenv("APIKLEY_API_KEY", spoil(CANARY_KEY))
        with pytest.raises(AuthenticationError) as caught:
            Client()
        check(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://api.apikley.ru"},
        {"base_url": f"https://a.test/?key={CANARY_KEY}"},
        {"base_url": f"https://user:{CANARY_KEY}@a.test"},
        {"proxy": f"socks5://user:{CANARY_KEY}@a.test"},
        {"proxy": f"http://user:{CANARY_KEY}@[::1"},
        {"proxy": f"http://user:{CANARY_KEY}@a\u2100b"},
        {"ssl": False},
        {"max_running": 0},
        {"max_running": 0, "proxy": f"http://user:{CANARY_KEY}@a.test"},
    ],
)
def test_a_client_that_cannot_be_built_does_not_show_it(options: dict[str, Any]) -> None:
    given = functools.partial(Client, CANARY_KEY, **options)
    del options

    with pytest.raises(ValueError, match=r"base_url|proxy|ssl|max_running") as caught:
        given()

    del given  # what stands in frames of one's own is one's own
    check(caught.value)


def test_what_shortens_long_texts_shows_no_piece_of_the_key() -> None:
    """Crash reports cut what is longer than 80 characters before they show it (S4)."""
    header = HiddenHeader(f"Bearer {CANARY_KEY * 5}")

    for shown in (header[:80], header[7], header[::-1], pretty_repr(header, max_string=80)):
        assert CANARY_KEY[:4] not in shown
    assert str(header) == f"Bearer {CANARY_KEY * 5}"
    assert pretty_repr({"Authorization": header}, max_string=80).count(CANARY_KEY) == 0


@pytest.mark.parametrize(
    "made",
    [
        lambda word: Callback(f"https://user:{word}@hooks.test"),
        lambda word: Callback("https://hooks.test", hmac_keys=[word, f"{word}\n{word}"]),
        lambda word: Receiver(Inbox("i.db"), hmac_keys=[word, ""]),
        lambda word: Receiver(Inbox("i.db"), token_secrets=[word]),
    ],
)
def test_a_receiver_that_cannot_be_built_does_not_show_its_secrets(
    made: Callable[[str], object],
) -> None:
    """Passwords, keys for signing and secrets of tokens: not among the locals either (S4)."""
    try:
        made(CANARY_KEY)
    except ValueError as error:
        inner = error.__traceback__.tb_next.tb_next if error.__traceback__ else None  # type: ignore[union-attr]
        check(error.with_traceback(inner))
    else:
        pytest.fail("it was made")


# --- everything that can be printed --------------------------------------------------------------


@pytest.mark.usefixtures("talkative")
async def test_no_object_of_the_house_shows_it(tmp_path: Path) -> None:
    """After a whole journey each living object of the package is printed, and aiohttp's (S1)."""
    movie = film()
    links: list[str] = []

    async def look(line: Line, received: ReceivedRequest) -> None:
        content = json.dumps({"resultUrls": links})
        data = {"taskId": "task_1", "state": "success", "resultJson": content}
        await answers(envelope(data))(line, received)

    async with (
        RawServer(answers(movie, kind="video/mp4")) as host,
        RawServer(service(recordInfo=look)) as server,
    ):
        links.append(f"{host.url}/film.mp4?signature=1")
        async with customer(server.url) as client:
            picture = tmp_path / "picture.png"
            picture.write_bytes(PICTURE)
            board = Storyboard([{"scene": "A.", "duration": 5}], image=picture)
            result = await client.generate(board)
            await client.save(result, tmp_path)
            await client.credits()

            printed = 0
            gc.collect()  # what other tests have left behind is theirs
            for thing in gc.get_objects():
                if str(type(thing).__module__).partition(".")[0] in ("apikley_async", "aiohttp"):
                    printed += 1
                    assert CANARY_KEY not in repr(thing), type(thing)
                    if not isinstance(thing, str):  # the header's value, which aiohttp sends
                        assert CANARY_KEY not in f"{thing} {thing!s}", type(thing)
            assert printed > 20
            with pytest.raises(TypeError):
                pickle.dumps(client.attempts.settings.key)


@pytest.mark.parametrize("shown", ["fail", "unknown"])
async def test_a_task_that_repeats_the_key_does_not_show_it(shown: str) -> None:
    """The service may quote a header in a failure's reason."""
    data = {
        "taskId": "task_1",
        "state": shown,
        "failCode": "500",
        "failMsg": f"upstream said: Bearer {CANARY_KEY}",
        "param": json.dumps({"headers": {"Authorization": f"Bearer {CANARY_KEY}"}}),
    }
    act = service(recordInfo=answers(envelope(data)))
    async with RawServer(act) as server, customer(server.url) as client:
        snapshot = await client.poll("task_1")
        assert CANARY_KEY not in repr(snapshot.raw)
        if shown == "fail":
            with pytest.raises(JobFailedError) as caught:
                await client.generate(WORK)
            del data, act  # the locals of a test are its own affair
            check(caught.value)
            assert "upstream said" in str(caught.value)


# --- other hosts ---------------------------------------------------------------------------------


async def test_no_other_host_is_ever_sent_it(tmp_path: Path) -> None:
    """Films and their redirects are fetched without it, dead links included (S9, S10, D9)."""
    movie = film()
    async with RawServer(answers(movie, kind="video/mp4")) as elsewhere:
        moved = answers(b"", 302, Location=f"{elsewhere.url}/film.mp4")
        gone = answers(b"", 403)
        async with RawServer(in_turn(gone, moved)) as host:
            fresh = answers(envelope(f"{host.url}/fresh.mp4"))
            async with RawServer(service(download_url=fresh)) as server:
                async with customer(server.url) as client:
                    result = Result("task_1", (f"{host.url}/film.mp4",))
                    (path,) = await client.save(result, tmp_path)

                assert path.read_bytes() == movie
                assert server.requests
                assert {received.headers.get("authorization") for received in server.requests} == {
                    f"Bearer {CANARY_KEY}"
                }
            for other in (host, elsewhere):
                assert other.requests
                for received in other.requests:
                    assert CANARY_KEY not in repr(
                        (received.target, received.headers, received.body)
                    )
                    assert not {"authorization", "cookie"} & set(received.headers)
