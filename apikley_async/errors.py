"""The errors of this package: plain values, sorted by what the caller can do next.

One table, on the classes: what each error means for the caller (`resumable`, `blames`,
`affects_all`, `retry`) is written there and nowhere else. Every error pickles, copies and logs as
it is, and prints one sentence on what happened and one on what to do. The service's codes are
listed at https://docs.apikley.ru/Sora-2/sora-2-pro-storyboard.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from apikley_async._error_base import ApikleyError, Blame, Retry

__all__ = [
    "ApiError",
    "ApikleyError",
    "AuthenticationError",
    "Blame",
    "BudgetExceededError",
    "ClientClosedError",
    "DownloadError",
    "EmptyResultError",
    "FeatureDisabledError",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "JobFailedError",
    "JobTimeoutError",
    "JournalError",
    "KeyLimitError",
    "MaintenanceError",
    "ManifestConflictError",
    "ManifestError",
    "MissingExtraError",
    "NotFoundError",
    "RateLimitError",
    "ResultExpiredError",
    "ServerError",
    "StoryboardError",
    "SubmissionUncertainError",
    "UnansweredError",
    "UnreachableError",
    "UploadError",
]


class StoryboardError(ApikleyError, ValueError):
    """The input breaks a rule; nothing was sent, nothing was paid.

    `faults` names every violated rule with its path, so that one correction is enough.
    """

    blames = Blame.INPUT
    _details = ("faults",)

    def __init__(self, faults: Iterable[str] | str) -> None:
        listed = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("; ".join(listed))
        self.faults: tuple[str, ...] = listed


# --- the service refused the request ----------------------------------------------------------


class ApiError(ApikleyError):
    """The service answered and refused the request."""

    advice = "The same request will get the same answer"
    retry: Retry = "slowly"


class AuthenticationError(ApiError):
    """401 or 403: the key is missing, wrong or revoked. Nothing was created.

    A 403 without the service's frame is a gateway's: it blames the network, and not the account.
    """

    advice = "Check APIKLEY_API_KEY; keys are managed at https://app.apikley.ru/keys"
    resumable = True
    blames = Blame.ACCOUNT
    affects_all = True
    retry: Retry = "never"

    def __init__(
        self, message: str = "", *, code: int | None = None, task_id: str | None = None
    ) -> None:
        answered = code is not None  # without an answer the key was never sent: it is malformed
        blames = Blame.ACCOUNT if answered else Blame.INPUT
        super().__init__(message, code=code, task_id=task_id, resumable=answered, blames=blames)


class InsufficientCreditsError(ApiError):
    """402: the account does not have the credits. Nothing was created."""

    advice = "Top up the account, then submit again"
    resumable = True
    blames = Blame.ACCOUNT
    affects_all = True


class NotFoundError(ApiError):
    """404: the service does not know this task, model or path."""

    advice = "Check the task id or the model; a task of another account is unknown too"
    blames = Blame.INPUT
    retry: Retry = "never"


class InvalidRequestError(ApiError):
    """400, 422, 451 and similar: the service refuses the input. Nothing was created."""

    advice = "Correct the input; some models require an image, some refuse what it shows"
    blames = Blame.INPUT
    retry: Retry = "never"


class RateLimitError(ApiError):
    """429 or 430: too many requests, and `retry_for` has passed. Nothing was created.

    `retry_after` is the pause in seconds that the service asked for, if it did.
    """

    advice = "Submit more slowly, or later"
    resumable = True
    affects_all = True
    retry: Retry = "always"

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        task_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, task_id=task_id)
        self.retry_after = retry_after


class KeyLimitError(ApiError):
    """433: the usage cap of this key is reached. Nothing was created."""

    advice = "Raise the key's cap or wait until it resets"
    resumable = True
    blames = Blame.ACCOUNT
    affects_all = True


class MaintenanceError(ApiError):
    """455: the service is under maintenance. Nothing was created."""

    advice = "Submit again in some minutes"
    resumable = True
    affects_all = True


class FeatureDisabledError(ApiError):
    """505: the model is switched off. Nothing was created."""

    advice = "Choose another model, or ask the provider when this one returns"


class ServerError(ApiError):
    """5xx in answer to a call that costs nothing (a poll, credits, an upload).

    From `submit` only with a code of `Client(not_created=...)`.
    """

    advice = "Try again later; nothing was created"
    resumable = True
    retry: Retry = "soon"


# --- the service did not answer ----------------------------------------------------------------


class UnreachableError(ApikleyError):
    """The service was not reached: nothing was sent, so nothing was created.

    The client retries by itself. This is raised when `retry_for` has passed, or at once when a
    retry cannot help (`permanent`), as with a certificate that does not belong to the host.
    """

    advice = "Check the network and the address, then try again"
    resumable = True
    blames = Blame.NETWORK
    affects_all = True
    retry: Retry = "always"

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        task_id: str | None = None,
        permanent: bool = False,
    ) -> None:
        blames = Blame.INPUT if permanent else Blame.NETWORK  # the address or its certificate
        resumable = not permanent
        super().__init__(message, code=code, task_id=task_id, resumable=resumable, blames=blames)
        self.permanent = permanent
        self.retry = "slowly" if permanent else "always"


class UnansweredError(ApikleyError):
    """A call that costs nothing got no readable answer."""

    advice = "Try again"
    resumable = True
    blames = Blame.NETWORK
    retry: Retry = "soon"


class SubmissionUncertainError(ApikleyError):
    """createTask may or may not have been processed: a film may be in the making, and paid.

    It is never retried silently, since the service has no idempotency key. Submitting the
    storyboard again may pay for a second film: the caller decides.

    Attributes:
        token: the attempt's name; it is part of the callback URL, where there is one.
        cause: what went wrong, in a few words.
        http: the HTTP status, if there was one.
        raw: the answer as far as it was read (at most 64 KiB, without the key).
        at: when the attempt ended, in seconds since 1970.
        waited: seconds that were spent waiting for a callback since then.
        work, metadata: what was submitted; in this process only, pickled and copied errors do
            not carry them.
    """

    _details = ("token", "cause", "http", "at")

    waited: float = 0.0
    work: Any = None
    metadata: Any = None
    advice = (
        "Do not simply submit again: await client.attempts.recover(error), where callbacks are "
        "on; otherwise look for the task in the service's log and re-attach with "
        "client.job(task_id); submit again only if it is not there"
    )

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        task_id: str | None = None,
        token: str = "",
        cause: str = "",
        http: int | None = None,
        raw: str = "",
        at: float | None = None,
    ) -> None:
        super().__init__(message, code=code, task_id=task_id)
        self.token = token
        self.cause = cause
        self.http = http
        self.raw = raw
        self.at = at

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {**self.__dict__, "work": None, "metadata": None}

    def __repr__(self) -> str:
        facts = filter(None, (self.token and f"attempt {self.token}", self.cause or self.message))
        line = ", ".join([*facts, *([] if self.work is None else [repr(self.work)])])
        return f"<{type(self).__name__}: {line}>"


# --- jobs ----------------------------------------------------------------------------------------


class JobFailedError(ApikleyError):
    """The service reports that the film failed. Submitting again costs again.

    `fail_code` and `fail_message` are the service's own words. The code 402 means that the account
    does not have the credits: other films would fail as well.
    """

    _details = ("fail_code", "fail_message")

    advice: str = (
        "Content that was refused will be refused again; after an internal error of the service "
        "a new submission, which is a new charge, may work"
    )

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        task_id: str | None = None,
        fail_code: str = "",
        fail_message: str = "",
    ) -> None:
        unpaid = fail_code.strip() == "402"
        super().__init__(
            message,
            code=code,
            task_id=task_id,
            resumable=unpaid,
            affects_all=unpaid,
            blames=Blame.ACCOUNT if unpaid else None,
        )
        self.fail_code = fail_code
        self.fail_message = fail_message
        if unpaid:
            self.advice = InsufficientCreditsError.advice


class JobTimeoutError(ApikleyError, TimeoutError):
    """Polling stopped after the timeout; the film goes on, and is paid.

    `except TimeoutError` catches it as well, and so does `except OSError`, since Python's
    `TimeoutError` is one.

    Attributes:
        job: the job in this process: await it again. Pickled and copied errors carry only
            `task_id`.
    """

    advice = "Await the job again, or later client.job(task_id)"
    resumable = True

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        task_id: str | None = None,
        job: Any = None,
    ) -> None:
        super().__init__(message, code=code, task_id=task_id)
        self.job = job

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {**self.__dict__, "job": None}


class EmptyResultError(ApikleyError):
    """The service reports success without a usable link, in several polls.

    `raw` is the record of the task.
    """

    advice = "The film is paid: await the job again, then give the task id to the provider"
    resumable = True

    def __init__(
        self,
        message: str = "",
        *,
        code: int | None = None,
        task_id: str | None = None,
        raw: Any = None,
    ) -> None:
        super().__init__(message, code=code, task_id=task_id)
        self.raw = raw


class ClientClosedError(ApikleyError):
    """The client is closed, or belongs to another event loop. Running films go on."""

    advice = "Enter the client again (async with client) and re-attach with client.job(task_id)"
    resumable = True
    blames = Blame.INPUT
    affects_all = True


# --- files and the rest -----------------------------------------------------------------------


class UploadError(ApikleyError):
    """The image cannot be used or was not stored. Uploading costs nothing; nothing was paid."""

    blames = Blame.INPUT


class DownloadError(ApikleyError):
    """The film could not be saved completely; no incomplete file has its name."""

    advice = "The service keeps a film for about a day after it was ready: save it again until then"
    resumable = True
    blames = Blame.NETWORK

    @classmethod
    def before_paying(cls, message: str, *, blames: Blame | None = None) -> DownloadError:
        """The error of a place that was tried before anything was sent: no film is there yet."""
        error = cls(f"{message}; nothing was sent", blames=blames)
        error.advice = "Make that place writable or name another one, then run it again"
        return error


class ResultExpiredError(DownloadError):
    """The film is gone: the service has not known it for ten minutes, or its day has passed."""

    advice = "Results are kept for about a day; ask the provider about the task"
    resumable = False
    blames = Blame.SERVICE


# --- batches --------------------------------------------------------------------------------


class BudgetExceededError(ApikleyError):
    """The film would exceed `max_credits`, `max_tasks` or `min_balance`; nothing was sent."""

    advice = "Raise the bound, or leave films out"
    resumable = True
    blames = Blame.ACCOUNT
    affects_all = True


class ManifestError(ApikleyError, ValueError):
    """A manifest breaks a rule; nothing was planned, nothing was sent.

    `faults` names every violated rule with its file, place and field.
    """

    blames = Blame.INPUT
    _details = ("faults",)

    def __init__(self, faults: Iterable[str] | str) -> None:
        listed = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("; ".join(listed))
        self.faults: tuple[str, ...] = listed


class ManifestConflictError(ManifestError):
    """A manifest contradicts the journal or itself where that could cost money."""


class JournalError(ApikleyError):
    """The journal is in use, damaged, foreign, or cannot be written; nothing was sent.

    The file is left as it is.
    """

    blames = Blame.INPUT
    affects_all = True


class MissingExtraError(ApikleyError, ImportError):
    """An optional dependency is not installed; the message says what to type."""

    blames = Blame.INPUT
    affects_all = True

    @classmethod
    def of(cls, need: str, *extras: str) -> Self:
        """Build the error for *need*, which *extras* would install.

        Nothing is released yet, so the command is for a clone of the project.
        """
        command = f'pip install ".[{",".join(extras)}]"'
        return cls(f"{need}: type {command} in a clone of apikley_async")
