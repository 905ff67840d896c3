"""Bars on a terminal: legible at 80 columns, the totals in full, colours by meaning."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from apikley_async.cli.output.progress_view import ProgressView
from apikley_async.cli.output.reporter import Reporter


@pytest.fixture
def view(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProgressView]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    view = ProgressView(0)
    yield view
    view.close()


def drawn(view: ProgressView, *, colours: bool = False) -> list[str]:
    """What a terminal of 80 columns shows, line by line."""
    text = io.StringIO()
    system = "standard" if colours else None
    console = Console(file=text, width=80, height=24, force_terminal=colours, color_system=system)
    console.print(view)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def make_films(view: ProgressView, films: int = 300) -> None:
    """A run in full swing: thirty films begun, some of them ended."""
    reporter = Reporter(view, as_json=False)
    view.expect(films, slots=100)
    for number in range(30):
        key = f"a-film-with-a-name-that-is-rather-long-{number:02}"
        reporter.event("submitted", key=key, task_id=f"task_{number}")
        reporter.event("polled", key=key, state="generating", progress=number)
        if number < 4:
            reporter.event("saved", key=key, paths=[f"films/{key}.mp4"], credits=270)
        elif number == 4:
            reporter.event("failed", key=key, message="no kittens")
        elif number == 5:
            reporter.event("uncertain", key=key, cause="no answer")


def test_bars_and_totals_at_80_columns(view: ProgressView) -> None:
    """No line is cut, no cell is empty, and the totals have lines of their own."""
    make_films(view)

    *bars, total, states, cost = drawn(view)

    assert len(bars) == 12
    assert all("generating" in bar and bar.endswith("0:00") for bar in bars), bars
    assert all(bar.startswith("a-film-with-a-name-that") for bar in bars)
    assert max(map(len, [*bars, total, states, cost])) < 80
    assert states == "4 done, 24 running, 270 waiting for the rate limit, 1 failed, 1 undecided"
    assert cost.startswith("1,080 credits, about ")


def test_the_bars_leave_room_on_a_small_terminal(
    view: ProgressView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINES", "10")
    small = ProgressView(0)
    make_films(small)

    assert len(drawn(small)) == 2 + 3
    small.close()


def test_colours_have_a_meaning(view: ProgressView) -> None:
    """What is well is no alarm: nothing healthy is red."""
    make_films(view)

    shown = "\n".join(drawn(view, colours=True))

    assert "\x1b[36m" in shown, "cyan: in the making"
    assert "\x1b[32m" in shown, "green: done"
    assert "\x1b[31m" not in shown
    assert "\x1b[35m" not in shown
