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
import socket
import ssl as tls
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import urljoin, urlsplit

import aiohttp
import attrs

from apikley_async._clock import Clock, SystemClock
from apikley_async._download.ranges import (
    Body,
    BrokenOffError,
    GoneError,
    Held,
    UnreachedError,
    read_answer,
)
from apikley_async._http import Network
from apikley_async._urls import (
    FAKE_IP_RANGE,
    Address,
    AddressPolicy,
    display_host,
    is_fake_ip,
    is_loopback,
    parse_address,
    parse_url,
    request_url,
    url_faults,
)
from apikley_async.errors import DownloadError

__all__ = ["FileFetcher"]

logger = logging.getLogger("apikley_async")

CONNECTIONS = 12
CHUNK = 256 * 1024
GZIP = b"\x1f\x8b"
REDIRECTS = 5
PERMITTED = "allow_private permits it"

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
        policy: AddressPolicy | None = None,
    ) -> None:
        self._network = network
        self._clock = clock or SystemClock()
        self._policy = policy or AddressPolicy()
        self._web: aiohttp.ClientSession | None = None
        self._said = False

    async def pull(self, url: str, held: Held, receive: Receive) -> Body:
        """Ask for what is not *held*; *receive* is told which bytes come, and takes them.

        Raises:
            GoneError, BrokenOffError, DownloadError: see `read_answer`; and what *receive* raises.
        """
        for _ in range(REDIRECTS + 1):
            check_link(url, self._policy)
            answer = await self._ask(url, held, receive)
            if isinstance(answer, Body):
                return answer
            if urlsplit(url).scheme == "https" and urlsplit(answer).scheme != "https":
                raise DownloadError(f"{display_host(url)} redirects from https to something less")
            url = answer
        raise DownloadError(f"{display_host(url)} redirects more than {REDIRECTS} times")

    async def aclose(self) -> None:
        web, self._web = self._web, None
        if web is not None:
            await web.close()

    async def _ask(self, url: str, held: Held, receive: Receive) -> Body | str:
        """Send one request and have its bytes taken; gives the next URL when it is a redirect.

        Whatever goes wrong in it is raised in our own words, outside of aiohttp's handlers.
        """
        proxy = self._network.proxy_for(url)
        asked = _Asked(parse_address(parse_url(url).host) is None, proxy is not None)
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
                    request_url(url),
                    headers={"Accept-Encoding": "identity"} | held.asking(),
                    allow_redirects=False,
                    proxy=proxy,
                    ssl=self._network.ssl or True,
                )
                async with asyncio.timeout(connect + idle):
                    response = await open_now.enter_async_context(request)
                took = (self._clock.now() - began) * 1000
                told = "GET a film from %s: HTTP %d in %.0f ms, from byte %d"
                logger.debug(told, display_host(url), response.status, took, held.have)
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
            trouble = DownloadError(f"The certificate of {display_host(url)} is not valid")
        except TimeoutError:
            trouble = BrokenOffError("nothing came any more")
        except (aiohttp.ClientError, OSError) as exc:
            lost = isinstance(exc, aiohttp.ClientConnectorError)
            trouble = (UnreachedError if lost else BrokenOffError)(type(exc).__name__)
            if refused:
                trouble = private_network(display_host(url), refused[0])
            elif isinstance(exc, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
                trouble = DownloadError("The link of the film is not a valid URL")
        except ValueError:  # a host that cannot be spelled, for one
            trouble = DownloadError("The link of the film is not a valid URL")
        raise trouble

    def _allowed(self, address: Address, asked: _Asked) -> bool:
        """Whether films may come from an address; says once that they come from a made-up one."""
        permitted = self._policy.permits(address)
        if permitted or not (asked.named and is_fake_ip(str(address))):
            return permitted
        if self._network.seen.made_up and not self._said:
            self._said = True
            logger.warning(
                "films come from addresses in %s, where the API's name lies too: a proxy or VPN on "
                "this machine answers every name so, and decides which hosts are asked",
                FAKE_IP_RANGE,
            )
        return self._network.seen.made_up

    async def _check_name(self, url: str, asked: _Asked) -> None:
        """Refuse a name that leads inside before a proxy is asked for it.

        One that means nothing here may mean something to the proxy.
        """
        if self._policy.private or not asked.named:
            return
        parsed = parse_url(url)
        loop, found = asyncio.get_running_loop(), []
        with contextlib.suppress(OSError):  # a time-out is one
            async with asyncio.timeout(self._network.timeouts.connect):
                found = await loop.getaddrinfo(parsed.host, parsed.port or 443)
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


def check_link(url: str, policy: AddressPolicy) -> None:
    """Refuse a link that no film may come from, before its host is looked up.

    Raises:
        DownloadError: it is no URL for a request, names a forbidden address, or is plain http.
    """
    if fault := next(url_faults(url), None):
        raise DownloadError(f"The link of the film: {fault}")
    parsed = parse_url(url)
    host = parsed.host.rstrip(".")
    if not policy.permits_host(host):
        raise private_network(host, str(parse_address(host) or host))
    if parsed.scheme == "http" and not (policy.private or is_loopback(host)):
        raise DownloadError(f"{host}: https only; {PERMITTED}")


def private_network(host: str, address: str) -> DownloadError:
    where = f" ({address})" if address != host else ""
    told = f"{host} is in a private network{where}, which is not asked for films"
    return DownloadError(f"{told}; {PERMITTED}")
