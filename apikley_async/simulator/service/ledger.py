"""What really happened: every request as it arrived, every charge, every refund.

Tests compare against it. The service writes it, everybody else reads it. Times are service seconds.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

__all__ = [
    "CallbackDelivery",
    "Creation",
    "CreationOutcome",
    "FileRequest",
    "InjectedFault",
    "Ledger",
    "Refund",
    "TaskCharge",
]

CreationOutcome = Literal["created", "refused", "lost"]


@attrs.frozen(eq=False)
class Creation:
    """One request to create a task, as it was received.

    *outcome* "lost" means that it arrived and a fault dropped it before it was processed. *body*
    is None when it was no JSON object. *fault* names what was done to the request or its response.
    """

    at: float
    body: Mapping[str, object] | None = attrs.field(repr=False)
    callback_url: str | None = attrs.field(repr=False)
    outcome: CreationOutcome
    code: int = 200
    task_id: str | None = None
    fault: str = "ok"


@attrs.frozen(eq=False)
class TaskCharge:
    """One task that was created and paid for."""

    at: float
    task_id: str
    credits: float
    body: Mapping[str, object] = attrs.field(repr=False)
    callback_url: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Refund:
    """Credits returned for a task that failed."""

    at: float
    task_id: str
    credits: float


@attrs.frozen
class FileRequest:
    """One request to the file host. *authorized*: it carried an Authorization header."""

    at: float
    method: str
    path: str
    authorized: bool
    leaked: bool = False
    """The API key was somewhere in the request."""
    range: str | None = None
    fault: str = "ok"


@attrs.frozen
class CallbackDelivery:
    """One attempt to deliver a callback, and how it was answered.

    *outcome* "unanswered": it was sent and no answer came; "lost": a fault kept it from being
    sent; "forbidden": its host is neither this machine nor one of the allowed hosts.
    """

    at: float
    task_id: str
    outcome: Literal["answered", "unanswered", "lost", "forbidden"]
    url: str = attrs.field(repr=False)
    body_task_id: str
    """The task id in its body, which a fault may have changed."""
    attempt: int = 0
    status: int | None = None
    fault: str = "ok"


@attrs.frozen
class InjectedFault:
    """One fault that struck a request or a callback."""

    at: float
    endpoint: str
    fault: str


class Ledger:
    """The service's record of everything that happened."""

    def __init__(self) -> None:
        self.creations: list[Creation] = []
        self.paid: list[TaskCharge] = []
        self.refunds: list[Refund] = []
        self.files: list[FileRequest] = []
        self.callbacks: list[CallbackDelivery] = []
        self.faults: list[InjectedFault] = []
        self.polls: Counter[str] = Counter()
        """How often each task was polled."""
        self.unauthorized = 0
        """API requests without the right key."""
        self.most_running: int = 0
        """The most tasks that ever ran at once."""
        self._arrivals: dict[str, array[float]] = {}
        self._charges: dict[str, TaskCharge] = {}
        self._callback_charges: defaultdict[str, list[TaskCharge]] = defaultdict(list)

    # -- reading -----------------------------------------------------------------------------

    @property
    def created(self) -> Sequence[Creation]:
        """The requests that created a task."""
        return [c for c in self.creations if c.outcome == "created"]

    @property
    def refused(self) -> Sequence[Creation]:
        """The requests that were refused."""
        return [c for c in self.creations if c.outcome == "refused"]

    @property
    def throttled(self) -> Sequence[Creation]:
        """The requests that exceeded the rate limit."""
        return [c for c in self.refused if c.code == 429]

    @property
    def leaks(self) -> Sequence[FileRequest]:
        """File requests that carried the key or any Authorization header. There must be none."""
        return [f for f in self.files if f.authorized or f.leaked]

    @property
    def credits_spent(self) -> float:
        """Credits charged and not refunded."""
        return sum(c.credits for c in self.paid) - sum(r.credits for r in self.refunds)

    def charge(self, task_id: str) -> TaskCharge | None:
        """What was paid for that task."""
        return self._charges.get(task_id)

    def paid_for(self, callback_url: str) -> Sequence[TaskCharge]:
        """The paid tasks with that callback URL. More than one means that a film was paid twice."""
        return self._callback_charges.get(callback_url, [])

    def arrivals(self, endpoint: str) -> Sequence[float]:
        """When requests reached *endpoint* ("create", "record", "credits", "upload", ...)."""
        return self._arrivals.get(endpoint, array("d"))

    def busiest_window(self, per: float, endpoint: str = "create") -> int:
        """The most requests within any span of *per* seconds, its end excluded."""
        inside: deque[float] = deque()
        most = 0
        for at in self.arrivals(endpoint):
            while inside and inside[0] + per <= at:
                inside.popleft()
            inside.append(at)
            most = max(most, len(inside))
        return most

    def as_dict(self) -> dict[str, object]:
        """Everything as plain JSON values."""
        entries = ("creations", "paid", "refunds", "files", "callbacks", "faults")
        return {
            **{name: [attrs.asdict(entry) for entry in getattr(self, name)] for name in entries},
            "polls": dict(self.polls),
            "arrivals": {endpoint: list(times) for endpoint, times in self._arrivals.items()},
            "unauthorized": self.unauthorized,
            "most_running": self.most_running,
            "credits_spent": self.credits_spent,
        }

    # -- writing -----------------------------------------------------------------------------

    def note_arrival(self, endpoint: str, at: float) -> None:
        """A request reached *endpoint*."""
        self._arrivals.setdefault(endpoint, array("d")).append(at)

    def note_charge(self, charge: TaskCharge) -> None:
        """A task was created and paid for."""
        self.paid.append(charge)
        self._charges[charge.task_id] = charge
        if charge.callback_url is not None:
            self._callback_charges[charge.callback_url].append(charge)

    def evict(self, task_id: str) -> None:
        """Forget what is stored by task id. The lists of entries stay."""
        charge = self._charges.pop(task_id, None)
        if charge is not None:
            self._callback_charges.pop(charge.callback_url or "", None)
        self.polls.pop(task_id, None)

    def note_running(self, running: int) -> None:
        """So many tasks are running now."""
        self.most_running = max(self.most_running, running)

    def __repr__(self) -> str:
        return (
            f"<Ledger {len(self.creations)} creations, {len(self.paid)} paid, "
            f"{self.polls.total()} polls, {len(self.files)} file requests>"
        )
