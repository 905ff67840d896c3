"""Verification: which request is a callback, without a socket, a clock or a loop."""

from __future__ import annotations

import gc
import json
import os
import pickle
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volume import volume
from webhook.callback_requests import (
    BODY,
    JSON,
    KEY,
    TASK,
    TOKEN,
    WALL,
    signature,
    signature_headers,
)
from webhook.forgeries import body_of, forgeries, request_of

from apikley_async._wire.requests import MAX_ECHO_BYTES
from apikley_async.webhook.verify import (
    MAX_BODY,
    CallbackRequest,
    HmacKeys,
    Notification,
    ReplayCache,
    verify,
)

FORGERIES = int(os.environ.get("APIKLEY_FORGERIES", volume(2_000, 50_000)))
KEYS = HmacKeys([KEY])


def request(
    *headers: tuple[str, str], method: str = "POST", path: str = f"/{TOKEN}", typed: bool = True
) -> CallbackRequest:
    named = [*([JSON] if typed else []), *headers]
    return CallbackRequest(
        method, path, [(name.encode(), value.encode("latin-1")) for name, value in named]
    )


def status(
    sent: CallbackRequest, body: bytes = BODY, keys: HmacKeys = KEYS, wall: float = WALL
) -> int:
    return verify(sent, body, keys=keys, wall=wall).status


def named(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# --- accepted -------------------------------------------------------------------------------------


def test_a_callback_about_the_largest_request_fits() -> None:
    """It repeats the request: what we may send may come back (API section 12)."""
    assert MAX_BODY > MAX_ECHO_BYTES


def test_the_published_signature_is_accepted() -> None:
    """Key `k`, task `task_1`, timestamp 1700000000 (W1)."""
    stamp = ("X-Webhook-Timestamp", "1700000000")
    signed = ("X-Webhook-Signature", "Nw5I95q8kb5C7+X6vNbQDOZ0Ag3wu9DVExZIxzoW4sM=")

    verification = verify(
        request(stamp, signed), named(taskId="task_1"), keys=HmacKeys(["k"]), wall=WALL
    )

    assert (verification.status, verification.notification) == (200, Notification(TOKEN, "task_1"))


def test_without_a_key_only_the_token_counts() -> None:
    """Signatures are not checked, and the first id is taken."""
    body = named(task_id="d", data={"task_id": "b"})

    verification = verify(request(("X-Webhook-Signature", "?")), body, keys=HmacKeys(), wall=WALL)

    assert (verification.status, verification.notification, verification.replay_key) == (
        200,
        Notification(TOKEN, "b"),
        b"",
    )


def test_the_signed_id_is_the_one_that_counts() -> None:
    """Whatever other ids the body names: nobody signed those (W4, W16)."""
    body = named(data={"taskId": "a", "task_id": "b"}, taskId="c", task_id="d")
    failures = []
    for task_id in "abcd":
        signed = request(*signature_headers(task_id=task_id))
        notification = verify(signed, body, keys=KEYS, wall=WALL).notification
        if notification != Notification(TOKEN, task_id):
            failures.append((task_id, notification))

    assert failures == []


def test_any_of_the_keys_is_enough() -> None:
    """So that a key can be rotated without losing a callback (W15)."""
    keys = ["old", "new", "next"]
    statuses = {
        key: status(request(*signature_headers(key)), keys=HmacKeys(keys))
        for key in (*keys, "another")
    }

    assert statuses == {"old": 200, "new": 200, "next": 200, "another": 401}


def test_a_timestamp_near_our_time_is_accepted() -> None:
    """Clocks differ, and callbacks take time to arrive (W3)."""
    refused = [
        difference
        for difference in (0, 1, -1, 299.9, -299.9, 300, -300)
        if status(request(*signature_headers()), wall=WALL + difference) != 200
    ]

    assert refused == []


def test_the_token_is_the_last_segment_of_the_path() -> None:
    """Proxies strip prefixes, and add some."""
    failures = []
    for path in (f"/{TOKEN}", f"/hooks/{TOKEN}", f"//a//b/{TOKEN}", TOKEN, f"/{'f' * 32}/{TOKEN}"):
        verification = verify(request(path=path), BODY, keys=HmacKeys(), wall=WALL)
        if verification.notification != Notification(TOKEN, TASK):
            failures.append(path)

    assert failures == []


def test_the_content_type_is_not_checked() -> None:
    """The service sends JSON under other content types, and without any."""
    refused = [
        content_type
        for content_type in (
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON;charset=UTF-8",
            " application/json ",
            "text/plain",
            "application/x-www-form-urlencoded",
            "",
        )
        if status(request(("content-type", content_type), typed=False), keys=HmacKeys()) != 200
    ]

    assert refused == []


# --- refused --------------------------------------------------------------------------------------

TOO_LONG = b'{"taskId": "task_1", "p": "' + b"x" * MAX_BODY + b'"}'

REFUSED: dict[str, tuple[CallbackRequest, bytes, int]] = {
    "get": (request(method="GET"), b"", 405),
    "head": (request(method="HEAD"), b"", 405),
    "put": (request(*signature_headers(), method="PUT"), BODY, 405),
    "lower case": (request(*signature_headers(), method="post"), BODY, 405),
    "the method comes first": (request(method="GET", path="/", typed=False), b"", 405),
    "no token": (request(path="/"), BODY, 404),
    "a slash behind it": (request(path=f"/{TOKEN}/"), BODY, 404),
    "too short": (request(path=f"/{TOKEN[1:]}"), BODY, 404),
    "too long": (request(path=f"/{TOKEN}0"), BODY, 404),
    "upper case": (request(path=f"/{TOKEN.upper()}"), BODY, 404),
    "other digits": (request(path="/" + "٣" * 32), BODY, 404),
    "a line break": (request(path=f"/{TOKEN}\n"), BODY, 404),
    "the path before the content type": (request(path="/", typed=False), BODY, 404),
    "gzip": (request(("content-encoding", "gzip")), BODY, 415),
    "two codings": (request(("content-encoding", "identity, gzip")), BODY, 415),
    "two lengths": (request(("content-length", "1"), ("Content-Length", "2")), BODY, 400),
    "announced too long": (request(("content-length", str(MAX_BODY + 1))), BODY, 413),
    "nine gigabytes": (request(("content-length", "9" * 4000)), BODY, 413),
    "too long after all": (request(*signature_headers()), TOO_LONG, 413),
    "empty": (request(*signature_headers()), b"", 400),
    "no json": (request(*signature_headers()), b"taskId=task_1", 400),
    "no object": (request(*signature_headers()), b'["task_1"]', 400),
    "no text": (request(*signature_headers()), b'{"taskId": "\xff"}', 400),
    "no id": (request(*signature_headers()), b'{"data": {"state": "success"}}', 400),
    "without end": (request(*signature_headers()), b"[" * MAX_BODY, 400),
    "no id before no signature": (request(), b"{}", 400),
    "no signature": (request(), BODY, 401),
    "no timestamp": (request(signature_headers()[1]), BODY, 401),
    "only a timestamp": (request(signature_headers()[0]), BODY, 401),
    "another key": (request(*signature_headers("another")), BODY, 401),
    "another task": (request(*signature_headers(task_id="task_2")), BODY, 401),
    "two timestamps": (request(*signature_headers(), signature_headers()[0]), BODY, 401),
    "two signatures": (request(*signature_headers(), signature_headers()[1]), BODY, 401),
    "too old": (request(*signature_headers(stamp=str(WALL - 301))), BODY, 401),
    "too early": (request(*signature_headers(stamp=str(WALL + 301))), BODY, 401),
    "not ascii": (request(signature_headers()[0], ("x-webhook-signature", "é" * 44)), BODY, 401),
    "no digits": (request(*signature_headers(stamp="abc")), BODY, 401),
    "underscores": (request(*signature_headers(stamp="1_700_000_000")), BODY, 401),
    "a sign": (request(*signature_headers(stamp="+1700000000")), BODY, 401),
    "a fraction": (request(*signature_headers(stamp="1700000000.0")), BODY, 401),
    "400 digits": (request(*signature_headers(stamp="1" * 400)), BODY, 401),
    "unpadded": (
        request(signature_headers()[0], ("x-webhook-signature", signature().rstrip("="))),
        BODY,
        401,
    ),
}


def test_each_fault_is_refused_with_its_status() -> None:
    """The first broken rule decides, and nothing is dispatched (W1, W2, W3, W9, W11)."""
    failures = []
    for case, (sent, body, expected) in REFUSED.items():
        verification = verify(sent, body, keys=KEYS, wall=WALL)
        if (verification.status, verification.notification) != (expected, None):
            failures.append((case, verification))

    assert failures == []


def test_digits_of_another_script_are_not_digits() -> None:
    """They are bytes beyond ASCII, although `str.isdigit` accepts them (W2)."""
    wide = "１７００００００００"
    headers = [(b"content-type", b"application/json"), (b"x-webhook-timestamp", wide.encode())]
    headers += [(b"x-webhook-signature", signature(stamp=wide).encode())]

    assert status(CallbackRequest("POST", f"/{TOKEN}", headers)) == 401


def test_a_body_of_exactly_the_largest_size_is_accepted() -> None:
    """The bound is inclusive (W9)."""
    body = named(taskId=TASK, pad="")
    body = body[:-2] + b"x" * (MAX_BODY - len(body)) + body[-2:]

    assert len(body) == MAX_BODY
    assert status(request(*signature_headers(), ("content-length", str(MAX_BODY))), body) == 200


# --- replays --------------------------------------------------------------------------------------


def test_a_replay_is_answered_and_not_dispatched() -> None:
    """Whatever its body contains now (W3, W4)."""
    replays = ReplayCache()
    sent = request(*signature_headers())
    first = verify(sent, BODY, keys=KEYS, wall=WALL)
    replays.add(first.replay_key, 5.0)

    again = verify(
        sent,
        named(taskId=TASK, evil=True),
        keys=KEYS,
        wall=WALL,
        is_replay=lambda replay_key: replays.has_seen(replay_key, 6.0),
    )

    assert (again.status, again.notification) == (200, None)


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (request(*signature_headers(), path=f"/{'e' * 32}"), BODY),
        (request(*signature_headers(task_id="task_2")), named(taskId="task_2")),
        (request(*signature_headers(stamp=str(WALL + 1))), BODY),
    ],
)
def test_another_token_task_or_time_is_no_replay(sent: CallbackRequest, body: bytes) -> None:
    first = verify(request(*signature_headers()), BODY, keys=KEYS, wall=WALL)

    other = verify(
        sent,
        body,
        keys=KEYS,
        wall=WALL,
        is_replay=lambda replay_key: replay_key == first.replay_key,
    )

    assert other.notification is not None
    assert other.replay_key != first.replay_key


def test_a_callback_is_remembered_for_ten_minutes() -> None:
    """Twice the tolerance: by then its timestamp is too old in any case (W3)."""
    replays = ReplayCache()
    replays.add(b"mark", 1000.0)

    assert replays.has_seen(b"mark", 1600.0)
    assert not replays.has_seen(b"mark", 1600.1)
    assert len(replays) == 0


def test_the_replay_cache_is_bounded_and_keeps_what_is_used() -> None:
    """Ten thousand keys; the least recently used one is dropped first."""
    replays = ReplayCache()
    for number in range(10_000):
        replays.add(str(number).encode(), 1.0)

    assert replays.has_seen(b"0", 2.0)
    replays.add(b"one more", 2.0)

    assert len(replays) == 10_000
    assert replays.has_seen(b"0", 3.0)
    assert not replays.has_seen(b"1", 3.0)


# --- keys -----------------------------------------------------------------------------------------


INVALID_KEYS: list[tuple[Any, str]] = [
    ("a single text", "hmac_keys: a list of keys, not a single text"),
    ([""], "hmac_keys[0]: not empty"),
    (["good", " \n"], "hmac_keys[1]: not empty"),
    ([None], "hmac_keys[0]: a text, not NoneType"),
    ([b"bytes"], "hmac_keys[0]: a text, not bytes"),
    (["line\nbreak"], "hmac_keys[0]: without line breaks"),
]


def test_an_invalid_key_is_refused() -> None:
    """Above all an empty environment variable; the key is not repeated (S8, S12)."""
    failures = []
    for keys, fault in INVALID_KEYS:
        with pytest.raises(ValueError, match="hmac_keys") as caught:
            HmacKeys(keys)
        message = str(caught.value)
        if not message.startswith(fault) or "break" in message.replace("line breaks", ""):
            failures.append(message)

    assert failures == []


def test_blanks_around_a_key_are_removed() -> None:
    """A key from a file ends with a line break (S8)."""
    assert status(request(*signature_headers("k")), keys=HmacKeys([" k\n"])) == 200


def test_no_secret_is_shown_or_pickled() -> None:
    """No `repr` contains a key, a token or an id, and keys do not pickle (S12, W17)."""
    sent = request(*signature_headers())
    verification = verify(sent, BODY, keys=KEYS, wall=WALL)
    shown = f"{sent!r} {verification!r} {verification.notification!r} {KEYS!r}"

    assert not any(secret in shown for secret in (KEY, TOKEN, TASK, signature()))
    with pytest.raises(TypeError):
        pickle.dumps(KEYS)


# --- forgeries ------------------------------------------------------------------------------------


def test_no_forgery_is_dispatched_or_remembered() -> None:
    """Forged, replayed or mutated: none is accepted or raises, memory stays flat (W1, W2, W3)."""
    replays = ReplayCache()
    replays.add(verify(request(*signature_headers()), BODY, keys=KEYS, wall=WALL).replay_key, 0.0)
    chance = random.Random(5)
    counts: dict[int, int] = {}
    accepted = 0
    traced: list[int] = []

    for number, parts in enumerate(forgeries(chance, FORGERIES)):
        verification = verify(
            request_of(parts),
            body_of(parts),
            keys=KEYS,
            wall=WALL,
            is_replay=lambda replay_key: replays.has_seen(replay_key, 1.0),
        )
        counts[verification.status] = counts.get(verification.status, 0) + 1
        accepted += (
            verification.notification is not None and verification.notification.token == TOKEN
        )
        if number in (FORGERIES * 9 // 10, FORGERIES - 1):
            gc.collect()
            if not tracemalloc.is_tracing():
                tracemalloc.start()
            traced.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    assert accepted == 0
    assert len(replays) == 1
    assert counts.keys() == {200, 400, 401, 404, 405, 415}
    assert traced[-1] - traced[0] < 50_000


HEADERS = st.sampled_from([b"content-type", b"content-length", b"content-encoding"]) | st.binary()
NASTY = st.binary(max_size=40) | st.sampled_from([b"application/json", b"1700000000", b"identity"])


@settings(max_examples=volume(100, 500))
@given(
    method=st.sampled_from(["POST", "GET"]) | st.text(max_size=5),
    path=st.just(f"/{TOKEN}") | st.text(max_size=60),
    headers=st.lists(st.tuples(HEADERS, NASTY), max_size=6),
    body=st.binary(max_size=200) | st.just(BODY),
    wall=st.floats(0, 1e12) | st.just(float(WALL)),
)
def test_random_requests_are_refused_and_never_raise(
    method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes, wall: float
) -> None:
    """Anything at all, made without the key (W2)."""
    kind = [(b"content-type", b"application/json")]
    for sent in (
        CallbackRequest(method, path, headers),
        CallbackRequest(method, path, kind + headers),
    ):
        verification = verify(sent, body, keys=KEYS, wall=wall)

        assert verification.status in {400, 401, 404, 405, 413, 415}
        assert verification.notification is None


@settings(max_examples=volume(100, 300))
@given(stamp=st.binary(max_size=30), signed=st.binary(max_size=60), body=st.binary(max_size=60))
def test_random_bytes_are_no_signature(stamp: bytes, signed: bytes, body: bytes) -> None:
    """They are compared as bytes, and never raise (W1, W2)."""
    headers = [(b"content-type", b"application/json"), (b"x-webhook-timestamp", stamp)]
    headers += [(b"x-webhook-signature", signed)]

    for sent in (BODY, body):
        assert (
            verify(
                CallbackRequest("POST", f"/{TOKEN}", headers), sent, keys=KEYS, wall=WALL
            ).notification
            is None
        )


@given(st.text(min_size=1, max_size=40), st.integers(WALL - 300, WALL + 300))
def test_a_valid_signature_is_accepted(key: str, stamp: int) -> None:
    """With any key and any timestamp near our time."""
    try:
        keys = HmacKeys([key])
    except ValueError:
        return

    assert status(request(*signature_headers(key.strip(), stamp=str(stamp))), keys=keys) == 200
