"""The hosts of films: asked without a key, only where films may come from, five redirects far."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import ipaddress
import re
import socket
import ssl as tls
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from filehost import (
    FileHost,
    FileVersion,
    Responder,
    altered,
    film,
    respond_with,
    serve_file,
    truncated,
)
from rawserver import Act, Line, RawServer, ReceivedRequest

from apikley_async._download.fetch import FileFetcher
from apikley_async._download.ranges import (
    BodyRange,
    HeldBytes,
    LinkRefusedError,
    TransferInterruptedError,
)
from apikley_async._http import HttpTransport
from apikley_async._network import Network
from apikley_async._retry import Timeouts
from apikley_async._secret import Secret
from apikley_async._urls import AddressPolicy
from apikley_async._wire.requests import Request
from apikley_async.errors import DownloadError, UnreachableError

FILM = film()
SERVE_FILM = serve_file(FileVersion(FILM))


class Sink:
    """Receives what is fetched."""

    def __init__(self) -> None:
        self.body: BodyRange | None = None
        self.data = b""

    async def __call__(self, body: BodyRange, chunks: AsyncIterator[bytes]) -> None:
        self.body = body
        async for chunk in chunks:
            self.data += chunk


@contextlib.asynccontextmanager
async def opened(
    *, loopback: bool = True, private: bool = False, **network: Any
) -> AsyncIterator[FileFetcher]:
    fetcher = FileFetcher(Network(**network), policy=AddressPolicy(private, loopback))
    try:
        yield fetcher
    finally:
        await fetcher.aclose()


class Names(AbstractResolver):
    """A resolver with *answers*: one per lookup, the last one for all that follow."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.lookups: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.lookups.append(host)
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        return


def with_names(names: AbstractResolver) -> Callable[..., aiohttp.BaseConnector]:
    """A network with a resolver of its own, in which only loopback can be reached."""

    def connect(*, socket_factory: Callable[[Any], socket.socket], **options: Any) -> Any:
        def only_this_machine(info: Any) -> socket.socket:
            made = socket_factory(info)  # the check under test comes first
            if ipaddress.ip_address(info[4][0]).is_loopback:
                return made
            made.close()
            raise OSError(errno.ENETUNREACH, "no network beyond this machine in tests")

        options |= {"resolver": names, "use_dns_cache": False}
        return aiohttp.TCPConnector(socket_factory=only_this_machine, **options)

    return connect


# --- requesting --------------------------------------------------------------------------------


async def test_a_file_comes_as_it_is() -> None:
    """No compression, no cookies, and nothing that tells who we are beyond the usual."""
    sink = Sink()
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/1.mp4?Signature=a%2Fb+c%20d", SERVE_FILM)

        await fetcher.fetch(url, HeldBytes(), sink)

    assert sink.data == FILM
    (asked,) = host.requests
    assert asked.path == "/1.mp4?Signature=a%2Fb+c%20d"  # a signed link is sent letter by letter
    assert set(asked.headers) == {"host", "accept", "accept-encoding", "user-agent"}
    assert asked.headers["accept-encoding"] == "identity"


async def test_a_link_with_foreign_letters_is_encoded() -> None:
    """Not every host escapes the names of its files."""
    sink = Sink()
    async with FileHost() as host, opened() as fetcher:
        host.serve("/%D1%84%D0%B8%D0%BB%D1%8C%D0%BC.mp4", SERVE_FILM)

        await fetcher.fetch(f"{host.base}/фильм.mp4", HeldBytes(), sink)

    assert sink.data == FILM


async def test_the_rest_is_requested_with_its_etag() -> None:
    """Range and If-Range travel together (D4)."""
    sink = Sink()
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/1.mp4", SERVE_FILM)

        await fetcher.fetch(url, HeldBytes(500, len(FILM), '"v1"'), sink)

    assert sink.data == FILM[500:]
    assert host.requests[0].headers["range"] == "bytes=500-"
    assert host.requests[0].headers["if-range"] == '"v1"'


def gzipped(data: bytes, **changes: Any) -> Responder:
    """Serve *data* as a host that says it is gzip."""
    return altered(serve_file(FileVersion(data)), headers={"Content-Encoding": "gzip"}, **changes)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_gzipped_film_is_decoded(framing: str) -> None:
    """Some hosts pack everything, asked or not; what comes belongs to no known version."""
    sink = Sink()
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/1.mp4", gzipped(gzip.compress(FILM), framing=framing))

        await fetcher.fetch(url, HeldBytes(), sink)

    assert sink.data == FILM
    assert sink.body == BodyRange(0, None, None, None, gzipped=True)


async def test_what_is_only_labelled_gzip_comes_as_it_is() -> None:
    """The bytes decide before the label."""
    sink = Sink()
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/1.mp4", gzipped(FILM))

        await fetcher.fetch(url, HeldBytes(), sink)

    assert sink.data == FILM


async def test_a_decompression_bomb_is_decoded_in_pieces() -> None:
    """A few kilobytes never become gigabytes at once (D12)."""
    largest = 0

    async def receive(_body: BodyRange, chunks: AsyncIterator[bytes]) -> None:
        nonlocal largest
        async for chunk in chunks:
            largest = max(largest, len(chunk))

    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/1.mp4", gzipped(gzip.compress(b"\0" * 8 * 1024**2)))

        await fetcher.fetch(url, HeldBytes(), receive)

    assert 0 < largest <= 256 * 1024


async def test_gzipped_bytes_that_are_cut_off_are_an_interruption() -> None:
    """The gzip format itself says whether it is complete."""
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/1.mp4", gzipped(gzip.compress(FILM)[:-9]))

        with pytest.raises(TransferInterruptedError, match="too early"):
            await fetcher.fetch(url, HeldBytes(), Sink())


async def test_invalid_gzip_is_no_film() -> None:
    """Another link may do better."""
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/1.mp4", gzipped(b"\x1f\x8b" + b"\0" * 500))

        with pytest.raises(LinkRefusedError, match="no gzip"):
            await fetcher.fetch(url, HeldBytes(), Sink())


ERRORS: list[tuple[Responder, type[Exception]]] = [
    (truncated(SERVE_FILM, 100), TransferInterruptedError),
    (truncated(SERVE_FILM, 100, "reset"), TransferInterruptedError),
    (truncated(SERVE_FILM, 0, "reset"), TransferInterruptedError),
    (altered(truncated(SERVE_FILM, 100), framing="chunked"), TransferInterruptedError),
    (altered(SERVE_FILM, length=len(FILM) + 1, ending="close"), TransferInterruptedError),
    (respond_with(503), TransferInterruptedError),
    (respond_with(403), LinkRefusedError),
    (respond_with(418), LinkRefusedError),
    (respond_with(200, b"", Nonsense="a" * 20_000), TransferInterruptedError),
    (respond_with(301, Location="ftp://cdn.test/1.mp4"), DownloadError),
    (respond_with(302, Location="file:///etc/passwd"), DownloadError),
    (respond_with(302, Location="https://user:secret@cdn.test/"), DownloadError),
    (respond_with(302, Location="//[broken/"), DownloadError),
    (respond_with(302, Location="http://cdn.test/a b"), DownloadError),
    (respond_with(302, Location="http://127.0.0.1:99999/"), DownloadError),
]


async def error_of(fetcher: FileFetcher, url: str) -> Exception | None:
    """The error with which a fetch ends; None when it does not."""
    try:
        await fetcher.fetch(url, HeldBytes(), Sink())
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    return None


async def test_every_error_is_one_of_our_own() -> None:
    """No exception of aiohttp gets out, nor a signed link, not even as a context (S2, S11)."""
    wrong = []
    async with FileHost() as host, opened() as fetcher:
        for number, (responder, expected) in enumerate(ERRORS):
            url = host.serve(f"/{number}.mp4?Signature=canary", responder)
            error = await error_of(fetcher, url)
            assert error is not None, number
            shown = "".join(traceback.format_exception(error))
            clean = error.__context__ is None and "canary" not in shown
            if not isinstance(error, expected) or not clean or "secret" in str(error):
                wrong.append((number, shown))

    assert wrong == []


@pytest.mark.parametrize("port", [1])
async def test_a_refused_connection_is_retried(port: int) -> None:
    """A refused connection is a pause, not an end."""
    async with opened() as fetcher:
        with pytest.raises(TransferInterruptedError):
            await fetcher.fetch(f"http://127.0.0.1:{port}/1.mp4", HeldBytes(), Sink())


@pytest.mark.parametrize("host", ["a" * 70 + ".test", "a..test", ".", "xn--", "exa$mple.test"])
async def test_a_host_name_that_cannot_be_encoded(host: str) -> None:
    """A bad link, never an error of a library."""
    async with opened() as fetcher:
        with pytest.raises((DownloadError, TransferInterruptedError)) as raised:
            await fetcher.fetch(f"https://{host}/1.mp4", HeldBytes(), Sink())

    assert raised.value.__context__ is None


@pytest.mark.virtual
async def test_a_silent_host_is_given_up() -> None:
    """A host that stops sending is given up after a minute."""
    loop = asyncio.get_running_loop()
    async with FileHost() as host, opened(timeouts=Timeouts(connect=10)) as fetcher:
        url = host.serve("/1.mp4", truncated(SERVE_FILM, 100, "stall"))
        begun = loop.time()

        with pytest.raises(TransferInterruptedError):
            await fetcher.fetch(url, HeldBytes(), Sink())

        assert 60 <= loop.time() - begun <= 62


def trickle(start: bytes, piece: bytes) -> Act:
    """Send *start*, then *piece* every five seconds for ever."""

    async def act(line: Line, _request: ReceivedRequest) -> None:
        await line.say(start)
        while True:
            await asyncio.sleep(5)
            await line.say(piece)

    return act


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TRICKLES = {
    "a header": trickle(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"."),
    "headers": trickle(b"HTTP/1.1 200 OK\r\n", b"X-Slow: 1\r\n"),
    "1xx answers": trickle(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "a chunk's extension": trickle(CHUNKED + b"4\r\nfilm\r\n4;x=", b"."),
    "a trailer": trickle(CHUNKED + b"4\r\nfilm\r\n0\r\nX-Slow: ", b"."),
    "trailers": trickle(CHUNKED + b"4\r\nfilm\r\n0\r\n", b"X: 1\r\n"),
}


@pytest.mark.virtual
@pytest.mark.parametrize("what", TRICKLES)
async def test_a_host_that_sends_only_framing_is_given_up(what: str) -> None:
    """Bytes that are not of the film are silence: a minute of them is enough."""
    loop = asyncio.get_running_loop()
    async with RawServer(TRICKLES[what]) as server, opened() as fetcher:
        begun = loop.time()

        with pytest.raises(TransferInterruptedError):
            await fetcher.fetch(f"{server.url}/1.mp4", HeldBytes(), Sink())

        assert loop.time() - begun <= 71


async def test_each_request_is_logged_without_its_link(caplog: pytest.LogCaptureFixture) -> None:
    """A link is as good as the film: the log has its host, what was answered, and when."""
    caplog.set_level("DEBUG", "apikley_async")
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/secret.mp4?signature=secret", SERVE_FILM)
        await fetcher.fetch(url, HeldBytes(), Sink())

    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"]
    assert re.fullmatch(r"GET a film from [0-9.]+: HTTP 200 in \d+ ms, from byte 0", line)


NOTHING_PACKED = {
    "a name in its header": (b"\x1f\x8b\x08\x08\0\0\0\0\0\x03", b"name" * 256),
    "empty blocks": (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", b"\0\0\0\xff\xff" * 256),
}


@pytest.mark.virtual
@pytest.mark.parametrize("what", NOTHING_PACKED)
async def test_gzipped_bytes_that_decode_to_nothing_are_silence(what: str) -> None:
    """Packed bytes without end of which no film comes: a minute of them is enough."""
    loop = asyncio.get_running_loop()
    begins, piece = NOTHING_PACKED[what]

    async def act(line: Line, _request: ReceivedRequest) -> None:
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + begins)
        while True:
            await asyncio.sleep(1)
            await line.say(piece)

    async with RawServer(act) as server, opened() as fetcher:
        begun = loop.time()

        with pytest.raises(TransferInterruptedError):
            await fetcher.fetch(f"{server.url}/1.mp4", HeldBytes(), Sink())

        assert loop.time() - begun <= 71


@pytest.mark.virtual
async def test_the_idle_timeout_is_the_callers() -> None:
    """`Timeouts.idle` bounds it."""
    loop = asyncio.get_running_loop()
    async with FileHost() as host, opened(timeouts=Timeouts(idle=7)) as fetcher:
        url = host.serve("/1.mp4", truncated(SERVE_FILM, 100, "stall"))
        begun = loop.time()

        with pytest.raises(TransferInterruptedError):
            await fetcher.fetch(url, HeldBytes(), Sink())

        assert 7 <= loop.time() - begun <= 8


# --- redirects -------------------------------------------------------------------------------


def chain(host: FileHost, length: int, status: int = 302) -> str:
    for number in range(length):
        host.serve(f"/{number}", respond_with(status, Location=f"/{number + 1}"))
    host.serve(f"/{length}", SERVE_FILM)
    return f"{host.base}/0"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_five_redirects_are_followed(status: int) -> None:
    """Each with headers built anew: the range travels along, a key never could (D9)."""
    sink = Sink()
    async with FileHost() as host, opened() as fetcher:
        url = chain(host, 5, status)

        await fetcher.fetch(url, HeldBytes(500, len(FILM), '"v1"'), sink)

    assert sink.data == FILM[500:]
    assert {asked.headers["range"] for asked in host.requests} == {"bytes=500-"}
    assert not any("authorization" in asked.headers for asked in host.requests)


async def test_six_redirects_are_too_many() -> None:
    """Nobody is led in circles for ever (D10)."""
    async with FileHost() as host, opened() as fetcher:
        with pytest.raises(DownloadError, match="redirects more than 5 times"):
            await fetcher.fetch(chain(host, 6), HeldBytes(), Sink())
        host.serve("/again", respond_with(302))  # without a Location: to itself

        with pytest.raises(DownloadError, match="redirects more than 5 times"):
            await fetcher.fetch(f"{host.base}/again", HeldBytes(), Sink())


async def test_no_error_shows_the_link() -> None:
    """A signed link is as good as the film: errors name the host alone (S11)."""
    async with FileHost() as host, opened() as fetcher:
        link = host.serve("/film.mp4?Signature=canary", respond_with(302))

        with pytest.raises(DownloadError, match="redirects more than") as caught:
            await fetcher.fetch(link, HeldBytes(), Sink())

    assert "film.mp4" not in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_no_cookie_is_kept() -> None:
    """What one request is given to remember, the next does not show (S10)."""
    async with FileHost() as host, opened() as fetcher:
        host.serve("/a", respond_with(302, Location="/b", Set_Cookie="visitor=7; Path=/"))
        host.serve("/b", respond_with(200, b"film", Content_Type="video/mp4"))

        await fetcher.fetch(f"http://localhost:{host.port}/a", HeldBytes(), Sink())

    assert [asked.path for asked in host.requests] == ["/a", "/b"]
    assert not any("cookie" in asked.headers for asked in host.requests)


def certified(host: str = "127.0.0.1") -> tuple[tls.SSLContext, tls.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(server)
    client = tls.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
async def test_https_never_redirects_to_http(scheme: str) -> None:
    """What began in private does not end in the open (D10)."""
    server, client = certified()
    async with FileHost(ssl=server) as safe, FileHost() as plain, opened(ssl=client) as fetcher:
        plain.serve("/1.mp4", SERVE_FILM)
        onward = f"{scheme}://127.0.0.1:{plain.port}/1.mp4"
        url = safe.serve("/0", respond_with(302, Location=onward))

        with pytest.raises(DownloadError, match="from https to something less"):
            await fetcher.fetch(url, HeldBytes(), Sink())

    assert plain.connections == 0


async def test_http_may_redirect_to_https() -> None:
    """The other way round is an improvement."""
    server, client = certified()
    sink = Sink()
    async with FileHost(ssl=server) as safe, FileHost() as plain, opened(ssl=client) as fetcher:
        onward = safe.serve("/1.mp4", SERVE_FILM)
        url = plain.serve("/0", respond_with(302, Location=onward))

        await fetcher.fetch(url, HeldBytes(), sink)

    assert sink.data == FILM


@pytest.mark.parametrize("issued_for", ["127.0.0.1", "somebody-else.test"])
async def test_a_wrong_certificate_is_not_retried(issued_for: str) -> None:
    """An untrusted or foreign certificate is refused at once and no request is sent (N1)."""
    server, client = certified(issued_for)
    trusted = None if issued_for == "127.0.0.1" else client
    async with FileHost(ssl=server) as host, opened(ssl=trusted) as fetcher:
        url = host.serve("/1.mp4", SERVE_FILM)

        with pytest.raises(DownloadError, match="certificate"):
            await fetcher.fetch(url, HeldBytes(), Sink())

    assert host.requests == []


@pytest.mark.parametrize("url", ["http://cdn.test/1.mp4", "HTTP://cdn.test/1.mp4"])
async def test_only_https_leaves_this_machine(url: str) -> None:
    """Plain http is permitted on this machine only, however it is spelled."""
    names = Names("203.0.113.1")
    async with opened(connector=with_names(names)) as fetcher:
        with pytest.raises(DownloadError, match="https only"):
            await fetcher.fetch(url, HeldBytes(), Sink())

    assert names.lookups == []


# --- addresses -------------------------------------------------------------------------------

INNER = [
    "127.0.0.1",
    "2130706433",  # decimal
    "017700000001",  # octal
    "0x7f000001",  # hex
    "0177.0.0.1",
    "0x7f.0.0.1",
    "127.1",  # short
    "127.0.0.1.",  # with a trailing dot
    "2130706433.",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "films.localhost",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",  # IPv4-mapped
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",  # NAT64
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",  # 6to4
    "[2001:0:7f00:1::]",  # Teredo
    "[::127.0.0.1]",  # IPv4-compatible
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # where clouds keep their secrets
    "2852039166",
    "100.64.0.1",
    "[fe80::1]",
    "[fec0::1]",
    "[fd00:ec2::254]",
    "224.0.0.1",
    "255.255.255.255",
]


async def test_no_link_leads_to_a_private_address() -> None:
    """However a private address is written, it is refused and gets no request (D10).

    Through a proxy too, which would resolve it for us.
    """
    wrong = []
    async with FileHost() as host:
        for proxy in (None, host.base):
            async with opened(loopback=False, proxy=proxy) as fetcher:
                for inner in INNER:
                    error = await error_of(fetcher, f"https://{inner}:{host.port}/1.mp4")
                    if not isinstance(error, DownloadError) or "private network" not in str(error):
                        wrong.append((inner, proxy, error))

    assert wrong == []
    assert host.connections == 0


@pytest.mark.parametrize("inner", ["169.254.169.254", "2852039166", "[::ffff:10.0.0.1]", "10.1"])
async def test_no_redirect_leads_to_a_private_address(inner: str) -> None:
    """A redirect is checked like a link (D10)."""
    async with FileHost() as host, opened() as fetcher:
        url = host.serve("/0", respond_with(302, Location=f"https://{inner}:{host.port}/1.mp4"))

        with pytest.raises(DownloadError, match="private network"):
            await fetcher.fetch(url, HeldBytes(), Sink())

    assert len(host.requests) == 1


@pytest.mark.parametrize("name", ["１２７.0.0.1", "①②⑦.0.0.1", "rebound.test"])
async def test_a_name_that_resolves_to_a_private_address(name: str) -> None:
    """The address that the connection is made to decides (D10)."""
    names = Names("127.0.0.1")
    async with FileHost() as host, opened(loopback=False, connector=with_names(names)) as fetcher:
        with pytest.raises(DownloadError, match="private network"):
            await fetcher.fetch(f"https://{name}:{host.port}/1.mp4", HeldBytes(), Sink())

    assert host.connections == 0


async def connect_to_the_api(network: Network, url: str = "https://api.test") -> None:
    """Try a connection to the API; nothing is there."""
    transport = HttpTransport(Secret("k" * 20), url, network)
    with pytest.raises(UnreachableError):
        await transport.send(Request("GET", "/x"))
    await transport.aclose()


async def test_fake_ips_are_permitted_while_the_apis_name_has_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A proxy or VPN here answers every name with 198.18.0.0/15: one warning (D10)."""
    names = Names("198.18.0.5")
    network = Network(connector=with_names(names))
    fetcher = FileFetcher(network)
    film = "https://films.test/1.mp4"

    with pytest.raises(DownloadError, match=r"private network .198\.18\.0\.5.*allow_private"):
        await fetcher.fetch(film, HeldBytes(), Sink())
    await connect_to_the_api(network)
    for _ in range(2):
        with pytest.raises(TransferInterruptedError):  # allowed, but not reachable from a test
            await fetcher.fetch(film, HeldBytes(), Sink())
    for literally in ("https://198.18.0.5/1.mp4", "https://3323068421/1.mp4"):
        with pytest.raises(DownloadError, match="private network"):
            await fetcher.fetch(literally, HeldBytes(), Sink())
    names.answers = ["10.0.0.1"]
    with pytest.raises(DownloadError, match="private network"):
        await fetcher.fetch(film, HeldBytes(), Sink())
    names.answers = ["93.184.215.14"]
    await connect_to_the_api(network)
    names.answers = ["198.18.0.5"]
    with pytest.raises(DownloadError, match="private network"):
        await fetcher.fetch(film, HeldBytes(), Sink())
    await fetcher.aclose()

    assert caplog.text.count("198.18.0.0/15") == 1


async def test_an_api_at_an_address_permits_no_fake_ips() -> None:
    """An API at 198.18.0.5 itself says nothing about how names are answered (D10)."""
    network = Network(connector=with_names(Names("198.18.0.5")))
    async with contextlib.aclosing(FileFetcher(network)) as fetcher:
        await connect_to_the_api(network, "https://198.18.0.5")
        with pytest.raises(DownloadError, match="private network"):
            await fetcher.fetch("https://films.test/1.mp4", HeldBytes(), Sink())


@pytest.mark.parametrize("variables", [False, True])
async def test_a_name_that_resolves_to_a_private_address_is_not_sent_to_a_proxy(
    variables: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy would resolve it again; a name that is unknown here may be known there."""
    known = {"inner.test": "10.0.0.1", "films.test": "93.184.215.14", "fake.test": "198.18.0.1"}
    known["127.0.0.1"] = "127.0.0.1"  # some loops ask for an address as well

    async def look_up(host: str, port: int, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[host], port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    async with FileHost() as proxy:
        given: dict[str, Any] = {"proxy": proxy.base}
        if variables:
            given = {"variables": {"https": proxy.base, "no": "direct.test"}}
        async with opened(loopback=False, **given) as fetcher:
            for inner in ("inner.test", "fake.test"):
                with pytest.raises(DownloadError, match="private network"):
                    await fetcher.fetch(f"https://{inner}/1.mp4", HeldBytes(), Sink())
            assert proxy.connections == 0
            for name in ("films.test", "unknown.test"):
                with pytest.raises(TransferInterruptedError):  # it is no proxy
                    await fetcher.fetch(f"https://{name}/1.mp4", HeldBytes(), Sink())
            assert proxy.connections == 2


@pytest.mark.parametrize("inner", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1"])
async def test_a_name_that_resolves_anew_to_a_private_address(inner: str) -> None:
    """A resolver that answers with a public address first and a private one later (D11)."""
    names = Names("93.184.215.14", inner)
    async with FileHost() as host, opened(loopback=False, connector=with_names(names)) as fetcher:
        url = f"https://rebound.test:{host.port}/1.mp4"
        with pytest.raises(TransferInterruptedError):
            await fetcher.fetch(url, HeldBytes(), Sink())  # allowed, but not reachable from a test
        with pytest.raises(DownloadError, match="private network"):
            await fetcher.fetch(url, HeldBytes(), Sink())

    assert names.lookups == ["rebound.test"] * 2
    assert host.connections == 0


async def test_private_addresses_may_be_permitted() -> None:
    """Loopback is permitted with them, over plain http too."""
    sink = Sink()
    async with FileHost() as host, opened(loopback=False, private=True) as fetcher:
        url = host.serve("/1.mp4", SERVE_FILM)

        await fetcher.fetch(url, HeldBytes(), sink)

    assert sink.data == FILM


async def test_every_connection_is_given_back(recwarn: pytest.WarningsRecorder) -> None:
    """After any error too (N8)."""
    network = {"connector": lambda **options: aiohttp.TCPConnector(**options | {"limit": 1})}
    async with FileHost() as host, opened(**network) as fetcher:
        for responder in (
            truncated(SERVE_FILM, 100),
            respond_with(403),
            respond_with(302, Location="/1"),
        ):
            url = host.serve("/1", responder)
            for _ in range(3):
                with contextlib.suppress(TransferInterruptedError, LinkRefusedError, DownloadError):
                    await fetcher.fetch(url, HeldBytes(), Sink())
        sink = Sink()
        async with asyncio.timeout(5):  # the only connection that there may be is free
            await fetcher.fetch(host.serve("/1", SERVE_FILM), HeldBytes(), sink)

    assert sink.data == FILM
    assert recwarn.list == []
