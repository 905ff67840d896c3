"""Our own server: where it listens, and how it cuts slow, unread and too many connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme
from webhook.callback_requests import (
    BODY,
    JSON,
    TOKEN,
    HttpConnection,
    RecordingListener,
    connect,
    raw_request,
    send_request,
    status_of,
)

from apikley_async.webhook import Callback, Limits, Server

WHOLE = raw_request(BODY, JSON)
HEAD, CONTENT = WHOLE[: -len(BODY)], WHOLE[-len(BODY) :]
SHORT = Limits(idle=0.4, request=0.6, body=0.3, dispatch=0.2, connections=5)


def callback(limits: Limits | None = None) -> Callback:
    return Callback("https://hooks.test", limits=limits)


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None) -> AsyncIterator[tuple[Server, RecordingListener]]:
    """A server with a listener."""
    mine, listener = callback(limits), RecordingListener()
    end = mine.listen(listener)
    async with mine.serve(port=0) as server:
        yield server, listener
    end()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_only_this_machine_can_connect_by_default() -> None:
    """And the server knows its port, so that 0 can be asked for (W18)."""
    async with callback().serve(port=0) as server:
        assert server.host == "127.0.0.1"
        assert await status_of(server.port, raw_request(b"", method="GET")) == 405
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            assert other.connect_ex(("127.0.0.2", server.port)) != 0

    with pytest.raises(ConnectionRefusedError):
        await send_request(server.port, WHOLE)


async def test_a_port_in_use_raises_and_leaves_nothing_open() -> None:
    async with callback().serve(port=0) as server:
        with pytest.raises(OSError, match="address already in use"):
            async with callback().serve(port=server.port):
                pass


async def test_a_callback_can_be_served_twice_and_again() -> None:
    mine, listener = callback(), RecordingListener()
    end = mine.listen(listener)

    async with mine.serve(port=0) as one, mine.serve(port=0) as two:
        assert [await status_of(each.port, WHOLE) for each in (one, two)] == [200, 200]
    async with mine.serve(port=one.port) as again:
        assert await status_of(again.port, WHOLE) == 200

    end()
    assert len(listener.known) == 3


async def test_a_connection_serves_many_callbacks() -> None:
    """One after the other, and pipelined."""
    async with serving() as (server, listener), connect(server.port) as connection:
        for _ in range(50):
            assert (await connection.send_request(WHOLE))[0] == 200
        await connection.send(WHOLE * 50)
        assert [(await connection.read_response())[0] for _ in range(50)] == [200] * 50

    assert len(listener.known) == 100


async def test_a_body_may_be_chunked_or_announced_by_expect() -> None:
    """As curl sends it, and with `Expect: 100-continue` before a long one."""
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    head = HEAD.replace(f"Content-Length: {len(BODY)}".encode(), b"Transfer-Encoding: chunked")
    expecting = HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")

    async with serving() as (server, listener), connect(server.port) as connection:
        assert (await connection.send_request(head + chunks))[0] == 200
        assert (await connection.send_request(expecting))[0] == 100
        assert (await connection.send_request(CONTENT))[0] == 200

    assert len(listener.known) == 2


async def test_a_chunked_body_that_is_too_long_is_refused() -> None:
    """Nothing announces its length; reading stops at the bound (W9)."""
    head = HEAD.replace(f"Content-Length: {len(BODY)}".encode(), b"Transfer-Encoding: chunked")
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"

    async with serving() as (server, listener), connect(server.port) as connection:
        status, _ = await connection.send_request(head + chunk * 9)
        await connection.read_to_end()

    assert status == 413
    assert listener.calls == []


@pytest.mark.parametrize("announced", ["9000000000", "2162689", "9" * 30])
async def test_a_body_announced_as_too_long_is_not_read(announced: str) -> None:
    """Nine gigabytes are refused at once, by their announcement (W9)."""
    async with serving() as (server, _), connect(server.port) as connection:
        began = now()
        status, _ = await connection.send_request(raw_request(b"", JSON, length=announced))
        await connection.read_to_end()

    assert status in (413, 400)  # a number too long for the parser is no number
    assert now() - began < 2


# --- slow clients ---------------------------------------------------------------------------------


async def _nothing(port: int, pause: float) -> None:
    async with connect(port) as connection:
        await connection.read_to_end()


async def _half_a_head(port: int, pause: float) -> None:
    async with connect(port) as connection:
        await connection.send(HEAD[:40])
        await connection.read_to_end()


async def _half_a_body(port: int, pause: float) -> None:
    async with connect(port) as connection:
        await connection.send(HEAD + CONTENT[:10])
        assert b" 400 " in await connection.read_to_end()


async def _drip(port: int, pause: float) -> None:
    """A byte of the head every *pause* seconds: never silent for long, and never complete."""
    async with connect(port) as connection:
        await _dripping(connection, HEAD[:-2] + b"X: " + b"y" * 5000, pause)


async def _drip_the_body(port: int, pause: float) -> None:
    async with connect(port) as connection:
        await connection.send(HEAD)
        await _dripping(connection, CONTENT, pause)


async def _dripping(connection: HttpConnection, data: bytes, pause: float) -> None:
    """Send *data* byte by byte, until the server closes the connection."""
    closed = asyncio.create_task(connection.read_to_end())
    for byte in data:
        with contextlib.suppress(ConnectionError):
            await connection.send(bytes([byte]))
        await asyncio.wait({closed}, timeout=pause)
        if closed.done():
            break
    await closed


async def _idle(port: int, pause: float) -> None:
    """A request, its response, and then silence."""
    async with connect(port) as connection:
        assert (await connection.send_request(WHOLE))[0] == 200
        await connection.read_to_end()


async def _half_a_head_later(port: int, pause: float) -> None:
    async with connect(port) as connection:
        assert (await connection.send_request(WHOLE))[0] == 200
        await connection.send(HEAD[:40])
        await connection.read_to_end()


async def _deaf(port: int, pause: float) -> float:
    """Send requests without end and read no response, until the server can send no more.

    The server answers some requests before the next are sent, so that few are left to be
    answered when it can send no more: how long that takes would depend on the processor. Returns
    when the last requests were sent.
    """
    raw_socket = socket.socket()
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw_socket.setblocking(False)
    loop = asyncio.get_running_loop()
    with raw_socket:
        await loop.sock_connect(raw_socket, ("127.0.0.1", port))
        sent_at = now()
        with contextlib.suppress(ConnectionError):
            while True:
                await loop.sock_sendall(raw_socket, raw_request(b"", method="GET") * 100)
                sent_at = now()
                for _ in range(100):
                    await asyncio.sleep(0)
    return sent_at


SLOW_CLIENTS = [_nothing, _half_a_head, _half_a_body, _drip, _drip_the_body, _idle]
SLOW_CLIENTS += [_half_a_head_later]


@pytest.mark.parametrize(
    "slow_client",
    [*SLOW_CLIENTS, pytest.param(_deaf, marks=pytest.mark.slow)],
    ids=lambda client: client.__name__,
)
async def test_a_slow_client_is_cut(slow_client) -> None:  # type: ignore[no-untyped-def]
    """On a real socket, with short limits: all of it must fit into one request's time (W10)."""
    async with serving(SHORT) as (server, _):
        began = now()
        async with asyncio.timeout(20):
            began = await slow_client(server.port, 0.05) or began
        took = now() - began

    assert took < 5


@pytest.mark.virtual
@pytest.mark.parametrize("slow_client", SLOW_CLIENTS, ids=lambda client: client.__name__)
async def test_with_the_default_limits_a_slow_client_is_cut_within_12_s(slow_client) -> None:  # type: ignore[no-untyped-def]
    """Whatever it is slow in, counted in virtual seconds (W10)."""
    async with serving() as (server, _):
        began = now()
        await slow_client(server.port, 0.5)
        took = now() - began

    assert 0 < took <= 12


@pytest.mark.virtual
async def test_a_client_that_was_silent_gets_the_whole_time_for_its_next_request() -> None:
    """The time of a request begins with its first byte."""
    async with serving() as (server, _), connect(server.port) as connection:
        for _ in range(3):
            assert (await connection.send_request(WHOLE))[0] == 200
            await asyncio.sleep(9)
            await connection.send(HEAD)
            await asyncio.sleep(4)
            assert (await connection.send_request(CONTENT))[0] == 200


# --- too many connections -------------------------------------------------------------------------


async def test_more_connections_than_allowed_are_closed_at_once() -> None:
    """When one of them ends, another may connect (W10)."""
    async with serving(Limits(connections=5)) as (server, _), contextlib.AsyncExitStack() as stack:
        inside = [await stack.enter_async_context(connect(server.port)) for _ in range(5)]
        assert [(await connection.send_request(WHOLE))[0] for connection in inside] == [200] * 5

        for _ in range(3):
            async with asyncio.timeout(5), connect(server.port) as outside:
                assert await outside.read_to_end() == b""

        inside[0].writer.close()
        await inside[0].writer.wait_closed()
        await asyncio.sleep(0.05)
        assert await status_of(server.port, WHOLE) == 200
        assert (await inside[1].send_request(WHOLE))[0] == 200


async def test_two_hundred_and_fifty_six_connections_are_allowed() -> None:
    """All of them are served, the next one is not, and leaving the server closes them (W10)."""
    async with contextlib.AsyncExitStack() as stack:
        async with serving() as (server, listener):
            connections = [
                await stack.enter_async_context(connect(server.port)) for _ in range(256)
            ]
            answers = await asyncio.gather(
                *(connection.send_request(WHOLE) for connection in connections)
            )
            async with asyncio.timeout(5), connect(server.port) as outside:
                assert await outside.read_to_end() == b""
        ends = await asyncio.gather(*(connection.read_to_end() for connection in connections))

    assert [status for status, _ in answers] == [200] * 256
    assert len(listener.known) == 256
    assert set(ends) == {b""}


async def test_leaving_the_server_does_not_wait_for_slow_clients() -> None:
    """Neither for half a head nor for half a body."""
    async with contextlib.AsyncExitStack() as stack, serving(Limits(dispatch=0.2)) as (server, _):
        for sent in (b"", HEAD[:20], HEAD + CONTENT[:5]):
            connection = await stack.enter_async_context(connect(server.port))
            await connection.send(sent)
        await asyncio.sleep(0.05)
        began = now()

    assert now() - began < 3


async def test_it_speaks_tls_with_a_certificate() -> None:
    """A client that never begins the handshake is cut too (W10)."""
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    mine, listener = callback(SHORT), RecordingListener()
    end = mine.listen(listener)

    async with mine.serve(port=0, ssl_context=ours) as server:
        async with connect(server.port, ssl=theirs, server_hostname="localhost") as connection:
            assert (await connection.send_request(WHOLE))[0] == 200
        async with asyncio.timeout(5), connect(server.port) as silent:
            assert await silent.read_to_end() == b""

    end()
    assert len(listener.known) == 1
    assert TOKEN not in repr(mine)
