"""What really happened: every request as it arrived, every charge, every refund.

The oracle of tests. The world writes, everybody else reads; times are world seconds.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

__all__ = ["Callback", "Charge", "Creation", "FileRequest", "Ledger", "Mishap", "Refund", "Verdict"]

Verdict = Literal["created", "refused", "unheard"]


@attrs.frozen(eq=False)
class Creation:
    """One request to create a task, as it was received.

    "unheard" means that it arrived and was lost before anybody acted on it. *body* is None when
    it was no JSON object. *fault* names what was done to the request or to its answer.
    """

    at: float
    body: Mapping[str, object] | None = attrs.field(repr=False)
    callback_url: str | None = attrs.field(repr=False)
    verdict: Verdict
    code: int = 200
    task_id: str | None = None
    fault: str = "ok"


@attrs.frozen(eq=False)
class Charge:
    """One task that was created and paid for."""

    at: float
    task_id: str
    credits: float
    body: Mapping[str, object] = attrs.field(repr=False)
    callback_url: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Refund:
    """Credits given back for a task that failed."""

    at: float
    task_id: str
    credits: float


@attrs.frozen
class FileRequest:
    """One request to the hosts of files. *authorized*: it carried an Authorization header."""

    at: float
    method: str
    path: str
    authorized: bool
    leaked: bool = False
    """The API key stood in it, wherever."""
    range: str | None = None
    fault: str = "ok"


@attrs.frozen
class Callback:
    """One attempt to tell of the end of a task, and how it was answered.

    "unanswered" means that it left and no answer was heard; "lost" that a fault kept it from
    leaving, "forbidden" that its receiver is neither on this machine nor among the hosts that
    were named.
    """

    at: float
    task_id: str
    outcome: Literal["answered", "unanswered", "lost", "forbidden"]
    url: str = attrs.field(repr=False)
    told: str
    """The id that stood in it."""
    attempt: int = 0
    status: int | None = None
    fault: str = "ok"


@attrs.frozen
class Mishap:
    """One fault that was inflicted."""

    at: float
    endpoint: str
    fault: str


class Ledger:
    """The books of the world."""

    def __init__(self) -> None:
        self.creations: list[Creation] = []
        self.paid: list[Charge] = []
        self.refunds: list[Refund] = []
        self.files: list[FileRequest] = []
        self.callbacks: list[Callback] = []
        self.mishaps: list[Mishap] = []
        self.looks: Counter[str] = Counter()
        """How often each task was asked about."""
        self.unauthorized = 0
        """API requests without the right key."""
        self.most_running: int = 0
        """The most tasks that ever ran at once."""
        self._times: dict[str, array[float]] = {}
        self._charges: dict[str, Charge] = {}
        self._callbacks: defaultdict[str, list[Charge]] = defaultdict(list)

    # -- questions ---------------------------------------------------------------------------

    @property
    def created(self) -> Sequence[Creation]:
        """The requests that created a task."""
        return [c for c in self.creations if c.verdict == "created"]

    @property
    def refused(self) -> Sequence[Creation]:
        """The requests that were answered with no."""
        return [c for c in self.creations if c.verdict == "refused"]

    @property
    def throttled(self) -> Sequence[Creation]:
        """The requests that came too often."""
        return [c for c in self.refused if c.code == 429]

    @property
    def leaks(self) -> Sequence[FileRequest]:
        """File requests that carried the key or any Authorization header. There must be none."""
        return [f for f in self.files if f.authorized or f.leaked]

    @property
    def credits_spent(self) -> float:
        """Credits charged and not given back."""
        return sum(c.credits for c in self.paid) - sum(r.credits for r in self.refunds)

    def charge(self, task_id: str) -> Charge | None:
        """What was paid for that task."""
        return self._charges.get(task_id)

    def paid_for(self, callback_url: str) -> Sequence[Charge]:
        """The tasks that were paid with that callback address; more than one is a disaster."""
        return self._callbacks.get(callback_url, [])

    def times(self, endpoint: str) -> Sequence[float]:
        """When requests came to *endpoint* ("create", "record", "credits", "upload", ...)."""
        return self._times.get(endpoint, array("d"))

    def busiest_window(self, per: float, endpoint: str = "create") -> int:
        """The most requests that any stretch of *per* seconds held, its end left out."""
        inside: deque[float] = deque()
        most = 0
        for at in self.times(endpoint):
            while inside and inside[0] + per <= at:
                inside.popleft()
            inside.append(at)
            most = max(most, len(inside))
        return most

    def as_dict(self) -> dict[str, object]:
        """All of it in plain values, as JSON has them."""
        entries = ("creations", "paid", "refunds", "files", "callbacks", "mishaps")
        return {
            **{name: [attrs.asdict(entry) for entry in getattr(self, name)] for name in entries},
            "looks": dict(self.looks),
            "arrivals": {endpoint: list(times) for endpoint, times in self._times.items()},
            "unauthorized": self.unauthorized,
            "most_running": self.most_running,
            "credits_spent": self.credits_spent,
        }

    # -- entries -----------------------------------------------------------------------------

    def note_arrival(self, endpoint: str, at: float) -> None:
        """A request came to *endpoint*."""
        self._times.setdefault(endpoint, array("d")).append(at)

    def note_charge(self, charge: Charge) -> None:
        """A task was created, and paid."""
        self.paid.append(charge)
        self._charges[charge.task_id] = charge
        if charge.callback_url is not None:
            self._callbacks[charge.callback_url].append(charge)

    def note_running(self, running: int) -> None:
        """So many tasks run now."""
        self.most_running = max(self.most_running, running)

    def __repr__(self) -> str:
        return (
            f"<Ledger {len(self.creations)} creations, {len(self.paid)} paid, "
            f"{self.looks.total()} looks, {len(self.files)} file requests>"
        )
