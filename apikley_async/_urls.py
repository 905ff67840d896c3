"""Checks URLs and addresses: what may be requested, and from where.

A URL is read as aiohttp reads it when it sends the request, and its text is never changed, since
a signature covers it letter by letter. Nothing here looks up a name or opens a socket, and no
message repeats a URL, which may hold a password or a token.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
import socket
from collections.abc import Iterator
from typing import TypeAlias
from urllib.parse import urlsplit

import attrs
from yarl import URL

__all__ = [
    "FAKE_IP_RANGE",
    "Address",
    "AddressPolicy",
    "ParsedUrl",
    "base_url_fault",
    "display_host",
    "embedded_ipv4",
    "fetch_faults",
    "is_fake_ip",
    "is_loopback",
    "is_public",
    "is_url",
    "parse_address",
    "parse_url",
    "proxy_fault",
    "public_url_fault",
    "request_url",
    "url_faults",
]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL = 8192  # characters
MAX_PUBLIC_URL = 2000
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")

FAKE_IP_RANGE = ipaddress.ip_network("198.18.0.0/15")
"""Addresses that some proxies and VPNs on this machine answer every name with."""


# --- reading a URL -------------------------------------------------------------------------------


@attrs.frozen
class ParsedUrl:
    """The parts of a URL that a judge needs.

    Attributes:
        scheme: in lower case.
        host: as the request names it: in lower case and IDNA-encoded, an IPv6 address without
            brackets; empty where the URL has none.
        port: None where the URL names none.
        has_credentials: a user name or a password is there, even an empty one.
    """

    scheme: str
    host: str
    port: int | None
    has_credentials: bool


def request_url(url: str) -> URL:
    """*url* for a request of aiohttp: ASCII text is sent as it is, other text is encoded once.

    Raises:
        ValueError: no request can be sent to it.
    """
    try:
        return URL(url, encoded=url.isascii())
    except IndexError:  # of yarl, at an odd bracket
        raise ValueError("not a URL") from None


def parse_url(url: str) -> ParsedUrl:
    """Read *url* as aiohttp reads it when it sends the request.

    Letters of other scripts count as the plain ones that they are sent as: `①②⑦.0.0.1` is a
    loopback address.

    Raises:
        ValueError: no request can be sent to it, or its host is percent-encoded, which readers
            understand differently. The message must not be shown: it may repeat the URL.
    """
    parts = urlsplit(url)
    host = (request_url(url).raw_host or "").lower()
    if "%" in host and ":" not in host:  # in an IPv6 address it begins the zone
        raise ValueError("the host is percent-encoded")
    return ParsedUrl(parts.scheme, host, parts.port, has_credentials="@" in parts.netloc)


def display_host(url: str) -> str:
    """What messages may show of a link: its host. Whoever has a whole link has the film."""
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or "the host"
    return "the host"


def is_url(image: object) -> bool:
    """Whether *image* is a URL that is used as it is, and not a file to upload."""
    return isinstance(image, str) and "://" in image


# --- judging a URL -------------------------------------------------------------------------------


def url_faults(url: str) -> Iterator[str]:
    """Say why *url* is not one that another machine could be asked to fetch."""
    parsed = _parse_or_say_why(url)
    if isinstance(parsed, str):
        yield parsed


def _parse_or_say_why(url: object) -> ParsedUrl | str:
    """Read *url*; a text says why it is not one that another machine could be asked to fetch."""
    if not isinstance(url, str):
        return f"a URL as text, not {type(url).__name__}"
    if len(url) > MAX_URL:
        return f"a URL of at most {MAX_URL} characters, not {len(url)}"
    return _parse_text(url)


@functools.lru_cache(maxsize=128)  # an image is judged when its film is made, and when it is sent
def _parse_text(url: str) -> ParsedUrl | str:
    if _has_blanks(url):
        return "a URL without spaces and control characters"
    try:
        parsed = parse_url(url)
    except ValueError:
        return "a valid URL"
    if parsed.scheme not in ("http", "https"):
        return f"an http(s) URL, not {parsed.scheme}://"
    if not parsed.host:
        return "a URL with a host"
    return "a URL without user name and password" if parsed.has_credentials else parsed


def base_url_fault(url: str) -> str | None:
    """Say why the key must not be sent to *url*: https only, except on this machine."""
    if _has_blanks(url):
        return "base_url: not a valid URL: it holds a space or the like"
    try:
        parsed = parse_url(url)
    except ValueError:
        return "base_url: not a valid URL"
    if parsed.port == 0:
        return "base_url: not a valid URL"
    if not parsed.host or parsed.scheme not in ("http", "https") or "?" in url or "#" in url:
        return "base_url: https://host, without query and fragment"
    if parsed.has_credentials:
        return "base_url: without user name and password"
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        return "base_url: https, since the key is sent there (http only on this machine)"
    return None


def proxy_fault(url: str | None) -> str | None:
    """Say what is wrong with the URL of a proxy, which may hold a password."""
    if url is None:
        return None
    try:
        parsed = parse_url(url)
    except ValueError:
        return "proxy: an http(s) URL"
    fine = parsed.scheme in ("http", "https") and bool(parsed.host) and parsed.port != 0
    return None if fine else "proxy: an http(s) URL"


def public_url_fault(url: object) -> str | None:
    """Say why the service cannot be asked to call a URL that begins with *url*."""
    if not isinstance(url, str):
        return f"a text, not {type(url).__name__}"
    if len(url) > MAX_PUBLIC_URL:
        return f"at most {MAX_PUBLIC_URL} characters, not {len(url)}"
    if _has_blanks(url):
        return "a URL without spaces and control characters"
    try:
        parsed = parse_url(url)
    except ValueError:
        return "a valid URL"
    scheme = parsed.scheme
    if scheme not in ("http", "https"):
        return f"https://host/path, not {scheme}:" if scheme else "https://host/path, not a path"
    if not parsed.host or parsed.port == 0:
        return "a port from 1 to 65535, not 0" if parsed.host else "a URL with a host"
    if parsed.has_credentials:
        return "a URL without user name and password"
    if "?" in url or "#" in url:
        return "a URL without query and fragment: the token is appended to its path"
    if scheme == "http" and not is_loopback(parsed.host):
        return "https, not http: the token in it is a secret (http only on this machine)"
    return None


def _has_blanks(url: str) -> bool:
    return " " in url or not url.isprintable()  # of all blanks only the space is printable


# --- judging an address --------------------------------------------------------------------------


@attrs.frozen
class AddressPolicy:
    """Which addresses films and images may come from, besides those that are public.

    Attributes:
        private: private networks and this machine, over http as well.
        loopback: this machine.
    """

    private: bool = False
    loopback: bool = False

    def permits(self, address: Address) -> bool:
        """Whether a connection to *address* is permitted; an IPv4 address inside it decides."""
        address = embedded_ipv4(address)
        if address.is_loopback:
            return self.loopback or self.private
        return self.private or is_public(address)

    def permits_host(self, host: str) -> bool:
        """Whether a URL may name *host*; where other names lead is seen when one connects."""
        host = host.rstrip(".")
        if is_loopback(host):
            return self.loopback or self.private
        address = parse_address(host)
        return address is None or self.permits(address)


def fetch_faults(url: str, policy: AddressPolicy | None = None) -> Iterator[str]:
    """Say why the service cannot be asked to fetch *url*.

    Args:
        url: of an image.
        policy: what is permitted besides public addresses; by default nothing.
    """
    parsed = _parse_or_say_why(url)
    if isinstance(parsed, str):
        yield parsed
    elif not (policy or AddressPolicy()).permits_host(parsed.host):
        yield f"a URL the service can fetch, not one of {parsed.host}; allow_private permits it"


def is_loopback(host: str | None) -> bool:
    """Whether *host*, a name or an address, is this machine beyond doubt.

    Only plain spellings count: this permits what is refused elsewhere.
    """
    if host is None:
        return False
    address = _plain_address(host)
    if address is None:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def parse_address(host: str) -> Address | None:
    """The address that *host* is, in any spelling that the system reads; None for a name."""
    if (plain := _plain_address(host)) is not None:
        return plain
    if re.fullmatch(r"(0x)?[0-9a-f]+(\.(0x)?[0-9a-f]+){0,3}", host, re.IGNORECASE):
        with contextlib.suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


def _plain_address(host: str) -> Address | None:
    """The address that *host* is in its usual spelling. Most hosts are names: seen at once."""
    if ":" not in host and not host[-1:].isdigit():
        return None
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None


def embedded_ipv4(address: Address) -> Address:
    """The IPv4 address in an IPv6 one (mapped, 6to4, Teredo, NAT64); else *address* itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def is_public(address: Address) -> bool:
    """Whether *address* can be reached from everywhere."""
    if address.is_multicast or not address.is_global:
        return False
    return isinstance(address, ipaddress.IPv4Address) or address in GLOBAL_UNICAST


def is_fake_ip(address: str) -> bool:
    """Whether *address* is one that stands for any name on some machines."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]) in FAKE_IP_RANGE
    except ValueError:
        return False
