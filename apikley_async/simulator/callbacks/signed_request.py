"""A callback before it is sent: its body, its headers and its signature. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac

import attrs

from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.service.responses import ServiceResponse

__all__ = ["SignedRequest", "sign_callback", "signature"]


@attrs.frozen
class SignedRequest:
    """One POST to the receiver of a callback. *task_id* is the one in its body."""

    task_id: str
    body: bytes = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)


def sign_callback(
    report: ServiceResponse,
    fault: Fault,
    *,
    task_id: str,
    key: str | None,
    now: float,
    copy: int = 0,
) -> SignedRequest:
    """The request to send, changed by *fault*.

    Args:
        report: the true body of the callback.
        fault: what goes wrong with this callback.
        task_id: the task that has ended.
        key: signs the request; without one it has no signature and no timestamp.
        now: Unix time of sending.
        copy: how many copies of this callback were sent before.
    """
    changed = report if fault.mutation == "relapse" and not copy else fault.apply(report)
    body_task_id = _task_id_in(changed) or task_id
    label = (("Content-Type", changed.content_type),) if changed.content_type else ()
    headers = (*label, *changed.headers)
    if key is None or fault.mutation == "no signature":
        return SignedRequest(body_task_id, changed.body, headers)
    stamp = str(int(now + (float(fault.value) if fault.mutation == "stamp" else 0)))
    signing_key = f"not {key}" if fault.mutation == "wrong signature" else key
    signing = (
        ("X-Webhook-Timestamp", stamp),
        ("X-Webhook-Signature", signature(signing_key, body_task_id, stamp)),
    )
    return SignedRequest(body_task_id, changed.body, (*headers, *signing))


def signature(key: str, task_id: str, stamp: str) -> str:
    """The signature of a callback. It covers the id and the time, and not the body."""
    digest = hmac.digest(key.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def _task_id_in(report: ServiceResponse) -> str | None:
    """The task id in a callback's body, in any of the places where it may be."""
    body = report.payload if report.raw is None and isinstance(report.payload, dict) else {}
    data = body.get("data")
    places = (data, body) if isinstance(data, dict) else (body,)
    found = (place.get(name) for place in places for name in ("taskId", "task_id"))
    return next((task_id for task_id in found if isinstance(task_id, str)), None)
