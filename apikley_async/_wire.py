"""The service's JSON, and the only module that knows how it is spelled.

A model's own `input` is spelled by the class of its works. Pure: values in, values out. Nothing
here waits, retries or opens a socket. Writing is strict: only documented fields are sent. Reading
is tolerant: unknown fields, codes and states are normal, and whatever arrives, only the errors of
`apikley_async.errors` come out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from apikley_async._lenient import (
    plain,
    read_amount,
    read_any_json,
    read_date,
    read_json,
    read_moment,
    read_number,
    read_whole,
)
from apikley_async._result import Snapshot, State
from apikley_async._storyboard import url_faults
from apikley_async.errors import (
    ApiError,
    ApikleyError,
    AuthenticationError,
    Blame,
    FeatureDisabledError,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    ServerError,
    SubmissionUncertainError,
    UnansweredError,
    UploadError,
)

__all__ = ["Reply", "Request"]

logger = logging.getLogger("apikley_async")

LONGEST_PAUSE = 300.0
RAW_KEPT = 64 * 1024


# --- what travels --------------------------------------------------------------------------------


@attrs.frozen
class File:
    """A file inside a form."""

    name: str
    kind: str
    content: bytes = attrs.field(repr=False)


@attrs.frozen(repr=False)
class Request:
    """One request, spelled the service's way; the key is not part of it.

    Attributes:
        method, path: of the endpoint, below the base URL.
        query: the query's fields, not yet encoded.
        body: what is sent as JSON.
        form: what is sent as multipart/form-data.
        repeatable: whether asking twice costs nothing; False for createTask only.
    """

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict)
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str | File] | None = None
    repeatable: bool = True

    @property
    def model(self) -> str:
        """The model that is asked for; empty for everything but createTask."""
        return str((self.body or {}).get("model", ""))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is asked for, whoever is to be called back: equal works, equal prints."""
        return fingerprint_of(self.body or {})

    def content(self) -> bytes | None:
        """The JSON body as it is sent."""
        if self.body is None:
            return None
        return json.dumps(self.body, ensure_ascii=False, allow_nan=False).encode()

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@attrs.frozen(repr=False)
class Reply:
    """What came back: status, headers in lower case, text; *complete* unless it broke off."""

    status: int
    text: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict, converter=_lowered)
    complete: bool = True

    @property
    def kept(self) -> str:
        """As much of the text as is written down: 64 KiB."""
        return self.text.encode(errors="replace")[:RAW_KEPT].decode(errors="ignore")

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.text)} characters>"


# --- writing -------------------------------------------------------------------------------------


def create_task(
    model: str, fields: Mapping[str, Any], *, callback_url: str | None = None
) -> Request:
    """The one request that costs money, hence the one that is not repeatable."""
    body: dict[str, Any] = {"model": model, "input": dict(fields)}
    if callback_url:
        body["callBackUrl"] = callback_url
    return Request("POST", "/api/v1/jobs/createTask", body=body, repeatable=False)


def record_info(task_id: str) -> Request:
    return Request("GET", "/api/v1/jobs/recordInfo", query={"taskId": task_id})


def read_credits() -> Request:
    return Request("GET", "/api/v1/chat/credit")


def link_for(url: str) -> Request:
    return Request("POST", "/api/v1/common/download-url", body={"url": url})


def stream_upload(file: File, folder: str) -> Request:
    form: dict[str, str | File] = {"file": file, "uploadPath": folder, "fileName": file.name}
    return Request("POST", "/file-upload/api/file-stream-upload", form=form)


def base64_upload(file: File, folder: str) -> Request:
    data = f"data:{file.kind};base64,{base64.b64encode(file.content).decode()}"
    body = {"base64Data": data, "uploadPath": folder, "fileName": file.name}
    return Request("POST", "/file-upload/api/file-base64-upload", body=body)


def url_upload(url: str, folder: str) -> Request:
    body = {"fileUrl": url, "uploadPath": folder}
    return Request("POST", "/file-upload/api/file-url-upload", body=body)


# --- the envelope --------------------------------------------------------------------------------


@attrs.frozen
class Envelope:
    """The frame of every answer; *code* is the body's, or the HTTP status where it has none."""

    code: int
    message: str
    data: Any
    framed: bool
    ok: bool


def read_envelope(reply: Reply) -> Envelope:
    """Read the frame; an answer without one speaks through its HTTP status alone."""
    decoded = read_json(reply.text) if reply.complete else None
    body: dict[str, Any] = decoded if isinstance(decoded, dict) else {}
    code = read_whole(body.get("code"))
    if code is None:
        said = "" if reply.status < 400 else plain(reply.text, 120)
        return Envelope(reply.status, said, None, framed=False, ok=False)
    said = plain(body.get("msg") or body.get("message") or "")
    ok = code == 200 and reply.status < 300 and body.get("success") is not False
    return Envelope(code, said, body.get("data"), framed=True, ok=ok)


def open_envelope(
    reply: Reply, *, wall: float = 0.0, asked: str = "The request", task_id: str | None = None
) -> Any:
    """Give the data inside, or raise the error it carries. For everything but createTask.

    Args:
        wall: now, in seconds since 1970, for a Retry-After that is a date.
        asked: what was asked, for the message.
        task_id: the task that was asked for, if it was one.
    """
    envelope = read_envelope(reply)
    if envelope.ok:
        return envelope.data
    raise refusal(reply, envelope, wall=wall, asked=asked, task_id=task_id)


_REFUSALS: dict[int, type[ApiError]] = {
    # Only codes that say for certain that createTask has created nothing.
    **dict.fromkeys((400, 405, 413, 414, 415, 422, 431, 451), InvalidRequestError),
    **dict.fromkeys((401, 403), AuthenticationError),
    402: InsufficientCreditsError,
    404: NotFoundError,
    **dict.fromkeys((429, 430), RateLimitError),
    433: KeyLimitError,
    455: MaintenanceError,
    505: FeatureDisabledError,
}


def refusal(
    reply: Reply, envelope: Envelope, *, wall: float, asked: str, task_id: str | None = None
) -> ApikleyError:
    """Say which error a refusal is. The body's code rules, then the HTTP status."""
    code = envelope.code if envelope.code != 200 else reply.status
    if 300 <= reply.status < 400:
        told = f"{asked} was redirected, which is never followed: the base URL is not the service's"
        return ApiError(
            told,
            code=reply.status,
            task_id=task_id,
            resumable=True,
            blames=Blame.INPUT,
            affects_all=True,
        )
    if code < 300 and not envelope.framed:
        told = f"{asked} got an answer that {_trouble(reply)}"
        return UnansweredError(told, code=reply.status, task_id=task_id)
    told = f"{asked} was refused: {envelope.message or 'no reason given'}"
    said = envelope.message.casefold()
    family = _REFUSALS.get(code, ServerError if 500 <= code < 600 else ApiError)
    # Two readings met at the upstream: money dressed as pace, and pace dressed as something else.
    if family is RateLimitError and re.search(r"\b(credits?|balance|insufficient)\b", said):
        family = InsufficientCreditsError
    elif family is not ServerError and _speaks_of_pace(said):
        family = RateLimitError
    if family is RateLimitError:
        pause = retry_after(reply, wall=wall)
        return RateLimitError(told, code=code, task_id=task_id, retry_after=pause)
    return family(told, code=code, task_id=task_id)


def _speaks_of_pace(said: str) -> bool:
    return "frequen" in said and bool(re.search(r"too (high|fast|frequent|many)", said))


def _trouble(reply: Reply) -> str:
    return "cannot be read" if reply.complete else "broke off"


def retry_after(reply: Reply, *, wall: float) -> float | None:
    """Seconds to wait as the answer asks, 0 to 300; None when it asks nothing sensible.

    Seconds, milliseconds, a date (measured against the answer's own Date, so that neither
    clock matters) or `data.retryAfter`. More than 300 s is cut: a pause must end.
    """
    headers = reply.headers
    if (asked := read_amount(headers.get("retry-after-ms"))) is not None:
        return min(asked / 1000, LONGEST_PAUSE)
    header = headers.get("retry-after")
    asked = read_amount(header)
    if asked is None and header and (opens := read_date(header)) is not None:
        there = read_date(headers.get("date"))
        asked = max(0.0, opens - (there if there is not None else wall))
    if asked is None:
        data = read_envelope(reply).data
        asked = read_amount(data.get("retryAfter")) if isinstance(data, dict) else None
    return None if asked is None else min(asked, LONGEST_PAUSE)


# --- createTask ----------------------------------------------------------------------------------


def open_submission(
    reply: Reply,
    *,
    wall: float = 0.0,
    treat_as_refused: frozenset[int] = frozenset(),
    asked: str = "The submission",
) -> str:
    """Give the task id createTask answered with, or raise what else it means. First match wins.

    *asked* says what was submitted, for the messages.

    Raises:
        RateLimitError: throttled, nothing was created.
        ApiError: refused for certain, nothing was created.
        SubmissionUncertainError: everything else; without token, which the caller adds.
    """
    envelope = read_envelope(reply)
    status, code = reply.status, envelope.code
    if task_id := find_task_id(read_any_json(reply.text)):
        if not envelope.ok:
            logger.warning("%s was created although the answer says %s", task_id, _cause(reply))
        return task_id
    refused = refusal(reply, envelope, wall=wall, asked=asked)
    if status < 500 and (status == 429 or code in (429, 430)):
        known = isinstance(refused, RateLimitError | InsufficientCreditsError)
        raise refused if known else _throttled(reply, wall)
    if 300 <= status < 400:
        raise refused
    bad = {number for number in (status, code) if number >= 400}
    sure = (status < 500 and code in _REFUSALS) or (bad and bad <= treat_as_refused)
    if isinstance(refused, ApiError) and sure:
        raise refused
    cause = _cause(reply)
    raise SubmissionUncertainError(
        f"The submission may have been heard: {cause}",
        code=code,
        cause=cause,
        http=status,
        raw=reply.kept,
    )


def _cause(reply: Reply) -> str:
    """What an answer to createTask says, in a few words."""
    envelope = read_envelope(reply)
    cause = f"HTTP {reply.status}"
    if not envelope.framed:
        readable = reply.complete and reply.status >= 300
        return cause if readable else f"{cause}, the answer {_trouble(reply)}"
    cause += f", code {envelope.code}" if envelope.code != reply.status else ""
    return cause + (", no task id" if envelope.ok else "")


def _throttled(reply: Reply, wall: float) -> RateLimitError:
    return RateLimitError("Too many requests", code=429, retry_after=retry_after(reply, wall=wall))


def find_task_id(body: Any) -> str | None:
    """The task id, in any of the four places where it has been seen."""
    return next(_task_ids(body), None)


def read_callback(body: bytes) -> tuple[str, ...]:
    """Give the task ids that a callback's body names, the likeliest first; () when it is none.

    Nothing else in it is worth reading: nobody signs it. The caller bounds its length.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return ()
    return tuple(dict.fromkeys(_task_ids(read_json(text))))


def _task_ids(body: Any) -> Iterator[str]:
    if not isinstance(body, dict):
        return
    inner = body.get("data")
    places = (inner if isinstance(inner, dict) else {}), body
    for place in places:
        for name in ("taskId", "task_id"):
            if (found := _task_id(place.get(name))) is not None:
                yield found


def is_task_id(text: str) -> bool:
    """Whether *text* could be the id of a task."""
    return _task_id(text) is not None


def _task_id(value: Any) -> str | None:
    """An id is opaque (other formats exist): any word without spaces that can be printed."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        return None
    return value if value.isprintable() and not any(c.isspace() for c in value) else None


# --- recordInfo ----------------------------------------------------------------------------------


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
    named = _task_id(told.get("taskId"))
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


def _usable(urls: Any) -> tuple[str, ...]:
    listed = urls if isinstance(urls, list) else [urls]
    return tuple(
        url for url in listed if isinstance(url, str) and "://" in url and not [*url_faults(url)]
    )


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
        urls=_reads(_usable),
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


def fingerprint_of(body: Mapping[str, Any]) -> str:
    """The print of a createTask body; numbers count by their value, names by their order not."""
    asked = {"model": body.get("model"), "input": _valued(body.get("input"))}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _valued(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _valued(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valued(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


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


# --- the other answers ---------------------------------------------------------------------------


def open_credits(reply: Reply, *, wall: float = 0.0) -> float:
    balance = read_number(open_envelope(reply, wall=wall, asked="The question for credits"))
    if balance is None:
        raise UnansweredError("The question for credits got no number")
    return balance


def open_link(reply: Reply, *, wall: float = 0.0) -> str:
    data = open_envelope(reply, wall=wall, asked="The question for a download link")
    found = _usable(data.get("url") or data.get("downloadUrl") if isinstance(data, dict) else data)
    if not found:
        raise UnansweredError("The question for a download link got none")
    return found[0]


def open_upload(reply: Reply, *, wall: float = 0.0) -> str:
    """The URL of a stored file; both documented shapes of the answer are read."""
    envelope = read_envelope(reply)
    if envelope.framed and envelope.code == 200 and not envelope.ok and reply.status < 300:
        told = f"The image was not stored: {envelope.message or 'no reason given'}"
        raise UploadError(told, resumable=True, blames=Blame.SERVICE)
    data = open_envelope(reply, wall=wall, asked="The upload")
    fields = data if isinstance(data, dict) else {}
    found = _usable(fields.get("fileUrl")) or _usable(fields.get("downloadUrl"))
    if not found:
        told = "The upload was answered without a URL for the image"
        raise UploadError(told, resumable=True, blames=Blame.SERVICE)
    return found[0]
