"""What people and programs get to read: events, lines and results."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from apikley_async.cli.output.reporter import LineView, Reporter


def test_an_event_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in it; facts that are unknown are left out."""
    Reporter(LineView(), as_json=True).event(
        "failed", file="Чай.json", code=None, message="a\n\x1b[31mb"
    )

    output = capsys.readouterr()
    event = json.loads(output.out)
    assert output.out.isascii()
    assert output.out.count("\n") == 1
    assert {"event", "at", "file", "message"} == event.keys()
    assert event["message"] == "a\n\x1b[31mb"
    assert "\x1b" not in output.err


def test_a_log_shows_each_state_once(capsys: pytest.CaptureFixture[str]) -> None:
    """And not the first state, which every film has."""
    reporter = Reporter(LineView(), as_json=False)

    for state, progress in [("waiting", 0), ("generating", 3), ("generating", 9)]:
        reporter.event("state", task_id="t", state=state, progress=progress)

    assert capsys.readouterr().err == "t: generating\n"


def test_stdout_has_results_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A program that reads file names gets them unescaped, and nothing else."""
    reporter = Reporter(LineView(), as_json=False)

    reporter.event("saved", file="a.json", paths=["a\nb.mp4"])
    reporter.result(Path("a\nb.mp4"), shown=True)
    reporter.result("https://host.test/a.mp4")
    reporter.close()
    reporter.close()

    output = capsys.readouterr()
    assert output.out == "a\nb.mp4\nhttps://host.test/a.mp4\n"
    assert output.err == "a.json: saved a\\nb.mp4\n"


def test_a_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The films are paid and go on."""
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True) as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        monkeypatch.setattr(sys, "stderr", broken)
        reporter = Reporter(LineView(), as_json=True)

        for _ in range(3):
            reporter.event("submitted", task_id="t")
            reporter.message("Still here")
