"""Requests that must not be heard: one true callback, seen by a stranger, and bent.

The stranger has seen everything of it but the key, and he can ask for as long as he likes. The
true callback itself was heard before, so that a repetition of it is a replay.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from webhook.post import BODY, JSON, KEY, TASK, TOKEN, WALL, signature, signing

from apikley_async.webhook.verify import Letter

Parts = dict[str, object]
Bend = Callable[[random.Random, Parts], None]

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


def _set(name: str, value: str) -> Bend:
    def bend(chance: random.Random, parts: Parts) -> None:
        headers = [each for each in headers_of(parts) if each[0].lower() != name]
        parts["headers"] = [*headers, (name, value)]

    return bend


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
    """Sign it, with a key of one's own, another hash's length, or in another spelling."""
    true = signature()
    forged = chance.choice(
        [
            signature(f"not {KEY}"),
            signature(""),
            signature(task_id=""),
            true.rstrip("="),
            true.replace("+", "-").replace("/", "_"),
            true.swapcase(),
            true + "=",
            f"{true},{true}",
            f"v1,{true}",
            chance.randbytes(32).hex(),
        ]
    )
    if forged != true:
        _set("x-webhook-signature", forged)(chance, parts)


def _out_of_time(chance: random.Random, parts: Parts) -> None:
    """A true signature of another time: recorded long ago, or made for later."""
    away = chance.choice([-1, 1]) * chance.randrange(301, 10**6)
    for name, value in signing(stamp=str(WALL + away)):
        _set(name.lower(), value)(chance, parts)


def _change_method(chance: random.Random, parts: Parts) -> None:
    parts["method"] = chance.choice(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO"])


def _choose(field: str, values: list[bytes]) -> Bend:
    def bend(chance: random.Random, parts: Parts) -> None:
        parts[field] = chance.choice(values)

    return bend


def _stamp(chance: random.Random, parts: Parts) -> None:
    _set("x-webhook-timestamp", chance.choice(STAMPS))(chance, parts)


def _evil(chance: random.Random, parts: Parts) -> None:
    parts["body"] = json.dumps(EVIL | {"n": chance.random()}).encode()


def _replay(chance: random.Random, parts: Parts) -> None:
    parts["path"] = f"/{'p/' * chance.randrange(3)}{TOKEN}"


BENDS: list[Bend] = [
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


def true_parts() -> Parts:
    return {"method": "POST", "path": f"/{TOKEN}", "headers": [JSON, *signing()], "body": BODY}


def forgeries(chance: random.Random, count: int) -> Iterator[Parts]:
    """Bend the true callback in one to three ways, *count* times."""
    for number in range(count):
        parts = true_parts()
        bends = [BENDS[number % len(BENDS)], *chance.choices(BENDS, k=chance.choice((0, 0, 1, 2)))]
        for bend in bends:
            if parts["headers"] and parts["body"]:
                bend(chance, parts)
        yield parts


def letter_of(parts: Parts) -> Letter:
    headers = [(name.encode(), value.encode()) for name, value in headers_of(parts)]
    return Letter(str(parts["method"]), str(parts["path"]), headers)


def body_of(parts: Parts) -> bytes:
    return bytes(parts["body"])  # type: ignore[call-overload, no-any-return]
