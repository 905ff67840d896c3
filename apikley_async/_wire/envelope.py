"""The envelope of every answer: its code, its Retry-After, and the error they mean. Pure.

Reading is tolerant: unknown fields and codes are normal, and whatever arrives, only the errors
of `apikley_async.errors` come out. Nothing here waits, retries or opens a socket. The codes are
listed at https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import attrs

from apikley_async._text import one_line, words_of_page
from apikley_async._wire.lenient import (
    read_amount,
    read_any_json,
    read_date,
    read_number,
    read_whole,
    shallow_or_none,
)
from apikley_async._wire.refusals import names_unsupported_model
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
    UnansweredError,
)

__all__ = ["Envelope", "Reply"]

MAX_RETRY_AFTER = 300.0
MAX_RAW_BYTES = 64 * 1024
GATEWAY_REFUSES = (
    "Something before the service refuses this machine: a gateway of the service's, or a proxy of "
    "yours; that says nothing of the key"
)

ERROR_OF_CODE: dict[int, type[ApiError]] = {
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


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@attrs.frozen(repr=False, slots=False)  # a cached property costs less without
class Reply:
    """An HTTP answer.

    Attributes:
        status: the HTTP status.
        text: the decoded body, as far as it was read.
        headers: by their names in lower case.
        complete: False when the body broke off.
    """

    status: int
    text: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict, converter=_lowered)
    complete: bool = True

    @functools.cached_property
    def decoded(self) -> Any:
        """The JSON that the text is, however deeply it is nested; None when it is none."""
        return read_any_json(self.text)

    @property
    def excerpt(self) -> str:
        """The first 64 KiB of the text: as much as an error or a journal keeps."""
        return self.text.encode(errors="replace")[:MAX_RAW_BYTES].decode(errors="ignore")

    @property
    def defect(self) -> str:
        """What is wrong with an answer that has no envelope."""
        return "cannot be read" if self.complete else "broke off"

    def __repr__(self) -> str:
        return f"<Reply {self.status}, {len(self.text)} characters>"


@attrs.frozen
class Envelope:
    """The JSON object around every answer.

    Attributes:
        code: the body's code, or the HTTP status where the body has none.
        message: the service's own words, as one line.
        data: what the answer is about.
        framed: whether the body is an envelope at all.
        ok: whether code, status and `success` all say that the request was accepted.
    """

    code: int
    message: str
    data: Any
    framed: bool
    ok: bool


def read_envelope(reply: Reply) -> Envelope:
    """Read the envelope; an answer without one speaks through its HTTP status alone."""
    decoded = shallow_or_none(reply.decoded, reply.text) if reply.complete else None
    body: dict[str, Any] = decoded if isinstance(decoded, dict) else {}
    code = read_whole(body.get("code"))
    if code is None:
        message = "" if reply.status < 400 else one_line(reply.text, 120)
        return Envelope(reply.status, message, None, framed=False, ok=False)
    message = one_line(body.get("msg") or body.get("message") or "")
    ok = code == 200 and reply.status < 300 and body.get("success") is not False
    return Envelope(code, message, body.get("data"), framed=True, ok=ok)


def decode_data(
    reply: Reply, *, wall: float = 0.0, subject: str = "The request", task_id: str | None = None
) -> Any:
    """Return the data inside an answer, or raise the error it means. Not for createTask.

    Args:
        reply: the answer.
        wall: now, in seconds since 1970, for a Retry-After that is a date.
        subject: what was requested, as the first words of an error's message.
        task_id: the task that the request was about, if it was about one.
    """
    envelope = read_envelope(reply)
    if envelope.ok:
        return envelope.data
    raise error_of(reply, envelope, wall=wall, subject=subject, task_id=task_id)


def error_of(
    reply: Reply, envelope: Envelope, *, wall: float, subject: str, task_id: str | None = None
) -> ApikleyError:
    """Say which error a refusal means. The body's code decides, then the HTTP status."""
    code = envelope.code if envelope.code != 200 else reply.status
    if 300 <= reply.status < 400:
        return ApiError(
            f"{subject} was redirected, which is never followed: the base URL is not the service's",
            code=reply.status,
            task_id=task_id,
            resumable=True,
            blames=Blame.INPUT,
            affects_all=True,
        )
    if code < 300 and not envelope.framed:
        message = f"{subject} got an answer that {reply.defect}"
        return UnansweredError(message, code=reply.status, task_id=task_id)
    message = f"{subject} was refused: {_reason_of(reply, envelope)}"
    kind = _kind_of(code, envelope.message.casefold())
    if kind is RateLimitError:
        pause = retry_after(reply, wall=wall)
        return RateLimitError(message, code=code, task_id=task_id, retry_after=pause)
    if kind in (InvalidRequestError, NotFoundError) and names_unsupported_model(envelope.message):
        return unsupported_model(message, code)
    error = kind(message, code=code, task_id=task_id)
    if code == 403 and not envelope.framed:  # the service would have said it in its own frame
        error.blames, error.advice = Blame.NETWORK, GATEWAY_REFUSES
    return error


def _reason_of(reply: Reply, envelope: Envelope) -> str:
    """The reason of a refusal in plain words; `envelope.message` is judged, this one is shown."""
    if envelope.framed or not envelope.message:
        return envelope.message or "no reason given"
    return words_of_page(reply.text) or f"HTTP {reply.status}"


def _kind_of(code: int, words: str) -> type[ApiError]:
    kind = ERROR_OF_CODE.get(code, ServerError if 500 <= code < 600 else ApiError)
    # The upstream was seen to send 429 for an empty account, and other codes for a rate limit.
    if kind is RateLimitError and re.search(r"\b(credits?|balance|insufficient)\b", words):
        return InsufficientCreditsError
    too_fast = "frequen" in words and re.search(r"too (high|fast|frequent|many)", words)
    # A 5xx stays one, whatever it says: the request may have been processed.
    return RateLimitError if too_fast and kind is not ServerError else kind


def unsupported_model(message: str, code: int) -> InvalidRequestError:
    """Build the error for a model that the service does not serve, or no longer."""
    error = InvalidRequestError(message, code=code)
    error.advice = "The model may have been withdrawn, or its name is misspelled; choose another"
    return error


def retry_after(reply: Reply, *, wall: float) -> float | None:
    """Read how many seconds to wait, 0 to 300; None when the answer says nothing sensible.

    The answer may say it in seconds, in milliseconds, as a date (compared with the answer's own
    Date header, so that neither clock has to be right) or as `data.retryAfter`. More than 300 s
    is cut: a pause must end. For the hosts of films too: only the service says `data.retryAfter`.
    """
    headers = reply.headers
    if (milliseconds := read_amount(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, MAX_RETRY_AFTER)
    header = headers.get("retry-after")
    seconds = read_amount(header)
    if seconds is None and header and (opens_at := read_date(header)) is not None:
        sent_at = read_date(headers.get("date"))
        seconds = max(0.0, opens_at - (sent_at if sent_at is not None else wall))
    if seconds is None:
        data = read_envelope(reply).data
        seconds = read_amount(data.get("retryAfter")) if isinstance(data, dict) else None
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER)


def decode_credits(reply: Reply, *, wall: float = 0.0) -> float:
    """Read the account's balance."""
    data = decode_data(reply, wall=wall, subject="The request for credits")
    balance = read_number(data)
    if balance is None:  # the service did answer, and would answer the same again
        kind = "nothing" if data is None else type(data).__name__
        raise ApiError(f"The request for credits was answered with {kind}, not with a number")
    return balance
