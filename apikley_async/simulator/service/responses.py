"""How the service spells what it says. Pure: values in, an `Answer` out.

Written from the service's description and shared with nobody: were this the client's own
spelling, a misspelling would agree with itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from math import ceil
from typing import Any

import attrs

from apikley_async.simulator.service.hosted_files import Upload
from apikley_async.simulator.service.lifecycle import Task
from apikley_async.simulator.service.request_rules import Refusal
from apikley_async.simulator.service.service_clock import WorldTime
from apikley_async.simulator.service.terms import Terms, Throttle

__all__ = ["Answer", "Speller", "envelope", "html", "notice", "refusal_text"]

JSON = "application/json"
HTML = "text/html; charset=utf-8"

ABSURD = ("-5", "inf", "nan", "1e9", "9" * 400, "soon", "\u0663", "", "0x10", "Thu, 32 Foo 1970")

TEXTS = {
    400: "Bad request",
    401: "Unauthorized",
    402: "Credits insufficient",
    403: "Forbidden",
    404: "Not found",
    422: "recordInfo is null",
    429: "Rate limit exceeded",
    430: "Requests are too frequent",
    433: "The usage cap of this key is reached",
    451: "The image could not be fetched",
    455: "The service is under maintenance",
    500: "Server Error",
    501: "Generation failed",
    505: "The feature is disabled",
}


@attrs.frozen
class Answer:
    """One HTTP answer before it is on its way. *payload* becomes JSON unless *raw* is given."""

    status: int = 200
    payload: object = None
    raw: bytes | None = attrs.field(default=None, repr=False)
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        """The bytes to send."""
        return json.dumps(self.payload).encode() if self.raw is None else self.raw

    def with_headers(self, *headers: tuple[str, str]) -> Answer:
        """The same answer with *headers* in place of those of the same name."""
        new = {name.lower() for name, _ in headers}
        kept = [pair for pair in self.headers if pair[0].lower() not in new]
        return attrs.evolve(self, headers=(*kept, *headers))


def envelope(code: object, message: object, data: object) -> dict[str, object]:
    """What every JSON answer looks like."""
    return {"code": code, "msg": message, "data": data}


def notice(callback: Mapping[str, Any]) -> dict[str, object]:
    """What is left of a *callback* where only the end of a task is told, not its result."""
    ended = "task_completed" if callback.get("code") == 200 else "task_failed"
    inner = callback.get("data")
    task_id = inner.get("taskId") if isinstance(inner, Mapping) else None
    data = {"task_id": task_id, "callbackType": ended}
    told = "Success" if callback.get("code") == 200 else callback.get("msg")
    return {**envelope(callback.get("code"), told, data), "taskId": data["task_id"]}


def html(status: int) -> Answer:
    """A page such as a gateway puts in place of the service's answer."""
    try:
        title = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        title = f"{status} Error"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Answer(status, raw=page.encode(), content_type=HTML)


def refusal_text(code: int) -> str:
    """The message that goes with *code*."""
    return TEXTS.get(code, f"Error {code}")


class Speller:
    """Spells the answers of one world: knows its terms, its calendar and nothing else."""

    def __init__(self, terms: Terms, time: WorldTime) -> None:
        self.terms = terms
        self.time = time
        self._absurdities = 0

    # -- refusals ----------------------------------------------------------------------------

    def refusal(self, refusal: Refusal) -> Answer:
        """A no; a throttling in the form that the terms say."""
        if refusal.wait is not None:
            return self.throttled(self.terms.throttle, refusal.wait)
        shown = self.terms.http_refusals and 400 <= refusal.code < 500  # 500 is told on HTTP 200
        status = refusal.code if shown else 200
        return Answer(status, envelope(refusal.code, refusal.message, None))

    def upload_refusal(self, refusal: Refusal) -> Answer:
        """A no from the uploads, whose envelope says so twice."""
        status = refusal.code if self.terms.http_refusals and 400 <= refusal.code < 600 else 200
        return Answer(
            status, {"success": False, "code": refusal.code, "msg": refusal.message, "data": None}
        )

    def throttled(self, form: Throttle, wait: float) -> Answer:
        """Too often: come back in *wait* world seconds. In one of its many forms."""
        text = "Your call frequency is too high. Please try again later."
        if form is Throttle.HTML:
            return html(429)
        if form is Throttle.BODY:
            return Answer(payload=envelope(429, refusal_text(429), None))
        if form is Throttle.BODY_430:
            return Answer(payload=envelope(430, refusal_text(430), None))
        if form is Throttle.WORDS:
            return Answer(payload=envelope(402, text, None))
        seconds = max(0.0, self.time.outside(wait))
        data = {"retryAfter": ceil(seconds)} if form is Throttle.IN_BODY else None
        answer = Answer(429, envelope(429, refusal_text(429), data))
        value = self._retry_after(form, seconds)
        return answer if value is None else answer.with_headers(value)

    def _retry_after(self, form: Throttle, seconds: float) -> tuple[str, str] | None:
        if form is Throttle.SECONDS:
            return "Retry-After", str(ceil(seconds))
        if form is Throttle.FRACTION:
            return "Retry-After", f"{seconds:.3f}"
        if form is Throttle.MILLISECONDS:
            return "retry-after-ms", str(ceil(seconds * 1000))
        if form is Throttle.DATE:
            at = self.time.stamp(self.time.now()) + seconds
            return "Retry-After", formatdate(ceil(at), usegmt=True)
        if form is Throttle.ABSURD:
            self._absurdities += 1
            return "Retry-After", ABSURD[(self._absurdities - 1) % len(ABSURD)]
        return None

    # -- answers -----------------------------------------------------------------------------

    def created(self, task: Task) -> Answer:
        """The task exists, and is paid."""
        return Answer(payload=envelope(200, "success", {"taskId": task.task_id}))

    def balance(self, left: float) -> Answer:
        """What is left to spend; a fraction only where there is one."""
        return Answer(payload=envelope(200, "success", _number(left)))

    def link(self, url: str) -> Answer:
        """A temporary address of a result."""
        return Answer(payload=envelope(200, "success", url))

    def record(self, task: Task, now: float, urls: Sequence[str]) -> Answer:
        """How far *task* is, in every field that the service is known to send."""
        ended = task.ended_at if task.ended(now) else None
        data = self._task(task, now)
        data["resultJson"] = _result(urls) if task.state(now) == "success" else ""
        data["progress"] = task.progress(now)
        if ended is not None:
            data["costTime"] = round(self.time.outside(ended - task.created_at))
            data["creditsConsumed"] = self._paid(task)
        return Answer(payload={"code": 200, "message": "success", "data": data})

    def callback(self, task: Task, urls: Sequence[str], left: float) -> Answer:
        """What is POSTed when *task* has ended; *left* is the balance after it."""
        ended = task.ended_at or task.due_at
        data = self._task(task, ended)
        # The price has another name than in a record.
        data["costTime"] = round(self.time.outside(ended - task.created_at))
        data |= {"consumeCredits": self._paid(task), "remainedCredits": _number(left)}
        if task.failure is None:
            del data["failCode"], data["failMsg"]
            data["resultJson"] = _result(urls)
            payload = envelope(200, "Playground task completed successfully.", data)
        else:
            payload = envelope(501, "Playground task failed.", data)
        return Answer(payload=notice(payload) if self.terms.callbacks == "notice" else payload)

    def _task(self, task: Task, now: float) -> dict[str, object]:
        """What records and callbacks have in common."""
        ended = task.ended_at if task.ended(now) else None
        failure = None if ended is None else task.failure
        return {
            "taskId": task.task_id,
            "model": task.order.model,
            "state": task.state(now),
            "param": json.dumps(task.order.body),
            "failCode": failure.code if failure else "",
            "failMsg": failure.message if failure else "",
            "createTime": self.millis(task.created_at),
            "updateTime": self.millis(task.changed_at(now)),
            "completeTime": None if ended is None else self.millis(ended),
        }

    def _paid(self, task: Task) -> float:
        """What a task that has ended has cost in the end."""
        return 0 if task.failure is not None and self.terms.refund else _number(task.credits)

    def uploaded(self, upload: Upload, url: str) -> Answer:
        """The file is stored, in one of the two documented answers."""
        at = self.time.stamp(upload.at)
        gone = self.time.stamp(upload.at + self.terms.upload_life)
        data: dict[str, object] = {
            "fileName": upload.name,
            "fileSize": len(upload.data),
            "mimeType": upload.content_type,
            "downloadUrl": url,
        }
        if self.terms.upload_shape == "filePath":
            data |= {"filePath": upload.path, "uploadedAt": _iso(at)}
        else:
            data |= {
                "fileId": f"file_{upload.serial:04d}",
                "originalName": upload.name,
                "uploadPath": upload.folder,
                "fileUrl": url,
                "uploadTime": _iso(at),
                "expiresAt": _iso(gone),
            }
        body: Mapping[str, object] = {
            "success": True,
            "code": 200,
            "msg": "File uploaded successfully",
            "data": data,
        }
        return Answer(payload=body)

    def millis(self, at: float) -> int:
        """The world's second *at* as the service writes instants."""
        return int(1000 * self.time.stamp(at))


def _result(urls: Sequence[str]) -> str:
    return json.dumps({"resultUrls": list(urls)})


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


def _iso(stamp: float) -> str:
    moment = datetime.fromtimestamp(stamp, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
