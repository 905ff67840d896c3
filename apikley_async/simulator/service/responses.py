"""Builds the service's responses: values in, a `ServiceResponse` out. Pure.

Written from the service's description and shared with no client code: a misspelled field in one
of the two must not match the same mistake in the other.
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

from apikley_async.simulator.service.file_store import Upload
from apikley_async.simulator.service.lifecycle import SimulatedTask
from apikley_async.simulator.service.request_rules import Refusal
from apikley_async.simulator.service.service_clock import ServiceClock
from apikley_async.simulator.service.terms import Terms, Throttle

__all__ = [
    "ResponseBuilder",
    "ServiceResponse",
    "envelope",
    "html_page",
    "notice",
    "refusal_message",
]

JSON = "application/json"
HTML = "text/html; charset=utf-8"

INVALID_RETRY_AFTER = (
    "-5",
    "inf",
    "nan",
    "1e9",
    "9" * 400,
    "soon",
    "\u0663",
    "",
    "0x10",
    "Thu, 32 Foo 1970",
)

MESSAGES = {
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
class ServiceResponse:
    """One HTTP response before it is sent. *payload* is sent as JSON unless *raw* is given."""

    status: int = 200
    payload: object = None
    raw: bytes | None = attrs.field(default=None, repr=False)
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        """The bytes to send."""
        return json.dumps(self.payload).encode() if self.raw is None else self.raw

    def with_headers(self, *headers: tuple[str, str]) -> ServiceResponse:
        """The same response with *headers* in place of those of the same name."""
        new = {name.lower() for name, _ in headers}
        kept = [pair for pair in self.headers if pair[0].lower() not in new]
        return attrs.evolve(self, headers=(*kept, *headers))


def envelope(code: object, message: object, data: object) -> dict[str, object]:
    """The frame of every JSON response."""
    return {"code": code, "msg": message, "data": data}


def notice(callback: Mapping[str, Any]) -> dict[str, object]:
    """The body of a *callback* that reports the end of a task and not its result."""
    ended = "task_completed" if callback.get("code") == 200 else "task_failed"
    inner = callback.get("data")
    task_id = inner.get("taskId") if isinstance(inner, Mapping) else None
    data = {"task_id": task_id, "callbackType": ended}
    message = "Success" if callback.get("code") == 200 else callback.get("msg")
    return {**envelope(callback.get("code"), message, data), "taskId": data["task_id"]}


def html_page(status: int) -> ServiceResponse:
    """A page that a gateway sends instead of the service's response."""
    try:
        title = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        title = f"{status} Error"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return ServiceResponse(status, raw=page.encode(), content_type=HTML)


def refusal_message(code: int) -> str:
    """The message that goes with *code*."""
    return MESSAGES.get(code, f"Error {code}")


class ResponseBuilder:
    """Builds the responses of one service; knows its terms and its clock, nothing else."""

    def __init__(self, terms: Terms, clock: ServiceClock) -> None:
        self.terms = terms
        self.clock = clock
        self._invalid_sent = 0

    # -- refusals ----------------------------------------------------------------------------

    def refusal(self, refusal: Refusal) -> ServiceResponse:
        """The response to a refused request; beyond a limit, in the form that the terms choose."""
        if refusal.wait is not None:
            return self.throttled(self.terms.throttle, refusal.wait)
        shown = self.terms.http_refusals and 400 <= refusal.code < 500  # 500 is sent on HTTP 200
        status = refusal.code if shown else 200
        return ServiceResponse(status, envelope(refusal.code, refusal.message, None))

    def upload_refusal(self, refusal: Refusal) -> ServiceResponse:
        """The response to a refused upload, whose envelope has a field `success` as well."""
        status = refusal.code if self.terms.http_refusals and 400 <= refusal.code < 600 else 200
        return ServiceResponse(
            status, {"success": False, "code": refusal.code, "msg": refusal.message, "data": None}
        )

    def throttled(self, form: Throttle, wait: float) -> ServiceResponse:
        """The response to a request beyond a limit, in *form*; retry in *wait* service seconds."""
        frequency = "Your call frequency is too high. Please try again later."
        if form is Throttle.HTML:
            return html_page(429)
        if form is Throttle.BODY:
            return ServiceResponse(payload=envelope(429, refusal_message(429), None))
        if form is Throttle.BODY_430:
            return ServiceResponse(payload=envelope(430, refusal_message(430), None))
        if form is Throttle.WORDS:
            return ServiceResponse(payload=envelope(402, frequency, None))
        seconds = max(0.0, self.clock.caller_seconds(wait))
        data = {"retryAfter": ceil(seconds)} if form is Throttle.IN_BODY else None
        response = ServiceResponse(429, envelope(429, refusal_message(429), data))
        header = self._retry_after(form, seconds)
        return response if header is None else response.with_headers(header)

    def _retry_after(self, form: Throttle, seconds: float) -> tuple[str, str] | None:
        if form is Throttle.SECONDS:
            return "Retry-After", str(ceil(seconds))
        if form is Throttle.FRACTION:
            return "Retry-After", f"{seconds:.3f}"
        if form is Throttle.MILLISECONDS:
            return "retry-after-ms", str(ceil(seconds * 1000))
        if form is Throttle.DATE:
            at = self.clock.timestamp(self.clock.now()) + seconds
            return "Retry-After", formatdate(ceil(at), usegmt=True)
        if form is Throttle.ABSURD:
            value = INVALID_RETRY_AFTER[self._invalid_sent % len(INVALID_RETRY_AFTER)]
            self._invalid_sent += 1
            return "Retry-After", value
        return None

    # -- results -----------------------------------------------------------------------------

    def created(self, task: SimulatedTask) -> ServiceResponse:
        """The task was created and charged."""
        return ServiceResponse(payload=envelope(200, "success", {"taskId": task.task_id}))

    def balance(self, credits_left: float) -> ServiceResponse:
        """The balance; a fraction only where there is one."""
        return ServiceResponse(payload=envelope(200, "success", _number(credits_left)))

    def link(self, url: str) -> ServiceResponse:
        """A temporary URL of a result."""
        return ServiceResponse(payload=envelope(200, "success", url))

    def record(self, task: SimulatedTask, now: float, urls: Sequence[str]) -> ServiceResponse:
        """The response to a poll, with every field that the service is known to send."""
        ended = task.ended_at if task.ended(now) else None
        data = self._task(task, now)
        data["resultJson"] = _result(urls) if task.state(now) == "success" else ""
        data["progress"] = task.progress(now)
        if ended is not None:
            data["costTime"] = round(self.clock.caller_seconds(ended - task.created_at))
            data["creditsConsumed"] = self._cost(task)
        for form in self.terms.record_forms:
            data = form.shape(data, urls)
        return ServiceResponse(payload={"code": 200, "message": "success", "data": data})

    def callback(
        self, task: SimulatedTask, urls: Sequence[str], credits_left: float
    ) -> ServiceResponse:
        """What is POSTed when *task* has ended; *credits_left* is the balance after it."""
        ended = task.ended_at or task.due_at
        data = self._task(task, ended)
        # The cost has another name here than in the response to a poll.
        data["costTime"] = round(self.clock.caller_seconds(ended - task.created_at))
        data |= {"consumeCredits": self._cost(task), "remainedCredits": _number(credits_left)}
        if task.failure is None:
            del data["failCode"], data["failMsg"]
            data["resultJson"] = _result(urls)
            payload = envelope(200, "Playground task completed successfully.", data)
        else:
            payload = envelope(501, "Playground task failed.", data)
        return ServiceResponse(
            payload=notice(payload) if self.terms.callbacks == "notice" else payload
        )

    def _task(self, task: SimulatedTask, now: float) -> dict[str, object]:
        """The fields that polls and callbacks have in common."""
        ended = task.ended_at if task.ended(now) else None
        failure = None if ended is None else task.failure
        return {
            "taskId": task.task_id,
            "model": task.request.model,
            "state": task.state(now),
            "param": json.dumps(task.request.body),
            "failCode": failure.code if failure else "",
            "failMsg": failure.message if failure else "",
            "createTime": self.millis(task.created_at),
            "updateTime": self.millis(task.changed_at(now)),
            "completeTime": None if ended is None else self.millis(ended),
        }

    def _cost(self, task: SimulatedTask) -> float:
        """What a task that has ended cost after a refund."""
        return 0 if task.failure is not None and self.terms.refund else _number(task.credits)

    def uploaded(self, upload: Upload, url: str) -> ServiceResponse:
        """The file is stored; in one of the two documented forms."""
        at = self.clock.timestamp(upload.at)
        expires = self.clock.timestamp(upload.at + self.terms.upload_life)
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
                "expiresAt": _iso(expires),
            }
        body: Mapping[str, object] = {
            "success": True,
            "code": 200,
            "msg": "File uploaded successfully",
            "data": data,
        }
        return ServiceResponse(payload=body)

    def millis(self, at: float) -> int:
        """The service second *at* in milliseconds since 1970, as the service writes instants."""
        return int(1000 * self.clock.timestamp(at))


def _result(urls: Sequence[str]) -> str:
    return json.dumps({"resultUrls": list(urls)})


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


def _iso(stamp: float) -> str:
    moment = datetime.fromtimestamp(stamp, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
