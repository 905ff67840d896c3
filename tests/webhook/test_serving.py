"""The server of our own: where it listens, and how it ends those who dawdle, crowd or lie."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme
from webhook.post import BODY, JSON, TOKEN, Ear, Pen, ask, line, raw

from apikley_async.webhook import Callback, Limits, Server

WHOLE = raw(BODY, JSON)
HEAD, CONTENT = WHOLE[: -len(BODY)], WHOLE[-len(BODY) :]
SHORT = Limits(idle=0.4, request=0.6, body=0.3, hear=0.2, connections=5)


def callback(limits: Limits | None = None) -> Callback:
    return Callback("https://hooks.test", limits=limits)


@contextlib.asynccontextmanager
async def heard(limits: Limits | None = None) -> AsyncIterator[tuple[Server, Ear]]:
    """A server with somebody who listens."""
    mine, ear = callback(limits), Ear()
    end = mine.listen(ear)
    async with mine.serve(port=0) as server:
        yield server, ear
    end()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_only_this_machine_is_heard_unless_it_is_said() -> None:
    """And the port is known, so that 0 can be asked for (W18)."""
    async with callback().serve(port=0) as server:
        assert server.host == "127.0.0.1"
        assert (await ask(server.port, raw(b"", method="GET")))[0] == 405
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            assert other.connect_ex(("127.0.0.2", server.port)) != 0

    with pytest.raises(ConnectionRefusedError):
        await ask(server.port, WHOLE)


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing() -> None:
    async with callback().serve(port=0) as server:
        with pytest.raises(OSError, match="address already in use"):
            async with callback().serve(port=server.port):
                pass


async def test_one_callback_can_be_served_again_and_in_two_places() -> None:
    mine, ear = callback(), Ear()
    end = mine.listen(ear)

    async with mine.serve(port=0) as one, mine.serve(port=0) as two:
        assert [(await ask(each.port, WHOLE))[0] for each in (one, two)] == [200, 200]
    async with mine.serve(port=one.port) as again:
        assert (await ask(again.port, WHOLE))[0] == 200

    end()
    assert len(ear.heard) == 3


async def test_a_connection_serves_many_callbacks() -> None:
    """One after the other, and all at once."""
    async with heard() as (server, ear), line(server.port) as pen:
        for _ in range(50):
            assert (await pen.ask(WHOLE))[0] == 200
        await pen.send(WHOLE * 50)
        assert [(await pen.answer())[0] for _ in range(50)] == [200] * 50

    assert len(ear.heard) == 100


async def test_a_body_may_be_chunked_and_waited_for() -> None:
    """As curl sends it, and as HTTP asks before a long one."""
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    head = HEAD.replace(f"Content-Length: {len(BODY)}".encode(), b"Transfer-Encoding: chunked")
    expecting = HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")

    async with heard() as (server, ear), line(server.port) as pen:
        assert (await pen.ask(head + chunks))[0] == 200
        assert (await pen.ask(expecting))[0] == 100
        assert (await pen.ask(CONTENT))[0] == 200

    assert len(ear.heard) == 2


async def test_a_length_that_lies_is_found_out() -> None:
    """Chunks beyond the largest callback end in 413, however they are announced (W9)."""
    head = HEAD.replace(f"Content-Length: {len(BODY)}".encode(), b"Transfer-Encoding: chunked")
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"

    async with heard() as (server, ear), line(server.port) as pen:
        status, _ = await pen.ask(head + chunk * 9)
        await pen.rest()

    assert status == 413
    assert ear.told == []


@pytest.mark.parametrize("announced", ["9000000000", "2162689", "9" * 30])
async def test_a_long_body_is_not_waited_for(announced: str) -> None:
    """Nine gigabytes are refused by their announcement, in no time (W9)."""
    async with heard() as (server, _), line(server.port) as pen:
        began = now()
        status, _ = await pen.ask(raw(b"", JSON, length=announced))
        await pen.rest()

    assert status in (413, 400)  # a number too long for the parser is no number
    assert now() - began < 2


# --- who dawdles ----------------------------------------------------------------------------------


async def _nothing(port: int, pause: float) -> None:
    async with line(port) as pen:
        await pen.rest()


async def _half_a_head(port: int, pause: float) -> None:
    async with line(port) as pen:
        await pen.send(HEAD[:40])
        await pen.rest()


async def _half_a_body(port: int, pause: float) -> None:
    async with line(port) as pen:
        await pen.send(HEAD + CONTENT[:10])
        assert b" 400 " in await pen.rest()


async def _drip(port: int, pause: float) -> None:
    """A byte of the head now and then: never silent for long, and never done."""
    async with line(port) as pen:
        await _dripping(pen, HEAD[:-2] + b"X: " + b"y" * 5000, pause)


async def _drip_the_body(port: int, pause: float) -> None:
    async with line(port) as pen:
        await pen.send(HEAD)
        await _dripping(pen, CONTENT, pause)


async def _dripping(pen: Pen, data: bytes, pause: float) -> None:
    """Send *data* byte by byte, until the other side hangs up."""
    hung_up = asyncio.create_task(pen.rest())
    for byte in data:
        with contextlib.suppress(ConnectionError):
            await pen.send(bytes([byte]))
        await asyncio.wait({hung_up}, timeout=pause)
        if hung_up.done():
            break
    await hung_up


async def _idle(port: int, pause: float) -> None:
    """A request, answered, and then silence."""
    async with line(port) as pen:
        assert (await pen.ask(WHOLE))[0] == 200
        await pen.rest()


async def _half_a_head_later(port: int, pause: float) -> None:
    async with line(port) as pen:
        assert (await pen.ask(WHOLE))[0] == 200
        await pen.send(HEAD[:40])
        await pen.rest()


async def _deaf(port: int, pause: float) -> float:
    """Asks without end and reads no answer, until the other side can send no more.

    Says when it asked last: how long the other side was busy depends on its processor.
    """
    raw_socket = socket.socket()
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw_socket.setblocking(False)
    loop = asyncio.get_running_loop()
    with raw_socket:
        await loop.sock_connect(raw_socket, ("127.0.0.1", port))
        asked = now()
        with contextlib.suppress(ConnectionError):
            while True:
                await loop.sock_sendall(raw_socket, raw(b"", method="GET") * 500)
                asked = now()
    return asked


DAWDLERS = [_nothing, _half_a_head, _half_a_body, _drip, _drip_the_body, _idle]
DAWDLERS += [_half_a_head_later, _deaf]


@pytest.mark.parametrize("dawdle", DAWDLERS, ids=lambda dawdle: dawdle.__name__)
async def test_who_dawdles_is_cut(dawdle) -> None:  # type: ignore[no-untyped-def]
    """On a real socket, with short limits; the time for it all is one request's (W10)."""
    async with heard(SHORT) as (server, _):
        began = now()
        async with asyncio.timeout(20):
            began = await dawdle(server.port, 0.05) or began
        took = now() - began

    assert took < 5


@pytest.mark.virtual
@pytest.mark.parametrize(
    "dawdle", [each for each in DAWDLERS if each is not _deaf], ids=lambda dawdle: dawdle.__name__
)
async def test_with_the_limits_as_they_are_it_takes_no_more_than_12_s(dawdle) -> None:  # type: ignore[no-untyped-def]
    """Half a head, half a body or nothing: in virtual seconds, with the defaults (W10)."""
    async with heard() as (server, _):
        began = now()
        await dawdle(server.port, 0.5)
        took = now() - began

    assert 0 < took <= 12


@pytest.mark.virtual
async def test_who_has_been_silent_gets_his_time_for_the_next_request() -> None:
    """The seconds of a request begin with its first byte."""
    async with heard() as (server, _), line(server.port) as pen:
        for _ in range(3):
            assert (await pen.ask(WHOLE))[0] == 200
            await asyncio.sleep(9)
            await pen.send(HEAD)
            await asyncio.sleep(4)
            assert (await pen.ask(CONTENT))[0] == 200


# --- who crowds -----------------------------------------------------------------------------------


async def test_more_connections_than_allowed_are_closed_at_once() -> None:
    """And when one goes there is room again (W10)."""
    async with heard(Limits(connections=5)) as (server, _), contextlib.AsyncExitStack() as lines:
        inside = [await lines.enter_async_context(line(server.port)) for _ in range(5)]
        assert [(await pen.ask(WHOLE))[0] for pen in inside] == [200] * 5

        for _ in range(3):
            async with asyncio.timeout(5), line(server.port) as outside:
                assert await outside.rest() == b""

        inside[0].writer.close()
        await inside[0].writer.wait_closed()
        await asyncio.sleep(0.05)
        assert (await ask(server.port, WHOLE))[0] == 200
        assert (await inside[1].ask(WHOLE))[0] == 200


async def test_two_hundred_and_fifty_six_is_the_number() -> None:
    """All of them are served, the next is not, and the end closes them all (W10)."""
    async with contextlib.AsyncExitStack() as lines:
        async with heard() as (server, ear):
            pens = [await lines.enter_async_context(line(server.port)) for _ in range(256)]
            answers = await asyncio.gather(*(pen.ask(WHOLE) for pen in pens))
            async with asyncio.timeout(5), line(server.port) as outside:
                assert await outside.rest() == b""
        ends = await asyncio.gather(*(pen.rest() for pen in pens))

    assert [status for status, _ in answers] == [200] * 256
    assert len(ear.heard) == 256
    assert set(ends) == {b""}


async def test_leaving_does_not_wait_for_who_dawdles() -> None:
    """Half a body and a deaf caller hold nobody up."""
    async with contextlib.AsyncExitStack() as lines, heard(Limits(hear=0.2)) as (server, _):
        for said in (b"", HEAD[:20], HEAD + CONTENT[:5]):
            pen = await lines.enter_async_context(line(server.port))
            await pen.send(said)
        await asyncio.sleep(0.05)
        began = now()

    assert now() - began < 3


async def test_it_speaks_tls_when_it_is_given_a_certificate() -> None:
    """And who never says hello is cut too (W10)."""
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    mine, ear = callback(SHORT), Ear()
    end = mine.listen(ear)

    async with mine.serve(port=0, ssl_context=ours) as server:
        async with line(server.port, ssl=theirs, server_hostname="localhost") as pen:
            assert (await pen.ask(WHOLE))[0] == 200
        async with asyncio.timeout(5), line(server.port) as silent:
            assert await silent.rest() == b""

    end()
    assert len(ear.heard) == 1
    assert TOKEN not in repr(mine)
