"""Ways to twist an answer that is otherwise well, one small function each. Pure.

A twist gets the answer and a detail, and gives back another answer. Those in `TWISTS` get a
payload of their own that they may take apart; those in `FILE_TWISTS` change bytes and headers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from typing import Any, cast

import attrs

from apikley_async.simulator.service.responses import Answer, notice

__all__ = ["FILE_TWISTS", "TWISTS", "Twist", "scribbled"]

Twist = Callable[[Answer, str], Answer]

PADDING = 5 * 1024 * 1024


def scribbled() -> Answer:
    """An answer that says it is compressed, and is not."""
    return Answer(raw=b"\x1f\x8bno gzip at all", headers=(("Content-Encoding", "gzip"),))


# -- the envelope ------------------------------------------------------------------------------


def _payload(answer: Answer) -> dict[str, Any]:
    return cast(dict[str, Any], answer.payload)


def _data(answer: Answer) -> dict[str, Any]:
    """The data of the payload; a lost one, when there is none to be changed."""
    data = _payload(answer).get("data")
    return data if isinstance(data, dict) else {}


def _as_task(answer: Answer, task_id: str) -> Answer:
    """*answer* with that id in every place where it has one, or in the usual one."""
    data, payload = _data(answer), _payload(answer)
    data["task_id" if "task_id" in data else "taskId"] = task_id
    if "taskId" in payload:
        payload["taskId"] = task_id
    return answer


def _with_data(value: object) -> Twist:
    def twist(answer: Answer, detail: str) -> Answer:
        _payload(answer)["data"] = value
        return answer

    return twist


def _without(name: str) -> Twist:
    def twist(answer: Answer, detail: str) -> Answer:
        _payload(answer).pop(name, None)
        return answer

    return twist


def _code(answer: Answer, detail: str) -> Answer:
    code, message, status = json.loads(detail)
    _payload(answer).update(code=code, msg=message)
    return attrs.evolve(answer, status=status)


def _malformed(answer: Answer, detail: str) -> Answer:
    return attrs.evolve(answer, raw=answer.body[:-1] + b",,}")


def _huge(answer: Answer, detail: str) -> Answer:
    _payload(answer)["padding"] = "x" * PADDING
    return answer


def _list(answer: Answer, detail: str) -> Answer:
    return attrs.evolve(answer, payload=[answer.payload])


# -- creations ---------------------------------------------------------------------------------


def _no_task_id(answer: Answer, detail: str) -> Answer:
    _data(answer).pop("taskId", None)
    return answer


# -- records -----------------------------------------------------------------------------------


def _state(answer: Answer, detail: str) -> Answer:
    _data(answer)["state"] = detail
    return answer


def _fail_for_now(answer: Answer, detail: str) -> Answer:
    _data(answer).update(
        state="fail",
        failCode="500",
        failMsg="Internal Error, Please try again later.",
        resultJson="",
    )
    return answer


def _other_task(answer: Answer, detail: str) -> Answer:
    return _as_task(answer, detail or f"{_data(answer).get('taskId')}0")


def _odd_times(answer: Answer, detail: str) -> Answer:
    _data(answer).update(createTime=-1, updateTime="yesterday", completeTime=10**30, costTime=-5.5)
    return answer


def _ansi_message(answer: Answer, detail: str) -> Answer:
    _data(answer).update(state="fail", failCode=500, failMsg="\x1b[2J\x1b]0;gone\x07 refused\r\n")
    return answer


def _result(value: Callable[[str], object]) -> Twist:
    """A success whose `resultJson` is *value* of what it was."""

    def twist(answer: Answer, detail: str) -> Answer:
        was = _data(answer).get("resultJson") or '{"resultUrls": []}'
        _data(answer).update(state="success", resultJson=value(was))
        return answer

    return twist


def _result_missing(answer: Answer, detail: str) -> Answer:
    _data(answer)["state"] = "success"
    _data(answer).pop("resultJson", None)
    return answer


def _result_urls(answer: Answer, detail: str) -> Answer:
    result = json.dumps({"resultUrls": json.loads(detail)})
    _data(answer).update(state="success", resultJson=result)
    return answer


def _named(name: str) -> Twist:
    """A finished record whose links stand under another name; "" for a bare list."""

    def twist(answer: Answer, detail: str) -> Answer:
        data = _data(answer)
        if data.get("resultJson"):
            urls = json.loads(data["resultJson"]).get("resultUrls", [])
            data["resultJson"] = json.dumps({name: urls} if name else urls)
        return answer

    return twist


def _respelled(words: dict[str, str]) -> Twist:
    """The states in other words."""

    def twist(answer: Answer, detail: str) -> Answer:
        state = str(_data(answer).get("state", ""))
        if state:
            _data(answer)["state"] = words.get(state, state.upper())
        return answer

    return twist


def _nested_param(answer: Answer, detail: str) -> Answer:
    """The echo with the input as text inside it, and with a default that nobody asked for."""
    param = _data(answer).get("param")
    if isinstance(param, str):
        body = json.loads(param)
        body["input"] = json.dumps({**(body.get("input") or {}), "nsfw_checker": False})
        _data(answer)["param"] = json.dumps(body)
    return answer


def _torn_param(answer: Answer, detail: str) -> Answer:
    """The echo of the request as text inside text, which is escaped once too little."""
    param = _data(answer).get("param")
    if not isinstance(param, str):
        return answer
    body = json.loads(param)
    body["input"] = json.dumps(body.get("input"))
    _data(answer)["param"] = "\0"
    raw = json.dumps(answer.payload).replace("\\u0000", json.dumps(body))
    return attrs.evolve(answer, raw=raw.encode())


# -- callbacks ---------------------------------------------------------------------------------


def _relapse(answer: Answer, detail: str) -> Answer:
    _data(answer).update(state="generating", resultJson="", completeTime=None)
    return answer


def _bare_notice(answer: Answer, detail: str) -> Answer:
    return attrs.evolve(answer, payload=notice(_payload(answer)))


def _foreign_id(answer: Answer, detail: str) -> Answer:
    """The id under which somebody behind the service knows the task."""
    ours = _data(answer).get("taskId") or _data(answer).get("task_id") or ""
    theirs = hashlib.md5(str(ours).encode(), usedforsecurity=False).hexdigest()
    return _as_task(answer, theirs)


def _evil_body(answer: Answer, detail: str) -> Answer:
    urls = ["http://169.254.169.254/latest/meta-data/", "file:///etc/passwd"]
    _payload(answer).update(code=200)
    _data(answer).update(state="success", resultJson=json.dumps({"resultUrls": urls}))
    _data(answer).update(consumeCredits=-1, remainedCredits=10**12)
    return answer


# -- uploads -----------------------------------------------------------------------------------


def _upload_refused(answer: Answer, detail: str) -> Answer:
    _payload(answer).update(success=False, code=500, msg="File upload failed", data=None)
    return answer


def _no_upload_url(answer: Answer, detail: str) -> Answer:
    _data(answer).pop("fileUrl", None)
    _data(answer).pop("downloadUrl", None)
    return answer


def _plain_text(answer: Answer, detail: str) -> Answer:
    return attrs.evolve(answer, content_type="text/plain")


def _unlabelled(answer: Answer, detail: str) -> Answer:
    return attrs.evolve(answer, content_type="")


TWISTS: dict[str, Twist] = {
    "code": _code,
    "malformed": _malformed,
    "huge": _huge,
    "body list": _list,
    "data null": _with_data(None),
    "data missing": _without("data"),
    "data empty": _with_data({}),
    "data list": _with_data([]),
    "data number": _with_data(42),
    "no code": _without("code"),
    "no task id": _no_task_id,
    "state": _state,
    "fail for now": _fail_for_now,
    "other task": _other_task,
    "odd times": _odd_times,
    "ansi message": _ansi_message,
    "result empty": _result(lambda was: ""),
    "result null": _result(lambda was: None),
    "result missing": _result_missing,
    "result object": _result(json.loads),
    "result double": _result(json.dumps),
    "result malformed": _result(lambda was: was[:-2]),
    "no urls": _result(lambda was: '{"resultUrls": []}'),
    "result urls": _result_urls,
    "result named": _named("videoUrl"),
    "result snake": _named("result_urls"),
    "result bare": _named(""),
    "state shouted": _respelled({}),
    "state respelled": _respelled({"success": "succeeded", "fail": "failed"}),
    "nested param": _nested_param,
    "torn param": _torn_param,
    "relapse": _relapse,
    "bare notice": _bare_notice,
    "plain text": _plain_text,
    "unlabelled": _unlabelled,
    "foreign id": _foreign_id,
    "evil body": _evil_body,
    "upload refused": _upload_refused,
    "no upload url": _no_upload_url,
}


# -- files -------------------------------------------------------------------------------------


def _short(answer: Answer, detail: str) -> Answer:
    return attrs.evolve(answer, raw=answer.body[: len(answer.body) // 2])


def _moved_range(answer: Answer, detail: str) -> Answer:
    """Bytes from the wrong place, honestly labelled; a whole file is left alone."""
    told = dict(answer.headers).get("Content-Range")
    if answer.status != 206 or told is None:
        return answer
    bounds, total = told.removeprefix("bytes ").split("/")
    first, last = (int(n) for n in bounds.split("-"))
    moved = max(0, first - 1)
    raw = b"?" * (first - moved) + answer.body
    return attrs.evolve(answer, raw=raw).with_headers(
        ("Content-Range", f"bytes {moved}-{last}/{total}")
    )


def _wrong_total(answer: Answer, detail: str) -> Answer:
    told = dict(answer.headers).get("Content-Range")
    if answer.status != 206 or told is None:
        return answer
    bounds, total = told.split("/")
    return answer.with_headers(("Content-Range", f"{bounds}/{int(total) + 1}"))


def _no_validators(answer: Answer, detail: str) -> Answer:
    kept = [h for h in answer.headers if h[0] not in {"ETag", "Last-Modified"}]
    return attrs.evolve(answer, headers=tuple(kept))


def _weak_validator(answer: Answer, detail: str) -> Answer:
    etag = dict(answer.headers).get("ETag")
    if etag is None:
        return answer
    return _no_validators(answer, detail).with_headers(("ETag", f"W/{etag}"))


def _odd_tail(answer: Answer, detail: str) -> Answer:
    """A line end behind a whole file, counted in its length; a part is left alone."""
    return attrs.evolve(answer, raw=answer.body + b"\r\n") if answer.status == 200 else answer


def _mislabelled(answer: Answer, detail: str) -> Answer:
    return attrs.evolve(answer, content_type="application/json")


def _packed(answer: Answer, detail: str) -> Answer:
    """A whole file as gzip, without a validator; a part is left alone."""
    if answer.status != 200:
        return answer
    packed = attrs.evolve(answer, raw=gzip.compress(answer.body, 1, mtime=0))
    return _no_validators(packed, detail).with_headers(("Content-Encoding", "gzip"))


def _as_it_is(answer: Answer, detail: str) -> Answer:
    return answer


FILE_TWISTS: dict[str, Twist] = {
    "short": _short,
    "wrong range": _moved_range,
    "wrong total": _wrong_total,
    "no validators": _no_validators,
    "weak validator": _weak_validator,
    "odd tail": _odd_tail,
    "mislabelled": _mislabelled,
    "packed": _packed,
    # These two are done where the file is chosen, before there is an answer to twist;
    "changed": _as_it_is,
    "no ranges": _as_it_is,
    # these where a callback is signed and sent.
    "missed": _as_it_is,
    "overtaken": _as_it_is,
    "wrong signature": _as_it_is,
    "no signature": _as_it_is,
    "stamp": _as_it_is,
    "callback first": _as_it_is,
}
