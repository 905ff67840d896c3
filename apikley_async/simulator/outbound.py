"""The only module that sends requests: callbacks, and downloads of files to be uploaded by URL.

Requests go to hosts on an allow-list and nowhere else; `localhost` stands for this machine. A
host that is not on the list is not even looked up.
"""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Collection, Mapping
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from apikley_async._urls import is_loopback

__all__ = ["USER_AGENT", "FetchError", "OutboundClient"]

USER_AGENT = "apikley-simulator"
"""The User-Agent of its requests. The control endpoints refuse requests that carry it."""

MAX_REDIRECTS = 5
MAX_FILE_SIZE = 100 * 1024 * 1024
FETCH_TIMEOUT = 30.0
"""Seconds a file may take to be fetched. Like the size, it is the service's documented limit."""


class FetchError(Exception):
    """The file cannot be fetched; the message says why."""


class OutboundClient:
    """An HTTP client that talks to allowed hosts only.

    Args:
        hosts: names and addresses that requests may go to, `localhost` for this machine.
    """

    def __init__(self, hosts: Collection[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._allows_loopback = "localhost" in self._hosts
        self._session: aiohttp.ClientSession | None = None

    def allows(self, url: str) -> bool:
        """Whether a request may be sent to *url*."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        allowed = host in self._hosts or (self._allows_loopback and is_loopback(host))
        return parts.scheme in {"http", "https"} and allowed

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout: float
    ) -> int | None:
        """POST *body*; the status of the response, or None when none came in *timeout* seconds."""
        if not self.allows(url):
            raise ValueError("url: not an allowed host")
        try:
            async with (
                asyncio.timeout(timeout),
                self._open_session().post(
                    _encoded(url),
                    data=io.BytesIO(body),
                    headers=headers,
                    skip_auto_headers=["Content-Type"],
                    allow_redirects=False,
                ) as response,
            ):
                return response.status
        except (aiohttp.ClientError, OSError, ValueError):  # a time-out is an OSError
            return None

    async def fetch(self, url: str) -> bytes:
        """The file at *url*, following redirects to allowed hosts.

        Raises:
            FetchError: it cannot be fetched, is too large or takes too long.
        """
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                for _ in range(MAX_REDIRECTS + 1):
                    if not self.allows(url):
                        raise FetchError("the host is not allowed; hosts= names those that are")
                    found = await self._get(url)
                    if isinstance(found, bytes):
                        return found
                    url = urljoin(url, found)
        except TimeoutError:
            raise FetchError(f"it took longer than {FETCH_TIMEOUT:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(type(error).__name__) from None
        raise FetchError("too many redirects")

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _get(self, url: str) -> bytes | str:
        """The file at *url*, or the URL that it redirects to."""
        async with self._open_session().get(_encoded(url), allow_redirects=False) as response:
            if response.status in {301, 302, 303, 307, 308}:
                return response.headers.get("Location", "")
            if response.status != 200:
                raise FetchError(f"the host answers {response.status}")
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > MAX_FILE_SIZE:
                    raise FetchError(f"it is larger than {MAX_FILE_SIZE >> 20} MB")
            return bytes(data)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Resolver(self._hosts), force_close=True, use_dns_cache=False, limit=0
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


class _Resolver(AbstractResolver):
    """Resolves `localhost` without a lookup, allowed hosts by DNS, and nothing else."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if not is_loopback(host):
            if host.lower() not in self._hosts:
                raise OSError(f"{host} is not looked up")
            return await aiohttp.ThreadedResolver().resolve(host, port, family)
        addresses = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address, kind in addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""


def _encoded(url: str) -> URL:
    return URL(url, encoded=url.isascii())
