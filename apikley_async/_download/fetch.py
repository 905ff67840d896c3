"""The hosts that serve films: other people's machines, asked for bytes and trusted with nothing.

They never see the key: this room does not know it. Redirects are followed here, five at most,
with headers built anew, and every address is checked when the connection is made, since a name
can point anywhere. No exception of aiohttp leaves the room, not even as a context.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import ipaddress
import logging
import re
import socket
import ssl as tls
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias
from urllib.parse import urljoin, urlsplit

import aiohttp
import attrs
from yarl import URL

from apikley_async._clock import Clock, SystemClock
from apikley_async._download.media import (
    Body,
    BrokenOffError,
    GoneError,
    Held,
    UnreachedError,
    read_answer,
)
from apikley_async._http import MADE_UP, Network, is_loopback, is_made_up
from apikley_async._storyboard import url_faults
from apikley_async.errors import DownloadError

__all__ = ["FileFetcher", "fetch_faults"]

logger = logging.getLogger("apikley_async")

CONNECTIONS = 12
CHUNK = 256 * 1024
GZIP = b"\x1f\x8b"
REDIRECTS = 5
PERMITTED = "allow_private permits it"

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Receive: TypeAlias = Callable[[Body, AsyncIterator[bytes]], Awaitable[None]]


@attrs.define(eq=False)
class _Asked:
    """One request, as the sockets that are opened for it need to know it.

    Attributes:
        named: its host is a name, no address.
        proxied: it goes to a proxy, wherever that is.
        refused: the addresses that it was not let go to.
    """

    named: bool
    proxied: bool
    refused: list[str] = attrs.Factory(list)


_asked: contextvars.ContextVar[_Asked] = contextvars.ContextVar("what is being asked")


class FileFetcher:
    """Asks for files, where films may come from."""

    def __init__(
        self,
        network: Network,
        *,
        clock: Clock | None = None,
        allow_private: bool = False,
        allow_loopback: bool = False,
    ) -> None:
        self._network = network
        self._clock = clock or SystemClock()
        self._allow_private = allow_private
        self._allow_loopback = allow_loopback or allow_private
        self._web: aiohttp.ClientSession | None = None
        self._said = False

    async def pull(self, url: str, held: Held, receive: Receive) -> Body:
        """Ask for what is not *held*; *receive* is told which bytes come, and takes them.

        Raises:
            GoneError, BrokenOffError, DownloadError: see `read_answer`; and what *receive* raises.
        """
        for _ in range(REDIRECTS + 1):
            self._check_url(url)
            answer = await self._ask(url, held, receive)
            if isinstance(answer, Body):
                return answer
            if urlsplit(url).scheme == "https" and urlsplit(answer).scheme != "https":
                raise DownloadError(f"{shown(url)} redirects from https to something less")
            url = answer
        raise DownloadError(f"{shown(url)} redirects more than {REDIRECTS} times")

    async def aclose(self) -> None:
        web, self._web = self._web, None
        if web is not None:
            await web.close()

    async def _ask(self, url: str, held: Held, receive: Receive) -> Body | str:
        """Send one request and have its bytes taken; gives the next URL when it is a redirect.

        Whatever goes wrong in it is raised in our own words, outside of aiohttp's handlers.
        """
        proxy = self._network.proxy_for(url)
        asked = _Asked(literal(urlsplit(url).hostname or "") is None, proxy is not None)
        _asked.set(asked)
        refused = asked.refused
        trouble: Exception
        began = self._clock.now()
        connect, idle = self._network.timeouts.connect, self._network.timeouts.idle
        try:
            async with contextlib.AsyncExitStack() as open_now:
                if asked.proxied:
                    await self._check_name(url, asked)
                request = self._session().get(
                    URL(url, encoded=url.isascii()),
                    headers={"Accept-Encoding": "identity"} | held.asking(),
                    allow_redirects=False,
                    proxy=proxy,
                    ssl=self._network.ssl or True,
                )
                async with asyncio.timeout(connect + idle):
                    response = await open_now.enter_async_context(request)
                took = (self._clock.now() - began) * 1000
                told = "GET a film from %s: HTTP %d in %.0f ms, from byte %d"
                logger.debug(told, shown(url), response.status, took, held.have)
                if response.status in (301, 302, 303, 307, 308):
                    return urljoin(url, response.headers.get("Location", ""))
                body = read_answer(held, response.status, response.headers, wall=self._clock.wall())
                chunks: AsyncIterator[bytes] = response.content.iter_chunked(CHUNK)
                if body.packed:
                    chunks = await open_now.enter_async_context(
                        contextlib.aclosing(unpacked(chunks))
                    )
                await receive(
                    body,
                    await open_now.enter_async_context(contextlib.aclosing(watched(chunks, idle))),
                )
                return body
        except (aiohttp.ClientConnectorCertificateError, tls.SSLCertVerificationError):
            trouble = DownloadError(f"The certificate of {shown(url)} is not valid")
        except TimeoutError:
            trouble = BrokenOffError("nothing came any more")
        except (aiohttp.ClientError, OSError) as exc:
            lost = isinstance(exc, aiohttp.ClientConnectorError)
            trouble = (UnreachedError if lost else BrokenOffError)(type(exc).__name__)
            if refused:
                trouble = private_network(shown(url), refused[0])
            elif isinstance(exc, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
                trouble = DownloadError("The link of the film is not a valid URL")
        except ValueError:  # a host that cannot be spelled, for one
            trouble = DownloadError("The link of the film is not a valid URL")
        raise trouble

    def _check_url(self, url: str) -> None:
        if fault := next(url_faults(url), None):
            raise DownloadError(f"The link of the film: {fault}")
        try:
            host, address = host_of(url)
        except (ValueError, IndexError):
            raise DownloadError("The link of the film is not a valid URL") from None
        if is_inside(
            host, address, allow_private=self._allow_private, allow_loopback=self._allow_loopback
        ):
            raise private_network(host, str(address or host))
        if urlsplit(url).scheme == "http" and not (self._allow_private or is_loopback(host)):
            raise DownloadError(f"{host}: https only; {PERMITTED}")

    def _allowed(self, address: Address, asked: _Asked) -> bool:
        """Whether films may come from an address; says once that they come from a made-up one."""
        inside = is_inside(
            "", address, allow_private=self._allow_private, allow_loopback=self._allow_loopback
        )
        if not inside or not (asked.named and is_made_up(str(address))):
            return not inside
        if self._network.seen.made_up and not self._said:
            self._said = True
            logger.warning(
                "films come from addresses in %s, where the API's name lies too: a proxy or VPN on "
                "this machine answers every name so, and decides which hosts are asked",
                MADE_UP,
            )
        return self._network.seen.made_up

    async def _check_name(self, url: str, asked: _Asked) -> None:
        """Refuse a name that leads inside before a proxy is asked for it.

        One that means nothing here may mean something to the proxy.
        """
        parts = urlsplit(url)
        if self._allow_private or not asked.named:
            return
        loop, found = asyncio.get_running_loop(), []
        with contextlib.suppress(OSError):  # a time-out is one
            async with asyncio.timeout(self._network.timeouts.connect):
                found = await loop.getaddrinfo(parts.hostname, parts.port or 443)
        for _family, _kind, _protocol, _name, address in found:
            place = ipaddress.ip_address(str(address[0]).partition("%")[0])
            if not self._allowed(place, asked):
                asked.refused.append(str(place))
                raise OSError(errno.EACCES, "a private address")

    def _open_socket(self, info: Any) -> socket.socket:
        """Make the socket for one address, unless it lies where films do not come from."""
        family, kind, protocol, _name, address = info
        asked = _asked.get()
        place = ipaddress.ip_address(address[0].partition("%")[0])
        if not asked.proxied and not self._allowed(place, asked):
            asked.refused.append(address[0])
            raise OSError(errno.EACCES, "a private address")
        return socket.socket(family, kind, protocol)

    def _session(self) -> aiohttp.ClientSession:
        if self._web is None:
            self._web = aiohttp.ClientSession(
                connector=self._network.connector(
                    limit=CONNECTIONS, socket_factory=self._open_socket
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._network.timeouts.connect,
                    sock_read=self._network.timeouts.idle,
                ),
                headers={"User-Agent": self._network.user_agent},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._web


async def watched(chunks: AsyncIterator[bytes], idle: float) -> AsyncGenerator[bytes, None]:
    """What comes, as long as some of it does every *idle* seconds.

    Bytes of the framing are no progress: a chunk's extension, a trailer, or the header of what is
    packed may never end.
    """
    while True:
        async with asyncio.timeout(idle):
            while (chunk := await anext(chunks, None)) == b"":
                pass  # of something packed that unpacks to nothing
        if chunk is None:
            return
        yield chunk


async def unpacked(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Undo gzip in pieces of at most 256 KiB; what is only called gzip comes as it is.

    Raises:
        BrokenOffError: the packed bytes ended too early.
        GoneError: they are neither gzip nor anything else that was asked for.
    """
    unpacker: Any = None
    async for chunk in chunks:
        rest = chunk
        if unpacker is None:
            plain = not chunk.startswith(GZIP[: len(chunk)])
            unpacker = None if plain else zlib.decompressobj(31)
            if plain:
                yield chunk
                async for other in chunks:
                    yield other
                return
        try:
            while rest:
                yield unpacker.decompress(rest, CHUNK)
                rest = unpacker.unconsumed_tail
        except zlib.error:
            raise GoneError("something that is no gzip") from None
    if unpacker is not None:
        yield unpacker.flush()
        if not unpacker.eof:
            raise BrokenOffError("the packed bytes ended too early")


def shown(url: str) -> str:
    """What of a link may be shown: it is as good as the film itself."""
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or "the host"
    return "the host"


# --- addresses -----------------------------------------------------------------------------------

GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def host_of(url: str) -> tuple[str, Address | None]:
    """The host that a URL leads to, as whoever asks for it reads it; and the address it may be.

    Letters of other scripts are one with plain ones there: `①②⑦.0.0.1` is this machine.

    Raises:
        ValueError, IndexError: nobody can ask for it; the latter is yarl's, at an odd bracket.
    """
    host = (URL(url, encoded=url.isascii()).raw_host or "").rstrip(".").lower()
    if "%" in host and ":" not in host:
        raise ValueError("a host that is escaped")
    return host, literal(host)


def fetch_faults(
    url: str, *, allow_private: bool = False, allow_loopback: bool = False
) -> Iterator[str]:
    """Say why the service could not be asked to fetch *url*."""
    if faults := [*url_faults(url)]:
        yield from faults
        return
    try:
        host, address = host_of(url)
    except (ValueError, IndexError):
        yield "a valid URL"
        return
    if is_inside(host, address, allow_private=allow_private, allow_loopback=allow_loopback):
        yield f"a URL the service can fetch, not one of {host}; {PERMITTED}"


def is_inside(
    host: str, address: Address | None, *, allow_private: bool, allow_loopback: bool
) -> bool:
    """Whether a host, or the address it is, lies where it may not."""
    inner = None if address is None else innermost(address)
    if is_loopback(host) or (inner is not None and inner.is_loopback):
        return not (allow_loopback or allow_private)
    return inner is not None and not (allow_private or is_public(inner))


def literal(host: str) -> Address | None:
    """The address a host is written as, in any of the ways the system reads one; else None."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    if re.fullmatch(r"(0x)?[0-9a-f]+(\.(0x)?[0-9a-f]+){0,3}", host, re.IGNORECASE):
        with contextlib.suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


def innermost(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries, where it does (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def is_public(address: Address) -> bool:
    """Say whether everybody may be at *address*, and not only our neighbours."""
    if address.is_multicast or not address.is_global:
        return False
    return isinstance(address, ipaddress.IPv4Address) or address in GLOBAL_UNICAST


def private_network(host: str, address: str) -> DownloadError:
    where = f" ({address})" if address != host else ""
    told = f"{host} is in a private network{where}, which is not asked for films"
    return DownloadError(f"{told}; {PERMITTED}")
