"""`_http`: what was sent, what was answered, and that the key is never shown."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gzip
import json
import pickle
import socket
import ssl
import time
import urllib.parse
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
import trustme
from conftest import CANARY_KEY
from hypothesis import given
from hypothesis import strategies as st
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

from apikley_async import Storyboard, Timeouts, UnansweredError, UnreachableError
from apikley_async._http import MAX_ANSWER_BYTES, HttpTransport
from apikley_async._network import Network
from apikley_async._secret import Secret, key_fault
from apikley_async._wire.envelope import Reply
from apikley_async._wire.requests import (
    File,
    Request,
    create_task,
    get_credits,
    record_info,
    stream_upload,
)
from apikley_async.errors import ApikleyError
from apikley_async.virtual import VirtualLoop

BOARD = Storyboard([{"scene": "A kitten eats cake.", "duration": 7.5}])
LOOK = record_info("task_1")
PAID = create_task(BOARD.model, BOARD.wire_input({}))
TASK = envelope({"taskId": "task_1"})
CONTINUES = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

pytestmark = pytest.mark.virtual


def transport_to(base_url: str, **network: Any) -> HttpTransport:
    return HttpTransport(Secret(CANARY_KEY), base_url, Network(**network))


@contextlib.asynccontextmanager
async def talking(base_url: str, **network: Any) -> AsyncIterator[HttpTransport]:
    transport = transport_to(base_url, **network)
    try:
        yield transport
    finally:
        await transport.aclose()


@attrs.define
class Exchange:
    """What came of one request, and how often `on_sent` was called."""

    outcome: Reply | ApikleyError
    sent: int


async def send(transport: HttpTransport, request: Request = PAID) -> Exchange:
    sent = 0

    def on_sent() -> None:
        nonlocal sent
        sent += 1

    try:
        return Exchange(await transport.send(request, on_sent=on_sent), sent)
    except ApikleyError as error:
        return Exchange(error, sent)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- certificates ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts the test's authority and nobody else."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, name: str = "127.0.0.1", **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


# --- never sent ------------------------------------------------------------------------------


def too_many_files(_info: object) -> socket.socket:
    raise OSError(errno.EMFILE, "Too many open files")


@contextlib.asynccontextmanager
async def refused(_ca: trustme.CA, _trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
    with reserved_port() as port:
        async with talking(f"http://127.0.0.1:{port}") as transport:
            yield transport


@contextlib.asynccontextmanager
async def no_such_host(_ca: trustme.CA, _trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
    connect = functools.partial(aiohttp.TCPConnector, resolver=Names(*["error"] * 9))
    async with talking("https://api.test", connector=connect) as transport:
        yield transport


@contextlib.asynccontextmanager
async def silent_dns(_ca: trustme.CA, _trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
    connect = functools.partial(aiohttp.TCPConnector, resolver=Names("late error"))
    async with talking("https://api.test", connector=connect) as transport:
        yield transport


@contextlib.asynccontextmanager
async def black_hole(_ca: trustme.CA, _trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
    """A listener whose queue is full: packets to it vanish."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        async with talking(f"http://127.0.0.1:{listener.getsockname()[1]}") as transport:
            yield transport


@contextlib.asynccontextmanager
async def no_handles_left(_ca: trustme.CA, _trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
    def connect(**options: Any) -> aiohttp.BaseConnector:
        return aiohttp.TCPConnector(**options | {"socket_factory": too_many_files})

    async with talking("http://127.0.0.1:9", connector=connect) as transport:
        yield transport


async def reset_at_hello(line: Line) -> None:
    await line.reader.read(5)
    line.reset()


async def silent_at_hello(line: Line) -> None:
    await line.reader.read()


async def http_at_hello(line: Line) -> None:
    await line.reader.read(5)
    await line.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def tls_trouble(
    greet: Callable[[Line], Awaitable[None]],
) -> Callable[..., contextlib.AbstractAsyncContextManager[HttpTransport]]:
    @contextlib.asynccontextmanager
    async def phase(_ca: trustme.CA, trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
        async with (
            RawServer(greet=greet) as server,
            talking(f"https://127.0.0.1:{server.port}", ssl=trust) as transport,
        ):
            yield transport

    return phase


def proxy_says(answer: bytes) -> Callable[..., Any]:
    """A proxy that does not let us through to the API."""

    @contextlib.asynccontextmanager
    async def phase(_ca: trustme.CA, trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
        async with (
            RawServer(breaks_off(answer)) as proxy,
            talking("https://api.test", ssl=trust, proxy=proxy.url) as transport,
        ):
            yield transport
            assert {received.method for received in proxy.requests} == {"CONNECT"}
            assert CANARY_KEY not in repr([received.headers for received in proxy.requests])

    return phase


@contextlib.asynccontextmanager
async def dead_proxy(_ca: trustme.CA, trust: ssl.SSLContext) -> AsyncIterator[HttpTransport]:
    with reserved_port() as port:
        proxy = f"http://127.0.0.1:{port}"
        async with talking("https://api.test", ssl=trust, proxy=proxy) as transport:
            yield transport


NEVER_SENT = {
    "refused": refused,
    "no such host": no_such_host,
    "DNS does not answer": silent_dns,
    "connecting never ends": black_hole,
    "no file handles left": no_handles_left,
    "reset in the TLS handshake": tls_trouble(reset_at_hello),
    "silence in the TLS handshake": tls_trouble(silent_at_hello),
    "plain HTTP where TLS was expected": tls_trouble(http_at_hello),
    "no proxy": dead_proxy,
    "the proxy wants a password": proxy_says(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"),
    "the proxy is broken": proxy_says(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"),
    "the proxy hangs up": proxy_says(b""),
}


@pytest.mark.parametrize("request_", [PAID, LOOK], ids=["createTask", "recordInfo"])
@pytest.mark.parametrize("phase", NEVER_SENT)
async def test_what_never_left_is_known_to_have_never_left(
    phase: str, request_: Request, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Before the first byte every failure is UnreachableError, worth another try (A15, X1, N4)."""
    async with NEVER_SENT[phase](authority, trusting) as transport:
        exchange = await send(transport, request_)

    assert type(exchange.outcome) is UnreachableError
    assert not exchange.outcome.permanent
    assert exchange.sent == 0
    assert now() <= 10.1  # Timeouts.connect, or at once


@pytest.mark.parametrize("request_", [PAID, LOOK], ids=["createTask", "recordInfo"])
async def test_a_proxy_that_wants_a_password_is_said_to_want_one(
    request_: Request, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """For ten minutes a user reads that nothing was reached, and why is known (N4)."""
    refuses = NEVER_SENT["the proxy wants a password"]
    async with refuses(authority, trusting) as transport:
        exchange = await send(transport, request_)

    assert "the proxy answered with HTTP 407, " in str(exchange.outcome)
    assert "user name and password" in str(exchange.outcome)


async def test_waiting_for_a_connection_of_the_pool_is_not_sending() -> None:
    """A pool without a free connection gives up after `connect` seconds, unsent (A15)."""
    connect = one_connection
    timeouts = Timeouts(connect=2, read=20)
    async with (
        RawServer(hangs) as server,
        talking(server.url, connector=connect, timeouts=timeouts) as transport,
    ):
        first = asyncio.create_task(send(transport, LOOK))
        await asyncio.sleep(1)
        second = await send(transport, LOOK)
        waited = now()
        await first

    assert isinstance(second.outcome, UnreachableError)
    assert second.sent == 0
    assert waited == pytest.approx(3, abs=0.1)


def one_connection(**options: Any) -> aiohttp.BaseConnector:
    return aiohttp.TCPConnector(**options | {"limit": 1})


# --- certificates that do not fit ------------------------------------------------------------

YESTERDAY = datetime.now(UTC) - timedelta(days=1)

WRONG: dict[str, Callable[[trustme.CA], ssl.SSLContext]] = {
    "of another host": lambda ca: serving(ca, "elsewhere.test"),
    "expired": lambda ca: serving(ca, not_after=YESTERDAY),
    "signed by nobody we know": lambda ca: serving(trustme.CA()),
}


@pytest.mark.parametrize("request_", [PAID, LOOK], ids=["createTask", "recordInfo"])
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_certificate_is_final_and_nothing_is_sent(
    wrong: str, request_: Request, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Verification is on, and trying again would not help (N1)."""
    async with RawServer(ssl=WRONG[wrong](authority)) as server:
        async with talking(server.url, ssl=trusting) as transport:
            exchange = await send(transport, request_)

        assert server.requests == []
        assert server.bytes_received == 0
    assert isinstance(exchange.outcome, UnreachableError)
    assert exchange.outcome.permanent
    assert "certificate" in exchange.outcome.message
    assert exchange.sent == 0
    assert now() < 1


async def test_without_a_context_of_its_own_the_usual_authorities_count(
    authority: trustme.CA,
) -> None:
    """Verification is on by default: a private authority is not trusted unasked (N1)."""
    async with RawServer(ssl=serving(authority)) as server:
        async with talking(server.url) as transport:
            exchange = await send(transport)

        assert server.requests == []
    assert isinstance(exchange.outcome, UnreachableError)
    assert exchange.outcome.permanent


async def test_https_works(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    async with RawServer(ssl=serving(authority)) as server:
        async with talking(server.url, ssl=trusting) as transport:
            exchange = await send(transport)
            await send(transport, LOOK)

        assert len(server.requests) == 2
    assert isinstance(exchange.outcome, Reply)
    assert exchange.sent == 1


async def test_old_versions_of_tls_are_not_spoken(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """TLS 1.2 at the least (N2)."""
    old = serving(authority)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with RawServer(ssl=old) as server:
        async with talking(server.url, ssl=trusting) as transport:
            exchange = await send(transport)

        assert server.requests == []
    assert isinstance(exchange.outcome, UnreachableError)


# --- sent, perhaps received ----------------------------------------------------------------------

ENDLESS = b"X-Endless: " + b"x" * 70_000 + b"\r\n"


async def drips(line: Line, _request: ReceivedRequest) -> None:
    """Headers for ever, a little at a time."""
    await line.say(OK)
    with contextlib.suppress(OSError):
        while True:
            await line.say(b"X-Another: one\r\n")
            await asyncio.sleep(5)


UNANSWERED: dict[str, Act] = {
    "reset": resets,
    "closed without a word": closes,
    "silence": hangs,
    "half a status line": breaks_off(b"HTTP/1.1 20"),
    "half the headers": breaks_off(OK + b"Content-Le"),
    "not HTTP at all": breaks_off(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "a status that is no number": breaks_off(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a header without a name": breaks_off(OK + b": nothing\r\n\r\n"),
    "a length that is no number": breaks_off(OK + b"Content-Length: many\r\n\r\n"),
    "two lengths": breaks_off(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "a header too large": breaks_off(OK + ENDLESS + b"\r\n"),
    "only promises": breaks_off(CONTINUES * 3),
    "headers without end": drips,
    "a chunk of nonsense": breaks_off(OK + b"Transfer-Encoding: chunked\r\n\r\nfive\r\nhello"),
}


@pytest.mark.parametrize("request_", [PAID, LOOK], ids=["createTask", "recordInfo"])
@pytest.mark.parametrize("trouble", UNANSWERED)
async def test_what_was_sent_and_not_answered_may_have_arrived(
    trouble: str, request_: Request
) -> None:
    """After the first byte no failure is ever called unsent (A1, A2, A5, N7)."""
    async with RawServer(UNANSWERED[trouble]) as server:
        async with talking(server.url) as transport:
            exchange = await send(transport, request_)

        if request_ is PAID:
            assert len(server.requests) == 1
    assert type(exchange.outcome) is UnansweredError
    assert exchange.sent >= 1
    assert now() <= 131


def headed(*fields: bytes) -> bytes:
    return OK + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def in_pieces(*pieces: bytes) -> Act:
    """Say one thing, a second later the next, then hang up."""

    async def act(line: Line, _request: ReceivedRequest) -> None:
        for piece in pieces:
            await line.say(piece)
            await asyncio.sleep(1)
        line.writer.close()

    return act


BROKEN: dict[str, tuple[Act, str]] = {
    "half the body": (breaks_off(headed(b"Content-Length: 500") + TASK[:20]), TASK[:20].decode()),
    "all of it, and more was promised": (
        breaks_off(headed(b"Content-Length: 500") + TASK),
        TASK.decode(),
    ),
    "nothing of the body": (breaks_off(headed(b"Content-Length: 500")), ""),
    "a chunk without its end": (
        breaks_off(headed(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n"),
        "hello",
    ),
    "a chunk, then nonsense": (
        in_pieces(headed(b"Transfer-Encoding: chunked"), b"5\r\nhello\r\n", b"five\r\nhello\r\n"),
        "hello",
    ),
    "gzip that is none": (
        breaks_off(headed(b"Content-Encoding: gzip", b"Content-Length: 5") + b"hello"),
        "",
    ),
    "deflate that is none": (
        breaks_off(headed(b"Content-Encoding: deflate", b"Content-Length: 5") + b"hello"),
        "",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_an_answer_that_broke_off_is_kept_as_far_as_it_came(broken: str) -> None:
    """The status counts, the rest is kept, and *complete* tells the truth (A5)."""
    act, text = BROKEN[broken]
    async with RawServer(act) as server:
        async with talking(server.url) as transport:
            exchange = await send(transport)

        assert len(server.requests) == 1
    assert isinstance(exchange.outcome, Reply)
    assert exchange.outcome.status == 200
    assert not exchange.outcome.complete
    assert exchange.outcome.text == text
    assert exchange.sent == 1


async def test_a_reset_in_the_middle_of_the_body_is_an_answer_that_broke_off() -> None:
    async def tears(line: Line, _request: ReceivedRequest) -> None:
        await line.say(headed(b"Content-Length: 500") + TASK)
        await asyncio.sleep(1)
        line.reset()

    async with RawServer(tears) as server, talking(server.url) as transport:
        exchange = await send(transport)

    assert isinstance(exchange.outcome, Reply)
    assert (exchange.outcome.text, exchange.outcome.complete) == (TASK.decode(), False)


async def test_a_body_that_never_ends_is_given_up_in_time() -> None:
    """A server that goes on drip by drip does not hold us for ever (N7)."""

    async def trickles(line: Line, _request: ReceivedRequest) -> None:
        await line.say(headed(b"Transfer-Encoding: chunked"))
        with contextlib.suppress(OSError):
            while True:
                await line.say(b"1\r\n \r\n")
                await asyncio.sleep(7)

    async with RawServer(trickles) as server, talking(server.url) as transport:
        exchange = await send(transport)
        paid_at = now()
        looked = await send(transport, LOOK)

    assert isinstance(exchange.outcome, Reply)
    assert not exchange.outcome.complete
    assert paid_at == pytest.approx(130, abs=1)
    assert isinstance(looked.outcome, Reply)
    assert not looked.outcome.complete
    assert now() - paid_at == pytest.approx(30, abs=1)


async def test_what_came_before_the_silence_is_kept() -> None:
    """A task id that was received is not forgotten because its answer never ended (A5, A6)."""
    async with RawServer(says(headed(b"Content-Length: 500") + TASK)) as server:
        async with talking(server.url) as transport:
            exchange = await send(transport)

        assert len(server.requests) == 1
    assert isinstance(exchange.outcome, Reply)
    assert (exchange.outcome.text, exchange.outcome.complete) == (TASK.decode(), False)


async def test_a_large_body_is_read_to_four_megabytes() -> None:
    """What is longer is cut and called incomplete (P3)."""
    body = b'{"code": 200, "pad": "' + b"x" * (5 * 2**20) + b'"}'
    async with RawServer(answers(body)) as server, talking(server.url) as transport:
        exchange = await send(transport)

    assert isinstance(exchange.outcome, Reply)
    assert not exchange.outcome.complete
    assert len(exchange.outcome.text) == MAX_ANSWER_BYTES


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_decompression_bomb_does_not_go_off(
    coding: str, pack: Callable[[bytes], bytes]
) -> None:
    """50 MB in 50 KB are not unpacked: at most a megabyte is kept."""
    bomb = pack(bytes(50 * 2**20))
    act = answers(bomb, Content_Encoding=coding)
    async with RawServer(act) as server, talking(server.url) as transport:
        exchange = await send(transport)

    assert isinstance(exchange.outcome, Reply)
    assert not exchange.outcome.complete
    assert len(exchange.outcome.text) <= MAX_ANSWER_BYTES


async def test_an_answer_before_the_question_was_out_counts() -> None:
    """A server may answer a large request early and hang up: its answer is not lost."""

    async def early(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(headed(b"Content-Length: %d" % len(TASK)) + TASK)
        await asyncio.sleep(1)
        line.reset()

    large = attrs.evolve(PAID, body={"input": {"prompt": "x" * 20_000_000}})
    async with RawServer(greet=early) as server, talking(server.url) as transport:
        exchange = await send(transport, large)

    assert isinstance(exchange.outcome, Reply)
    assert exchange.outcome.text == TASK.decode()


# --- the moment of sending -----------------------------------------------------------------------


async def test_it_is_told_before_the_first_byte_leaves() -> None:
    """Whoever writes an intent down has the last word before the wire (I5)."""
    received: list[int] = []
    async with RawServer() as server, talking(server.url) as transport:
        await transport.send(PAID, on_sent=lambda: received.append(server.bytes_received))

    assert received == [0]


@pytest.mark.parametrize("refusal", [asyncio.CancelledError("no"), UnreachableError("too late")])
async def test_a_no_at_the_last_moment_keeps_every_byte_back(refusal: BaseException) -> None:
    """What `on_sent` raises stops the request, and is raised; nothing reaches the server."""

    def no() -> None:
        raise refusal

    async with RawServer() as server, talking(server.url) as transport:
        with pytest.raises(type(refusal)) as raised:
            await transport.send(PAID, on_sent=no)
        await server.quiet()

        assert raised.value.args == refusal.args
        assert getattr(raised.value, "retry", "always") == "always"

        assert (server.bytes_received, server.requests) == (0, [])


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_a_cancelled_request_ends_at_once(steps: int) -> None:
    """A cancel at any step ends the request, and no connection stays behind (N8)."""
    async with RawServer(hangs) as server, talking(server.url) as transport:
        for request in (PAID, LOOK):
            sending = asyncio.create_task(send(transport, request))
            for _ in range(steps):
                await asyncio.sleep(0)

            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await asyncio.sleep(1)

        assert server.open_lines == 0
        assert now() == pytest.approx(2)


async def test_a_users_own_timeout_works_around_it() -> None:
    async with RawServer(hangs) as server, talking(server.url) as transport:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await transport.send(PAID)

    assert now() == pytest.approx(3)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_an_answer_that_came_while_the_loop_stood_still_is_read() -> None:
    """Timer and answer come due together after a stall of 300 s: the answer wins (X7)."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    body = envelope({"taskId": "task_1", "pad": "x" * 900_000})  # takes several turns to read

    async def stalls(line: Line, _request: ReceivedRequest) -> None:
        line.writer.write(headed(b"Content-Length: %d" % len(body)) + body)
        loop.jump(300)

    async with RawServer(stalls) as server, talking(server.url) as transport:
        exchange = await send(transport)

    assert isinstance(exchange.outcome, Reply)
    assert exchange.outcome.complete
    assert exchange.outcome.text == body.decode()


async def test_a_stall_without_an_answer_ends_too() -> None:
    """After a stall the answer gets five seconds more, not for ever (X7)."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    async def stalls(line: Line, received: ReceivedRequest) -> None:
        loop.jump(300)
        await hangs(line, received)

    async with RawServer(stalls) as server, talking(server.url) as transport:
        exchange = await send(transport)

    assert isinstance(exchange.outcome, UnansweredError)
    assert now() == pytest.approx(305, abs=0.5)


# --- connections -------------------------------------------------------------------------------


async def test_each_submission_has_a_connection_of_its_own() -> None:
    """A kept connection could be dying just then: createTask never uses one (A12)."""
    async with RawServer() as server, talking(server.url) as transport:
        for _ in range(5):
            await send(transport, PAID)

        assert server.connections == 5
        assert [received.headers["connection"] for received in server.created] == ["close"] * 5


async def test_looks_share_a_connection() -> None:
    async with RawServer() as server, talking(server.url) as transport:
        for _ in range(5):
            await send(transport, LOOK)
            await asyncio.sleep(60)  # shorter than the keeping, longer than a pause between looks

        assert server.connections == 1
        assert len(server.looks) == 5


async def test_a_look_on_a_dead_connection_is_asked_on_another() -> None:
    """A server that gave up the kept connection costs a look nothing."""
    async with RawServer() as server, talking(server.url) as transport:
        await send(transport, LOOK)
        server.act = in_turn(closes, service())
        exchange = await send(transport, LOOK)

        assert server.connections == 2
    assert isinstance(exchange.outcome, Reply)


async def test_a_look_that_is_cut_off_on_a_new_connection_is_not_sent_again() -> None:
    """Whoever polls decides when the next one is due, and counts it."""
    async with RawServer(closes) as server, talking(server.url) as transport:
        exchange = await send(transport, LOOK)

        assert len(server.requests) == 1
    assert isinstance(exchange.outcome, UnansweredError)


async def test_a_look_leaves_nothing_behind_that_hinders_a_submission() -> None:
    """Both may be sent by one task, one after the other."""
    async with RawServer(in_turn(closes, service())) as server, talking(server.url) as transport:
        await send(transport, LOOK)
        exchange = await send(transport, PAID)

        assert server.connections == 2
    assert isinstance(exchange.outcome, Reply)
    assert exchange.sent == 1


@pytest.mark.parametrize("act", [*UNANSWERED.values()], ids=[*UNANSWERED])
async def test_no_failure_leaves_a_connection_open(act: Act) -> None:
    """After each fault every socket is given back (N8)."""
    async with RawServer(act) as server, talking(server.url) as transport:
        await send(transport, PAID)
        await send(transport, LOOK)
        await asyncio.sleep(6)

        assert server.open_lines == 0


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_server_that_stops_reading_cannot_keep_a_connection(
    encrypted: bool, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Bytes that nobody takes do not hold a socket open beyond the closing (N8)."""

    async def stops_reading(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(500)

    picture = stream_upload(File("a.png", "image/png", bytes(9_000_000)), "folder")
    context = serving(authority) if encrypted else None
    async with RawServer(greet=stops_reading, ssl=context) as server:
        async with talking(server.url, ssl=trusting) as transport:
            exchange = await send(transport, picture)
        await asyncio.sleep(0.1)

        left = [opened() for opened in transport._sockets.values()]  # noqa: SLF001 - whether a socket is left open shows nowhere else
        assert {opened.fileno() for opened in left if opened is not None} <= {-1}
    assert isinstance(exchange.outcome, UnansweredError)
    assert now() == pytest.approx(60, abs=1)


async def test_what_a_connector_of_ones_own_raises_comes_out_as_it_is() -> None:
    """A mistake in a test's own network is not taken for a network that is down."""

    def connect(**_options: Any) -> aiohttp.BaseConnector:
        raise TypeError("no such option")

    async with talking("http://127.0.0.1:9", connector=connect) as transport:
        with pytest.raises(TypeError, match="no such option"):
            await transport.send(LOOK)


async def test_it_can_be_used_again_after_closing() -> None:
    async with RawServer() as server, talking(server.url) as transport:
        await send(transport, LOOK)
        await transport.aclose()
        await transport.aclose()
        exchange = await send(transport, LOOK)

        assert server.connections == 2
    assert isinstance(exchange.outcome, Reply)


# --- redirects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [PAID, LOOK], ids=["createTask", "recordInfo"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(status: int, request_: Request) -> None:
    """307 and 308 would send the body again, to wherever the answer says (A13)."""
    async with RawServer() as other:
        act = answers(b"", status, Location=f"{other.url}/api/v1/jobs/createTask")
        async with RawServer(act) as server, talking(server.url) as transport:
            exchange = await send(transport, request_)

            assert len(server.requests) == 1
        assert other.connections == 0
    assert isinstance(exchange.outcome, Reply)
    assert exchange.outcome.status == status


# --- the key -----------------------------------------------------------------------------------


async def test_the_key_goes_with_the_request_and_with_nothing_else() -> None:
    """No session has it as a default: a request to elsewhere could not take it along (S9, S10)."""
    async with RawServer() as server, talking(server.url) as transport:
        for request in (PAID, LOOK, get_credits()):
            await send(transport, request)

        assert {received.headers["authorization"] for received in server.requests} == {
            f"Bearer {CANARY_KEY}"
        }
        for session in transport._sessions.values():  # noqa: SLF001 - what a session holds by default shows nowhere else
            assert "Authorization" not in session.headers
            assert not session.trust_env
            assert session.auth is None


async def test_cookies_are_not_kept() -> None:
    act = answers(envelope(1), Set_Cookie="visitor=1; Path=/")
    connect = functools.partial(aiohttp.TCPConnector, resolver=Names())
    async with RawServer(act) as server:
        # Under a name: from a bare address even those who keep cookies take none.
        async with talking(f"http://api.localhost:{server.port}", connector=connect) as transport:
            for request in (LOOK, LOOK, PAID, PAID):
                await send(transport, request)

        assert len(server.requests) == 4
        assert not any("cookie" in received.headers for received in server.requests)


async def test_netrc_and_proxies_of_the_environment_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the environment changes neither the header nor the way (N3)."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with RawServer() as proxy, RawServer() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with talking(server.url) as transport:
            exchange = await send(transport)

        assert proxy.connections == 0
        assert [h.headers["authorization"] for h in server.requests] == [f"Bearer {CANARY_KEY}"]
    assert isinstance(exchange.outcome, Reply)


async def test_plain_http_never_goes_through_a_proxy() -> None:
    """Plain http is for this machine; a proxy would get to see the key (S9)."""
    async with RawServer() as proxy, RawServer() as server:
        async with talking(server.url, proxy=proxy.url) as transport:
            await send(transport)

        assert (proxy.connections, len(server.created)) == (0, 1)


@pytest.mark.parametrize("given", [True, False])
async def test_no_proxy_leads_to_this_machine(
    given: bool, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Whoever runs a service here means this machine, not the proxy's (S9)."""
    async with RawServer() as proxy, RawServer(ssl=serving(authority)) as server:
        options = {"proxy": proxy.url} if given else {"variables": {"https": proxy.url}}
        async with talking(server.url, ssl=trusting, **options) as transport:
            await send(transport)

        assert (proxy.connections, len(server.created)) == (0, 1)


async def test_https_goes_through_a_proxy_unread(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """The proxy sees a host and a port, and bytes it cannot read (N3)."""
    seen: list[bytes] = []

    async def tunnels(line: Line, received: ReceivedRequest) -> None:
        assert received.target == f"api.test:{port}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await line.say(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                seen.append(data)
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(line.reader, writer), pump(reader, line.writer))

    async with RawServer(tunnels) as proxy, RawServer(ssl=serving(authority, "api.test")) as server:
        port = int(server.url.rpartition(":")[2])
        address = f"https://api.test:{port}"
        async with talking(address, ssl=trusting, proxy=proxy.url) as transport:
            exchange = await send(transport)
            await send(transport, LOOK)
        await proxy.quiet()

        assert [received.headers["authorization"] for received in server.requests] == [
            f"Bearer {CANARY_KEY}"
        ] * 2
        assert not any("authorization" in received.headers for received in proxy.requests)
    assert isinstance(exchange.outcome, Reply)
    assert exchange.sent == 1
    assert CANARY_KEY.encode() not in b"".join(seen)


async def test_an_echo_of_the_key_is_blotted_out() -> None:
    """A server that repeats the key, in its body or a header, gets it nowhere (S3)."""
    body = json.dumps({"code": 401, "msg": f"bad key {CANARY_KEY}"}).encode()
    act = answers(body, 401, Retry_After=CANARY_KEY)
    async with RawServer(act) as server, talking(server.url) as transport:
        exchange = await send(transport)

    assert isinstance(exchange.outcome, Reply)
    assert CANARY_KEY not in exchange.outcome.text
    assert CANARY_KEY not in repr(dict(exchange.outcome.headers))
    assert "bad key ***" in exchange.outcome.text


async def test_a_request_says_what_it_is() -> None:
    """Path, query, body and headers are those of the service's pages."""
    picture = File("a.png", "image/png", b"\x89PNG")
    async with RawServer() as server, talking(server.url + "/prefix/") as transport:
        await send(transport, PAID)
        await send(transport, record_info("task/1 &x=ü"))
        await send(transport, stream_upload(picture, "folder"))

        paid, look, upload = server.requests
    assert (paid.method, paid.target) == ("POST", "/prefix/api/v1/jobs/createTask")
    assert paid.headers["content-type"] == "application/json"
    assert paid.json() == PAID.body
    assert paid.headers["accept-encoding"] == "identity"
    assert urllib.parse.parse_qs(look.target.partition("?")[2]) == {"taskId": ["task/1 &x=ü"]}
    assert look.body == b""
    assert upload.headers["content-type"].startswith("multipart/form-data")
    assert b"\x89PNG" in upload.body


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "fine"),
    [
        (CANARY_KEY, True),
        (f"  {CANARY_KEY}\r\n", True),
        ("sk_live-ABC.123~+/=", True),
        ("", False),
        ("   ", False),
        (None, False),
        ("two words", False),
        ("line\nbreak", False),
        ("carriage\r\nX-Injected: 1", False),
        ("nul\0byte", False),
        ("tab\tinside", False),
        ("\ufeffbyte-order-mark", False),
        ("ключ", False),
        ('"quoted"', False),
        ("'quoted'", False),
        (b"bytes", False),
        (12345, False),
    ],
)
def test_a_key_is_looked_at_before_it_is_used(key: object, fine: bool) -> None:
    """A key that would break a header is refused in words that do not repeat it (S8)."""
    fault = key_fault(key)

    assert (fault is None) is fine
    assert fault is None or not key or str(key) not in fault


def test_a_secret_shows_itself_to_nobody() -> None:
    """Not in text, a format, a pickle or a record of attributes (S1)."""
    secret = Secret(CANARY_KEY)

    assert CANARY_KEY not in f"{secret} {secret!r} {secret!s:>50} {[secret]}"
    assert secret.reveal() == CANARY_KEY
    with pytest.raises(TypeError):
        pickle.dumps(secret)


KEYS = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters="'\""),
    min_size=12,
    max_size=40,
)


@given(key=KEYS, before=st.text(max_size=20), after=st.text(max_size=20), data=st.data())
def test_however_an_answer_spells_the_key_it_is_blotted_out(
    key: str, before: str, after: str, data: st.DataObject
) -> None:
    """JSON and URLs know several spellings of a character; decoded, none shows the key (S3)."""
    spelled = "".join(
        data.draw(st.sampled_from([json.dumps(c)[1:-1], f"\\u{ord(c):04X}", f"\\u{ord(c):04x}"]))
        for c in key
    ).replace("/", data.draw(st.sampled_from(["/", "\\/"])))
    text = f"{json.dumps(before)[:-1]}{spelled}{json.dumps(after)[1:]}"
    assert key in json.loads(text)

    blotted = Secret(key).blot(text)
    assert key not in blotted
    # An escape just before the key may be eaten with it: an unreadable answer shows nothing.
    with contextlib.suppress(json.JSONDecodeError):
        assert key not in json.loads(blotted)
    assert key not in Secret(key).blot(key)
    assert key not in urllib.parse.unquote(Secret(key).blot(urllib.parse.quote(key, safe="")))
    assert key not in Secret(key).blot(json.dumps(json.dumps({"msg": f"x{key}"})))


@given(key=KEYS, around=st.sampled_from(["", "%2F", "\\\\u0026", "%"]), data=st.data())
def test_each_character_of_the_key_may_be_spelled_in_its_own_way(
    key: str, around: str, data: st.DataObject
) -> None:
    """The check that spares most answers the search overlooks no spelling (S3)."""
    spelled = "".join(
        data.draw(
            st.sampled_from([c, f"\\{c}", f"%{ord(c):02x}", f"%{ord(c):02X}", f"\\u00{ord(c):02X}"])
        )
        for c in key
    )
    assert spelled not in Secret(key).blot(f"{around}x{spelled}y{around}")


def test_a_stand_in_for_a_key_mangles_no_answer() -> None:
    """Tests and simulators use short keys, which occur in every other word."""
    text = '{"code": 200, "data": {"taskId": "test-1"}}'

    assert [Secret(key).blot(text) for key in ("k", "test", "code", "taskId")] == [text] * 4


def test_blotting_takes_no_time_whatever_comes() -> None:
    """A megabyte of backslashes is searched at once."""
    with timed(2):
        Secret("\\" * 40).blot("\\" * 2**20)
        Secret("a" * 40).blot("\\" * 2**20)
        Secret("a" * 40).blot("a" * 39 + "b" * 2**20)


@contextlib.contextmanager
def timed(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# --- uploads -------------------------------------------------------------------------------------


def slowly(
    portion: int, *, pause: float = 1, until: int | None = None
) -> Callable[[Line], Awaitable[None]]:
    """A server that reads *portion* bytes after each *pause*, as far as *until*, then answers."""

    async def greet(line: Line) -> None:
        head = (await line.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        left = int(head.partition("content-length: ")[2].split("\r\n")[0])
        read = 0
        while left > 0 and (until is None or read < until):
            await asyncio.sleep(pause)
            piece = b""
            with contextlib.suppress(TimeoutError):  # a timer at all times: time goes in steps
                async with asyncio.timeout(1):
                    piece = await line.reader.readexactly(min(portion, left))
            left, read = left - len(piece), read + len(piece)
        if until is not None:
            await asyncio.Event().wait()
        body = envelope({"fileUrl": "https://files.test/image.png"})
        await line.say(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    return greet


LARGE_IMAGE = stream_upload(File("a.png", "image/png", b"x" * 9_000_000), "images")


async def test_an_upload_that_makes_progress_goes_on() -> None:
    """There is no clock on the whole of it: its length depends on its size and on the line."""
    patient = Timeouts(idle=10_000)
    async with (
        RawServer(greet=slowly(1_000_000, pause=10)) as server,
        talking(server.url, timeouts=patient) as transport,
    ):
        exchange = await send(transport, LARGE_IMAGE)

    assert isinstance(exchange.outcome, Reply)
    assert exchange.outcome.status == 200
    assert now() > 80


LARGE_FILM = create_task("any-model", {"image": "x" * 9_000_000})


async def test_a_submission_that_makes_progress_goes_on() -> None:
    """An image inside the request is as long as an upload; `read` begins when it is sent."""
    async with (
        RawServer(greet=slowly(1_000_000, pause=15)) as server,
        talking(server.url) as transport,
    ):
        exchange = await send(transport, LARGE_FILM)

    assert isinstance(exchange.outcome, Reply)
    assert now() > 130


async def test_a_submission_that_nobody_reads_any_more_ends() -> None:
    """After `read` seconds of silence, wherever it begins."""
    greet = slowly(1_000_000, pause=20, until=5_000_000)
    async with RawServer(greet=greet) as server, talking(server.url) as transport:
        exchange = await send(transport, LARGE_FILM)

    assert type(exchange.outcome) is UnansweredError
    assert "120 s" in str(exchange.outcome)
    assert 170 < now() < 300


async def test_an_upload_that_nobody_reads_any_more_ends() -> None:
    """A minute of silence is enough, wherever it begins."""
    greet = slowly(100_000, until=500_000)
    async with RawServer(greet=greet) as server, talking(server.url) as transport:
        exchange = await send(transport, LARGE_IMAGE)

    assert type(exchange.outcome) is UnansweredError
    assert "60 s" in str(exchange.outcome)
    assert 60 <= now() < 180
