"""recordInfo: what the service says of a task, read into a `Snapshot`. Pure, and tolerant.

The page behind it: https://docs.apikley.ru/get-task-detail. A record repeats the request as
text, sometimes escaped wrongly. It is believed only when it names the task that was polled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from apikley_async._result import Snapshot, State
from apikley_async._storyboard import INPUT_NAMES, MODEL, Work, with_images
from apikley_async._text import one_line, shorten
from apikley_async._urls import is_url
from apikley_async._wire.envelope import Reply, decode_data, read_envelope
from apikley_async._wire.files import Links, find_links
from apikley_async._wire.lenient import (
    read_amount,
    read_json_without,
    read_moment,
    strings_in,
    unwrap_json,
)
from apikley_async._wire.requests import fingerprint_of
from apikley_async._wire.task_ids import read_task_id
from apikley_async.errors import NotFoundError, UnansweredError


def decode_snapshot(reply: Reply, task_id: str, *, wall: float = 0.0) -> Snapshot:
    """Read the state of *task_id*.

    Raises:
        NotFoundError: the service does not know the task, or not yet.
        UnansweredError: nothing readable, or the state of another task.
        ApiError: another refusal.
    """
    envelope = read_envelope(reply)
    if envelope.code == 501 and envelope.framed:  # "generation failed": final for this task
        data = envelope.data if isinstance(envelope.data, dict) else {}
        stated = {name: value for name, value in data.items() if value not in (None, "")}
        failure = {"state": "fail", "failCode": "501", "failMsg": envelope.message}
        return _read_record(failure | stated, data, task_id)
    record = envelope.data if envelope.framed else _broken_record(reply)
    if isinstance(record, dict) and _is_record_of(record, task_id):  # whatever the code says
        return _read_record(record, record, task_id)
    missing = envelope.code == 404 or (
        envelope.code == 422 and "null" in envelope.message.casefold()
    )
    if missing or (envelope.ok and envelope.data in (None, {})):
        raise NotFoundError("The service knows no such task", code=envelope.code, task_id=task_id)
    data = decode_data(reply, wall=wall, subject="The poll", task_id=task_id)
    if not isinstance(data, dict):
        raise UnansweredError(f"The poll got no task but {type(data).__name__}", task_id=task_id)
    return _read_record(data, data, task_id)


def _read_record(record: dict[str, Any], raw: dict[str, Any], task_id: str) -> Snapshot:
    """Read *record*, unless it is about another task; *raw* is the data as it came."""
    named = read_task_id(record.get("taskId"))
    if named is not None and named != task_id:
        raise UnansweredError("The poll got the state of another task", task_id=task_id)
    state = _state(record.get("state"))
    links, param = Links(), None
    results = {name: value for name, value in record.items() if name.startswith("result")}
    content = unwrap_json(record.get("resultJson"))
    if any(results.values()):
        param = unwrap_json(record.get("param"))
        sent_urls = [text for text in strings_in(param) if "://" in text]
        decoded = {"resultJson": content} if isinstance(content, dict) else {}
        links = find_links(results | decoded, exclude=sent_urls)
    content = content if isinstance(content, dict) else {}
    storyboard = record.get("model") == MODEL or _is_storyboard(param)
    return Snapshot(
        task_id,
        state,
        model=_words(record.get("model")),
        progress=read_amount(record.get("progress")),
        urls=links.usable,
        content=content,
        # Other models may answer without links; a storyboard without one is a film that is missing.
        linked=storyboard or links.named or not any(content.values()),
        fail_code=_words(record.get("failCode")),
        fail_message=_words(record.get("failMsg")),
        credits=read_amount(record.get("creditsConsumed")),
        created_at=read_moment(record.get("createTime")),
        updated_at=read_moment(record.get("updateTime")),
        completed_at=read_moment(record.get("completeTime")),
        raw=raw,
        word="" if state is not State.UNKNOWN else _words(record.get("state")),
        unusable=links.unusable,
    )


def _is_record_of(record: dict[str, Any], task_id: str) -> bool:
    """Say whether it names the polled task and a known state."""
    named = read_task_id(record.get("taskId"))
    return named == task_id and _state(record.get("state")) is not State.UNKNOWN


def _broken_record(reply: Reply) -> Any:
    """Find the record in a complete answer that is not JSON, since it repeats the request wrongly.

    A scene may look like a record itself. So the request is cut out, as much of it as possible,
    and a success counts only where the result stands beside the state.
    """
    if not (reply.complete and 200 <= reply.status < 300):
        return None
    unfinished = None
    for body in read_json_without(reply.text, ("paramJson", "param")):
        data = body.get("data") if isinstance(body, dict) else None
        if not (isinstance(data, dict) and "taskId" in data and "state" in data):
            continue
        if "resultJson" in data:
            return data
        if unfinished is None and _state(data["state"]) is not State.SUCCESS:
            unfinished = data
    return unfinished


def _is_storyboard(param: Any) -> bool:
    fields = unwrap_json(param.get("input")) if isinstance(param, dict) else None
    return isinstance(fields, dict) and isinstance(fields.get("shots"), list)


LONGEST = 120  # characters of a value
UPLOADED = "an image that was uploaded then"  # instead of its URL
_STATE_OF_WORD = {state.value: state for state in State} | {
    "succeeded": State.SUCCESS,
    "completed": State.SUCCESS,
    "failed": State.FAIL,
}


def _state(value: Any) -> State:
    """Return the state that a word stands for, in any case; an unknown word ends nothing."""
    word = value.strip().lower() if isinstance(value, str) else ""
    return _STATE_OF_WORD.get(word, State.UNKNOWN)


def _words(value: Any) -> str:
    return "" if value in (None, "") else one_line(value)


def shows_request(snapshot: Snapshot) -> bool:
    """Say whether the record repeats the request; without it, nothing is known of the task."""
    return _request_in(snapshot) is not None


def callback_url_of(snapshot: Snapshot) -> str | None:
    """Return the callback URL that the record repeats; None where it shows none."""
    called = (_request_in(snapshot) or {}).get("callBackUrl")
    return called if isinstance(called, str) and called else None


def belongs_to_attempt(
    snapshot: Snapshot, *, tokens: Iterable[str], fingerprints: Iterable[str]
) -> bool:
    """Say whether a task was requested by one of our attempts.

    Its record repeats the request: one of *tokens* stands in the callback URL, or the request
    has one of *fingerprints*. Without that repetition the answer is False. The service may spell
    the input as text, and may add fields to a storyboard's that a storyboard never sends.
    """
    body = _request_in(snapshot)
    if body is None:
        return False
    called = callback_url_of(snapshot)
    if called is not None and any(token and token in called for token in tokens):
        return True
    known = set(fingerprints)
    return bool(known) and not known.isdisjoint(fingerprints_in(snapshot))


def fingerprints_in(snapshot: Snapshot) -> frozenset[str]:
    """Return those that the request of a task's attempt may have had; none that is not shown."""
    body = _request_in(snapshot)
    if body is None:
        return frozenset()
    fields = unwrap_json(body.get("input"))
    found = {fingerprint_of({**body, "input": fields})}
    if _is_storyboard(body):
        ours = {name: fields[name] for name in INPUT_NAMES if name in fields}
        found.add(fingerprint_of({**body, "input": ours}))
    return frozenset(found)


def fingerprint_of_work(work: Work) -> str | None:
    """Return that of the request for a work; None where its images have to be uploaded before."""
    if not all(map(is_url, work.images)):
        return None
    urls = with_images(work.images, str)
    return fingerprint_of({"model": work.model, "input": work.wire_input(urls)})


def differences(
    snapshot: Snapshot,
    work: Work,
    *,
    tokens: Iterable[str] = (),
    fingerprints: Iterable[str] = (),
    uploads: bool = True,
) -> tuple[str, ...]:
    """List the fields in which a task was requested otherwise than *work*, missing ones included.

    Nothing is compared when a token or a fingerprint proves that the task is ours. Fields that a
    storyboard never sends may have been added by the service and are left out. The URLs of
    images that were uploaded are not known, so they always differ, unless *uploads* is False: then
    it only counts that there are images.
    """
    if belongs_to_attempt(snapshot, tokens=tokens, fingerprints=fingerprints):
        return ()
    urls = with_images(work.images, lambda image: str(image) if is_url(image) else UPLOADED)
    expected = work.wire_input(urls)
    body = _request_in(snapshot)
    if body is None:
        return ("the record of the task does not repeat its request",)
    actual = unwrap_json(body.get("input"))
    actual = actual if isinstance(actual, dict) else {}
    names = {*expected, *(INPUT_NAMES if _is_storyboard(body) else actual)}
    pairs: list[tuple[str, Any, Any]] = [("model", work.model, body.get("model"))]
    pairs += [
        (name, expected.get(name), actual.get(name))
        for name in sorted(names)
        if uploads or not (actual.get(name) and UPLOADED in strings_in(expected.get(name)))
    ]
    return tuple(
        f"{name}: {_shown(ours)} was submitted, and the task has {_shown(theirs)}"
        for name, ours, theirs in pairs
        if fingerprint_of({"input": ours}) != fingerprint_of({"input": theirs})
    )


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)[: LONGEST + 1]
    return shorten("".join(char if char.isprintable() else "?" for char in text), LONGEST)


def _request_in(snapshot: Snapshot) -> dict[str, Any] | None:
    """Return the request that the record repeats."""
    param = unwrap_json(snapshot.raw.get("param"))
    return param if isinstance(param, dict) else None
