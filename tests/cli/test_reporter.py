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
        reporter.event("polled", task_id="t", state=state, progress=progress)

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


@pytest.mark.parametrize("bars", [False, True])
def test_lines_stand_in_the_order_of_events(monkeypatch: pytest.MonkeyPatch, bars: bool) -> None:
    """Where stdout and stderr go into one file; behind bars they would be lost, so they wait."""
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "stderr", text)
    monkeypatch.setattr(text, "isatty", lambda: bars, raising=False)
    view = LineView()
    view.shows_progress = bars
    reporter = Reporter(view, as_json=False)

    reporter.result("a film")
    reporter.message("the totals")
    reporter.close()

    lines = text.getvalue().splitlines()
    assert lines == (["the totals", "a film"] if bars else ["a film", "the totals"])


# --- a log of many films -------------------------------------------------------------------------


def many(films: int = 300) -> tuple[Reporter, list[float]]:
    """A reporter of plain lines for many films, and the time, which the test sets."""
    now = [0.0]
    view = LineView(clock=lambda: now[0])
    view.expect(films, slots=100)
    return Reporter(view, as_json=False), now


def test_films_that_end_are_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    reporter, _ = many()

    reporter.event("saved", key="tea", paths=["films/tea.mp4"])
    reporter.event("failed", key="sea", message="no kittens")

    assert capsys.readouterr().err == (
        "[1/300] tea: saved films/tea.mp4\n[2/300] sea: FAILED: no kittens\n"
    )


def test_one_cause_is_one_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    """Three hundred films that cannot be sent are not three hundred lines."""
    reporter, now = many()
    facts = {"item_state": "planned", "reason": "host.test was not reached"}

    for key in ("tea", "sea", "bee"):
        reporter.event("delayed", key=key, **facts)
    now[0] = 61.0
    reporter.event("delayed", key="tea", **facts)

    line = "tea: not submitted yet: host.test was not reached\n"
    assert capsys.readouterr().err == 2 * line


def test_a_film_that_is_paid_and_not_saved_is_called_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is not "not accepted yet": the money is spent. One line for one full disk."""
    reporter, _ = many(1)

    for key in ("tea", "sea"):
        reason = f"films/{key}.mp4: No space left on device"
        reporter.event("delayed", key=key, item_state="success", reason=reason)

    assert capsys.readouterr().err == "tea: NOT SAVED: films/tea.mp4: No space left on device\n"


def test_it_says_until_when_a_film_is_at_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    reporter, _ = many(1)
    until = {"expires_at": "2026-11-27T20:00:00+00:00", "until": "2026-11-27 20:00:00 UTC"}

    reporter.event("delayed", key="tea", item_state="success", reason="refused", **until)

    line = "tea: NOT SAVED: refused (at the service until 2026-11-27 20:00:00 UTC)\n"
    assert capsys.readouterr().err == line


def test_a_silent_minute_gets_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads the log sees that it goes on, and how far it is."""
    reporter, now = many()
    reporter.event("submitted", key="tea", task_id="t")
    capsys.readouterr()

    for now[0] in range(200):
        reporter.tick()

    line = "0 done, 1 running, 299 waiting for the rate limit\n"
    assert capsys.readouterr().err == 3 * line
