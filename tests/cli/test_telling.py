"""What people and programs get to hear, and the codes that scripts go by."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from apikley_async import Blame, JobTimeoutError, NotFoundError, StoryboardError, errors
from apikley_async.cli.exit_codes import WORST_FIRST, advice_for, exit_code, worst
from apikley_async.cli.output.reporter import LineView, Reporter
from apikley_async.cli.output.terminal_text import plain

FAMILY = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202etxt.exe\u2066\u200f", "\\u202etxt.exe\\u2066\\u200f"),
        ("\x9b31m\u2028\udc80", "\\x9b31m\\u2028\\udc80"),
        ("Вечерний 'вокзал' \\ ελιές 👩\u200d🚀", "Вечерний 'вокзал' \\ ελιές 👩\u200d🚀"),
    ],
)
def test_text_from_elsewhere_is_harmless(text: str, shown: str) -> None:
    """Control and direction characters become visible; words stay what they are."""
    assert plain(text) == shown


def test_an_event_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in it, and nothing that is unknown."""
    Reporter(LineView(), as_json=True).event(
        "failed", file="Чай.json", code=None, message="a\n\x1b[31mb"
    )

    told = capsys.readouterr()
    event = json.loads(told.out)
    assert told.out.isascii()
    assert told.out.count("\n") == 1
    assert {"event", "at", "file", "message"} == event.keys()
    assert event["message"] == "a\n\x1b[31mb"
    assert "\x1b" not in told.err


def test_a_log_is_not_filled_with_per_cent(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each state, and none for the first, which every film has."""
    reporter = Reporter(LineView(), as_json=False)

    for state, progress in [("waiting", 0), ("generating", 3), ("generating", 9)]:
        reporter.event("state", task_id="t", state=state, progress=progress)

    assert capsys.readouterr().err == "t: generating\n"


def test_what_was_asked_for_is_all_that_stdout_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program that reads file names gets them as they are, and nothing else."""
    reporter = Reporter(LineView(), as_json=False)

    reporter.event("saved", file="a.json", paths=["a\nb.mp4"])
    reporter.result(Path("a\nb.mp4"), shown=True)
    reporter.result("https://host.test/a.mp4")
    reporter.close()
    reporter.close()

    told = capsys.readouterr()
    assert told.out == "a\nb.mp4\nhttps://host.test/a.mp4\n"
    assert told.err == "a.json: saved a\\nb.mp4\n"


def test_nobody_reading_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of a pipe may leave; films are paid and go on."""
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True) as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        monkeypatch.setattr(sys, "stderr", broken)
        reporter = Reporter(LineView(), as_json=True)

        for _ in range(3):
            reporter.event("submitted", task_id="t")
            reporter.message("Still here")


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_has_its_code_and_no_words_of_python(kind: type[errors.ApikleyError]) -> None:
    """Somebody at a terminal can neither await a job nor call a client."""
    error = kind("It went wrong")

    assert exit_code(error) in WORST_FIRST
    assert not any(
        word in advice_for(error) for word in ("client.", "wait the job again, or", "async")
    )


@pytest.mark.parametrize(
    "error, code",
    [
        (errors.AuthenticationError("no", code=401), 4),
        (errors.AuthenticationError("a key with a space"), 2),
        (errors.InsufficientCreditsError("no", code=402), 4),
        (errors.MaintenanceError("no", code=455), 4),
        (errors.UnreachableError("no"), 4),
        (JobTimeoutError("slow"), 4),
        (errors.SubmissionUncertainError("?"), 3),
        (errors.JobFailedError("no"), 1),
        (errors.InvalidRequestError("no", code=422), 1),
        (NotFoundError("no", code=404), 1),
        (errors.DownloadError("disk full"), 4),
        (errors.DownloadError("a folder", resumable=False, blames=Blame.INPUT), 2),
        (errors.ResultExpiredError("gone"), 1),
        (errors.EmptyResultError("no link"), 4),
        (errors.KeyLimitError("no", code=433), 4),
        (errors.UnreachableError("a wrong certificate", permanent=True), 2),
        (errors.BudgetExceededError("used up"), 4),
        (errors.BudgetExceededError("no price", resumable=False, blames=Blame.INPUT), 2),
        (errors.JournalError("another key"), 2),
        (errors.JournalError("in use", resumable=True, blames=Blame.NETWORK), 4),
        (errors.ManifestError("key: a word"), 2),
        (errors.UploadError("no picture"), 2),
        (errors.MissingExtraError("Pillow"), 2),
        (StoryboardError("shots: 1 to 10"), 2),
    ],
)
def test_the_code_says_what_can_be_done(error: errors.ApikleyError, code: int) -> None:
    assert exit_code(error) == code


def test_the_worst_code_wins() -> None:
    """A decision before a resume, a resume before a failure."""
    assert worst([0, 1, 4, 3]) == 3
    assert worst([1, 4, 0]) == 4
    assert worst([0, 1]) == 1
    assert worst([0, 0]) == worst([]) == 0
