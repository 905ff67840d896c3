"""Exit codes, and how an error becomes one: what a script may conclude without reading a word."""

from __future__ import annotations

from collections.abc import Iterable

import click

from apikley_async.errors import (
    ApikleyError,
    Blame,
    ClientClosedError,
    EmptyResultError,
    JobTimeoutError,
    SubmissionUncertainError,
)

__all__ = [
    "DECIDE",
    "FAILED",
    "OK",
    "RESUME",
    "USAGE",
    "NotNow",
    "Refused",
    "advice",
    "exit_code",
    "worst",
]

OK, FAILED, USAGE, DECIDE, RESUME = 0, 1, 2, 3, 4
WORST_FIRST = (DECIDE, RESUME, FAILED, USAGE)

ADVICE: dict[type[ApikleyError], str] = {
    # In place of the advice that speaks of Python.
    ClientClosedError: "",
    EmptyResultError: "The film is paid: show the task id to the service",
    JobTimeoutError: "The film goes on",
    SubmissionUncertainError: "Look for a task of that time before you submit again",
}


class Refused(click.ClickException):
    """The input or the circumstances do not permit it; nothing was bought."""

    exit_code = USAGE


class NotNow(Refused):
    """Not now, or not from here: the same command goes on later, and nothing is lost."""

    exit_code = RESUME


def exit_code(error: ApikleyError) -> int:
    """The exit code that *error* deserves."""
    if isinstance(error, SubmissionUncertainError):
        return DECIDE
    if error.resumable:
        return RESUME
    # What the service itself refused is a film that failed; the rest was found out here.
    return USAGE if error.blames is Blame.INPUT and error.code is None else FAILED


def worst(codes: Iterable[int]) -> int:
    """The code that stands for all of *codes*."""
    found = set(codes)
    return next((code for code in WORST_FIRST if code in found), OK)


def advice(error: ApikleyError) -> str:
    """What to do about *error*, in the words of somebody who sits at a terminal."""
    return next((told for kind, told in ADVICE.items() if isinstance(error, kind)), error.advice)
