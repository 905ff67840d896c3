"""Forged requests: one valid callback, mutated by an attacker who has seen all of it but the key.

The valid callback was accepted before, so that repeating it is a replay.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

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

from apikley_async.webhook.verify import CallbackRequest

Parts = dict[str, object]
Mutation = Callable[[random.Random, Parts], None]

STAMPS = [
    "",
    "0",
    "-1",
    "+1",
    "abc",
    "1_700_000_000",
    "１７００００００００",
    "9" * 400,
    "1e9",
    "nan",
]
STAMPS += ["1700000000.0", " 1700000000x", "1700000000\n", "0x6553f100", "01700000000", "٣"]
BODIES = [b"", b"null", b"[]", b"{", b"[" * 60_000, b"\xff\xfe{}", b'{"taskId": 1e999}']
BODIES += [b'{"data": {"taskId": "other"}}', b"x" * 70_000, b'{"taskId": "' + b"a" * 300 + b'"}']
EVIL = {"code": 501, "data": {"taskId": TASK, "state": "fail", "resultJson": "http://evil.test"}}


def _set(name: str, value: str) -> Mutation:
    def mutate(chance: random.Random, parts: Parts) -> None:
        headers = [each for each in headers_of(parts) if each[0].lower() != name]
        parts["headers"] = [*headers, (name, value)]

    return mutate


def headers_of(parts: Parts) -> list[tuple[str, str]]:
    return list(parts["headers"])  # type: ignore[call-overload, no-any-return]


def _drop(chance: random.Random, parts: Parts) -> None:
    headers = headers_of(parts)
    headers.pop(chance.randrange(len(headers)))
    parts["headers"] = headers


def _double(chance: random.Random, parts: Parts) -> None:
    headers = headers_of(parts)
    parts["headers"] = [*headers, chance.choice(headers)]


def _garble(text: str, chance: random.Random) -> str:
    """Change, lose or add a character, of any kind a header may hold."""
    at = chance.randrange(len(text) + 1)
    with_what = chance.choice(["", chr(chance.randrange(33, 127)), chr(chance.randrange(161, 256))])
    return text[:at] + with_what + text[at + chance.randrange(2) :]


def _garble_header(chance: random.Random, parts: Parts) -> None:
    headers = headers_of(parts)
    at = chance.randrange(len(headers))
    name, value = headers[at]
    headers[at] = name, _garble(value, chance)
    parts["headers"] = headers


def _garble_path(chance: random.Random, parts: Parts) -> None:
    parts["path"] = "/" + _garble(str(parts["path"])[1:], chance).replace("?", "x")


def _garble_body(chance: random.Random, parts: Parts) -> None:
    body = bytearray(parts["body"])  # type: ignore[arg-type]
    for _ in range(chance.randrange(1, 4)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    parts["body"] = bytes(body)


def _other_token(chance: random.Random, parts: Parts) -> None:
    parts["path"] = f"/{chance.getrandbits(128):032x}"


def _other_task(chance: random.Random, parts: Parts) -> None:
    parts["body"] = json.dumps({"taskId": f"task_{chance.randrange(2, 99)}"}).encode()


def _forge(chance: random.Random, parts: Parts) -> None:
    """Sign it with another key, with a digest of another length, or in another encoding."""
    valid = signature()
    forged = chance.choice(
        [
            signature(f"not {KEY}"),
            signature(""),
            signature(task_id=""),
            valid.rstrip("="),
            valid.replace("+", "-").replace("/", "_"),
            valid.swapcase(),
            valid + "=",
            f"{valid},{valid}",
            f"v1,{valid}",
            chance.randbytes(32).hex(),
        ]
    )
    if forged != valid:
        _set("x-webhook-signature", forged)(chance, parts)


def _out_of_time(chance: random.Random, parts: Parts) -> None:
    """A valid signature of another time: recorded long ago, or made for later."""
    away = chance.choice([-1, 1]) * chance.randrange(301, 10**6)
    for name, value in signature_headers(stamp=str(WALL + away)):
        _set(name.lower(), value)(chance, parts)


def _change_method(chance: random.Random, parts: Parts) -> None:
    parts["method"] = chance.choice(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO"])


def _choose(field: str, values: list[bytes]) -> Mutation:
    def mutate(chance: random.Random, parts: Parts) -> None:
        parts[field] = chance.choice(values)

    return mutate


def _stamp(chance: random.Random, parts: Parts) -> None:
    _set("x-webhook-timestamp", chance.choice(STAMPS))(chance, parts)


def _evil(chance: random.Random, parts: Parts) -> None:
    parts["body"] = json.dumps(EVIL | {"n": chance.random()}).encode()


def _replay(chance: random.Random, parts: Parts) -> None:
    parts["path"] = f"/{'p/' * chance.randrange(3)}{TOKEN}"


MUTATIONS: list[Mutation] = [
    _replay,
    _evil,
    _drop,
    _double,
    _garble_header,
    _garble_path,
    _garble_body,
    _other_token,
    _other_task,
    _forge,
    _out_of_time,
    _change_method,
    _stamp,
    _choose("body", BODIES),
    _set("content-type", "text/plain"),
    _set("content-encoding", "gzip"),
]


def valid_parts() -> Parts:
    return {
        "method": "POST",
        "path": f"/{TOKEN}",
        "headers": [JSON, *signature_headers()],
        "body": BODY,
    }


def forgeries(chance: random.Random, count: int) -> Iterator[Parts]:
    """Mutate the valid callback in one to three ways, *count* times."""
    for number in range(count):
        parts = valid_parts()
        mutations = [
            MUTATIONS[number % len(MUTATIONS)],
            *chance.choices(MUTATIONS, k=chance.choice((0, 0, 1, 2))),
        ]
        for mutate in mutations:
            if parts["headers"] and parts["body"]:
                mutate(chance, parts)
        yield parts


def request_of(parts: Parts) -> CallbackRequest:
    headers = [(name.encode(), value.encode()) for name, value in headers_of(parts)]
    return CallbackRequest(str(parts["method"]), str(parts["path"]), headers)


def body_of(parts: Parts) -> bytes:
    return bytes(parts["body"])  # type: ignore[call-overload, no-any-return]
