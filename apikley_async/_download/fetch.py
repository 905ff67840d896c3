"""Fetches files from the hosts of films, which are other people's machines.

They never get the key: nothing here knows it. Redirects are followed here, five at most, with new
headers for each, and every address is checked when the connection is made, since a name can
resolve to any address. No exception of aiohttp leaves this module, not even as a context: it may
hold a signed link.
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
    BodyRange,
    HeldBytes,
    HostUnreachableError,
    LinkRefusedError,
    TransferInterruptedError,
    read_response,
)
from apikley_async._network import Network, proxy_refusal
from apikley_async._retry import Timeouts
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

__all__ = ["FileFetcher", "check_link"]

logger: logging.Logger = logging.getLogger("apikley_async")

READ_BYTES = 512 * 1024  # at most in one piece: handing one to a thread has its price
CHUNK_BYTES = 256 * 1024  # of what is decoded
GZIP_MAGIC = b"\x1f\x8b"
MAX_REDIRECTS = 5
PERMITTED = "allow_private permits it"

Receive: TypeAlias = Callable[[BodyRange, AsyncIterator[bytes]], Awaitable[None]]


@attrs.define(eq=False)
class _RequestTarget:
    """Where one request goes, for the sockets that are opened for it.

    Attributes:
        is_name: its host is a name, not an address.
        is_proxied: it goes through a proxy, whose own address is not checked.
        refused: the addresses that it was not allowed to connect to.
    """

    is_name: bool
    is_proxied: bool
    refused: list[str] = attrs.Factory(list)


# aiohttp opens sockets in the context of the request, and tells them nothing about it.
_current: contextvars.ContextVar[_RequestTarget] = contextvars.ContextVar("request target")


class FileFetcher:
    """Fetches files over HTTP, from the addresses that a policy permits.

    Args:
        network: how connections are made.
        clock: tells the time.
        policy: which addresses are permitted besides public ones; by default none.
    """

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
        self._session: aiohttp.ClientSession | None = None
        self._warned = False

    async def fetch(self, url: str, held: HeldBytes, receive: Receive) -> BodyRange:
        """Request the bytes that are not *held*, and follow redirects.

        Args:
            url: the link of the file.
            held: what is on the disk already.
            receive: is awaited with the range that comes, and its bytes.

        Raises:
            LinkRefusedError, TransferInterruptedError, DownloadError: see `read_response`; and
                what *receive* raises.
        """
        for _ in range(MAX_REDIRECTS + 1):
            check_link(url, self._policy)
            response = await self._request(url, held, receive)
            if isinstance(response, BodyRange):
                return response
            if urlsplit(url).scheme == "https" and urlsplit(response).scheme != "https":
                raise DownloadError(f"{display_host(url)} redirects from https to something less")
            url = response
        raise DownloadError(f"{display_host(url)} redirects more than {MAX_REDIRECTS} times")

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _request(self, url: str, held: HeldBytes, receive: Receive) -> BodyRange | str:
        """Send one request and pass its bytes on; gives the next URL when it is a redirect."""
        proxy = self._network.proxy_for(url)
        target = _RequestTarget(parse_address(parse_url(url).host) is None, proxy is not None)
        _current.set(target)
        started = self._clock.now()
        timeouts = self._network.timeouts
        try:
            if target.is_proxied:
                await self._check_name(url, target)
            request = self._open_session().get(
                request_url(url),
                headers={"Accept-Encoding": "identity"} | held.range_headers(),
                allow_redirects=False,
                proxy=proxy,
                ssl=self._network.ssl or True,
            )
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(timeouts.connect + timeouts.idle):
                    response = await stack.enter_async_context(request)
                logger.debug(
                    "GET a film from %s: HTTP %d in %.0f ms, from byte %d",
                    display_host(url),
                    response.status,
                    (self._clock.now() - started) * 1000,
                    held.size,
                )
                if response.status in (301, 302, 303, 307, 308):
                    return urljoin(url, response.headers.get("Location", ""))
                wall = self._clock.wall()
                body = read_response(held, response.status, response.headers, wall=wall)
                await _pass_on(body, response.content.iter_chunked(READ_BYTES), timeouts, receive)
                return body
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            error = _own_error(exc, url, target)
        raise error  # outside of the handler, so that it has no context

    def _permits(self, address: Address, target: _RequestTarget) -> bool:
        """Whether films may come from *address*.

        Where a proxy or VPN answers every name with an address of its own, the API's name among
        them, that address says nothing about the host: it is permitted, with one warning.
        """
        permitted = self._policy.permits(address)
        if permitted or not (target.is_name and is_fake_ip(str(address))):
            return permitted
        if self._network.seen.made_up and not self._warned:
            self._warned = True
            logger.warning(
                "films come from addresses in %s, where the API's name lies too: a proxy or VPN on "
                "this machine answers every name so, and decides which hosts are asked",
                FAKE_IP_RANGE,
            )
        return self._network.seen.made_up

    async def _check_name(self, url: str, target: _RequestTarget) -> None:
        """Refuse a name that resolves to a private address here, before the proxy resolves it.

        A name that cannot be resolved here may mean something to the proxy.
        """
        if self._policy.private or not target.is_name:
            return
        parsed = parse_url(url)
        loop, found = asyncio.get_running_loop(), []
        with contextlib.suppress(OSError):  # a time-out is one
            async with asyncio.timeout(self._network.timeouts.connect):
                found = await loop.getaddrinfo(parsed.host, parsed.port or 443)
        for *_, address in found:
            self._check_address(str(address[0]), target)

    def _open_socket(self, info: Any) -> socket.socket:
        """Open the socket for one address, unless films may not come from there."""
        family, kind, protocol, _name, address = info
        target = _current.get()
        if not target.is_proxied:
            self._check_address(address[0], target)
        return socket.socket(family, kind, protocol)

    def _check_address(self, text: str, target: _RequestTarget) -> None:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not self._permits(address, target):
            target.refused.append(text)
            raise OSError(errno.EACCES, "a private address")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._network.connector(
                    limit=0,
                    socket_factory=self._open_socket,  # bounded by whoever transfers
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._network.timeouts.connect,
                    sock_read=self._network.timeouts.idle,
                ),
                headers={"User-Agent": self._network.user_agent},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_BYTES,  # what comes while a piece is written is the next piece
                trust_env=False,
            )
            self._network.opened.append(self._session)
        return self._session


async def _pass_on(
    body: BodyRange, chunks: AsyncIterator[bytes], timeouts: Timeouts, receive: Receive
) -> None:
    """Give the bytes of a response to *receive*: decoded, and as long as they keep coming."""
    async with contextlib.AsyncExitStack() as stack:
        if body.gzipped:
            chunks = await stack.enter_async_context(contextlib.aclosing(gunzip(chunks)))
        timed = contextlib.aclosing(with_idle_timeout(chunks, timeouts.idle))
        await receive(body, await stack.enter_async_context(timed))


def _own_error(exc: Exception, url: str, target: _RequestTarget) -> Exception:
    """An error of aiohttp or the system as one of ours, which shows no link."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | tls.SSLCertVerificationError):
        return DownloadError(f"The certificate of {display_host(url)} is not valid")
    if isinstance(exc, TimeoutError):
        return TransferInterruptedError("nothing came any more")
    is_network_error = isinstance(exc, aiohttp.ClientError | OSError)
    if is_network_error and target.refused:
        return private_network_error(display_host(url), target.refused[0])
    bad_url = isinstance(exc, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError)
    if bad_url or not is_network_error:  # a ValueError: a host that cannot be encoded, for one
        return DownloadError("The link of the film is not a valid URL")
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return TransferInterruptedError(proxy_refusal(exc))
    unreachable = isinstance(exc, aiohttp.ClientConnectorError)
    return (HostUnreachableError if unreachable else TransferInterruptedError)(type(exc).__name__)


async def with_idle_timeout(
    chunks: AsyncIterator[bytes], idle: float
) -> AsyncGenerator[bytes, None]:
    """Pass chunks on as long as one with content comes every *idle* seconds.

    Bytes of the framing are no progress: a chunk's extension, a trailer, or a gzip header may go
    on for ever.
    """
    while True:
        async with asyncio.timeout(idle):
            while (chunk := await anext(chunks, None)) == b"":
                pass  # gzipped bytes that decode to nothing
        if chunk is None:
            return
        yield chunk


async def gunzip(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Decode gzip in pieces of at most 256 KiB; what is only labelled gzip is passed on as it is.

    Raises:
        TransferInterruptedError: the gzipped bytes are cut off.
        LinkRefusedError: they are no valid gzip.
    """
    decoder: Any = None
    async for chunk in chunks:
        rest = chunk
        if decoder is None:
            plain = not chunk.startswith(GZIP_MAGIC[: len(chunk)])
            decoder = None if plain else zlib.decompressobj(31)
            if plain:
                yield chunk
                async for other in chunks:
                    yield other
                return
        try:
            while rest:
                yield decoder.decompress(rest, CHUNK_BYTES)
                rest = decoder.unconsumed_tail
        except zlib.error:
            raise LinkRefusedError("something that is no gzip") from None
    if decoder is not None:
        yield decoder.flush()
        if not decoder.eof:
            raise TransferInterruptedError("the gzipped bytes ended too early")


def check_link(url: str, policy: AddressPolicy) -> None:
    """Refuse a link that no film may come from, before its host is resolved.

    Raises:
        DownloadError: no request can be sent to it, it names a forbidden address, or it is plain
            http.
    """
    if fault := next(url_faults(url), None):
        raise DownloadError(f"The link of the film: {fault}")
    parsed = parse_url(url)
    host = parsed.host.rstrip(".")
    if not policy.permits_host(host):
        raise private_network_error(host, str(parse_address(host) or host))
    if parsed.scheme == "http" and not (policy.private or is_loopback(host)):
        raise DownloadError(f"{host}: https only; {PERMITTED}")


def private_network_error(host: str, address: str) -> DownloadError:
    where = f" ({address})" if address != host else ""
    return DownloadError(
        f"{host} is in a private network{where}, which is not asked for films; {PERMITTED}"
    )
