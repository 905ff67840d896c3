"""What must be true of every answer, however it was mutilated.

Only documented errors or values come out of the wire, in bounded time; nothing that carries a
task's id is ever said to have created nothing.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from fuzz.mutations import Body
from fuzz.promises import Findings, demand

from apikley_async import (
    ApiError,
    ApikleyError,
    EmptyResultError,
    JobFailedError,
    RateLimitError,
    Result,
    Snapshot,
    State,
    SubmissionUncertainError,
    UnansweredError,
    UploadError,
)
from apikley_async._wire.envelope import Reply, decode_credits, decode_data, retry_after
from apikley_async._wire.files import decode_link, decode_upload
from apikley_async._wire.task_ids import decode_submission
from apikley_async._wire.tasks import belongs_to_attempt, decode_snapshot

__all__ = ["examine", "examine_pause"]

WALL = 1.79e9
# Seconds of the processor for each 64 KiB, or less: three times what the worst body needs alone on
# a machine, since its neighbours' work makes a processor slower too.
SLOWEST = 0.1
MAX_RETRY_AFTER = 300.0

Opener = tuple[Callable[[Reply], object], tuple[type[ApikleyError], ...]]
OPENERS: dict[str, Opener] = {
    "envelope": (decode_data, (ApiError, UnansweredError)),
    "submission": (
        lambda reply: decode_submission(reply, wall=WALL),
        (ApiError, SubmissionUncertainError),
    ),
    "snapshot": (
        lambda reply: decode_snapshot(reply, "task_1", wall=WALL),
        (ApiError, UnansweredError),
    ),
    "credits": (decode_credits, (ApiError, UnansweredError)),
    "link": (decode_link, (ApiError, UnansweredError)),
    "upload": (decode_upload, (ApiError, UnansweredError, UploadError)),
    "pause": (lambda reply: retry_after(reply, wall=WALL), ()),
}


def examine(
    body: Body,
    findings: Findings,
    *,
    thorough: bool = False,
    openers: Mapping[str, Opener] = OPENERS,
) -> None:
    """Read *body* as the answer of every endpoint; raise `Defect` when a promise is broken."""
    reply = Reply(body.status, body.text, body.headers, body.complete)
    size = len(body.text)
    findings.characters += size
    for name, (read, documented) in openers.items():
        outcome = findings.read(
            name, functools.partial(read, reply), documented, size=size, most=SLOWEST
        )
        findings.outcomes[f"{name}: {_kind(outcome)}"] += 1
        _check(name, reply, outcome, thorough)


def examine_pause(header: str, meaning: float | None, findings: Findings) -> None:
    """Read a Retry-After, which must be *meaning* where that is certain."""
    reply = Reply(429, "", {"Retry-After": header, "Date": "Mon, 21 Sep 2026 12:53:20 GMT"})
    outcome = findings.read("Retry-After", lambda: retry_after(reply, wall=WALL), most=SLOWEST)
    findings.characters += len(header)
    _check_pause(outcome)
    demand(meaning is None or outcome == meaning, f"{outcome}, not {meaning}")
    findings.outcomes[f"Retry-After: {'nonsense' if outcome is None else 'seconds'}"] += 1


def _kind(outcome: object) -> str:
    return type(outcome).__name__ if isinstance(outcome, ApikleyError) else "value"


# --- what came out -------------------------------------------------------------------------------


def _check(name: str, reply: Reply, outcome: Any, thorough: bool) -> None:
    if name == "submission":
        _check_money(reply, outcome)
    if isinstance(outcome, ApikleyError):
        _check_error(outcome, thorough)
    elif name == "snapshot":
        _check_snapshot(outcome, thorough)
    elif name in ("link", "upload"):
        _check_url(outcome)
    elif name == "credits":
        demand(isinstance(outcome, float) and math.isfinite(outcome), f"{outcome!r} credits")
    elif name == "pause":
        _check_pause(outcome)


def _check_money(reply: Reply, outcome: Any) -> None:
    """An id is kept; and only what certainly created nothing may be called refused."""
    said = _ids(reply.text)
    if isinstance(outcome, str):
        demand(outcome in said, f"the id {outcome!r:.80} is not in the answer")
        return
    demand(not said, f"the id {said[:1]!r:.80} was dropped: {outcome!r:.80}")
    if isinstance(outcome, SubmissionUncertainError):
        return
    demand(reply.status < 500, f"HTTP {reply.status} taken for a refusal")
    if isinstance(outcome, RateLimitError):
        reported = f"{reply.status} {reply.text.casefold()}"
        spoken = any(word in reported for word in ("429", "430", "frequen"))
        demand(spoken or "e2" in reported, "throttled without a word of it")


def _ids(text: str) -> list[str]:
    """The ids in an answer, read in another way than the wire reads them."""
    try:
        body = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return []
    outer = body if isinstance(body, dict) else {}
    inner = outer.get("data")
    found = []
    for place in (inner if isinstance(inner, dict) else {}, outer):
        for value in (place.get("taskId"), place.get("task_id")):
            word = str(value) if type(value) is int else value
            if isinstance(word, str) and 0 < len(word) <= 256 and word.isprintable():
                found += [] if " " in word else [word]
    return found


def _check_error(error: ApikleyError, thorough: bool) -> None:
    demand(len(error.message) < 700, f"a message of {len(error.message)} characters")
    demand(error.message.isprintable(), f"a message that cannot be printed: {error!r:.80}")
    if isinstance(error, RateLimitError):
        _check_pause(error.retry_after)
    if isinstance(error, SubmissionUncertainError):
        demand(len(error.raw.encode(errors="replace")) <= 64 * 1024, "too much is kept")
    if thorough:
        twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        demand((type(twin), str(twin)) == (type(error), str(error)), "pickling changes it")


def _check_pause(pause: Any) -> None:
    sane = pause is None or (isinstance(pause, float) and 0 <= pause <= MAX_RETRY_AFTER)
    demand(sane, f"a pause of {pause!r:.80}")


def _check_url(url: Any) -> None:
    sane = isinstance(url, str) and url.casefold().startswith(("http://", "https://"))
    demand(sane and len(url) <= 8192, f"{url!r:.80} taken for a URL")


def _check_snapshot(snapshot: Any, thorough: bool) -> None:
    demand(isinstance(snapshot, Snapshot), f"{type(snapshot).__name__} for a snapshot")
    demand(snapshot.task_id == "task_1", "the state of another task")
    demand(isinstance(snapshot.state, State), f"the state {snapshot.state!r:.80}")
    for url in snapshot.urls:
        _check_url(url)
    for number in (snapshot.progress, snapshot.credits):
        sane = number is None or (math.isfinite(number) and number >= 0)
        demand(sane, f"{number!r} for an amount")
    belongs_to_attempt(snapshot, tokens=["4f1c"], fingerprints=["0"])
    try:
        result = snapshot.result()
    except (JobFailedError, EmptyResultError) as error:
        _check_error(error, thorough)
    else:
        demand(isinstance(result, Result), "no result")
    demand(repr(snapshot).isprintable(), "a snapshot that cannot be printed")
    if thorough:
        twin = pickle.loads(pickle.dumps(snapshot))  # noqa: S301 - our own
        demand(repr(twin) == repr(snapshot) and bool(copy.deepcopy(snapshot)), "no twin")
