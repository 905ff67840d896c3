"""What becomes of each of many films, as a value: `Completed` or `Failed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import attrs

from apikley_async._job import Job
from apikley_async._result import Result
from apikley_async._storyboard import Work
from apikley_async.errors import ApikleyError

__all__ = ["Completed", "Failed", "Outcome"]


@attrs.frozen
class Completed:
    """A film that `generate_many` has made.

    Attributes:
        index: its place in the input, from 0.
        work: what was asked for.
        job: the paid task.
        result: the film.
        paths: its files, where `save_to` had them saved.
        metadata: what the caller knows the work by.
        ok: always True; `error` is always None. Every type checker narrows an `Outcome` by
            `outcome.error is None`, mypy also by `if outcome.ok`.
    """

    index: int
    work: Work
    job: Job
    result: Result
    paths: tuple[Path, ...] = ()
    metadata: Any = attrs.field(default=None, repr=False)
    ok: ClassVar[Literal[True]] = True
    error: ClassVar[None] = None

    def unwrap(self) -> Result:
        """Return the result; `Failed.unwrap` raises."""
        return self.result

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; `metadata` is not among them."""
        paths = [str(path) for path in self.paths]
        return _as_dict(self) | {"result": self.result.to_dict(), "paths": paths}


@attrs.frozen
class Failed:
    """A film that `generate_many` has not made.

    Attributes:
        index: its place in the input, from 0.
        work: what was asked for.
        error: why there is no film. Whatever your own code has raised (a limiter, a function of
            prices) is its `__cause__`.
        job: the task, if one was created; it is paid unless the service says otherwise. A film
            that could not be saved has one: `client.save(await job, ...)` tries again.
        metadata: what the caller knows the work by.
        ok: always False; `result` is always None.
    """

    index: int
    work: Work
    error: ApikleyError
    job: Job | None = None
    metadata: Any = attrs.field(default=None, repr=False)
    ok: ClassVar[Literal[False]] = False
    result: ClassVar[None] = None

    def unwrap(self) -> Result:
        """Raise the error; `Completed.unwrap` returns the result."""
        raise self.error

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; `metadata` is not among them."""
        return _as_dict(self) | {"error": self.error.to_dict()}


def _as_dict(outcome: Completed | Failed) -> dict[str, Any]:
    return {
        "ok": outcome.ok,
        "index": outcome.index,
        "work": dict(outcome.work.to_dict()),
        "task_id": outcome.job.task_id if outcome.job is not None else None,
    }


Outcome: TypeAlias = Completed | Failed
"""What became of one work: narrow it by `outcome.error is None`, `isinstance` or `match`."""
