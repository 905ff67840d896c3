"""Mutations: small functions that each spoil a good response in one way. Pure.

A mutation takes a response and a detail and returns another response. Those in
`PAYLOAD_MUTATIONS` get a payload of their own that they may edit; those in `RAW_MUTATIONS` change
bytes and headers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from typing import Any, cast

import attrs

from apikley_async.simulator.service.responses import ServiceResponse, notice

__all__ = ["PAYLOAD_MUTATIONS", "RAW_MUTATIONS", "Mutation", "false_gzip"]

Mutation = Callable[[ServiceResponse, str], ServiceResponse]

PADDING = 5 * 1024 * 1024  # characters


def false_gzip() -> ServiceResponse:
    """A response labelled as gzip that is no gzip."""
    return ServiceResponse(raw=b"\x1f\x8bno gzip at all", headers=(("Content-Encoding", "gzip"),))


# -- the envelope ------------------------------------------------------------------------------


def _payload(response: ServiceResponse) -> dict[str, Any]:
    return cast(dict[str, Any], response.payload)


def _data(response: ServiceResponse) -> dict[str, Any]:
    """The data of the payload; a throw-away one when there is none to change."""
    data = _payload(response).get("data")
    return data if isinstance(data, dict) else {}


def _with_task_id(response: ServiceResponse, task_id: str) -> ServiceResponse:
    """*response* with that id in every place where it has one, or in the usual place."""
    data, payload = _data(response), _payload(response)
    data["task_id" if "task_id" in data else "taskId"] = task_id
    if "taskId" in payload:
        payload["taskId"] = task_id
    return response


def _with_data(value: object) -> Mutation:
    def mutation(response: ServiceResponse, detail: str) -> ServiceResponse:
        _payload(response)["data"] = value
        return response

    return mutation


def _without(name: str) -> Mutation:
    def mutation(response: ServiceResponse, detail: str) -> ServiceResponse:
        _payload(response).pop(name, None)
        return response

    return mutation


def _code(response: ServiceResponse, detail: str) -> ServiceResponse:
    code, message, status = json.loads(detail)
    _payload(response).update(code=code, msg=message)
    return attrs.evolve(response, status=status)


def _malformed(response: ServiceResponse, detail: str) -> ServiceResponse:
    return attrs.evolve(response, raw=response.body[:-1] + b",,}")


def _huge(response: ServiceResponse, detail: str) -> ServiceResponse:
    _payload(response)["padding"] = "x" * PADDING
    return response


def _list(response: ServiceResponse, detail: str) -> ServiceResponse:
    return attrs.evolve(response, payload=[response.payload])


# -- creations ---------------------------------------------------------------------------------


def _no_task_id(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response).pop("taskId", None)
    return response


# -- records -----------------------------------------------------------------------------------


def _state(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response)["state"] = detail
    return response


def _fail_for_now(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response).update(
        state="fail",
        failCode="500",
        failMsg="Internal Error, Please try again later.",
        resultJson="",
    )
    return response


def _other_task(response: ServiceResponse, detail: str) -> ServiceResponse:
    return _with_task_id(response, detail or f"{_data(response).get('taskId')}0")


def _odd_times(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response).update(
        createTime=-1, updateTime="yesterday", completeTime=10**30, costTime=-5.5
    )
    return response


def _ansi_message(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response).update(state="fail", failCode=500, failMsg="\x1b[2J\x1b]0;gone\x07 refused\r\n")
    return response


def _result(change: Callable[[str], object]) -> Mutation:
    """A success whose `resultJson` is *change* applied to the true one."""

    def mutation(response: ServiceResponse, detail: str) -> ServiceResponse:
        was = _data(response).get("resultJson") or '{"resultUrls": []}'
        _data(response).update(state="success", resultJson=change(was))
        return response

    return mutation


def _result_missing(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response)["state"] = "success"
    _data(response).pop("resultJson", None)
    return response


def _result_urls(response: ServiceResponse, detail: str) -> ServiceResponse:
    result = json.dumps({"resultUrls": json.loads(detail)})
    _data(response).update(state="success", resultJson=result)
    return response


def _named(name: str) -> Mutation:
    """A finished task whose links are under another field name; "" for a bare list."""

    def mutation(response: ServiceResponse, detail: str) -> ServiceResponse:
        data = _data(response)
        if data.get("resultJson"):
            urls = json.loads(data["resultJson"]).get("resultUrls", [])
            data["resultJson"] = json.dumps({name: urls} if name else urls)
        return response

    return mutation


def _respelled(words: dict[str, str]) -> Mutation:
    """The state in another word: as *words* has it, or in capitals."""

    def mutation(response: ServiceResponse, detail: str) -> ServiceResponse:
        state = str(_data(response).get("state", ""))
        if state:
            _data(response)["state"] = words.get(state, state.upper())
        return response

    return mutation


def _nested_param(response: ServiceResponse, detail: str) -> ServiceResponse:
    """The echoed request with its input as text, and with a default that the caller never sent."""
    param = _data(response).get("param")
    if isinstance(param, str):
        body = json.loads(param)
        body["input"] = json.dumps({**(body.get("input") or {}), "nsfw_checker": False})
        _data(response)["param"] = json.dumps(body)
    return response


def _torn_param(response: ServiceResponse, detail: str) -> ServiceResponse:
    """The echoed request as text within text, escaped once too few."""
    param = _data(response).get("param")
    if not isinstance(param, str):
        return response
    body = json.loads(param)
    body["input"] = json.dumps(body.get("input"))
    _data(response)["param"] = "\0"
    raw = json.dumps(response.payload).replace("\\u0000", json.dumps(body))
    return attrs.evolve(response, raw=raw.encode())


# -- callbacks ---------------------------------------------------------------------------------


def _relapse(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response).update(state="generating", resultJson="", completeTime=None)
    return response


def _bare_notice(response: ServiceResponse, detail: str) -> ServiceResponse:
    return attrs.evolve(response, payload=notice(_payload(response)))


def _foreign_id(response: ServiceResponse, detail: str) -> ServiceResponse:
    """An id as the upstream provider might use for the task."""
    task_id = _data(response).get("taskId") or _data(response).get("task_id") or ""
    upstream_id = hashlib.md5(str(task_id).encode(), usedforsecurity=False).hexdigest()
    return _with_task_id(response, upstream_id)


def _evil_body(response: ServiceResponse, detail: str) -> ServiceResponse:
    urls = ["http://169.254.169.254/latest/meta-data/", "file:///etc/passwd"]
    _payload(response).update(code=200)
    _data(response).update(state="success", resultJson=json.dumps({"resultUrls": urls}))
    _data(response).update(consumeCredits=-1, remainedCredits=10**12)
    return response


# -- uploads -----------------------------------------------------------------------------------


def _upload_refused(response: ServiceResponse, detail: str) -> ServiceResponse:
    _payload(response).update(success=False, code=500, msg="File upload failed", data=None)
    return response


def _no_upload_url(response: ServiceResponse, detail: str) -> ServiceResponse:
    _data(response).pop("fileUrl", None)
    _data(response).pop("downloadUrl", None)
    return response


def _plain_text(response: ServiceResponse, detail: str) -> ServiceResponse:
    return attrs.evolve(response, content_type="text/plain")


def _unlabelled(response: ServiceResponse, detail: str) -> ServiceResponse:
    return attrs.evolve(response, content_type="")


PAYLOAD_MUTATIONS: dict[str, Mutation] = {
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


def _short(response: ServiceResponse, detail: str) -> ServiceResponse:
    return attrs.evolve(response, raw=response.body[: len(response.body) // 2])


def _shifted_range(response: ServiceResponse, detail: str) -> ServiceResponse:
    """Bytes from the wrong offset, labelled as such; a whole file is left alone."""
    content_range = dict(response.headers).get("Content-Range")
    if response.status != 206 or content_range is None:
        return response
    bounds, total = content_range.removeprefix("bytes ").split("/")
    first, last = (int(n) for n in bounds.split("-"))
    shifted = max(0, first - 1)
    raw = b"?" * (first - shifted) + response.body
    return attrs.evolve(response, raw=raw).with_headers(
        ("Content-Range", f"bytes {shifted}-{last}/{total}")
    )


def _wrong_total(response: ServiceResponse, detail: str) -> ServiceResponse:
    content_range = dict(response.headers).get("Content-Range")
    if response.status != 206 or content_range is None:
        return response
    bounds, total = content_range.split("/")
    return response.with_headers(("Content-Range", f"{bounds}/{int(total) + 1}"))


def _no_validators(response: ServiceResponse, detail: str) -> ServiceResponse:
    kept = [h for h in response.headers if h[0] not in {"ETag", "Last-Modified"}]
    return attrs.evolve(response, headers=tuple(kept))


def _weak_validator(response: ServiceResponse, detail: str) -> ServiceResponse:
    etag = dict(response.headers).get("ETag")
    if etag is None:
        return response
    return _no_validators(response, detail).with_headers(("ETag", f"W/{etag}"))


def _odd_tail(response: ServiceResponse, detail: str) -> ServiceResponse:
    """A line end after a whole file, included in its length; a part is left alone."""
    return (
        attrs.evolve(response, raw=response.body + b"\r\n") if response.status == 200 else response
    )


def _mislabelled(response: ServiceResponse, detail: str) -> ServiceResponse:
    return attrs.evolve(response, content_type="application/json")


def _gzipped(response: ServiceResponse, detail: str) -> ServiceResponse:
    """A whole file as gzip, without a validator; a part is left alone."""
    if response.status != 200:
        return response
    gzipped = attrs.evolve(response, raw=gzip.compress(response.body, 1, mtime=0))
    return _no_validators(gzipped, detail).with_headers(("Content-Encoding", "gzip"))


def _unchanged(response: ServiceResponse, detail: str) -> ServiceResponse:
    return response


RAW_MUTATIONS: dict[str, Mutation] = {
    "short": _short,
    "wrong range": _shifted_range,
    "wrong total": _wrong_total,
    "no validators": _no_validators,
    "weak validator": _weak_validator,
    "odd tail": _odd_tail,
    "mislabelled": _mislabelled,
    "packed": _gzipped,
    # These two take effect where the file is selected, before there is a response to change;
    "changed": _unchanged,
    "no ranges": _unchanged,
    # these take effect where a callback is signed and sent.
    "missed": _unchanged,
    "overtaken": _unchanged,
    "wrong signature": _unchanged,
    "no signature": _unchanged,
    "stamp": _unchanged,
    "callback first": _unchanged,
}
