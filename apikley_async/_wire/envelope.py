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
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from apikley_async._wire.files import read_links
from apikley_async._wire.lenient import (
    plain,
    read_amount,
    read_any_json,
    read_date,
    read_json,
    read_number,
    read_whole,
)
from apikley_async._wire.refusals import certain_refusal, tells_of_model
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
LARGEST_ANSWER = 4 * 1024 * 1024  # no more is read of an answer
LARGEST_ECHO = LARGEST_ANSWER // 2  # and a record repeats the request


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


def echo_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """Say that a record of what has this input could never be read.

    It repeats the request as text inside text, and may escape every letter beyond ASCII.
    """
    size = len(json.dumps(json.dumps({"input": json.dumps(fields)})))
    if size > LARGEST_ECHO:
        yield (
            f"input: at most {LARGEST_ECHO >> 20} MiB where the service repeats it, not "
            f"{size / 2**20:.1f}: the film would be paid and could never be polled"
        )


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


def checked_codes(codes: Iterable[int]) -> frozenset[int]:
    """Codes that somebody vouches for.

    Raises:
        TypeError, ValueError: one is no code of a refusal, or one that never means that nothing
            was created.
    """
    found = frozenset(codes)
    for code in found:
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError(f"not_created: codes such as 500, not {code!r:.40}")
        if code < 400 or code in NEVER_CERTAIN:
            raise ValueError(
                f"not_created: {code} never means that nothing was created; codes from 400 on, "
                "without 408, 499, 502, 503, 504 and 520 to 529"
            )
    return found


NEVER_CERTAIN = frozenset((408, 499, 502, 503, 504, *range(520, 530)))
"""What gateways answer for a service that may be at work: nobody can vouch for these."""

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
    if family in (InvalidRequestError, NotFoundError) and tells_of_model(envelope.message):
        return _model_gone(told, code)
    return family(told, code=code, task_id=task_id)


def _model_gone(told: str, code: int) -> InvalidRequestError:
    error = InvalidRequestError(told, code=code)
    error.advice = "The model may have been withdrawn, or its name is misspelled; choose another"
    return error


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
    not_created: frozenset[int] = frozenset(),
    asked: str = "The submission",
) -> str:
    """Give the task id createTask answered with, or raise what else it means. First match wins.

    *asked* says what was submitted, for the messages.

    Raises:
        RateLimitError: throttled, nothing was created.
        ServerError: every code that is told is one of *not_created*: somebody vouches for it.
        ApiError: refused for certain, nothing was created.
        SubmissionUncertainError: everything else; without token, which the caller adds.
    """
    envelope = read_envelope(reply)
    status, code = reply.status, envelope.code
    if task_id := find_task_id(read_any_json(reply.text)):
        if not envelope.ok:
            logger.warning("%s was created although the answer says %s", task_id, _cause(reply))
        return task_id
    if status == 200 and (certain := _said_for_certain(envelope, asked)):
        raise certain
    refused = refusal(reply, envelope, wall=wall, asked=asked)
    if status < 500 and (status == 429 or code in (429, 430)):
        known = isinstance(refused, RateLimitError | InsufficientCreditsError)
        raise refused if known else _throttled(reply, wall)
    if 300 <= status < 400:
        raise refused
    bad = {number for number in (status, code) if number >= 400}
    sure = status < 500 and code in _REFUSALS
    if isinstance(refused, ApiError) and sure:
        raise refused
    cause = _cause(reply)
    if bad and bad <= not_created - NEVER_CERTAIN:
        raise ServerError(f"{asked} got {cause}, where nothing is created", code=max(bad))
    raise SubmissionUncertainError(
        f"The submission may have been heard: {cause}",
        code=code,
        cause=cause,
        http=status,
        raw=reply.kept,
    )


def _said_for_certain(envelope: Envelope, asked: str) -> ApiError | None:
    """The refusal that the words of an answer with HTTP 200 are, where its code says less.

    A code that is about the account or the pace is certain: no words make it one film's fault.
    """
    kind = None if envelope.ok or not envelope.framed else certain_refusal(envelope.message)
    about_film = _REFUSALS.get(envelope.code) in (None, InvalidRequestError, NotFoundError)
    if kind is None or not (about_film or kind.affects_all):
        return None
    told = f"{asked} was refused: {envelope.message}"
    if tells_of_model(envelope.message):
        return _model_gone(told, envelope.code)
    return kind(told, code=envelope.code)


def _cause(reply: Reply) -> str:
    """What an answer to createTask says: status, code, and the service's own words."""
    envelope = read_envelope(reply)
    cause = f"HTTP {reply.status}"
    if envelope.framed:
        cause += f", code {envelope.code}" if envelope.code != reply.status else ""
        if envelope.ok:
            return f"{cause}, no task id"
    elif not reply.complete or reply.status < 300:
        return f"{cause}, the answer {_trouble(reply)}"
    said = "" if envelope.message.startswith("<") else envelope.message
    return f"{cause}: {said}" if said else cause


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
    told = read_json(text)
    return tuple(dict.fromkeys(_torn_ids(text) if told is None else _task_ids(told)))


def _torn_ids(text: str) -> Iterator[str]:
    """The ids before the echo of the request, which may be escaped wrongly."""
    head, echo, _rest = text.partition('"param')
    if echo and head.lstrip().startswith("{"):
        for found in re.finditer(r'"task(?:Id|_id)"\s*:\s*"([^"\\]*)"', head):
            if (task_id := read_task_id(found[1])) is not None:
                yield task_id


def _task_ids(body: Any) -> Iterator[str]:
    if not isinstance(body, dict):
        return
    inner = body.get("data")
    places = (inner if isinstance(inner, dict) else {}), body
    for place in places:
        for name in ("taskId", "task_id"):
            if (found := read_task_id(place.get(name))) is not None:
                yield found


def is_task_id(text: str) -> bool:
    """Whether *text* could be the id of a task."""
    return read_task_id(text) is not None


def read_task_id(value: Any) -> str | None:
    """An id is opaque (other formats exist): any word without spaces that can be printed."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        return None
    return value if value.isprintable() and " " not in value else None  # of blanks it is the one


# --- what was asked for ---------------------------------------------------------------------------


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


# --- the other answers ---------------------------------------------------------------------------


def open_credits(reply: Reply, *, wall: float = 0.0) -> float:
    data = open_envelope(reply, wall=wall, asked="The question for credits")
    balance = read_number(data)
    if balance is None:  # it was answered, and will be so again
        kind = "nothing" if data is None else type(data).__name__
        raise ApiError(f"The question for credits was answered with {kind}, not with a number")
    return balance


def open_link(reply: Reply, *, wall: float = 0.0) -> str:
    data = open_envelope(reply, wall=wall, asked="The question for a download link")
    found = read_links(
        data.get("url") or data.get("downloadUrl") if isinstance(data, dict) else data
    ).usable
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
    found = read_links(fields.get("fileUrl")).usable or read_links(fields.get("downloadUrl")).usable
    if not found:
        told = "The upload was answered without a URL for the image"
        raise UploadError(told, resumable=True, blames=Blame.SERVICE)
    return found[0]
