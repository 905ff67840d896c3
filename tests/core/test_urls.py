"""URLs and addresses: read as aiohttp reads them, judged in one place, never repeated."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
import unicodedata
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from volume import volume

from apikley_async._urls import (
    AddressPolicy,
    base_url_fault,
    embedded_ipv4,
    fetch_faults,
    is_loopback,
    is_public,
    is_url,
    parse_address,
    parse_url,
    proxy_fault,
    request_url,
    url_faults,
)

# --- reading -------------------------------------------------------------------------------------

# The host of a URL, as the request will name it.
HOSTS = [
    ("https://CDN.Example.COM/1.mp4", "cdn.example.com"),
    ("https://cdn.test:8443/?a#b", "cdn.test"),
    ("https://пример.рф/", "xn--e1afmkfd.xn--p1ai"),
    ("https://①②⑦.0.0.1/", "127.0.0.1"),
    ("https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "localhost"),
    ("https://[::1]:80/", "::1"),
    ("https://[fe80::1%25eth0]/", "fe80::1%25eth0"),
    ("https:///1.mp4", ""),
    ("cdn.test", ""),
]


def test_a_host_is_read_as_the_request_will_name_it() -> None:
    """Letters of other scripts do not hide an address from the judge. (D10)"""
    wrong = [(url, parse_url(url)) for url, host in HOSTS if parse_url(url).host != host]

    assert wrong == []


UNREADABLE = [
    *("https://[::1", "https://[]@", "https://0[::1]", "https://h.test:x", "https://h:99999"),
    *("https://h%2etest", "https://loc%61lhost", "https://a\\b", "https://a..\udc80"),
]


def test_a_url_that_no_request_can_be_sent_to_is_a_value_error() -> None:
    """One kind of exception, whichever library refuses it; and a percent-encoded host."""
    read = []
    for url in UNREADABLE:
        with contextlib.suppress(ValueError):
            read.append(parse_url(url))

    assert read == []


def test_a_signed_url_is_not_changed() -> None:
    """A signature covers each letter, and a second encoding would change it."""
    for url in ("https://a.test/b%2Fc+d%20e?X=%2f~&Y=a/b", "https://a.test/%7E'()*?q="):
        assert str(request_url(url)) == url


def test_no_blank_and_no_control_character_is_in_a_url() -> None:
    """Every character of Unicode, one after the other; of those that nobody has assigned, some."""
    letters = [
        letter
        for letter in map(chr, range(sys.maxunicode + 1))
        if ord(letter) % volume(50, 1) == 0 or unicodedata.category(letter) not in ("Cn", "Co")
    ]
    odd = (letter for letter in letters if letter.isspace() or not letter.isprintable())

    assert [letter for letter in odd if not any(url_faults(f"https://a.example/{letter}"))] == []


def test_a_url_is_told_from_a_path() -> None:
    rows: list[tuple[Any, bool]] = [
        *(("https://a.test/x", True), ("a.png", False), (Path("a.png"), False)),
        *((None, False), (b"x://", False)),
    ]

    assert [(image, url) for image, url in rows if is_url(image) is not url] == []


# --- judging URLs --------------------------------------------------------------------------------

BASE_URLS = [
    ("https://api.apikley.ru", True),
    ("https://api.apikley.ru/", True),
    ("https://10.0.0.1:8443/prefix", True),
    ("http://127.0.0.1:8000", True),
    ("http://127.8.9.10", True),
    ("http://[::1]:8000", True),
    ("http://[::ffff:127.0.0.1]:8000", True),
    ("http://localhost:8000", True),
    ("http://simulator.localhost", True),
    ("http://api.apikley.ru", False),
    ("http://10.0.0.1", False),
    ("http://[::ffff:10.0.0.1]", False),
    ("http://0.0.0.0:8000", False),
    ("http://localhost.evil.test", False),
    ("http://127.0.0.1.evil.test", False),
    ("http://evil.test#localhost", False),
    ("http://localhost@evil.test", False),
    ("http://127.0.0.1\\@evil.test", False),
    ("https://user:word@api.apikley.ru", False),
    ("https://api.apikley.ru?key=1", False),
    ("https://api.apikley.ru?", False),
    ("https://api.apikley.ru#", False),
    ("https://", False),
    ("https://[::1", False),
    ("https://api.apikley.ru:port", False),
    ("https://api.apikley.ru:0", False),
    ("ftp://api.apikley.ru", False),
    ("file:///etc/passwd", False),
    ("api.apikley.ru", False),
    ("", False),
]


def test_the_key_is_sent_only_where_it_is_safe() -> None:
    """https, or this machine. (S9)"""
    wrong = [(url, fine) for url, fine in BASE_URLS if (base_url_fault(url) is None) is not fine]

    assert wrong == []


def test_a_proxy_has_an_http_url() -> None:
    """Its password is not repeated. (S11)"""
    rows = [
        *((None, True), ("http://proxy.test:3128", True), ("https://me:canary@proxy.test", True)),
        *(("socks5://canary@proxy.test", False), ("proxy.test:3128", False), ("http://", False)),
        *(("http://canary@h:0", False), ("http://[canary", False), ("http://h%2etest", False)),
    ]

    wrong = [(url, fine) for url, fine in rows if (proxy_fault(url) is None) is not fine]

    assert wrong == []
    assert not any("canary" in (proxy_fault(url) or "") for url, _ in rows)


@given(st.text(st.characters(exclude_categories=()), max_size=60))
@example("https://\u2100.test/")
@example("https://[v1.x]/")
def test_judging_a_url_never_raises(text: str) -> None:
    """Whatever stands in a field meant for a URL, there is a verdict and no exception. (P7)"""
    for url in (text, f"https://{text}", f"{text}://files.test", f"https://files.test/{text}"):
        faults = [*url_faults(url), *fetch_faults(url), base_url_fault(url), proxy_fault(url)]
        assert all(isinstance(fault, str | None) for fault in faults)


# --- judging addresses ---------------------------------------------------------------------------

# Hosts that are this machine beyond doubt, and hosts that are not.
LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]
LOOPBACK += ["localhost", "LOCALHOST", "a.localhost"]
ELSEWHERE = ["", "0.0.0.0", "::", "127.1", "0x7f000001", "10.0.0.1", "169.254.169.254", "example"]
ELSEWHERE += ["::ffff:10.0.0.1", "localhost.test", "localhost.example.com", "127.0.0.1.example.com"]


def test_this_machine_is_known_by_plain_spellings_only() -> None:
    """Addresses in odd spellings and names in other domains are elsewhere. (D10)"""
    assert [host for host in LOOPBACK if not is_loopback(host)] == []
    assert [host for host in (None, *ELSEWHERE) if is_loopback(host)] == []


PUBLIC = [
    *("93.184.215.14", "8.8.8.8", "2606:4700:4700::1111"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::"),
]
NOT_PUBLIC = [
    *("192.0.2.1", "198.18.0.1", "240.0.0.1", "2001:db8::1", "::8.8.8.8"),
    *("64:ff9b::10.0.0.1", "2002:a00:1::", "fec0::1", "ff0e::1", "4000::1"),
]


def test_what_is_public() -> None:
    """What can be reached from everywhere; an IPv4 address inside an IPv6 one decides."""
    wrong = [
        address
        for address in (*PUBLIC, *NOT_PUBLIC)
        if is_public(embedded_ipv4(ipaddress.ip_address(address))) is not (address in PUBLIC)
    ]

    assert wrong == []


SPELLINGS = [
    ("127.0.0.1", "127.0.0.1"),
    ("2130706433", "127.0.0.1"),
    ("0x7F.1", "127.0.0.1"),
    ("0300.0250.1", "192.168.0.1"),
    ("::1", "::1"),
    ("cdn.test", None),
    ("cafe", None),
    ("1.2.3.4.5", None),
    ("256.1.1.1", None),
    ("127.0.0.1 x", None),
    ("", None),
]


def test_an_address_is_read_in_every_spelling_that_the_system_reads() -> None:
    found = {host: parse_address(host) for host, _ in SPELLINGS}
    expected = {host: address and ipaddress.ip_address(address) for host, address in SPELLINGS}

    assert found == expected


# Which hosts a policy permits: none, loopback, private.
PERMITTED = [
    ("cdn.test", (True, True, True)),
    ("8.8.8.8", (True, True, True)),
    ("localhost", (False, True, True)),
    ("localhost.", (False, True, True)),
    ("0x7f.1", (False, True, True)),
    ("::ffff:127.0.0.1", (False, True, True)),
    ("10.0.0.1", (False, False, True)),
    ("10.0.0.1.", (False, False, True)),
    ("169.254.169.254", (False, False, True)),
    ("64:ff9b::10.0.0.1", (False, False, True)),
    ("198.18.0.1", (False, False, True)),
]


def test_a_policy_permits_no_more_than_it_says() -> None:
    """Private networks and this machine serve films only where that was asked for. (D10)"""
    policies = AddressPolicy(), AddressPolicy(loopback=True), AddressPolicy(private=True)

    wrong = [
        (host, found)
        for host, expected in PERMITTED
        if (found := tuple(policy.permits_host(host) for policy in policies)) != expected
    ]

    assert wrong == []
