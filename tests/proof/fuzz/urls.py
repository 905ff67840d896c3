"""URLs as they come in links, redirects, settings and manifests, put together from odd pieces.

What is accepted is read once more by another reader, yarl and the system's own idea of an
address: no link leads inward, no secret goes out in the open, and no refusal repeats one.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import random
import socket
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urljoin, urlsplit

import attrs
from fuzz.promises import Findings, demand
from yarl import URL

from apikley_async import Client, Shot, Storyboard
from apikley_async._download.fetch import check_link
from apikley_async._network import network_fault
from apikley_async._submission import check_submission
from apikley_async._uploads import check_image_url
from apikley_async._urls import AddressPolicy, display_host, url_faults
from apikley_async._wire.envelope import Reply
from apikley_async._wire.tasks import decode_snapshot
from apikley_async.errors import ApikleyError, DownloadError, StoryboardError
from apikley_async.webhook import Callback

__all__ = ["Address", "examine_url", "urls"]

Place: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

SLOWEST = 0.05
CANARY = "s3cr3tcanary"
KEY = "key-of-the-tests"
INNER = (
    *("127.0.0.1", "2130706433", "0x7f000001", "0x7F.1", "017700000001", "0177.0.0.1", "127.1"),
    *("127.0.1", "0", "0.0.0.0", "10.0.0.1", "0xa000001", "012.0.0.1", "172.16.1", "192.168.0.1"),
    *("169.254.169.254", "2852039166", "0xA9FEA9FE", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
    *(
        "198.18.0.1",
        "240.0.0.1",
        "192.0.2.1",
        "１２７.０.０.１",
        "127。0。0。1",
        "127．0．0．1",
        "１６９.254｡169.254",
    ),
    *(
        "①②⑦.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "a.localhost",
        "loc%61lhost",
    ),
    *(
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
    ),
    *("[fe80::1%25eth0]", "[fe80::1%eth0]", "[fd00::1]", "[fc00::1]", "[ff02::1]", "[::1%25lo]"),
    *(
        "[64:ff9b::7f00:1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:7f00:1::]",
        "[2002:a00:1::1]",
        "[fec0::1]",
    ),
    *("[2001:0:0:0:0:0:80ff:fffe]", "[::ffff:0:127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2001:db8::1]"),
    *("127.0.0.1.", "127.0.0.1..", "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "0x7f.0x0.0x0.0x1"),
)
OUTER = (
    *(
        "cdn.example.com",
        "CDN.Example.COM",
        "api.apikley.ru",
        "8.8.8.8",
        "134744072",
        "8.8",
        "0x8.8",
    ),
    *(
        "[2606:4700::1111]",
        "[2606:4700::1111%25eth0]",
        "пример.рф",
        "xn--e1afmkfd.xn--p1ai",
        "ß.test",
    ),
    *("cdn.example.com.", "a..b", ".a", "a.", "-a.test", "a_b.test", "xn--", "a" * 70, "a.b" * 90),
    *("127.0.0.1.nip.example", "localhost.example", "1.2.3.4.5", "256.1.1.1", "1.2.3.08", "[v1.x]"),
    *(
        "a b",
        "a\tb",
        "a\nb",
        "a\\b",
        "a%00b",
        "a\0b",
        "a\x1bb",
        "a\u202eb",
        "℀.test",
        "a\u2100b",
        "ﬁ.test",
    ),
    *(
        "",
        ".",
        "%",
        "%zz",
        "*",
        "$",
        "a,b",
        "a;b",
        "a'b",
        "[",
        "]",
        "[::",
        "::1",
        "[]",
        "\ud800",
        "a\u00adb",
    ),
)
SCHEMES = (
    *("https://",) * 12,
    *("http://",) * 4,
    *(
        "HTTPS://",
        "hTTp://",
        "ftp://",
        "file://",
        "javascript:",
        "data:",
        "https:/",
        "https:",
        "//",
    ),
    *("", "https:\\\\", "https:///", " https://", "https\n://", "ws://", "gopher://", "httpſ://"),
)
USERS = (
    *("",) * 12,
    *(f"user:{CANARY}@", f"{CANARY}@", "@", ":@", f"a%40{CANARY}@", f"cdn.example.com\\{CANARY}@"),
    *(f"127.0.0.1\\@{CANARY}@", f"u:{CANARY}#@", f"u:{CANARY}/@", f"u:{CANARY}@b@"),
)
PORTS = (
    *("",) * 12,
    *(
        ":443",
        ":80",
        ":0",
        ":65535",
        ":65536",
        ":99999999999",
        ":-1",
        ":x",
        ":",
        ": 1",
        ":０",
        ":1_0",
    ),
    *(f":{CANARY}", ":8080", ":00443", ":+1"),
)
PATHS = (
    *("", "/", "/1.mp4", "/a/../b", "/%2e%2e/", "/a b", "/é", "/\\", "//x", "/@127.0.0.1", "/\x7f"),
    *(
        f"/?sig={CANARY}",
        f"/a?Signature={CANARY}&b=c#d",
        f"?{CANARY}",
        f"#{CANARY}",
        "/" + "x" * 9000,
    ),
    *(
        f"\\@{CANARY}",
        f"/\u202e?{CANARY}",
        f"/a b?{CANARY}",
        f"/;{CANARY}",
        "/%",
        "/%zz",
        "/\ud800",
    ),
)


@attrs.frozen
class Address:
    """A URL, *onward* from where it came with a redirect, and what the reader got before."""

    url: str
    base: str
    allow_private: bool
    allow_loopback: bool


def urls(seed: str, count: int) -> Iterator[Address]:
    """Make *count* URLs; equal seeds make equal ones."""
    rng = random.Random(seed)
    for _ in range(count):
        url = _url(rng)
        if rng.random() < 0.1:
            at = rng.randrange(len(url) + 1)
            junk = rng.choice(
                ("\\", "@", "#", "?", "/", "\t", "%", "[", "]", ":", " ", "\0", "\u3002")
            )
            url = url[:at] + junk + url[at:]
        base = f"https://{rng.choice(OUTER[:4])}/a/0?x=1"
        if any(CANARY in host for host in _hosts(url, base)):  # which is no secret
            url = url.replace(CANARY, "x")
        yield Address(url, base, rng.random() < 0.2, rng.random() < 0.3)


def _hosts(url: str, base: str) -> Iterator[str]:
    readers: tuple[Callable[[], str | None], ...] = (
        lambda: urlsplit(url).hostname,
        lambda: urlsplit(urljoin(base, url)).hostname,
        lambda: URL(url).host,
    )
    for read in readers:
        with contextlib.suppress(ValueError, IndexError):  # yarl's, at a bracket without a host
            yield read() or ""


def _url(rng: random.Random) -> str:
    host = rng.choice(INNER if rng.random() < 0.5 else OUTER)
    if rng.random() < 0.1:
        host = rng.choice(
            (host.upper(), f"{host}.", f"a.{host}", f"{host}.example.com", f"0{host}")
        )
    pieces: tuple[tuple[str, ...], ...] = (SCHEMES, USERS, (host,), PORTS, PATHS)
    if rng.random() < 0.4:  # nothing odd but the host
        pieces = (SCHEMES[:16], ("",), (host,), PORTS[:15], PATHS[:5])
    return "".join(rng.choice(piece) for piece in pieces)


def examine_url(address: Address, findings: Findings, *, thorough: bool, folder: Path) -> None:
    """Offer a URL to everybody who takes one; raise `Defect` when a promise is broken."""
    findings.characters += len(address.url)
    size = len(address.url)
    for name, (offer, documented, judge) in OFFERS.items():
        act = functools.partial(offer, address)
        outcome = findings.read(name, act, documented, size=size, most=SLOWEST)
        if isinstance(outcome, Exception):
            _check_refusal(outcome)
        else:
            judge(address, outcome)
        findings.outcomes[
            f"{name}: {'refused' if isinstance(outcome, Exception) else 'taken'}"
        ] += 1


def _check_refusal(error: Exception) -> None:
    """It says what the matter is, in one short line, and repeats no secret."""
    message = str(error)
    demand(
        CANARY not in message and CANARY not in repr(error),
        f"a secret is repeated: {message!r:.200}",
    )
    demand(message.isprintable(), f"it cannot be printed: {message!r:.200}")
    demand(len(message) < 700, f"a message of {len(message)} characters")
    demand(error.__cause__ is None, "an error of others hangs on it")


# --- those who take a URL ------------------------------------------------------------------------


def _of_a_film(address: Address) -> str:
    check_link(address.url, AddressPolicy(address.allow_private, address.allow_loopback))
    return address.url


def _of_a_redirect(address: Address) -> str:
    """As `FileFetcher` follows one: joined to where it came from, and checked anew."""
    try:
        onward = urljoin(address.base, address.url)
    except ValueError:
        raise DownloadError("The link of the film is not a valid URL") from None
    return _of_a_film(attrs.evolve(address, url=onward))


def _of_an_image(address: Address) -> str:
    shots = [Shot("A lighthouse at dawn.", 5)]
    Storyboard(shots, image=address.url)
    if "://" in address.url:
        client = Client(
            KEY, base_url="https://api.example.com", allow_private=address.allow_private
        )
        check_image_url(address.url, client.attempts.settings.address_policy)
    return address.url


def _of_a_callback(address: Address) -> str:
    check_submission(Storyboard([Shot("A lighthouse at dawn.", 5)]), address.url)
    return address.url


def _of_the_service(address: Address) -> str:
    client = Client(KEY, base_url=address.url)
    demand(CANARY not in repr(client) and repr(client).isprintable(), f"shown as {client!r:.200}")
    return client.attempts.settings.base_url


def _of_a_proxy(address: Address) -> str:
    if fault := network_fault("https://api.example.com", address.url, None):
        raise ValueError(fault)
    return address.url


def _of_our_own(address: Address) -> str:
    return Callback(address.url).url_for("4f1c")


def _of_a_result(address: Address) -> tuple[str, ...]:
    data = {"taskId": "t", "state": "success", "resultJson": {"resultUrls": [address.url]}}
    reply = Reply(200, json.dumps({"code": 200, "data": data}))
    return decode_snapshot(reply, "t", wall=1.79e9).urls


# --- what was taken ------------------------------------------------------------------------------


def _judge_film(address: Address, url: object) -> None:
    """It leads to a public host, over https; inward only where that was allowed."""
    demand(isinstance(url, str), "no URL")
    read = _plain(str(url))
    demand(CANARY not in display_host(str(url)), "a secret is shown")
    if read is None:
        return  # whoever asks for it will learn that it is none
    place = _address(read.raw_host or "")
    name = _told(read).rstrip(".").lower()
    here = name == "localhost" or name.endswith(".localhost")
    here = here or (place is not None and _carried(place).is_loopback)
    loopback = address.allow_loopback or address.allow_private
    demand(loopback or not here, f"{_told(read)!r:.100} is this machine")
    inward = place is not None and not here and _is_inner(place)
    demand(address.allow_private or not inward, f"{_told(read)!r:.100} is inside ({place})")
    open_ = read.scheme == "http" and not (address.allow_private or here)
    demand(not open_, f"{url!r:.100} is asked for in the open")


def _judge_image(address: Address, url: object) -> None:
    read = _plain(str(url)) if "://" in str(url) else None
    if read is None or address.allow_private:
        return
    place = _address(read.raw_host or "")
    name = _told(read).rstrip(".").lower()
    demand(name != "localhost", "the service is to fetch it from its own machine")
    demand(place is None or not _is_inner(place), f"{_told(read)!r:.100} is inside ({place})")


def _judge_plain(address: Address, url: object) -> None:
    _plain(str(url))


def _judge_service(address: Address, url: object) -> None:
    """The key goes there: over https, or no further than this machine, and the URL is one."""
    read = _plain(str(url))
    demand(read is not None, f"{url!r:.200} is no URL")
    assert read is not None
    place = _address(read.raw_host or "")
    name = _told(read).rstrip(".")
    near = name == "localhost" or name.endswith(".localhost")
    mapped = place.ipv4_mapped if isinstance(place, ipaddress.IPv6Address) else None
    near = near or (place is not None and (mapped or place).is_loopback)
    demand(read.scheme == "https" or near, f"the key goes to {_told(read)!r:.100} in the open")
    demand(read.query_string == "" and read.fragment == "", "a query in the address")


def _judge_own(address: Address, url: object) -> None:
    _judge_service(address, url)
    demand(str(url).endswith("/4f1c"), f"{url!r:.200} as our own")


def _judge_proxy(address: Address, url: object) -> None:
    demand(isinstance(url, str), "no URL")


def _judge_result(address: Address, found: tuple[str, ...]) -> None:
    # Blanks and foreign letters may be encoded; it stays the same address.
    same = [unquote(url) == unquote(address.url.strip()) for url in found]
    demand(same in ([], [True]), f"{found!r:.200} for {address.url!r:.200}")
    for url in found:  # what was checked is what is requested
        _plain(url)
        demand([*url_faults(url)] == [], "a link that is none")


def _plain(url: str) -> URL | None:
    """What the one who sends the request reads; None where it reads none."""
    demand(url.isprintable() and " " not in url, f"{url!r:.200} is taken for a URL")
    try:
        read = URL(url, encoded=url.isascii())
        host = read.raw_host
    except (ValueError, IndexError):
        return None
    demand(read.scheme in ("http", "https"), f"{url!r:.200} with the scheme {read.scheme!r:.20}")
    demand(read.raw_user is None and read.raw_password is None, f"{url!r:.200} with a user")
    demand(bool(host), f"{url!r:.200} without a host")
    return read


def _told(read: URL) -> str:
    """The host as people read it, where it can be read."""
    with contextlib.suppress(ValueError):
        return read.host or ""
    return read.raw_host or ""


def _address(host: str) -> Place | None:
    """The address that the system reads in a host, once it is written in plain letters."""
    spelled = unicodedata.normalize("NFKC", host).replace("。", ".").rstrip(".")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(spelled.partition("%")[0])
    if spelled and not set(spelled.lower()) - set("0123456789abcdefx."):
        with contextlib.suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(spelled))
    return None


# Written down here once more, after the registries, since Python's own list grows.
INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4"),
        *(
            "240.0.0.0/4",
            "::/96",
            "fc00::/7",
            "fe80::/10",
            "fec0::/10",
            "ff00::/8",
            "2001:db8::/32",
        ),
    )
)
CARRIERS: Mapping[str, int] = {
    "::ffff:0:0/96": 0,
    "64:ff9b::/96": 0,
    "2002::/16": 80,
    "::ffff:0:0:0/96": 0,
}


def _is_inner(place: Place) -> bool:
    inner = _carried(place)
    return any(inner in network for network in INSIDE if network.version == inner.version)


def _carried(place: Place) -> Place:
    """The address inside one of IPv6, where it carries one."""
    for carrier, shift in CARRIERS.items():
        if place.version == 6 and place in ipaddress.ip_network(carrier):
            return ipaddress.IPv4Address(int(place) >> shift & 0xFFFFFFFF)
    return place


Offer = tuple[
    Callable[[Address], object], tuple[type[Exception], ...], Callable[[Address, object], None]
]
OFFERS: Mapping[str, Offer] = {
    "a film's link": (_of_a_film, (DownloadError,), _judge_film),
    "a redirect": (
        _of_a_redirect,
        (DownloadError,),
        lambda address, url: _judge_film(address, url),
    ),
    "an image": (_of_an_image, (StoryboardError,), _judge_image),
    "a callback": (_of_a_callback, (StoryboardError,), _judge_plain),
    "the service": (_of_the_service, (ValueError,), _judge_service),
    "a proxy": (_of_a_proxy, (ValueError,), _judge_proxy),
    "our own": (_of_our_own, (ValueError,), _judge_own),
    "a result": (_of_a_result, (ApikleyError,), _judge_result),
}
