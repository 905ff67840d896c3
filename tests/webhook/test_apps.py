"""The aiohttp and the ASGI application on real sockets: responses, listeners, secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import pytest
from volume import volume
from webhook.callback_requests import (
    BODY,
    JSON,
    KEY,
    TASK,
    TOKEN,
    WALL,
    FixedWallClock,
    RecordingListener,
    connect,
    raw_request,
    send_request,
    signature,
    signature_headers,
    status_of,
    uvicorn_of,
)
from webhook.forgeries import body_of, forgeries, headers_of

from apikley_async.webhook import Callback, Limits
from apikley_async.webhook.handler import RESPONSE_TEXTS

Serve: TypeAlias = Callable[[Callback], contextlib.AbstractAsyncContextManager[int]]
FORGERIES = min(50_000, int(os.environ.get("APIKLEY_FORGERIES", volume(300, 2000))))
QUICK = Limits(dispatch=0.2, body=0.3)


@contextlib.asynccontextmanager
async def by_aiohttp(callback: Callback) -> AsyncIterator[int]:
    async with callback.serve(port=0) as server:
        yield server.port


@contextlib.asynccontextmanager
async def by_asgi(callback: Callback) -> AsyncIterator[int]:
    async with uvicorn_of(callback.asgi_app()) as port:
        yield port


@pytest.fixture(params=[by_aiohttp, by_asgi])
def serving(request: pytest.FixtureRequest) -> Serve:
    """Serves a callback by aiohttp or by ASGI; yields the port."""
    serve: Serve = request.param
    return serve


def signed(**options: Any) -> Callback:
    options = {"hmac_keys": [KEY], "clock": FixedWallClock()} | options
    return Callback("https://hooks.test/apikley", **options)


PLAIN = ("Content-Type", "text/plain")
FORM = "application/x-www-form-urlencoded"
STALE = signature_headers(stamp=str(WALL - 301))
TABLE: dict[str, tuple[bytes, int]] = {
    "accepted": (raw_request(BODY, JSON, *signature_headers()), 200),
    "below a prefix": (
        raw_request(BODY, JSON, *signature_headers(), path=f"/a/b/{TOKEN}?c=d"),
        200,
    ),
    "in any case": (
        raw_request(BODY, ("content-TYPE", "Application/JSON; a=b"), *signature_headers()),
        200,
    ),
    "get": (raw_request(b"", method="GET"), 405),
    "put": (raw_request(BODY, JSON, method="PUT"), 405),
    "options": (raw_request(b"", method="OPTIONS", path="/"), 405),
    "root": (raw_request(BODY, JSON, *signature_headers(), path="/"), 404),
    "no token": (raw_request(BODY, JSON, *signature_headers(), path="/hooks/callback"), 404),
    "slash": (raw_request(BODY, JSON, *signature_headers(), path=f"/{TOKEN}/"), 404),
    "upper case": (raw_request(BODY, JSON, *signature_headers(), path=f"/{TOKEN.upper()}"), 404),
    "unknown token": (raw_request(BODY, JSON, *signature_headers(), path=f"/{'f' * 32}"), 404),
    "no content type": (raw_request(BODY, *signature_headers()), 200),
    "text": (raw_request(BODY, PLAIN, *signature_headers()), 200),
    "form": (raw_request(b"taskId=task_1", ("Content-Type", FORM), *signature_headers()), 400),
    "gzip": (raw_request(BODY, JSON, ("Content-Encoding", "gzip"), *signature_headers()), 415),
    "9 GB": (raw_request(b"", JSON, *signature_headers(), length="9000000000"), 413),
    "too long": (raw_request(b"x" * 2_162_689, JSON, *signature_headers()), 413),
    "empty": (raw_request(b"", JSON, *signature_headers()), 400),
    "no json": (raw_request(b"{", JSON, *signature_headers()), 400),
    "no text": (raw_request(b'{"taskId": "\xff"}', JSON, *signature_headers()), 400),
    "deep": (raw_request(b"[" * 60_000, JSON, *signature_headers()), 400),
    "no id": (raw_request(b'{"data": null}', JSON, *signature_headers()), 400),
    "not signed": (raw_request(BODY, JSON), 401),
    "another key": (raw_request(BODY, JSON, *signature_headers("another")), 401),
    "stale": (raw_request(BODY, JSON, *STALE), 401),
    "not ascii": (
        raw_request(BODY, JSON, signature_headers()[0], ("X-Webhook-Signature", "\xe9" * 44)),
        401,
    ),
    "twice signed": (raw_request(BODY, JSON, *signature_headers(), *signature_headers()), 401),
}


async def test_each_request_gets_the_same_status_from_aiohttp_and_asgi(serving: Serve) -> None:
    """On a real socket; only what is accepted is dispatched (W1, W2, W3, W9, W11)."""
    failures = []
    for case, (request, expected) in TABLE.items():
        callback, listener = signed(), RecordingListener()
        end = callback.listen(listener)

        async with serving(callback) as port:
            status, response = await send_request(port, request)

        end()
        found = (status, listener.known, b"allow: post" in response.lower())
        calls = [(TOKEN, TASK)] if expected == 200 else []
        if found != (expected, calls, expected == 405):
            failures.append((case, found))

    assert failures == []


async def test_a_head_request_gets_no_body(serving: Serve) -> None:
    """405 without content, and the connection can be reused (W11)."""
    async with serving(signed()) as port, connect(port) as connection:
        status, response = await connection.send_request(raw_request(b"", method="HEAD"), head=True)
        again, _ = await connection.send_request(raw_request(b"", method="GET"))

    assert (status, again) == (405, 405)
    assert response.endswith(b"\r\n\r\n")


async def test_no_response_repeats_anything_of_the_request(serving: Serve) -> None:
    """Whatever is sent, well-formed or not: only fixed texts come back (W11, W17)."""
    marked = "c0ffee" * 5 + "12"
    kind = ("Content-Type", "application/c0ffee")
    expects = ("Expect", "c0ffee-continue")
    requests = [
        raw_request(b"c0ffee", JSON, ("X-Webhook-Signature", "c0ffee"), path=f"/{marked}"),
        raw_request(BODY, kind, path=f"/{marked}"),
        raw_request(BODY, JSON, expects, path=f"/{marked}?c0ffee"),
        raw_request(BODY, JSON, path="/c0ffee"),
        raw_request(b"", method="C0FFEE", path=f"/{marked}"),
        raw_request(BODY, ("X-Forwarded-Host", "c0ffee"), path="//c0ffee.test/.."),
    ]

    async with serving(signed()) as port:
        responses = [await send_request(port, request) for request in requests]

    assert not [response for _, response in responses if b"c0ffee" in response.lower()]
    assert all(response.endswith(RESPONSE_TEXTS[status].encode()) for status, response in responses)


async def test_malformed_http_is_not_repeated_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    """By default aiohttp repeats the malformed line, and logs it with the request (W17)."""
    caplog.set_level(logging.DEBUG)
    malformed = [
        f"POST /{TOKEN} HTTP/9.9.{signature()}\r\n\r\n".encode(),
        f"POST /{TOKEN} HTTP/1.1\r\n{signature()} : {KEY}\r\n\r\n".encode(),
        f"{signature()}\r\n\r\n".encode(),
        f"POST /{TOKEN} HTTP/1.1\r\nA: {'x' * 9000}{KEY}\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + TOKEN.encode(),
    ]

    async with by_aiohttp(signed()) as port:
        for request in malformed:
            async with asyncio.timeout(10), connect(port) as connection:
                await connection.send(request)
                response = await connection.read_to_end()
            assert response.split(b" ")[1] == b"400"
            assert response.endswith(RESPONSE_TEXTS[400].encode())

    shown = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert not any(secret in shown for secret in (TOKEN, KEY, signature()))


async def test_nothing_of_a_callback_is_logged(
    serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """No key, token, signature, task or body, at any level, of any logger (S12, W17)."""
    caplog.set_level(logging.DEBUG)
    callback = signed()

    async def broken(token: str, task_id: str) -> bool:
        raise KeyError(token, task_id)

    end = callback.listen(broken)
    async with serving(callback) as port:
        for request, _ in TABLE.values():
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await send_request(port, request)
    end()

    logged = [str(record.__dict__) for record in caplog.records if record.name != "asyncio"]
    for secret in (KEY, TOKEN, signature(), "task_1", "hooks.test"):
        assert not [each for each in logged if secret in each]
    assert "KeyError" in caplog.text


async def test_a_wrong_signature_is_logged_once(
    serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistyped key is noticed, and an attacker cannot fill the log."""
    async with serving(signed()) as port:
        for _ in range(3):
            await send_request(port, raw_request(BODY, JSON, *signature_headers("another")))

    assert [r.levelname for r in caplog.records if "hmac_keys" in r.getMessage()] == ["WARNING"]


async def test_a_receiver_without_keys_logs_it_once(
    serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Then only the token protects (W1)."""
    callback, listener = signed(hmac_keys=()), RecordingListener()
    end = callback.listen(listener)

    async with serving(callback) as port, serving(callback) as other:
        for each in (port, other, port):
            assert await status_of(each, raw_request(BODY, JSON)) == 200

    end()
    assert caplog.text.count("what counts: a token that this process waits for") == 1
    assert listener.known == [(TOKEN, TASK)] * 3


# --- listeners ------------------------------------------------------------------------------------


async def test_a_replay_gets_the_same_response_and_is_dispatched_once(serving: Serve) -> None:
    """A sender that missed our first response gets another one (W3, W6)."""
    callback, listener = signed(), RecordingListener()
    end = callback.listen(listener)

    async with serving(callback) as port:
        answers = [
            await status_of(port, raw_request(BODY, JSON, *signature_headers())) for _ in range(5)
        ]

    end()
    assert answers == [200] * 5
    assert listener.calls == [(TOKEN, TASK)]


async def test_an_unknown_token_is_dispatched_again_when_it_is_repeated(serving: Serve) -> None:
    """A callback may arrive before its listener knows the token (W7)."""
    callback, listener = signed(), RecordingListener(tokens=())
    end = callback.listen(listener)
    request = raw_request(BODY, JSON, *signature_headers())

    async with serving(callback) as port:
        early, _ = await send_request(port, request)
        listener.tokens.add(TOKEN)
        late, _ = await send_request(port, request)

    end()
    assert (early, late) == (404, 200)
    assert listener.calls == [(TOKEN, TASK)] * 2


async def test_all_listeners_are_asked_and_one_that_knows_is_enough(
    serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """If none knows the token and one failed, the sender is asked to try again."""
    callback = signed()
    knowing, ignorant, ended = (
        RecordingListener(),
        RecordingListener(tokens=()),
        RecordingListener(),
    )

    async def broken(token: str, task_id: str) -> bool:
        raise RuntimeError(token)

    ends = [callback.listen(each) for each in (broken, ignorant, knowing, ended)]
    ends[3]()
    ends[3]()
    async with serving(callback) as port:
        known, _ = await send_request(port, raw_request(BODY, JSON, *signature_headers()))
        ends[2]()
        unknown, _ = await send_request(
            port, raw_request(BODY, JSON, *signature_headers(stamp=str(WALL + 1)))
        )
    for end in ends:
        end()

    assert (known, unknown) == (200, 503)
    assert (len(knowing.calls), len(ignorant.calls), len(ended.calls)) == (1, 2, 0)
    assert "a listener for callbacks failed: RuntimeError" in caplog.text
    assert TOKEN not in caplog.text


async def test_without_a_listener_no_token_is_known(serving: Serve) -> None:
    async with serving(signed()) as port:
        assert await status_of(port, raw_request(BODY, JSON, *signature_headers())) == 404


async def test_a_slow_listener_does_not_delay_the_response(serving: Serve) -> None:
    """The sender gets 503, and the listener goes on to its end (W12)."""
    callback = signed(limits=QUICK)
    go, done = asyncio.Event(), asyncio.Event()

    async def slow(token: str, task_id: str) -> bool:
        await go.wait()
        done.set()
        return True

    end = callback.listen(slow)
    began = asyncio.get_running_loop().time()
    async with serving(callback) as port:
        status, _ = await send_request(port, raw_request(BODY, JSON, *signature_headers()))
        took = asyncio.get_running_loop().time() - began
        go.set()
        async with asyncio.timeout(5):
            await done.wait()
    end()

    assert status == 503
    assert took < 3


@pytest.mark.parametrize("first", ["the application", "the listener"])
async def test_a_running_listener_is_cancelled_with_its_application_or_subscription(
    serving: Serve, first: str
) -> None:
    """Whichever ends first; no task is left."""
    callback = signed(limits=QUICK)
    ended = asyncio.Event()

    async def endless(token: str, task_id: str) -> bool:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        return True

    end = callback.listen(endless)
    async with serving(callback) as port:
        assert await status_of(port, raw_request(BODY, JSON, *signature_headers())) == 503
        if first == "the listener":
            end()
            async with asyncio.timeout(5):
                await ended.wait()
    async with asyncio.timeout(5):
        await ended.wait()
    end()


async def test_a_callback_that_was_answered_too_late_is_dispatched_again(serving: Serve) -> None:
    """Until a listener says in time that it knows the token, the sender gets 503 (W12)."""
    callback = signed(limits=QUICK)
    go = asyncio.Event()
    calls = 0

    async def unsure(token: str, task_id: str) -> bool:
        nonlocal calls
        calls += 1
        await go.wait()
        return calls > 2

    end = callback.listen(unsure)
    async with serving(callback) as port:
        answers = [
            await status_of(port, raw_request(BODY, JSON, *signature_headers())) for _ in range(2)
        ]
        go.set()
        answers += [
            await status_of(port, raw_request(BODY, JSON, *signature_headers())) for _ in range(2)
        ]
    end()

    assert answers == [503, 503, 200, 200]
    assert calls == 3


async def test_too_many_pending_callbacks_get_503(serving: Serve) -> None:
    """Until the listeners have finished; then callbacks are accepted again (W12)."""
    callback = signed(hmac_keys=(), limits=Limits(dispatch=0.05, pending=2))
    go = asyncio.Event()

    async def slow(token: str, task_id: str) -> bool:
        return await go.wait()

    end = callback.listen(slow)
    async with serving(callback) as port:
        answers = [await status_of(port, raw_request(BODY, JSON)) for _ in range(4)]
        go.set()
        await asyncio.sleep(0.05)
        after, _ = await send_request(port, raw_request(BODY, JSON))
    end()

    assert answers == [503] * 4
    assert after == 200


# --- forgeries ------------------------------------------------------------------------------------


async def test_forgeries_over_http_are_not_dispatched(serving: Serve) -> None:
    """Thousands of mutated requests: none is accepted, each gets a response (W1, W2)."""
    callback, listener = signed(), RecordingListener()
    end = callback.listen(listener)
    statuses: set[int] = set()

    async def some(port: int, chance: random.Random, count: int) -> None:
        for parts in forgeries(chance, count):
            path = "".join(c if 32 < ord(c) < 127 else f"%{ord(c):02X}" for c in str(parts["path"]))
            try:
                headers = [(n, v.encode("latin-1").decode("latin-1")) for n, v in headers_of(parts)]
            except UnicodeEncodeError:  # such a header cannot be sent
                continue
            request = raw_request(body_of(parts), *headers, method=str(parts["method"]), path=path)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                status, _ = await send_request(port, request, head=parts["method"] == "HEAD")
                statuses.add(status)

    async with serving(callback) as port:
        assert await status_of(port, raw_request(BODY, JSON, *signature_headers())) == 200
        async with asyncio.TaskGroup() as group:
            for seed in range(8):
                group.create_task(some(port, random.Random(seed), FORGERIES // 16))
    end()

    assert listener.known == [(TOKEN, TASK)]
    assert statuses == {200, 400, 401, 404, 405, 415}
