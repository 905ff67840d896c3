"""The only room that sends requests: callbacks, and files to be fetched for an upload.

They go to hosts that were named expressly, `localhost` for this machine, never anywhere else: a
name that was not is not even looked up.
"""

from __future__ import annotations

import asyncio
import functools
import io
import ipaddress
import socket
from collections.abc import Collection, Mapping
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

__all__ = ["NAME", "FetchError", "Outside", "is_loopback"]

NAME = "apikley-simulator"
"""How it names itself as a caller; what directs a simulator does not hear it."""

REDIRECTS = 5
LARGEST = 100 * 1024 * 1024
PATIENCE = 30.0
"""Seconds that a file may take to be fetched, and the bytes it may have, by the service's word."""


class FetchError(Exception):
    """There is no such file to be had; the message says why."""


class Outside:
    """What lies outside of the simulator, as far as it may go."""

    def __init__(self, hosts: Collection[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._here = "localhost" in self._hosts
        self._session: aiohttp.ClientSession | None = None

    def allows(self, url: str) -> bool:
        """Whether a request may be sent to *url*."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        named = host in self._hosts or (self._here and is_loopback(host))
        return parts.scheme in {"http", "https"} and named

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout: float
    ) -> int | None:
        """Send *body*; the status of the answer, or None when none came in *timeout* seconds."""
        if not self.allows(url):
            raise ValueError("url: not a host that was named")
        try:
            async with (
                asyncio.timeout(timeout),
                self._web().post(
                    _encoded(url),
                    data=io.BytesIO(body),
                    headers=headers,
                    skip_auto_headers=["Content-Type"],
                    allow_redirects=False,
                ) as answer,
            ):
                return answer.status
        except (aiohttp.ClientError, OSError, ValueError):  # a time-out is an OSError
            return None

    async def fetch(self, url: str) -> bytes:
        """The file at *url*, in time and of a bearable size.

        Raises:
            FetchError: it cannot be had.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                for _ in range(REDIRECTS + 1):
                    if not self.allows(url):
                        raise FetchError("the host may not be asked; hosts= names those that may")
                    found = await self._fetch(url)
                    if isinstance(found, bytes):
                        return found
                    url = urljoin(url, found)
        except TimeoutError:
            raise FetchError(f"it took longer than {PATIENCE:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(type(error).__name__) from None
        raise FetchError("too many redirects")

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _fetch(self, url: str) -> bytes | str:
        """The bytes that *url* leads to, or the next address."""
        async with self._web().get(_encoded(url), allow_redirects=False) as answer:
            if answer.status in {301, 302, 303, 307, 308}:
                return answer.headers.get("Location", "")
            if answer.status != 200:
                raise FetchError(f"the host answers {answer.status}")
            data = bytearray()
            async for chunk in answer.content.iter_any():
                data += chunk
                if len(data) > LARGEST:
                    raise FetchError(f"it is larger than {LARGEST >> 20} MB")
            return bytes(data)

    def _web(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Resolver(self._hosts), force_close=True, use_dns_cache=False, limit=0
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": NAME},
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


class _Resolver(AbstractResolver):
    """Knows this machine by heart; asks only for hosts that were named."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host.lower() in self._hosts and host.lower() != "localhost":
            return await aiohttp.ThreadedResolver().resolve(host, port, family)
        if host.lower() != "localhost":
            raise OSError(f"{host} is not looked up")
        here = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address, kind in here
        ]

    async def close(self) -> None:
        """There is nothing to close."""


@functools.lru_cache(1024)
def is_loopback(host: str) -> bool:
    """Whether *host*, a name or an address, is this machine beyond doubt."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _encoded(url: str) -> URL:
    return URL(url, encoded=url.isascii())
