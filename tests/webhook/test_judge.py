"""The judgement: which request is a callback, without a socket, a clock or a loop."""

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
from webhook.forgeries import body_of, forgeries, letter_of
from webhook.post import BODY, JSON, KEY, TASK, TOKEN, WALL, signature, signing

from apikley_async._wire.envelope import LARGEST_ECHO
from apikley_async.webhook.verify import LARGEST, Heard, Keys, Letter, Replays, judge

FORGERIES = int(os.environ.get("APIKLEY_FORGERIES", volume(10_000, 50_000)))
KEYS = Keys([KEY])


def letter(
    *headers: tuple[str, str], method: str = "POST", path: str = f"/{TOKEN}", kind: bool = True
) -> Letter:
    named = [*([JSON] if kind else []), *headers]
    return Letter(method, path, [(name.encode(), value.encode("latin-1")) for name, value in named])


def status(sent: Letter, body: bytes = BODY, keys: Keys = KEYS, wall: float = WALL) -> int:
    return judge(sent, body, keys=keys, wall=wall).status


def named(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# --- what is heard --------------------------------------------------------------------------------


def test_a_callback_about_the_largest_request_is_read() -> None:
    """It repeats the request: what may be sent may come back (API section 12)."""
    assert LARGEST > LARGEST_ECHO


def test_the_published_signature_is_believed() -> None:
    """Key `k`, task `task_1`, timestamp 1700000000 (W1)."""
    stamp = ("X-Webhook-Timestamp", "1700000000")
    signed = ("X-Webhook-Signature", "Nw5I95q8kb5C7+X6vNbQDOZ0Ag3wu9DVExZIxzoW4sM=")

    ruling = judge(letter(stamp, signed), named(taskId="task_1"), keys=Keys(["k"]), wall=WALL)

    assert (ruling.status, ruling.heard) == (200, Heard(TOKEN, "task_1"))


def test_without_a_key_the_token_is_the_gate() -> None:
    """Signatures are not looked at, and the first id counts."""
    body = named(task_id="d", data={"task_id": "b"})

    ruling = judge(letter(("X-Webhook-Signature", "?")), body, keys=Keys(), wall=WALL)

    assert (ruling.status, ruling.heard, ruling.mark) == (200, Heard(TOKEN, "b"), b"")


@pytest.mark.parametrize("place", ["a", "b", "c", "d"])
def test_the_id_that_was_signed_is_the_one_that_counts(place: str) -> None:
    """Whatever else the body names: nobody signed that (W4, W16)."""
    body = named(data={"taskId": "a", "task_id": "b"}, taskId="c", task_id="d")

    ruling = judge(letter(*signing(task_id=place)), body, keys=KEYS, wall=WALL)

    assert ruling.heard == Heard(TOKEN, place)


@pytest.mark.parametrize("number", range(3))
def test_any_of_the_keys_will_do(number: int) -> None:
    """So that a key can be changed without losing a callback (W15)."""
    keys = ["old", "new", "next"]

    assert status(letter(*signing(keys[number])), keys=Keys(keys)) == 200
    assert status(letter(*signing("another")), keys=Keys(keys)) == 401


@pytest.mark.parametrize("away", [0, 1, -1, 299.9, -299.9, 300, -300])
def test_a_time_near_ours_is_believed(away: float) -> None:
    """Clocks differ, and callbacks travel (W3)."""
    assert status(letter(*signing()), wall=WALL + away) == 200


@pytest.mark.parametrize(
    "path", [f"/{TOKEN}", f"/hooks/{TOKEN}", f"//a//b/{TOKEN}", TOKEN, f"/{'f' * 32}/{TOKEN}"]
)
def test_only_the_last_segment_counts(path: str) -> None:
    """Proxies strip prefixes, and add some."""
    assert judge(letter(path=path), BODY, keys=Keys(), wall=WALL).heard == Heard(TOKEN, TASK)


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        " application/json ",
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
    ],
)
def test_what_a_callback_is_called_is_no_gate(kind: str) -> None:
    """Upstream sends JSON under other names, and under none."""
    assert status(letter(("content-type", kind), kind=False), keys=Keys()) == 200


# --- what is not ----------------------------------------------------------------------------------

TOO_LONG = b'{"taskId": "task_1", "p": "' + b"x" * LARGEST + b'"}'

REFUSED: dict[str, tuple[Letter, bytes, int]] = {
    "get": (letter(method="GET"), b"", 405),
    "head": (letter(method="HEAD"), b"", 405),
    "put": (letter(*signing(), method="PUT"), BODY, 405),
    "lower case": (letter(*signing(), method="post"), BODY, 405),
    "the method comes first": (letter(method="GET", path="/", kind=False), b"", 405),
    "no token": (letter(path="/"), BODY, 404),
    "a slash behind it": (letter(path=f"/{TOKEN}/"), BODY, 404),
    "too short": (letter(path=f"/{TOKEN[1:]}"), BODY, 404),
    "too long": (letter(path=f"/{TOKEN}0"), BODY, 404),
    "upper case": (letter(path=f"/{TOKEN.upper()}"), BODY, 404),
    "other digits": (letter(path="/" + "٣" * 32), BODY, 404),
    "a line break": (letter(path=f"/{TOKEN}\n"), BODY, 404),
    "the path before the kind": (letter(path="/", kind=False), BODY, 404),
    "gzip": (letter(("content-encoding", "gzip")), BODY, 415),
    "two codings": (letter(("content-encoding", "identity, gzip")), BODY, 415),
    "two lengths": (letter(("content-length", "1"), ("Content-Length", "2")), BODY, 400),
    "announced too long": (letter(("content-length", str(LARGEST + 1))), BODY, 413),
    "nine gigabytes": (letter(("content-length", "9" * 4000)), BODY, 413),
    "too long after all": (letter(*signing()), TOO_LONG, 413),
    "empty": (letter(*signing()), b"", 400),
    "no json": (letter(*signing()), b"taskId=task_1", 400),
    "no object": (letter(*signing()), b'["task_1"]', 400),
    "no text": (letter(*signing()), b'{"taskId": "\xff"}', 400),
    "no id": (letter(*signing()), b'{"data": {"state": "success"}}', 400),
    "without end": (letter(*signing()), b"[" * LARGEST, 400),
    "no id before no signature": (letter(), b"{}", 400),
    "no signature": (letter(), BODY, 401),
    "no timestamp": (letter(signing()[1]), BODY, 401),
    "only a timestamp": (letter(signing()[0]), BODY, 401),
    "another key": (letter(*signing("another")), BODY, 401),
    "another task": (letter(*signing(task_id="task_2")), BODY, 401),
    "two timestamps": (letter(*signing(), signing()[0]), BODY, 401),
    "two signatures": (letter(*signing(), signing()[1]), BODY, 401),
    "too old": (letter(*signing(stamp=str(WALL - 301))), BODY, 401),
    "too early": (letter(*signing(stamp=str(WALL + 301))), BODY, 401),
    "not ascii": (letter(signing()[0], ("x-webhook-signature", "é" * 44)), BODY, 401),
    "no digits": (letter(*signing(stamp="abc")), BODY, 401),
    "underscores": (letter(*signing(stamp="1_700_000_000")), BODY, 401),
    "a sign": (letter(*signing(stamp="+1700000000")), BODY, 401),
    "a fraction": (letter(*signing(stamp="1700000000.0")), BODY, 401),
    "400 digits": (letter(*signing(stamp="1" * 400)), BODY, 401),
    "unpadded": (
        letter(signing()[0], ("x-webhook-signature", signature().rstrip("="))),
        BODY,
        401,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_callback_is_refused(case: str) -> None:
    """By the first rule it breaks, and nobody hears of it (W1, W2, W3, W9, W11)."""
    sent, body, expected = REFUSED[case]

    ruling = judge(sent, body, keys=KEYS, wall=WALL)

    assert (ruling.status, ruling.heard) == (expected, None)


def test_digits_of_another_script_are_none() -> None:
    """They are bytes beyond ASCII, whatever Python thinks of them (W2)."""
    wide = "１７００００００００"
    headers = [(b"content-type", b"application/json"), (b"x-webhook-timestamp", wide.encode())]
    headers += [(b"x-webhook-signature", signature(stamp=wide).encode())]

    assert status(Letter("POST", f"/{TOKEN}", headers)) == 401


def test_a_body_of_exactly_64_kib_is_read() -> None:
    """The bound itself is allowed (W9)."""
    body = named(taskId=TASK, pad="")
    body = body[:-2] + b"x" * (LARGEST - len(body)) + body[-2:]

    assert len(body) == LARGEST
    assert status(letter(*signing(), ("content-length", str(LARGEST))), body) == 200


# --- replays --------------------------------------------------------------------------------------


def test_a_replay_is_answered_and_heard_by_nobody() -> None:
    """Whatever stands in its body now (W3, W4)."""
    replays = Replays()
    sent = letter(*signing())
    first = judge(sent, BODY, keys=KEYS, wall=WALL)
    replays.keep(first.mark, 5.0)

    again = judge(
        sent,
        named(taskId=TASK, evil=True),
        keys=KEYS,
        wall=WALL,
        replayed=lambda mark: replays.knows(mark, 6.0),
    )

    assert (again.status, again.heard) == (200, None)


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (letter(*signing(), path=f"/{'e' * 32}"), BODY),
        (letter(*signing(task_id="task_2")), named(taskId="task_2")),
        (letter(*signing(stamp=str(WALL + 1))), BODY),
    ],
)
def test_another_token_task_or_time_is_no_replay(sent: Letter, body: bytes) -> None:
    first = judge(letter(*signing()), BODY, keys=KEYS, wall=WALL)

    other = judge(sent, body, keys=KEYS, wall=WALL, replayed=lambda mark: mark == first.mark)

    assert other.heard is not None
    assert other.mark != first.mark


def test_what_was_heard_is_remembered_for_ten_minutes() -> None:
    """Twice the tolerance: by then its timestamp is too old in any case (W3)."""
    replays = Replays()
    replays.keep(b"mark", 1000.0)

    assert replays.knows(b"mark", 1600.0)
    assert not replays.knows(b"mark", 1600.1)
    assert len(replays) == 0


def test_the_memory_is_bounded_and_keeps_what_is_asked_for() -> None:
    """Ten thousand, and those that are being replayed go last."""
    replays = Replays()
    for number in range(10_000):
        replays.keep(str(number).encode(), 1.0)

    assert replays.knows(b"0", 2.0)
    replays.keep(b"one more", 2.0)

    assert len(replays) == 10_000
    assert replays.knows(b"0", 3.0)
    assert not replays.knows(b"1", 3.0)


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("a single text", r"hmac_keys: a list of keys, not a single text"),
        ([""], r"hmac_keys\[0\]: not empty"),
        (["good", " \n"], r"hmac_keys\[1\]: not empty"),
        ([None], r"hmac_keys\[0\]: a text, not NoneType"),
        ([b"bytes"], r"hmac_keys\[0\]: a text, not bytes"),
        (["line\nbreak"], r"hmac_keys\[0\]: without line breaks"),
    ],
)
def test_a_key_that_would_let_everybody_in_is_refused(keys: Any, fault: str) -> None:
    """An empty variable of the environment above all; the key is not repeated (S8, S12)."""
    with pytest.raises(ValueError, match=fault) as caught:
        Keys(keys)

    assert "break" not in str(caught.value).replace("line breaks", "")


def test_the_end_of_a_line_does_not_belong_to_a_key() -> None:
    """It comes from a file (S8)."""
    assert status(letter(*signing("k")), keys=Keys([" k\n"])) == 200


def test_nothing_secret_can_be_seen() -> None:
    """Neither a repr nor a pickle gives a key, a token or an id away (S12, W17)."""
    sent = letter(*signing())
    ruling = judge(sent, BODY, keys=KEYS, wall=WALL)
    shown = f"{sent!r} {ruling!r} {ruling.heard!r} {KEYS!r}"

    assert not any(secret in shown for secret in (KEY, TOKEN, TASK, signature()))
    with pytest.raises(TypeError):
        pickle.dumps(KEYS)


# --- forgeries ------------------------------------------------------------------------------------


def test_no_forgery_is_heard_and_none_is_remembered() -> None:
    """Forged, replayed, mutated: none counts, none raises, memory stays flat (W1, W2, W3)."""
    replays = Replays()
    replays.keep(judge(letter(*signing()), BODY, keys=KEYS, wall=WALL).mark, 0.0)
    chance = random.Random(5)
    counts: dict[int, int] = {}
    accepted = 0
    traced: list[int] = []

    for number, parts in enumerate(forgeries(chance, FORGERIES)):
        ruling = judge(
            letter_of(parts),
            body_of(parts),
            keys=KEYS,
            wall=WALL,
            replayed=lambda mark: replays.knows(mark, 1.0),
        )
        counts[ruling.status] = counts.get(ruling.status, 0) + 1
        accepted += ruling.heard is not None and ruling.heard.token == TOKEN
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
def test_whatever_comes_is_refused_and_never_raises(
    method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes, wall: float
) -> None:
    """Anything at all, without the key (W2)."""
    kind = [(b"content-type", b"application/json")]
    for sent in (Letter(method, path, headers), Letter(method, path, kind + headers)):
        ruling = judge(sent, body, keys=KEYS, wall=wall)

        assert ruling.status in {400, 401, 404, 405, 413, 415}
        assert ruling.heard is None


@settings(max_examples=volume(100, 300))
@given(stamp=st.binary(max_size=30), signed=st.binary(max_size=60), body=st.binary(max_size=60))
def test_any_bytes_may_stand_in_the_signature(stamp: bytes, signed: bytes, body: bytes) -> None:
    """They are compared as bytes, and are wrong (W1, W2)."""
    headers = [(b"content-type", b"application/json"), (b"x-webhook-timestamp", stamp)]
    headers += [(b"x-webhook-signature", signed)]

    for said in (BODY, body):
        assert judge(Letter("POST", f"/{TOKEN}", headers), said, keys=KEYS, wall=WALL).heard is None


@given(st.text(min_size=1, max_size=40), st.integers(WALL - 300, WALL + 300))
def test_what_is_truly_signed_is_heard(key: str, stamp: int) -> None:
    """With any key and any time that is near."""
    try:
        keys = Keys([key])
    except ValueError:
        return

    assert status(letter(*signing(key.strip(), stamp=str(stamp))), keys=keys) == 200
