"""Exit codes: what a script may conclude without reading a word, and the code of an error.

The code of a run, also of one that a bound has stopped, is made in `closing_report`.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from apikley_async.errors import (
    ApikleyError,
    Blame,
    ClientClosedError,
    DownloadError,
    EmptyResultError,
    JobTimeoutError,
    ResultExpiredError,
    SubmissionUncertainError,
)

__all__ = [
    "DECIDE",
    "FAILED",
    "INTERNAL",
    "INTERRUPTED",
    "OK",
    "RESUME",
    "USAGE",
    "PostponedError",
    "RefusedError",
    "advice_for",
    "exit_code",
    "reason_for",
    "worst",
]

OK, FAILED, USAGE, DECIDE, RESUME = 0, 1, 2, 3, 4
INTERNAL, INTERRUPTED = 70, 130
WORST_FIRST = (DECIDE, RESUME, FAILED, USAGE)

REASONS = {
    OK: "all is well",
    FAILED: "some films failed, or a check found a fault",
    USAGE: "usage or input",
    DECIDE: "needs a decision",
    RESUME: "stopped early; the same command resumes",
    INTERNAL: "an internal error of apikley",
}

ADVICE: dict[type[ApikleyError], str] = {
    # Instead of an error's own advice, which names methods of the Python API.
    ClientClosedError: "",
    ResultExpiredError: ResultExpiredError.advice,
    DownloadError: "The service keeps a film for about a day after it was ready",
    EmptyResultError: "The film is paid: show the task id to the service",
    JobTimeoutError: "The film goes on",
    SubmissionUncertainError: "Look for a task of that time before you submit again",
}


class RefusedError(click.ClickException):
    """The input or the circumstances do not allow it; nothing was paid."""

    exit_code = USAGE


class PostponedError(RefusedError):
    """Not now, or not on this machine; the same command works later, and nothing is lost."""

    exit_code = RESUME


def exit_code(error: ApikleyError) -> int:
    """The exit code for an error of the library."""
    if isinstance(error, SubmissionUncertainError):
        return DECIDE
    if error.resumable:
        return RESUME
    # An error with a code comes from the service: a film has failed. Else we refused the input.
    return USAGE if error.blames is Blame.INPUT and error.code is None else FAILED


def worst(codes: Iterable[int]) -> int:
    """The code that stands for all of *codes*."""
    found = set(codes)
    return next((code for code in WORST_FIRST if code in found), OK)


def reason_for(code: int) -> str:
    """What an exit code means, in a few words."""
    return REASONS.get(code, "interrupted")


def advice_for(error: ApikleyError) -> str:
    """What to do about an error, for somebody at a terminal."""
    if error.advice != type(error).advice:  # it was chosen for this one, and fits it better
        return error.advice
    return next((text for kind, text in ADVICE.items() if isinstance(error, kind)), error.advice)
