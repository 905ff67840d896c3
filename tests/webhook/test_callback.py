"""`Callback`: the URLs it gives, those it refuses, and what its `repr` shows."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from webhook.callback_requests import KEY, TOKEN, RecordingListener

from apikley_async import Callbacks
from apikley_async.webhook import Callback

CALLBACK_URLS = [
    ("https://hooks.test", f"https://hooks.test/{TOKEN}"),
    ("https://hooks.test/", f"https://hooks.test/{TOKEN}"),
    (
        "https://hooks.test:8443/apikley/films/",
        f"https://hooks.test:8443/apikley/films/{TOKEN}",
    ),
    ("http://localhost:8787", f"http://localhost:8787/{TOKEN}"),
    ("http://a.localhost/x", f"http://a.localhost/x/{TOKEN}"),
    ("http://127.0.0.1:1", f"http://127.0.0.1:1/{TOKEN}"),
    ("http://[::1]:1", f"http://[::1]:1/{TOKEN}"),
    ("https://хуки.test/а", f"https://хуки.test/а/{TOKEN}"),
]


def test_the_token_is_appended_to_the_path() -> None:
    """After any prefix, with or without a slash at its end (W17)."""
    failures = [
        (public_url, found)
        for public_url, expected in CALLBACK_URLS
        if (found := Callback(public_url).url_for(TOKEN)) != expected
    ]

    assert failures == []


INVALID_URLS: list[tuple[Any, str]] = [
    ("http://hooks.test", "https, not http: the token in it is a secret"),
    ("http://192.168.0.1/x", "https, not http"),
    ("http://localhost.evil.test", "https, not http"),
    ("ftp://hooks.test", "https://host/path, not ftp:"),
    ("hooks.test/x", "https://host/path, not a path"),
    ("", "https://host/path, not a path"),
    ("https://", "a URL with a host"),
    ("https:///x", "a URL with a host"),
    ("https://hooks.test:0", "a port from 1 to 65535, not 0"),
    ("https://hooks.test:99999", "a valid URL"),
    ("https://[::1", "a valid URL"),
    ("https://me:hunter2@hooks.test", "a URL without user name and password"),
    ("https://hooks.test?a=b", "a URL without query and fragment"),
    ("https://hooks.test/?", "a URL without query and fragment"),
    ("https://hooks.test/#", "a URL without query and fragment"),
    ("https://hooks.test/a b", "a URL without spaces and control characters"),
    ("https://hooks.test/\n", "a URL without spaces and control characters"),
    ("https://hooks.test/" + "a" * 2000, "at most 2000 characters, not 2019"),
    (None, "a text, not NoneType"),
    (b"https://hooks.test", "a text, not bytes"),
]


def test_a_url_that_the_service_cannot_call_is_refused() -> None:
    """The message names the field and the rule, and repeats nothing that may be secret."""
    failures = []
    for public_url, fault in INVALID_URLS:
        with pytest.raises(ValueError, match=r"^public_url: ") as caught:
            Callback(public_url)
        message = str(caught.value)
        if fault not in message or "hunter2" in message:
            failures.append((public_url, message))

    assert failures == []


def test_it_implements_the_callbacks_protocol() -> None:
    callback = Callback("https://hooks.test")

    assert isinstance(callback, Callbacks)


def test_it_shows_no_secret_and_does_not_pickle() -> None:
    """Neither its keys nor its URL, which may contain a secret (S1, S12, W17)."""
    callback = Callback("https://hooks.test/secret", hmac_keys=[KEY])
    end = callback.listen(RecordingListener())

    assert repr(callback) == "<Callback signed, 1 listening>"
    end()
    assert repr(callback) == "<Callback signed, 0 listening>"
    assert repr(Callback("https://hooks.test")) == "<Callback unsigned, 0 listening>"
    with pytest.raises(TypeError):
        pickle.dumps(callback)


def test_an_empty_key_is_refused_at_once() -> None:
    """With an empty environment variable anybody could sign (S8, S12)."""
    with pytest.raises(ValueError, match=r"hmac_keys\[0\]: not empty"):
        Callback("https://hooks.test", hmac_keys=[""])
