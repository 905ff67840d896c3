"""What every error of this package says, and in which words; `errors` has the errors themselves."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias

__all__ = ["ApikleyError", "Blame", "Retry"]

Retry: TypeAlias = Literal["never", "slowly", "soon", "always"]


class Blame(StrEnum):
    """What caused an error, and so what has to change."""

    INPUT = "input"
    """What was submitted or configured: this work, file, argument or address."""
    ACCOUNT = "account"
    """The key, the credits, or a bound on them."""
    NETWORK = "network"
    """This machine, its disk, or the way to the service."""
    SERVICE = "service"
    """The service itself."""


class ApikleyError(Exception):
    """The base of every error of this package.

    Where one class covers several cases, an instance may differ from its class.

    Attributes:
        message: what happened, in one sentence without secrets.
        advice: what to do, in one sentence.
        code: the service's code (or the HTTP status when it sent none), if it answered.
        task_id: the task concerned, where there is one.
        resumable: the same call or command may succeed later with the same input, and nothing
            that was paid is lost.
        blames: what has to change.
        affects_all: other films would fail the same way now, so a batch stops submitting.
        retry: whether trying again may help. `"never"`: the answer stays the same. `"slowly"`:
            only polling goes on. `"soon"`: calls that cost nothing are repeated. `"always"`:
            nothing was processed, so even createTask may be repeated.
        retry_after: the pause in seconds that the service asked for, if it did.
    """

    advice: str = ""
    resumable: bool = False
    blames: Blame = Blame.SERVICE
    affects_all: bool = False
    retry: Retry = "never"
    retry_after: float | None = None
    _details: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        task_id: str | None = None,
        resumable: bool | None = None,
        blames: Blame | None = None,
        affects_all: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.task_id = task_id
        if resumable is not None:
            self.resumable = resumable
        if blames is not None:
            self.blames = blames
        if affects_all is not None:
            self.affects_all = affects_all

    def __str__(self) -> str:
        facts = [f"code {self.code}"] if self.code is not None else []
        facts += [f"task {self.task_id}"] if self.task_id else []
        what = self.message or type(self).__name__
        if facts:
            what = f"{what.rstrip('.')} ({', '.join(facts)})"
        return " ".join(_sentence(part) for part in (what, self.advice) if part)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values, such as for a log or another process; no answers, no secrets."""
        values = {
            "error": type(self).__name__,
            "message": self.message,
            "advice": self.advice,
            "code": self.code,
            "task_id": self.task_id,
            "resumable": self.resumable,
            "blames": self.blames.value,
            "affects_all": self.affects_all,
            "retry_after": self.retry_after,
        }
        details = {name: getattr(self, name) for name in self._details}
        return values | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in details.items()
        }


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
