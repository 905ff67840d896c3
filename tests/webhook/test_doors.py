"""Both doors on real sockets: what they answer, who hears of it, and what they never say."""

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
from webhook.forgeries import body_of, forgeries, headers_of
from webhook.post import (
    BODY,
    JSON,
    KEY,
    TASK,
    TOKEN,
    WALL,
    Ear,
    Noon,
    ask,
    line,
    raw,
    signature,
    signing,
    uvicorn_of,
)

from apikley_async.webhook import Callback, Limits
from apikley_async.webhook.reception import PHRASES

Door: TypeAlias = Callable[[Callback], contextlib.AbstractAsyncContextManager[int]]
FORGERIES = min(50_000, int(os.environ.get("APIKLEY_FORGERIES", volume(300, 2000))))
QUICK = Limits(hear=0.2, body=0.3)


@contextlib.asynccontextmanager
async def by_aiohttp(callback: Callback) -> AsyncIterator[int]:
    async with callback.serve(port=0) as server:
        yield server.port


@contextlib.asynccontextmanager
async def by_asgi(callback: Callback) -> AsyncIterator[int]:
    async with uvicorn_of(callback.asgi_app()) as port:
        yield port


@pytest.fixture(params=[by_aiohttp, by_asgi])
def door(request: pytest.FixtureRequest) -> Door:
    opened: Door = request.param
    return opened


def signed(**options: Any) -> Callback:
    options = {"hmac_keys": [KEY], "clock": Noon()} | options
    return Callback("https://hooks.test/apikley", **options)


PLAIN = ("Content-Type", "text/plain")
FORM = "application/x-www-form-urlencoded"
STALE = signing(stamp=str(WALL - 301))
TABLE: dict[str, tuple[bytes, int]] = {
    "heard": (raw(BODY, JSON, *signing()), 200),
    "below a prefix": (raw(BODY, JSON, *signing(), path=f"/a/b/{TOKEN}?c=d"), 200),
    "in any case": (raw(BODY, ("content-TYPE", "Application/JSON; a=b"), *signing()), 200),
    "get": (raw(b"", method="GET"), 405),
    "put": (raw(BODY, JSON, method="PUT"), 405),
    "options": (raw(b"", method="OPTIONS", path="/"), 405),
    "root": (raw(BODY, JSON, *signing(), path="/"), 404),
    "no token": (raw(BODY, JSON, *signing(), path="/hooks/callback"), 404),
    "slash": (raw(BODY, JSON, *signing(), path=f"/{TOKEN}/"), 404),
    "upper case": (raw(BODY, JSON, *signing(), path=f"/{TOKEN.upper()}"), 404),
    "unknown token": (raw(BODY, JSON, *signing(), path=f"/{'f' * 32}"), 404),
    "no kind": (raw(BODY, *signing()), 200),
    "text": (raw(BODY, PLAIN, *signing()), 200),
    "form": (raw(b"taskId=task_1", ("Content-Type", FORM), *signing()), 400),
    "gzip": (raw(BODY, JSON, ("Content-Encoding", "gzip"), *signing()), 415),
    "9 GB": (raw(b"", JSON, *signing(), length="9000000000"), 413),
    "too long": (raw(b"x" * 2_162_689, JSON, *signing()), 413),
    "empty": (raw(b"", JSON, *signing()), 400),
    "no json": (raw(b"{", JSON, *signing()), 400),
    "no text": (raw(b'{"taskId": "\xff"}', JSON, *signing()), 400),
    "deep": (raw(b"[" * 60_000, JSON, *signing()), 400),
    "no id": (raw(b'{"data": null}', JSON, *signing()), 400),
    "not signed": (raw(BODY, JSON), 401),
    "another key": (raw(BODY, JSON, *signing("another")), 401),
    "stale": (raw(BODY, JSON, *STALE), 401),
    "not ascii": (raw(BODY, JSON, signing()[0], ("X-Webhook-Signature", "\xe9" * 44)), 401),
    "twice signed": (raw(BODY, JSON, *signing(), *signing()), 401),
}


@pytest.mark.parametrize("case", TABLE)
async def test_every_verdict_is_the_same_behind_each_door(door: Door, case: str) -> None:
    """On a real socket, by aiohttp and by ASGI alike (W1, W2, W3, W9, W11)."""
    request, expected = TABLE[case]
    callback, ear = signed(), Ear()
    end = callback.listen(ear)

    async with door(callback) as port:
        status, said = await ask(port, request)

    end()
    assert status == expected
    assert ear.heard == ([(TOKEN, TASK)] if expected == 200 else [])
    assert (b"allow: post" in said.lower()) == (expected == 405)


async def test_a_probe_by_head_gets_no_body(door: Door) -> None:
    """405 without content, and the connection can be used again (W11)."""
    async with door(signed()) as port, line(port) as pen:
        status, said = await pen.ask(raw(b"", method="HEAD"), head=True)
        again, _ = await pen.ask(raw(b"", method="GET"))

    assert (status, again) == (405, 405)
    assert said.endswith(b"\r\n\r\n")


async def test_no_answer_repeats_anything_of_the_request(door: Door) -> None:
    """Whatever is sent, well-formed or not: only fixed phrases come back (W11, W17)."""
    marked = "c0ffee" * 5 + "12"
    kind = ("Content-Type", "application/c0ffee")
    expects = ("Expect", "c0ffee-continue")
    requests = [
        raw(b"c0ffee", JSON, ("X-Webhook-Signature", "c0ffee"), path=f"/{marked}"),
        raw(BODY, kind, path=f"/{marked}"),
        raw(BODY, JSON, expects, path=f"/{marked}?c0ffee"),
        raw(BODY, JSON, path="/c0ffee"),
        raw(b"", method="C0FFEE", path=f"/{marked}"),
        raw(BODY, ("X-Forwarded-Host", "c0ffee"), path="//c0ffee.test/.."),
    ]

    async with door(signed()) as port:
        said = [await ask(port, request) for request in requests]

    assert not [answer for _, answer in said if b"c0ffee" in answer.lower()]
    assert all(answer.endswith(PHRASES[status].encode()) for status, answer in said)


async def test_what_is_no_http_is_not_repeated_either(caplog: pytest.LogCaptureFixture) -> None:
    """Left alone, aiohttp repeats the broken line, and logs it with the request (W17)."""
    caplog.set_level(logging.DEBUG)
    broken = [
        f"POST /{TOKEN} HTTP/9.9.{signature()}\r\n\r\n".encode(),
        f"POST /{TOKEN} HTTP/1.1\r\n{signature()} : {KEY}\r\n\r\n".encode(),
        f"{signature()}\r\n\r\n".encode(),
        f"POST /{TOKEN} HTTP/1.1\r\nA: {'x' * 9000}{KEY}\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + TOKEN.encode(),
    ]

    async with by_aiohttp(signed()) as port:
        for request in broken:
            async with asyncio.timeout(10), line(port) as pen:
                await pen.send(request)
                said = await pen.rest()
            assert said.split(b" ")[1] == b"400"
            assert said.endswith(PHRASES[400].encode())

    shown = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert not any(secret in shown for secret in (TOKEN, KEY, signature()))


async def test_nothing_of_a_callback_is_logged(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """No key, token, signature, task or body, at any level, of any logger (S12, W17)."""
    caplog.set_level(logging.DEBUG)
    callback = signed()

    async def broken(token: str, task_id: str) -> bool:
        raise KeyError(token, task_id)

    end = callback.listen(broken)
    async with door(callback) as port:
        for request, _ in TABLE.values():
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await ask(port, request)
    end()

    told = [str(record.__dict__) for record in caplog.records if record.name != "asyncio"]
    for secret in (KEY, TOKEN, signature(), "task_1", "hooks.test"):
        assert not [each for each in told if secret in each]
    assert "KeyError" in caplog.text


async def test_a_wrong_signature_is_warned_of_once(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistyped key would else look like silence, and an attacker would fill the log."""
    async with door(signed()) as port:
        for _ in range(3):
            await ask(port, raw(BODY, JSON, *signing("another")))

    assert [r.levelname for r in caplog.records if "hmac_keys" in r.getMessage()] == ["WARNING"]


async def test_without_keys_it_is_said_once(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """The token is the only gate then, and that is good to know (W1)."""
    callback, ear = signed(hmac_keys=()), Ear()
    end = callback.listen(ear)

    async with door(callback) as port, door(callback) as other:
        for each in (port, other, port):
            assert (await ask(each, raw(BODY, JSON)))[0] == 200

    end()
    assert caplog.text.count("as far as is known here: a token that somebody here waits for") == 1
    assert ear.heard == [(TOKEN, TASK)] * 3


# --- who hears of it ------------------------------------------------------------------------------


async def test_a_replay_is_answered_like_the_first_and_heard_once(door: Door) -> None:
    """The sender who did not get our answer gets it now (W3, W6)."""
    callback, ear = signed(), Ear()
    end = callback.listen(ear)

    async with door(callback) as port:
        answers = [(await ask(port, raw(BODY, JSON, *signing())))[0] for _ in range(5)]

    end()
    assert answers == [200] * 5
    assert ear.told == [(TOKEN, TASK)]


async def test_what_nobody_knew_is_heard_when_it_is_repeated(door: Door) -> None:
    """A callback may come before its listener; refused is not seen (W7)."""
    callback, ear = signed(), Ear(tokens=())
    end = callback.listen(ear)
    request = raw(BODY, JSON, *signing())

    async with door(callback) as port:
        early, _ = await ask(port, request)
        ear.tokens.add(TOKEN)
        late, _ = await ask(port, request)

    end()
    assert (early, late) == (404, 200)
    assert ear.told == [(TOKEN, TASK)] * 2


async def test_all_who_listen_are_asked_and_one_who_knows_is_enough(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when another one breaks: then whoever sends it is to try again, if nobody knew it."""
    callback = signed()
    knowing, strange, gone = Ear(), Ear(tokens=()), Ear()

    async def broken(token: str, task_id: str) -> bool:
        raise RuntimeError(token)

    ends = [callback.listen(each) for each in (broken, strange, knowing, gone)]
    ends[3]()
    ends[3]()
    async with door(callback) as port:
        known, _ = await ask(port, raw(BODY, JSON, *signing()))
        ends[2]()
        unknown, _ = await ask(port, raw(BODY, JSON, *signing(stamp=str(WALL + 1))))
    for end in ends:
        end()

    assert (known, unknown) == (200, 503)
    assert (len(knowing.told), len(strange.told), len(gone.told)) == (1, 2, 0)
    assert "a listener for callbacks failed: RuntimeError" in caplog.text
    assert TOKEN not in caplog.text


async def test_nobody_listening_knows_nothing(door: Door) -> None:
    async with door(signed()) as port:
        assert (await ask(port, raw(BODY, JSON, *signing())))[0] == 404


async def test_who_takes_long_is_not_waited_for(door: Door) -> None:
    """The sender is told to come again, and the listener goes on to its end (W12)."""
    callback = signed(limits=QUICK)
    go, done = asyncio.Event(), asyncio.Event()

    async def slow(token: str, task_id: str) -> bool:
        await go.wait()
        done.set()
        return True

    end = callback.listen(slow)
    began = asyncio.get_running_loop().time()
    async with door(callback) as port:
        status, _ = await ask(port, raw(BODY, JSON, *signing()))
        took = asyncio.get_running_loop().time() - began
        go.set()
        async with asyncio.timeout(5):
            await done.wait()
    end()

    assert status == 503
    assert took < 3


@pytest.mark.parametrize("first", ["the door", "the listener"])
async def test_who_still_listens_ends_with_the_door_or_with_listening(
    door: Door, first: str
) -> None:
    """Whichever comes first; no task is left."""
    callback = signed(limits=QUICK)
    ended = asyncio.Event()

    async def endless(token: str, task_id: str) -> bool:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        return True

    end = callback.listen(endless)
    async with door(callback) as port:
        assert (await ask(port, raw(BODY, JSON, *signing())))[0] == 503
        if first == "the listener":
            end()
            async with asyncio.timeout(5):
                await ended.wait()
    async with asyncio.timeout(5):
        await ended.wait()
    end()


async def test_what_was_answered_too_late_is_heard_when_it_comes_again(door: Door) -> None:
    """Until somebody has said yes in time, the sender is to try again. (W12)"""
    callback = signed(limits=QUICK)
    go = asyncio.Event()
    told = 0

    async def unsure(token: str, task_id: str) -> bool:
        nonlocal told
        told += 1
        await go.wait()
        return told > 2

    end = callback.listen(unsure)
    async with door(callback) as port:
        answers = [(await ask(port, raw(BODY, JSON, *signing())))[0] for _ in range(2)]
        go.set()
        answers += [(await ask(port, raw(BODY, JSON, *signing())))[0] for _ in range(2)]
    end()

    assert answers == [503, 503, 200, 200]
    assert told == 3


async def test_too_many_who_wait_are_told_to_come_again(door: Door) -> None:
    """503 beyond the bound, and nothing is forgotten by it (W12)."""
    callback = signed(hmac_keys=(), limits=Limits(hear=0.05, waiting=2))
    go = asyncio.Event()

    async def slow(token: str, task_id: str) -> bool:
        return await go.wait()

    end = callback.listen(slow)
    async with door(callback) as port:
        answers = [(await ask(port, raw(BODY, JSON)))[0] for _ in range(4)]
        go.set()
        await asyncio.sleep(0.05)
        after, _ = await ask(port, raw(BODY, JSON))
    end()

    assert answers == [503] * 4
    assert after == 200


# --- forgeries ------------------------------------------------------------------------------------


async def test_forgeries_over_http_are_not_heard(door: Door) -> None:
    """Two thousand bent requests, each on the wire: none is heard, each is answered (W1, W2)."""
    callback, ear = signed(), Ear()
    end = callback.listen(ear)
    statuses: set[int] = set()

    async def some(port: int, chance: random.Random, count: int) -> None:
        for parts in forgeries(chance, count):
            path = "".join(c if 32 < ord(c) < 127 else f"%{ord(c):02X}" for c in str(parts["path"]))
            try:
                headers = [(n, v.encode("latin-1").decode("latin-1")) for n, v in headers_of(parts)]
            except UnicodeEncodeError:  # such a header cannot be sent
                continue
            request = raw(body_of(parts), *headers, method=str(parts["method"]), path=path)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                status, _ = await ask(port, request, head=parts["method"] == "HEAD")
                statuses.add(status)

    async with door(callback) as port:
        assert (await ask(port, raw(BODY, JSON, *signing())))[0] == 200
        async with asyncio.TaskGroup() as group:
            for seed in range(8):
                group.create_task(some(port, random.Random(seed), FORGERIES // 16))
    end()

    assert ear.heard == [(TOKEN, TASK)]
    assert statuses == {200, 400, 401, 404, 405, 415}
