"""What the service says of a task: `State`, `Snapshot` and `Result`.

Values only; `_wire` reads them from the service's JSON. The page behind them is
https://docs.apikley.ru/get-task-detail.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import attrs

from apikley_async._text import loggable
from apikley_async.errors import EmptyResultError, JobFailedError

__all__ = ["Result", "Snapshot", "State"]

LINK_LIFETIME = timedelta(hours=24)


class State(StrEnum):
    """How far a task is, in the service's words. Only `SUCCESS` and `FAIL` are final."""

    WAITING = "waiting"
    QUEUING = "queuing"
    GENERATING = "generating"
    SUCCESS = "success"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """A word this version does not know; it stands in `Snapshot.word`. Not final."""

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return self in (State.SUCCESS, State.FAIL)


@attrs.frozen(repr=False)
class Result:
    """A finished film: where its files can be downloaded, and until when.

    Attributes:
        task_id: the task that made it.
        urls: the usable links, in the service's order; they work for about 24 hours.
        credits: the credits that the task consumed, if the service says.
        expires_at: when the links are expected to expire (24 hours after completion), if known.
        raw: the result as the service gave it, unknown fields included.
        unusable: what stands among the links and cannot be downloaded; `save` names it.
    """

    task_id: str
    urls: tuple[str, ...]
    credits: float | None = None
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    unusable: tuple[str, ...] = ()

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """Give plain JSON values.

        Args:
            raw: whether `raw` is included.
        """
        return _as_dict(self, raw=raw)

    def __repr__(self) -> str:
        facts = [_files(self.urls), *_unusable(self.unusable)]
        facts += [*_credits(self.credits), *_expiry(self.expires_at)]
        return f"<Result {self.task_id}: {', '.join(facts)}>"


@attrs.frozen(repr=False)
class Snapshot:
    """The answer to one poll.

    Attributes:
        task_id: the task that was polled.
        state: how far it is; `State.UNKNOWN` for a word we do not know.
        model: the model that makes it, if the service says.
        progress: percent done, if the service says.
        urls: usable result links (http or https, without a password); empty before success.
        content: the decoded result, unknown fields included.
        linked: whether the result is made of links; other models may answer with content alone.
        fail_code, fail_message: the service's words for a failure, else empty.
        credits: the credits that the task consumed, if the service says.
        created_at, updated_at, completed_at: the service's times (UTC), if it says.
        raw: the answer's data as it came. Its `param` repeats the callback URL and its token:
            keep it private. A `Job` keeps it without `param` until the film has ended.
        word: the service's own word for a state that we do not know, else empty.
        unusable: what stands among the links and cannot be downloaded.
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
        """Whether it is a success without a usable link, where links are expected."""
        return self.state is State.SUCCESS and self.linked and not self.urls

    @property
    def expires_at(self) -> datetime | None:
        """When its links are expected to expire: 24 hours after completion, if that is known."""
        completed_at = self.completed_at or self.updated_at
        if completed_at is None or self.state is not State.SUCCESS:
            return None
        return completed_at + LINK_LIFETIME

    @property
    def state_text(self) -> str:
        """The state, with the service's own word where it is not one of ours."""
        return f"{self.state} ({self.word!r:.60})" if self.word else f"{self.state}"

    @property
    def failure(self) -> str:
        """Code and message of a failure in one line, or empty."""
        return " ".join(part for part in (self.fail_code, self.fail_message) if part)

    def without_request(self) -> Snapshot:
        """The same without the request that the record repeats: what thousands may be held of."""
        # Each record was decoded with strings of its own for the names of its fields.
        raw = {sys.intern(name): value for name, value in self.raw.items() if name != "param"}
        return attrs.evolve(self, raw=raw)

    def result(self) -> Result:
        """Give the result.

        Raises:
            JobFailedError: the task failed.
            EmptyResultError: the task is not finished, or finished without a usable link.
        """
        if self.state is State.FAIL:
            raise JobFailedError(
                f"The film failed: {self.failure or 'no reason given'}",
                task_id=self.task_id,
                fail_code=self.fail_code,
                fail_message=self.fail_message,
            )
        if self.state is not State.SUCCESS or self.empty:
            raise EmptyResultError(
                f"No usable link yet; the state is {self.state_text}",
                task_id=self.task_id,
                raw=self.raw,
            )
        return Result(
            task_id=self.task_id,
            urls=self.urls,
            credits=self.credits,
            expires_at=self.expires_at,
            raw=self.content,
            unusable=self.unusable,
        )

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """Give plain JSON values.

        Args:
            raw: whether `raw` is included, which holds the token of the callback URL.
        """
        return _as_dict(self, raw=raw)

    def __repr__(self) -> str:
        facts = [f"{self.progress:g}%"] if self.progress is not None else []
        facts += [loggable(self.failure)] if self.failure else []
        facts += [_files(self.urls)] if self.urls else []
        facts += [*_unusable(self.unusable), *_credits(self.credits)]
        facts += [*_expiry(self.expires_at)] if self.urls else []
        line = f"{self.task_id} {self.state_text}"
        return f"<Snapshot {line}: {', '.join(facts)}>" if facts else f"<Snapshot {line}>"


# --- as JSON, and as a line -----------------------------------------------------------------------


def _as_dict(value: Result | Snapshot, *, raw: bool) -> dict[str, Any]:
    names = [field.name for field in attrs.fields(type(value)) if raw or field.name != "raw"]
    return {name: _as_json(getattr(value, name)) for name in names}


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None  # Python reads NaN in JSON, and JSON has no word for it
    return value


def _files(urls: tuple[str, ...]) -> str:
    count = len(urls)
    hosts = ", ".join(dict.fromkeys(_hosts(urls)))
    return f"{count} file{'' if count == 1 else 's'}{' at ' if hosts else ''}{hosts}"


def _hosts(urls: tuple[str, ...]) -> Iterator[str]:
    """Name the hosts alone: path and query of a signed link are as good as the film."""
    for url in urls:
        try:
            host = urlsplit(url).hostname
        except ValueError:
            continue
        if host:
            yield host


def _unusable(links: tuple[str, ...]) -> list[str]:
    count = len(links)
    return [f"{count} unusable link{'' if count == 1 else 's'}"] if links else []


def _credits(amount: float | None) -> list[str]:
    return [] if amount is None else [f"{amount:.10g} credits"]


def _expiry(at: datetime | None) -> list[str]:
    return [] if at is None else [f"expires {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"]
