"""recordInfo: what the service says of a task, read into a `Snapshot`. Pure, and tolerant.

A record is another machine's text around other people's words: what is believed of it is what
names the task that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import cattrs
from cattrs.gen import make_dict_structure_fn, override

from apikley_async._lenient import plain, read_amount, read_json, read_moment
from apikley_async._result import Snapshot, State
from apikley_async._wire import (
    Reply,
    fingerprint_of,
    open_envelope,
    read_envelope,
    read_task_id,
    usable,
)
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
    content = _content(told.get("resultJson"))
    read = {
        "taskId": task_id,
        "urls": content.get("resultUrls"),
        "content": content,
        # Other models' results are no links; ours without one is a film that is missing.
        "linked": "resultUrls" in content or not any(content.values()),
        "raw": raw,
    }
    snapshot: Snapshot = _reader.structure(told | read, Snapshot)
    return snapshot


def _content(value: Any) -> dict[str, Any]:
    """The decoded result: JSON inside a string, once or twice, or already an object."""
    for _ in range(2):
        if isinstance(value, str):
            value = read_json(value)
    return value if isinstance(value, dict) else {}


def _state(value: Any) -> State:
    try:
        state = State(value)
    except ValueError:
        return State.UNKNOWN
    return state


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
        urls=_reads(usable),
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
    param = snapshot.raw.get("param")
    return isinstance(read_json(param) if isinstance(param, str) else param, dict)


def is_made_of(snapshot: Snapshot, *, tokens: Iterable[str], fingerprints: Iterable[str]) -> bool:
    """Say whether a task was asked for with one of *tokens* in its callback URL, or is equal.

    Its `param` repeats the request; when it is missing nothing is proved.
    """
    param = snapshot.raw.get("param")
    body = read_json(param) if isinstance(param, str) else param
    if not isinstance(body, dict):
        return False
    called = body.get("callBackUrl")
    if isinstance(called, str) and any(token and token in called for token in tokens):
        return True
    return fingerprint_of(body) in set(fingerprints)
