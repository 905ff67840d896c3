"""Which task an answer to createTask created, or a callback names. Pure.

The only place that decides what an answer to a paid request means: a task, a certain refusal,
or *uncertain*. An id is opaque and is looked for in the four places where it has been seen:
https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from apikley_async._wire.envelope import (
    ERROR_OF_CODE,
    Envelope,
    Reply,
    error_of,
    read_envelope,
    retry_after,
    unsupported_model,
)
from apikley_async._wire.lenient import read_json
from apikley_async._wire.refusals import certain_refusal, names_unsupported_model
from apikley_async.errors import (
    ApiError,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    ServerError,
    SubmissionUncertainError,
)

__all__ = ["read_callback"]

logger: logging.Logger = logging.getLogger("apikley_async")

AMBIGUOUS_CODES = frozenset((408, 499, 502, 503, 504, *range(520, 530)))
"""Gateways answer these for a service that may still be at work: they never mean "not created"."""


def decode_submission(
    reply: Reply,
    *,
    wall: float = 0.0,
    not_created: frozenset[int] = frozenset(),
    subject: str = "The submission",
) -> str:
    """Return the task id that createTask answered with, or raise what else the answer means.

    The rules are tried in the order of the code below; the first that fits decides.

    Args:
        reply: the answer to createTask.
        wall: now, in seconds since 1970, for a Retry-After that is a date.
        not_created: codes that the provider guarantees to mean "nothing was created".
        subject: what was submitted, as the first words of an error's message.

    Raises:
        RateLimitError: throttled; nothing was created.
        ServerError: every code in the answer is one of *not_created*.
        ApiError: refused for certain; nothing was created.
        SubmissionUncertainError: everything else; without a token, which the caller adds.
    """
    envelope = read_envelope(reply)
    status, code = reply.status, envelope.code
    if task_id := find_task_id(reply.decoded):
        # Whatever else the answer says: what is paid is never dropped.
        if not envelope.ok:
            logger.warning("%s was created although the answer says %s", task_id, _cause(reply))
        return task_id
    if status == 200 and (certain := _refusal_by_words(envelope, subject)):
        raise certain
    refused = error_of(reply, envelope, wall=wall, subject=subject)
    if status < 500 and (status == 429 or code in (429, 430)):
        # A rate limit is checked before anything is created.
        known = isinstance(refused, RateLimitError | InsufficientCreditsError)
        raise refused if known else _throttled(reply, wall)
    if 300 <= status < 400:
        raise refused
    bad = {number for number in (status, code) if number >= 400}
    # A 5xx may come from a gateway in front of a service that goes on working.
    sure = status < 500 and code in ERROR_OF_CODE
    if isinstance(refused, ApiError) and sure:
        raise refused
    cause = _cause(reply)
    if bad and bad <= not_created - AMBIGUOUS_CODES:
        raise ServerError(f"{subject} got {cause}, where nothing is created", code=max(bad))
    raise _uncertain(reply, code, cause)


def _uncertain(reply: Reply, code: int, cause: str) -> SubmissionUncertainError:
    return SubmissionUncertainError(
        f"The submission may have been processed: {cause}",
        code=code,
        cause=cause,
        http=reply.status,
        raw=reply.excerpt,
    )


def _refusal_by_words(envelope: Envelope, subject: str) -> ApiError | None:
    """Return the refusal that the words of an answer with HTTP 200 are, whatever its code says.

    A code that is about the account or the rate limit wins over the words: they never turn it
    into the fault of one film.
    """
    kind = None if envelope.ok or not envelope.framed else certain_refusal(envelope.message)
    about_film = ERROR_OF_CODE.get(envelope.code) in (None, InvalidRequestError, NotFoundError)
    if kind is None or not (about_film or kind.affects_all):
        return None
    message = f"{subject} was refused: {envelope.message}"
    if names_unsupported_model(envelope.message):
        return unsupported_model(message, envelope.code)
    return kind(message, code=envelope.code)


def _cause(reply: Reply) -> str:
    """Sum up an answer to createTask: status, code, and the service's own words."""
    envelope = read_envelope(reply)
    cause = f"HTTP {reply.status}"
    if envelope.framed:
        cause += f", code {envelope.code}" if envelope.code != reply.status else ""
        if envelope.ok:
            return f"{cause}, no task id"
    elif not reply.complete or reply.status < 300:
        return f"{cause}, the answer {reply.defect}"
    words = "" if envelope.message.startswith("<") else envelope.message  # a gateway's HTML page
    return f"{cause}: {words}" if words else cause


def _throttled(reply: Reply, wall: float) -> RateLimitError:
    return RateLimitError("Too many requests", code=429, retry_after=retry_after(reply, wall=wall))


def validate_not_created(codes: Iterable[int]) -> frozenset[int]:
    """Check the codes that a user says to mean "nothing was created".

    Raises:
        TypeError: one is not a number.
        ValueError: one is not the code of a refusal, or never means that nothing was created.
    """
    found = frozenset(codes)
    for code in found:
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError(f"not_created: codes such as 500, not {code!r:.40}")
        if code < 400 or code in AMBIGUOUS_CODES:
            raise ValueError(
                f"not_created: {code} never means that nothing was created; codes from 400 on, "
                "without 408, 499, 502, 503, 504 and 520 to 529"
            )
    return found


def read_callback(body: bytes) -> tuple[str, ...]:
    """Return the task ids that a callback's body names, the likeliest first; () for none.

    Nothing else in it is worth reading: the body is not signed. The caller bounds its length.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return ()
    content = read_json(text)
    return tuple(dict.fromkeys(_ids_in_broken_json(text) if content is None else _ids_in(content)))


def _ids_in_broken_json(text: str) -> Iterator[str]:
    """Find the ids before the echo of the request, which the service may escape wrongly."""
    head, echo, _rest = text.partition('"param')
    if echo and head.lstrip().startswith("{"):
        for found in re.finditer(r'"task(?:Id|_id)"\s*:\s*"([^"\\]*)"', head):
            if (task_id := read_task_id(found[1])) is not None:
                yield task_id


def find_task_id(body: Any) -> str | None:
    """Return the task id in any of the four places where it has been seen."""
    return next(_ids_in(body), None)


def _ids_in(body: Any) -> Iterator[str]:
    if not isinstance(body, dict):
        return
    data = body.get("data")
    for place in (data if isinstance(data, dict) else {}, body):
        for name in ("taskId", "task_id"):
            if (found := read_task_id(place.get(name))) is not None:
                yield found


def is_task_id(text: str) -> bool:
    """Say whether *text* could be the id of a task."""
    return read_task_id(text) is not None


def read_task_id(value: Any) -> str | None:
    """Read an id: any printable word without spaces, up to 256 characters (formats differ)."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        return None
    return value if value.isprintable() and " " not in value else None
