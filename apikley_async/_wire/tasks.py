"""recordInfo: what the service says of a task, read into a `Snapshot`. Pure, and tolerant.

A record is another machine's text around other people's words: what is believed of it is what
names the task that was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import cattrs
from cattrs.gen import make_dict_structure_fn, override

from apikley_async._result import Snapshot, State
from apikley_async._storyboard import INPUT_NAMES, MODEL, Work, is_url, with_images
from apikley_async._wire.envelope import (
    Reply,
    fingerprint_of,
    open_envelope,
    read_envelope,
    read_task_id,
)
from apikley_async._wire.files import Links, find_links, texts_of, unpacked
from apikley_async._wire.lenient import plain, read_amount, read_moment, read_without
from apikley_async.errors import NotFoundError, UnansweredError


def open_snapshot(reply: Reply, task_id: str, *, wall: float = 0.0) -> Snapshot:
    """Read the state of *task_id*.

    Raises:
        NotFoundError: the service does not know the task, or not yet.
        UnansweredError: nothing readable, or the state of another task.
        ApiError: another refusal.
    """
    envelope = read_envelope(reply)
    if envelope.code == 501 and envelope.framed:  # "generation failed": final for this task
        given = envelope.data if isinstance(envelope.data, dict) else {}
        told = {name: value for name, value in given.items() if value not in (None, "")}
        failure = {"state": "fail", "failCode": "501", "failMsg": envelope.message}
        return _read_record(failure | told, given, task_id)
    record = envelope.data if envelope.framed else _torn_record(reply)
    if isinstance(record, dict) and _tells(record, task_id):  # whatever the code says
        return _read_record(record, record, task_id)
    missing = envelope.code == 404 or (
        envelope.code == 422 and "null" in envelope.message.casefold()
    )
    if missing or (envelope.ok and envelope.data in (None, {})):
        raise NotFoundError("The service knows no such task", code=envelope.code, task_id=task_id)
    data = open_envelope(reply, wall=wall, asked="The look", task_id=task_id)
    if not isinstance(data, dict):
        raise UnansweredError(f"The look got no task but {type(data).__name__}", task_id=task_id)
    return _read_record(data, data, task_id)


def _read_record(told: dict[str, Any], raw: dict[str, Any], task_id: str) -> Snapshot:
    """Read what is *told* of a task, unless it is another one."""
    named = read_task_id(told.get("taskId"))
    if named is not None and named != task_id:
        raise UnansweredError("The look got the state of another task", task_id=task_id)
    state = _state(told.get("state"))
    links, param = Links(), None
    if any(value for name, value in told.items() if name.startswith("result")):
        param = unpacked(told.get("param"))
        links = find_links(told, never=[text for text in texts_of(param) if "://" in text])
    content = unpacked(told.get("resultJson"))
    content = content if isinstance(content, dict) else {}
    board = told.get("model") == MODEL or _is_board(param)
    read = {
        "taskId": task_id,
        "word": "" if state is not State.UNKNOWN else told.get("state"),
        "urls": links.usable,
        "unusable": links.unusable,
        "content": content,
        # Other models' results are no links; ours without one is a film that is missing.
        "linked": board or links.named or not any(content.values()),
        "raw": raw,
    }
    snapshot: Snapshot = _reader.structure(told | read, Snapshot)
    return snapshot


def _tells(record: dict[str, Any], task_id: str) -> bool:
    """Whether it names the task that was asked for, and a state that is known."""
    named = read_task_id(record.get("taskId"))
    return named == task_id and _state(record.get("state")) is not State.UNKNOWN


def _torn_record(reply: Reply) -> Any:
    """The record of a whole answer that is no JSON because it repeats the request wrongly."""
    if not (reply.complete and 200 <= reply.status < 300):
        return None
    unfinished = None
    for body in read_without(reply.text, ("paramJson", "param")):
        data = body.get("data") if isinstance(body, dict) else None
        if not (isinstance(data, dict) and "taskId" in data and "state" in data):
            continue
        if "resultJson" in data:
            return data
        if unfinished is None and _state(data["state"]) is not State.SUCCESS:
            unfinished = data
    return unfinished


def _is_board(param: Any) -> bool:
    given = unpacked(param.get("input")) if isinstance(param, dict) else None
    return isinstance(given, dict) and isinstance(given.get("shots"), list)


UPLOADED = "an image that was uploaded then"  # instead of its URL
_WORDS = {state.value: state for state in State} | {
    "succeeded": State.SUCCESS,
    "completed": State.SUCCESS,
    "failed": State.FAIL,
}


def _state(value: Any) -> State:
    """The state that a word stands for, in any case; a word that is not known ends nothing."""
    word = value.strip().lower() if isinstance(value, str) else ""
    return _WORDS.get(word, State.UNKNOWN)


def _word(value: Any) -> str:
    return "" if value is None else plain(value)


def _reads(hook: Callable[[Any], Any], rename: str | None = None) -> Any:
    return override(rename=rename, struct_hook=lambda value, _type: hook(value))


_reader = cattrs.Converter(detailed_validation=False)
_reader.register_structure_hook(
    Snapshot,
    make_dict_structure_fn(
        Snapshot,
        _reader,
        task_id=_reads(str, "taskId"),
        state=_reads(_state),
        model=_reads(_word),
        progress=_reads(read_amount),
        word=_reads(_word),
        urls=_reads(tuple),
        unusable=_reads(tuple),
        content=_reads(dict),
        linked=_reads(bool),
        fail_code=_reads(_word, "failCode"),
        fail_message=_reads(_word, "failMsg"),
        credits=_reads(read_amount, "creditsConsumed"),
        created_at=_reads(read_moment, "createTime"),
        updated_at=_reads(read_moment, "updateTime"),
        completed_at=_reads(read_moment, "completeTime"),
        raw=_reads(dict),
    ),
)


def tells_request(snapshot: Snapshot) -> bool:
    """Say whether a task tells what it was asked for with; else nothing is proved."""
    return _sent(snapshot) is not None


def is_made_of(snapshot: Snapshot, *, tokens: Iterable[str], fingerprints: Iterable[str]) -> bool:
    """Say whether a task was asked for with one of *tokens* in its callback URL, or is equal.

    Its `param` repeats the request; when it is missing nothing is proved. The service may spell
    the input as text, and add defaults to a storyboard's: names that a storyboard never sends.
    """
    body = _sent(snapshot)
    if body is None:
        return False
    called = body.get("callBackUrl")
    if isinstance(called, str) and any(token and token in called for token in tokens):
        return True
    known = set(fingerprints)
    given = unpacked(body.get("input"))
    if fingerprint_of({**body, "input": given}) in known:
        return True
    ours = {name: given[name] for name in INPUT_NAMES if name in given} if _is_board(body) else None
    return ours is not None and fingerprint_of({**body, "input": ours}) in known


def differences(
    snapshot: Snapshot, work: Work, *, tokens: Iterable[str] = (), fingerprints: Iterable[str] = ()
) -> tuple[str, ...]:
    """Say each field that a task was asked for with otherwise than *work*, absence included.

    A token or a fingerprint that fits needs no comparison. Names that a storyboard never sends may
    have been added by the service. The URLs of images that were uploaded are not known: they
    differ.
    """
    if is_made_of(snapshot, tokens=tokens, fingerprints=fingerprints):
        return ()
    urls = with_images(work.images, lambda image: str(image) if is_url(image) else UPLOADED)
    fields = work.wire_input(urls)
    body = _sent(snapshot)
    if body is None:
        return ("the task does not tell what it was asked for with",)
    given = unpacked(body.get("input"))
    given = given if isinstance(given, dict) else {}
    names = {*fields, *(INPUT_NAMES if _is_board(body) else given)}
    pairs: list[tuple[str, Any, Any]] = [("model", work.model, body.get("model"))]
    pairs += [(name, fields.get(name), given.get(name)) for name in sorted(names)]
    return tuple(
        f"{name}: {_shortly(ours)} was asked for, and the task has {_shortly(theirs)}"
        for name, ours, theirs in pairs
        if fingerprint_of({"input": ours}) != fingerprint_of({"input": theirs})
    )


def _shortly(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return "nothing" if value is None else line if len(line) <= 120 else f"{line[:117]}..."


def _sent(snapshot: Snapshot) -> dict[str, Any] | None:
    """The request that a task repeats."""
    param = unpacked(snapshot.raw.get("param"))
    return param if isinstance(param, dict) else None
