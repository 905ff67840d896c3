"""Answers of the service as the wire reads them: by hand, and whatever hypothesis finds."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from apikley_async import (
    Work,
)
from apikley_async._wire.envelope import (
    Reply,
)
from apikley_async._wire.requests import (
    Request,
    create_task,
)

WALL = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT


CARD = "https://files.test/kitten.png"


FILM = "https://cdn.test/film.mp4"


HTML = "<html><head><title>Bad Gateway</title></head><body>nginx</body></html>"


HUGE = int("9" * 400)


def answer(body: Any, status: int = 200, *, complete: bool = True, **headers: str) -> Reply:
    """An answer with *body* as JSON, or as it is when it is text."""
    text = body if isinstance(body, str) else json.dumps(body)
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, text, spelled, complete)


def enveloped(code: Any = 200, data: Any = None, msg: Any = "success", status: int = 200) -> Reply:
    return answer({"code": code, "msg": msg, "data": data}, status)


def request_for(
    work: Work, *, image_url: str | None = None, callback_url: str | None = None
) -> Request:
    """What is sent for a work whose image, if any, has that URL."""
    fields = work.wire_input({"image": image_url} if image_url else {})
    return create_task(work.model, fields, callback_url=callback_url)


NASTY_TEXT = st.text(st.characters(exclude_categories=()), max_size=70)


HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "date"]),
    NASTY_TEXT
    | st.integers().map(str)
    | st.floats().map(str)
    | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT")),
)


KEYS = st.sampled_from(
    [
        *("code", "msg", "message", "data", "success", "taskId", "task_id", "state", "resultJson"),
        *("resultUrls", "failCode", "failMsg", "createTime", "completeTime", "progress", "url"),
        *("creditsConsumed", "retryAfter", "fileUrl", "downloadUrl", "model", "error"),
    ]
)


CODES = st.sampled_from([200, 201, 301, 400, 401, 404, 409, 422, 429, 430, 455, 500, 501, 502, 505])


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | NASTY_TEXT
    | CODES
    | CODES.map(str)
    | st.sampled_from([HUGE, -HUGE, FILM, "task_1", "success", "fail", "recordInfo is null"])
)


TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | NASTY_TEXT, inner, max_size=6)
        | inner.map(json.dumps)  # JSON inside a string
    ),
    max_leaves=12,
)


ENVELOPES = st.fixed_dictionaries(
    {"code": CODES | LEAVES, "data": TREES}, optional={"msg": LEAVES, "success": LEAVES}
)


TOWERS = st.integers(1, 2000).map(lambda depth: "[" * depth + "]" * depth)


TEXTS = (
    NASTY_TEXT
    | st.binary(max_size=60).map(lambda content: content.decode(errors="replace"))
    | (TREES | ENVELOPES).map(json.dumps)
    | st.tuples(ENVELOPES.map(json.dumps), st.integers(1, 40)).map(lambda cut: cut[0][: -cut[1]])
    | TOWERS
    | st.builds('{{"code": 200, "data": {{"{}": {}}}}}'.format, KEYS, TOWERS)
    | st.builds('{{"code": 200, "{}": {}}}'.format, KEYS, TOWERS)
)


REPLIES = st.builds(
    Reply, st.integers(100, 599) | CODES | st.just(200), TEXTS, HEADERS, st.booleans()
)
