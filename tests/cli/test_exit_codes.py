"""Exit codes: what a script may conclude without reading a word."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from apikley_async import errors
from apikley_async.cli.exit_codes import WORST_FIRST, RefusedError, advice_for, exit_code, worst
from apikley_async.cli.output_folder import check_folder, make_folder
from apikley_async.errors import ApikleyError, Blame

EVERY_ERROR = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]

# 1: a film failed; 2: the input; 3: a person has to decide; 4: the same command resumes.
CODES: list[tuple[ApikleyError, int]] = [
    (errors.JobFailedError("no kittens"), 1),
    (errors.InvalidRequestError("wrong", code=422), 1),
    (errors.NotFoundError("no", code=404), 1),
    (errors.ResultExpiredError("gone"), 1),
    (errors.StoryboardError("shots: 1 to 10"), 2),
    (errors.MissingExtraError("install it"), 2),
    (errors.AuthenticationError("a key with a space"), 2),
    (errors.DownloadError("a folder", resumable=False, blames=Blame.INPUT), 2),
    (errors.UnreachableError("a wrong certificate", permanent=True), 2),
    (errors.BudgetExceededError("no price", resumable=False, blames=Blame.INPUT), 2),
    (errors.JournalError("another key"), 2),
    (errors.ManifestError("key: a word"), 2),
    (errors.UploadError("no picture"), 2),
    (errors.SubmissionUncertainError("no answer"), 3),
    (errors.AuthenticationError("bad key", code=401), 4),
    (errors.InsufficientCreditsError("no credits", code=402), 4),
    (errors.KeyLimitError("no", code=433), 4),
    (errors.MaintenanceError("later", code=455), 4),
    (errors.UnreachableError("no route"), 4),
    (errors.JobTimeoutError("not ready"), 4),
    (errors.DownloadError("disk full"), 4),
    (errors.EmptyResultError("no link"), 4),
    (errors.BudgetExceededError("used up"), 4),
    (errors.JournalError("in use", resumable=True, blames=Blame.NETWORK), 4),
]


def test_every_error_has_its_exit_code() -> None:
    """It says what can be done next."""
    failures = [
        (error, expected, found)
        for error, expected in CODES
        if (found := exit_code(error)) != expected
    ]

    assert failures == []


def test_no_error_class_is_without_a_code_or_speaks_of_python() -> None:
    """A user at a terminal can neither await a job nor call a client."""
    python = ("client.", "wait the job again, or", "async")
    failures = []
    for kind in EVERY_ERROR:
        error = kind("It went wrong")
        advice = advice_for(error)
        if exit_code(error) not in WORST_FIRST or any(word in advice for word in python):
            failures.append((kind.__name__, advice))

    assert failures == []


def test_the_worst_code_wins() -> None:
    """A decision goes before what can be resumed, and that before what has failed."""
    table = [
        ([], 0),
        ([0, 0], 0),
        ([0, 1, 0], 1),
        ([2, 1], 1),
        ([1, 4, 0], 4),
        ([0, 1, 4, 3], 3),
        ([4, 1, 3, 2], 3),
    ]

    assert [codes for codes, code in table if worst(codes) != code] == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, 4), (errno.EDQUOT, 4), (errno.EROFS, 4), (errno.EACCES, 2)],
)
def test_a_disk_that_is_full_or_read_only_is_no_wrong_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, code: int
) -> None:
    """The same command resumes when there is space again; another folder helps at once."""

    def refuse(**_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)

    for check in (check_folder, make_folder):
        with pytest.raises(RefusedError, match="cannot be written") as refused:
            check(tmp_path)
        assert refused.value.exit_code == code
