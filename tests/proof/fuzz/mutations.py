"""What strangers can make of an answer: seeded, so that a seed and a number name every body."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import attrs
from fuzz.answers import Answer

__all__ = ["Body", "bodies", "cut_up", "pauses", "rewritten"]

FRAGMENTS = (
    *("null", "true", "false", "0", "-0.0", "1", "200", '"200"', "200.0", "2e2", "429", "430"),
    *("500", "501", "422", "404", "1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity"),
    *("9" * 30, "9" * 4000, "9" * 5000, "1." + "0" * 400 + "1", "-1", "1.5", "253402300800000"),
    *("[]", "{}", "[[]]", '[""]', "[null]", "[" * 60 + "]" * 60, "[" * 120 + "]" * 120),
    *('""', '" "', '"\\u0000"', '"\\ud800"', '"\\u202e"', '"\\u001b[2J"', '"\\u0663"', '"\u2028"'),
    *('"success"', '"fail"', '"SUCCESS"', '"waiting"', '"recordInfo is null"', '"moderating"'),
    *('"task_1"', '"task 1"', '"../../x"', '"' + "t" * 300 + '"', '"' + "x" * 3000 + '"'),
    *('"https://cdn.test/a.mp4"', '"http://[::1"', '"//x"', '"https://u:p@h/"', '"file:///x"'),
    *(
        '"https://\\u0000/"',
        '"https://h:99999/"',
        '"https://' + "a" * 9000 + '/"',
        '"https://xn--/"',
    ),
    *(
        '"{}"',
        '"[]"',
        '"null"',
        '"{\\"resultUrls\\":[\\"https://cdn.test/1.mp4\\"]}"',
        '"\\"{}\\""',
    ),
    *('"credits"', '"balance is low"', '"call frequency too high"', '"too many"', '"1e400"'),
    *(
        '{"taskId":"task_2"}',
        '{"task_id":7}',
        '{"retryAfter":5}',
        '{"retryAfter":"x"}',
        '{"url":1}',
    ),
)
KEYS = (
    *("code", "msg", "message", "data", "success", "taskId", "task_id", "state", "resultJson"),
    *("resultUrls", "failCode", "failMsg", "createTime", "updateTime", "completeTime", "progress"),
    *("creditsConsumed", "retryAfter", "fileUrl", "downloadUrl", "url", "model", "param", "", "x"),
)
STATUSES = (
    *(200, 200, 200, 200, 201, 204, 206, 302, 307, 400, 401, 402, 403, 404, 408, 409, 422),
    *(425, 429, 430, 433, 451, 455, 500, 501, 502, 503, 504, 505, 520, 599, 100, 999),
)
JUNK = ("\ufeff", "\x00", "\\", '"', "{", "}", "[", "]", ",", ":", "\\u", "\\ud83d", "\n", "é", "-")
ALPHABET = '{}[]",:0123456789eE+-.\\utrfalsn ' + "\x00\x1b\u2028\ud800é"
LIMIT = 64 * 1024
MARK = "@raw@"


@attrs.frozen
class Body:
    """One answer to be read: *kind* tells how it was made."""

    kind: str
    status: int
    text: str
    headers: dict[str, str]
    complete: bool = True


def bodies(answers: Sequence[Answer], seed: str, count: int) -> list[Body]:
    """Make *count* answers; equal seeds make equal ones."""
    rng = random.Random(seed)
    return [_body(answers, rng) for _ in range(count)]


def _body(answers: Sequence[Answer], rng: random.Random) -> Body:
    answer = rng.choice(answers)
    kind, make = rng.choices(*KINDS)[0]
    text = make(answer.text, rng, answers)
    if len(text) > LIMIT and rng.random() < 0.9:
        text = text[:LIMIT]
    status = answer.status if rng.random() < 0.5 else rng.choice(STATUSES)
    headers = dict(answer.headers)
    if rng.random() < 0.2:
        name = rng.choice(["retry-after", "retry-after-ms", "date"])
        headers[name] = pause(rng)[0]
    return Body(kind, status, text, headers, rng.random() < 0.93)


# --- trees ---------------------------------------------------------------------------------------


def _tree(text: str, rng: random.Random, answers: Sequence[Answer]) -> str:
    """Change values, names and places of a JSON answer, here and there."""
    try:
        tree = json.loads(text)
    except ValueError:
        return _letters(text, rng, answers)
    tree, fragments = rewritten(tree, rng, rng.choice((1, 1, 2, 3, 5)))
    written = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    for number, fragment in enumerate(fragments):
        written = written.replace(f'"{MARK}{number}"', fragment)
    return written


def rewritten(
    tree: Any,
    rng: random.Random,
    times: int,
    *,
    keys: Sequence[str] = KEYS,
    fragments: Sequence[str] = FRAGMENTS,
) -> tuple[Any, list[str]]:
    """A tree changed so many *times*; what was put in is marked, and listed by its number."""
    put: list[str] = []
    for _ in range(times):
        tree = _changed(tree, rng, put, keys, fragments)
    return tree, put


def _changed(
    tree: Any, rng: random.Random, put: list[str], keys: Sequence[str], fragments: Sequence[str]
) -> Any:
    places = list(_places(tree))
    if not places or rng.random() < 0.03:
        return _fragment(rng, put, fragments)
    inside, name = rng.choice(places)
    match rng.randrange(7):
        case 0:
            del inside[name]
        case 1:
            inside[name] = json.dumps(inside[name])  # JSON inside a string, once more
        case 2:
            inside[name] = (
                [inside[name]] if rng.random() < 0.5 else {rng.choice(keys): inside[name]}
            )
        case 3 if isinstance(inside, dict):
            inside[rng.choice(keys)] = inside.pop(name)
        case 4 if isinstance(inside, dict):
            inside[rng.choice(keys)] = _fragment(rng, put, fragments)
        case 5:
            other, there = rng.choice(places)
            if there in other if isinstance(other, dict) else there < len(other):
                inside[name] = json.loads(json.dumps(other[there]))
        case _:
            inside[name] = _fragment(rng, put, fragments)
    return tree


def _places(tree: Any) -> Any:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict | list):
            for name in node if isinstance(node, dict) else range(len(node)):
                yield node, name
                stack.append(node[name])


def _fragment(rng: random.Random, put: list[str], fragments: Sequence[str]) -> str:
    """Put text in a value's place that Python itself would not write."""
    put.append(rng.choice(fragments))
    return f"{MARK}{len(put) - 1}"


# --- texts ---------------------------------------------------------------------------------------


def _letters(text: str, rng: random.Random, answers: Sequence[Answer]) -> str:
    return cut_up(text, rng)


def cut_up(text: str, rng: random.Random, fragments: Sequence[str] = FRAGMENTS) -> str:
    """Cut, flip, double and insert letters."""
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        match rng.randrange(6):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + rng.choice(JUNK) + text[at:]
            case 2:
                text = (
                    text[:at] + chr(rng.choice((0, 31, 34, 92, 123, 127, 0x2028))) + text[at + 1 :]
                )
            case 3:
                text = text[:to] + text[at:to] + text[to:]
            case 4:
                text = text[:at] + text[to:]
            case _:
                text = text[:at] + rng.choice(fragments) + text[at:]
    return text


def _spliced(text: str, rng: random.Random, answers: Sequence[Answer]) -> str:
    """The beginning of one answer and the end of another."""
    other = rng.choice(answers).text
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other) + 1) :]


def _bytes(text: str, rng: random.Random, answers: Sequence[Answer]) -> str:
    """No text at all, or none that means anything."""
    size = rng.choice((0, 1, 5, 40, 200, 1000))
    if rng.random() < 0.5:
        return rng.randbytes(size).decode(errors="replace")
    return "".join(rng.choices(ALPHABET, k=size))


def _bulk(text: str, rng: random.Random, answers: Sequence[Answer]) -> str:
    """Much of the same: deep, long, wide; once in a while as much as an answer may hold."""
    size = rng.choice((50, 99, 100, 101, 900, 1000, 5000, 20_000))
    if rng.random() < 0.01:
        size = 900_000
    key, fragment = rng.choice(KEYS), rng.choice(FRAGMENTS)
    inner = rng.choice(
        (
            lambda: "[" * size + "]" * size,
            lambda: '{"data":' * size + "1" + "}" * size,
            lambda: '"' + rng.choice(("a", "é", "\\u0041", "frequen ", "\\n", "0")) * size + '"',
            lambda: "9" * size,
            lambda: "[" + ",".join([fragment] * min(size, 200)) + "]",
            lambda: "{" + ",".join(f'"{n}":{n}' for n in range(min(size, 5000))) + "}",
            lambda: "[" * size,
        )
    )()
    if rng.random() < 0.3:
        return inner
    place = '{"code":%s,"%s":%s}' if rng.random() < 0.5 else '{"code":%s,"data":{"%s":%s}}'
    return place % (rng.choice(("200", "429", "500", "501")), key, inner)


KINDS: tuple[list[Any], list[float]] = (
    [
        ("tree", _tree),
        ("letters", _letters),
        ("spliced", _spliced),
        ("bytes", _bytes),
        ("bulk", _bulk),
    ],
    [60, 18, 8, 11, 3],
)


# --- Retry-After ---------------------------------------------------------------------------------

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Xxx", "")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Foo")
ZONES = ("GMT", "UTC", "", "+0000", "-0000", "+9999", "-2400", "EST", "Z", "+1", "GMT+1", "*")
WORDS = (
    *("", " ", "soon", "inf", "-inf", "nan", "Infinity", "1e9", "1e400", "0x10", "1_000", "+5"),
    *(
        "-5",
        "5.",
        ".5",
        "5,0",
        "5;6",
        "5 6",
        "5s",
        "\u0663",
        "\uff15",
        "5\x00",
        "9" * 400,
        "0" * 70,
    ),
    *(
        "1.5",
        "0.0",
        "00012",
        "300",
        "301",
        "5\n",
        "\t5",
        "null",
        "true",
        "[5]",
        '"5"',
        "-0",
        "1e-9",
    ),
    *("Thu, 32 Foo 1970", "0000", "Mon, 00 Jan 0000 00:00:00 GMT", "(", "((((", "<a@b>", ",,,,"),
)


def pauses(seed: str, count: int) -> list[tuple[str, float | None]]:
    """Make *count* values of Retry-After, and what each must mean where that is certain."""
    rng = random.Random(seed)
    return [pause(rng) for _ in range(count)]


def pause(rng: random.Random) -> tuple[str, float | None]:
    """Make one value, and the seconds it must mean; None where nonsense may be ignored."""
    match rng.randrange(8):
        case 0:
            seconds = rng.randrange(10 ** rng.randint(1, 15))
            return str(seconds), min(float(seconds), 300.0)
        case 1:
            seconds_ = round(rng.uniform(0, 400), rng.randint(1, 9))
            return f"{seconds_:.9f}", min(float(f"{seconds_:.9f}"), 300.0)
        case 2 | 3 | 4:
            return _date(rng), None
        case 5:
            word = rng.choice(WORDS) + rng.choice(WORDS)
        case 6:
            word = "".join(rng.choices("0123456789.-+eE, :GMT\x00é\u0663", k=rng.randrange(80)))
        case _:
            word = rng.randbytes(rng.randrange(90)).decode("latin-1")
    return word, None


def _date(rng: random.Random) -> str:
    def number(*many: int) -> str:
        return str(rng.choice((*many, -1, 0, 99, 10**9, 10**20)))

    year = rng.choice(("1970", "2026", "9999", "10000", "0", "1", "69", "999999999999", "-1", "x"))
    clock = rng.choice((":", "", ".", "::")).join(
        (number(0, 1, 23), number(0, 59), number(0, 60, 61))
    )
    day, month, zone = number(1, 28, 31, 32), rng.choice(MONTHS), rng.choice(ZONES)
    form = rng.choice(
        ("{w}, {d} {m} {y} {c} {z}", "{w}, {d}-{m}-{y} {c} {z}", "{w} {m} {d} {c} {y}")
    )
    text = form.format(w=rng.choice(DAYS), d=day, m=month, y=year, c=clock, z=zone)
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(("(", ")", ",", "\x00", "é", "+", "")) + text[at + 1 :]
    return text
