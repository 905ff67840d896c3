"""How connections are made, to the API and to the hosts of films alike: the proxy, TLS, our name.

It says which of these allow no safe request. The modules that send over aiohttp have it from here.
"""

from __future__ import annotations

import contextlib
import ssl as tls
import warnings
from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import (  # type: ignore[attr-defined] # it is not in typeshed
    getproxies_environment,
    proxy_bypass_environment,
)

import aiohttp
import attrs

from apikley_async._retry import Timeouts
from apikley_async._urls import base_url_fault, is_loopback, parse_url, proxy_fault

__all__ = [
    "USER_AGENT",
    "Connector",
    "Network",
    "Seen",
    "network_fault",
    "proxy_refusal",
    "proxy_variables",
]

USER_AGENT = "apikley-async/0.1.0"
"""How we name ourselves; some hosts of films refuse the names of HTTP libraries."""

Connector: TypeAlias = Callable[..., aiohttp.BaseConnector]
"""Makes a connector; `aiohttp.TCPConnector` unless a test brings a network of its own."""


@attrs.define(eq=False)
class Seen:
    """What connecting to the API has shown: whether its name resolves to a made-up address."""

    made_up: bool = False


@attrs.frozen
class Network:
    """How connections are made, to the API and to the hosts of films alike.

    *variables* are the proxies of the environment, by scheme, where it is trusted.
    """

    timeouts: Timeouts = attrs.Factory(Timeouts)
    proxy: str | None = attrs.field(default=None, repr=False)
    ssl: tls.SSLContext | None = None
    connector: Connector = aiohttp.TCPConnector
    user_agent: str = USER_AGENT
    variables: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    seen: Seen = attrs.field(factory=Seen, repr=False, eq=False)
    opened: list[aiohttp.ClientSession] = attrs.field(factory=list, repr=False, eq=False)

    def abandon(self) -> bool:
        """Drop what was opened and not closed, without waiting; say whether there was anything.

        For a client that nobody holds any more: aiohttp would warn of each part of it.
        """
        left = [session for session in self.opened if not session.closed]
        for connector in [session.connector for session in left if session.connector]:
            # Its first step closes the connections; the others would only wait for their ends.
            with warnings.catch_warnings(), contextlib.suppress(RuntimeError, StopIteration):
                warnings.simplefilter("ignore")
                steps = connector.close().__await__()
                next(steps)
                steps.close()
        for session in left:
            session.detach()
        return bool(left)

    def proxy_for(self, url: str) -> str | None:
        """The proxy that leads to *url*; none leads to this machine."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if is_loopback(parse_url(url).host):
            return None
        if self.proxy is not None or not self.variables:
            return self.proxy
        if proxy_bypass_environment(host, dict(self.variables)):
            return None
        return self.variables.get(parts.scheme) or self.variables.get("all")


def proxy_variables() -> dict[str, str]:
    """The proxies that the environment names, by scheme; "no" is a list of hosts without one."""
    known = ("http", "https", "all", "no")
    return {name: value for name, value in getproxies_environment().items() if name in known}


def proxy_refusal(error: aiohttp.ClientHttpProxyError) -> str:
    """What a proxy has said instead of leading to a host. Its text is not shown: it may be long."""
    reason = ", which is how it asks for a user name and password" if error.status == 407 else ""
    return f"the proxy answered with HTTP {error.status}{reason}"


def network_fault(
    base_url: str,
    proxy: str | None,
    ssl: object,
    user_agent: str = USER_AGENT,
    variables: Mapping[str, str] | None = None,
) -> str | None:
    """Say which address, proxy or TLS context allows no safe request.

    Who raises it lets go of them first: a traceback may show the locals of its frames.
    """
    faults = [base_url_fault(base_url), proxy_fault(proxy), ssl_fault(ssl), agent_fault(user_agent)]
    for name, value in (variables or {}).items():
        if name != "no" and (fault := proxy_fault(value)):
            faults.append(f"trust_env: {name.upper()}_PROXY: {fault.removeprefix('proxy: ')}")
    return next(filter(None, faults), None)


def ssl_fault(ssl: object) -> str | None:
    """A context of one's own is fine; turning verification off is not."""
    if ssl is None or isinstance(ssl, tls.SSLContext):
        return None
    return f"ssl: an ssl.SSLContext, not {ssl!r}; verification is not turned off here"


def agent_fault(user_agent: object) -> str | None:
    """What a header cannot hold would only fail at the first request."""
    plain = isinstance(user_agent, str) and user_agent.isascii() and user_agent.isprintable()
    return None if plain and user_agent else "user_agent: printable ASCII text"
