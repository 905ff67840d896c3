"""`Callback` itself: the URLs it gives, those it refuses, and what it shows of itself."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from webhook.post import KEY, TOKEN, Ear

from apikley_async import Callbacks
from apikley_async.webhook import Callback


@pytest.mark.parametrize(
    ("public", "url"),
    [
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
    ],
)
def test_the_token_stands_in_the_path(public: str, url: str) -> None:
    """Behind any prefix; a slash at the end is no difference (W17)."""
    assert Callback(public).url_for(TOKEN) == url


@pytest.mark.parametrize(
    ("public", "fault"),
    [
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
    ],
)
def test_a_url_nobody_could_call_is_refused(public: Any, fault: str) -> None:
    """With the field, the rule and the fact, and without what may be secret in it."""
    with pytest.raises(ValueError, match=r"^public_url: ") as caught:
        Callback(public)

    assert fault in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_it_is_what_a_client_asks_for() -> None:
    callback = Callback("https://hooks.test")

    assert isinstance(callback, Callbacks)


def test_it_shows_nothing_secret_and_does_not_travel() -> None:
    """Neither its key nor its address, in which a secret may stand (S1, S12, W17)."""
    callback = Callback("https://hooks.test/secret", hmac_keys=[KEY])
    end = callback.listen(Ear())

    assert repr(callback) == "<Callback signed, 1 listening>"
    end()
    assert repr(callback) == "<Callback signed, 0 listening>"
    assert repr(Callback("https://hooks.test")) == "<Callback unsigned, 0 listening>"
    with pytest.raises(TypeError):
        pickle.dumps(callback)


def test_a_wrong_key_is_refused_at_once() -> None:
    """An empty variable of the environment must not open the gate (S8, S12)."""
    with pytest.raises(ValueError, match=r"hmac_keys\[0\]: not empty"):
        Callback("https://hooks.test", hmac_keys=[""])
