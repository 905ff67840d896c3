"""A callback before it is sent: what it says, and how it is signed. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac

import attrs

from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.service.responses import Answer

__all__ = ["Letter", "letter", "signature"]


@attrs.frozen
class Letter:
    """One request to the receiver of a callback. *told* is the task it speaks of."""

    told: str
    body: bytes = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)


def letter(
    said: Answer, fault: Fault, *, task_id: str, key: str | None, now: float, copy: int = 0
) -> Letter:
    """What leaves at the Unix time *now*, signed when there is a *key*, and bent by *fault*.

    *said* is the truth about *task_id*; *copy* counts the times it has been told before.
    """
    bent = said if fault.twist == "relapse" and not copy else fault.bend(said)
    told = _told(bent) or task_id
    labels = (("Content-Type", bent.content_type),) if bent.content_type else ()
    headers = (*labels, *bent.headers)
    if key is None or fault.twist == "no signature":
        return Letter(told, bent.body, headers)
    stamp = str(int(now + (float(fault.value) if fault.twist == "stamp" else 0)))
    signed = signature(f"not {key}" if fault.twist == "wrong signature" else key, told, stamp)
    signing = (("X-Webhook-Timestamp", stamp), ("X-Webhook-Signature", signed))
    return Letter(told, bent.body, (*headers, *signing))


def signature(key: str, task_id: str, stamp: str) -> str:
    """The signature of a callback: it covers the id and the time, and not the body."""
    digest = hmac.digest(key.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def _told(said: Answer) -> str | None:
    """The id in a callback's body, wherever it stands."""
    body = said.payload if said.raw is None and isinstance(said.payload, dict) else {}
    data = body.get("data")
    places = (data, body) if isinstance(data, dict) else (body,)
    found = (place.get(name) for place in places for name in ("taskId", "task_id"))
    return next((task_id for task_id in found if isinstance(task_id, str)), None)
