"""What the service says of a task: states, snapshots, results.

Values only. How they are spelled on the wire is `_wire`'s business. The page behind them is
https://docs.apikley.ru/get-task-detail.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs

from apikley_async.errors import EmptyResultError, JobFailedError

__all__ = ["Result", "Snapshot", "State"]

LINK_LIFE = timedelta(hours=24)


class State(enum.Enum):
    """How far a task is. Only `SUCCESS` and `FAIL` are final."""

    WAITING = "waiting"
    QUEUING = "queuing"
    GENERATING = "generating"
    SUCCESS = "success"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """A word this version does not know; it stands in `Snapshot.word`. Not finished."""

    @property
    def final(self) -> bool:
        return self in (State.SUCCESS, State.FAIL)


@attrs.frozen(repr=False)
class Result:
    """A finished film: where its files can be fetched, and until when.

    Attributes:
        task_id: the task that made it.
        urls: the usable links, in the service's order; they live about 24 hours.
        credits: what the service says the task consumed, if it says.
        expires_at: when the links are expected to die (24 hours after completion), if known.
        raw: the result as the service gave it, fields we do not know included.
        unusable: what stands among the links and is none that could be fetched; `save` says so.
    """

    task_id: str
    urls: tuple[str, ...]
    credits: float | None = None
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    unusable: tuple[str, ...] = ()

    def __repr__(self) -> str:
        count = len(self.urls)
        return f"<Result {self.task_id}, {count} file{'' if count == 1 else 's'}>"


@attrs.frozen(repr=False)
class Snapshot:
    """One answer to "how far is it?".

    Attributes:
        task_id: the task asked for.
        state: how far it is; `State.UNKNOWN` for a word we do not know.
        model: the model that makes it, if the service says.
        progress: per cent done, if the service says.
        urls: usable result links (http or https, without a password); empty before success.
        content: the decoded result, fields we do not know included.
        linked: whether the result is made of links; other models may answer with content alone.
        fail_code, fail_message: the service's words for a failure, else empty.
        credits: what the service says the task consumed, if it says.
        created_at, updated_at, completed_at: the service's times (UTC), if it says.
        raw: the answer's data as it came. Its `param` repeats the callback URL: keep it private.
        word: the service's own word for a state that we do not know, else empty.
        unusable: what stands among the links and is none that could be fetched.
    """

    task_id: str
    state: State = State.UNKNOWN
    model: str = ""
    progress: float | None = None
    urls: tuple[str, ...] = ()
    content: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    linked: bool = True
    fail_code: str = ""
    fail_message: str = ""
    credits: float | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    completed_at: datetime | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    word: str = ""
    unusable: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the service calls the task finished, well or badly."""
        return self.state.final

    @property
    def empty(self) -> bool:
        """A success that holds nothing: no usable link where links are expected."""
        return self.state is State.SUCCESS and self.linked and not self.urls

    def result(self) -> Result:
        """Give the result.

        Raises:
            JobFailedError: the task failed.
            EmptyResultError: the task is not finished, or finished without a usable link.
        """
        if self.state is State.FAIL:
            said = " ".join(part for part in (self.fail_code, self.fail_message) if part)
            raise JobFailedError(
                f"The film failed: {said or 'no reason given'}",
                task_id=self.task_id,
                fail_code=self.fail_code,
                fail_message=self.fail_message,
            )
        if self.state is not State.SUCCESS or self.empty:
            raise EmptyResultError(
                f"No usable link yet; the state is {self.told}",
                task_id=self.task_id,
                raw=self.raw,
            )
        born = self.completed_at or self.updated_at
        return Result(
            task_id=self.task_id,
            urls=self.urls,
            credits=self.credits,
            expires_at=born + LINK_LIFE if born else None,
            raw=self.content,
            unusable=self.unusable,
        )

    def __repr__(self) -> str:
        progress = f" {self.progress:g}%" if self.progress is not None else ""
        return f"<Snapshot {self.task_id} {self.told}{progress}>"

    @property
    def told(self) -> str:
        """The state, with the service's own word where it is not one of ours."""
        return f"{self.state.value} ({self.word!r:.60})" if self.word else self.state.value
