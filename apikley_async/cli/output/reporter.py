"""The output of a command: events for programs on stdout, sentences for people on stderr.

An event is a name and some facts. With `--json` it is printed as it is; for people it becomes a
sentence. Whatever comes from elsewhere (the service, a file's name) is made safe to print.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

import click

from apikley_async.cli.exit_codes import reason_for
from apikley_async.cli.output.sentences import sentence
from apikley_async.cli.output.tally import FINAL_EVENTS, Hindrance, Tally, nothing
from apikley_async.cli.output.terminal_text import clean, plain

__all__ = ["CauseFilter", "LineView", "Reporter", "View"]

HEARTBEAT = 60.0  # seconds


class View(Protocol):
    """What people see on stderr: plain lines, or progress bars.

    Attributes:
        shows_progress: whether it shows how far a film is, and not only what has happened.
    """

    shows_progress: bool

    def expect(
        self,
        films: int,
        slots: int = 0,
        *,
        running: Collection[str] = (),
        hindrance: Hindrance = nothing,
    ) -> None:
        """Set what is to come; see `Tally.expect`."""
        ...

    def show_event(self, event: str, facts: Mapping[str, Any]) -> None:
        """Show an event; *facts* has under "name" how the film is called."""
        ...

    def show_text(self, text: str) -> None:
        """Show a text of one or more lines."""
        ...

    def tick(self) -> None:
        """Show what has changed by time alone; called every second or so."""
        ...

    def close(self) -> None:
        """Restore the terminal."""
        ...


class CauseFilter:
    """Tells which lines are new: what holds for many films is shown once a minute, not for each."""

    def __init__(self) -> None:
        self._shown: dict[str, float] = {}

    def is_new(self, event: str, facts: Mapping[str, Any], now: float) -> bool:
        """Whether people have not just read this of another film, or of this one."""
        if event != "delayed":
            return True
        cause = f"{facts.get('item_state')} {facts['reason'].replace(facts['name'], '*')}"
        if now - self._shown.get(cause, -HEARTBEAT) < HEARTBEAT:
            return False
        self._shown[cause] = now
        return True


class LineView:
    """One line after the other, for files, pipes and logs.

    A film that has ended gets a number, `[12/300]`. A cause that holds for many films is one line
    a minute, and a minute without any line is followed by one that says how far the run is.

    Args:
        final_event: the event that ends a film. "finished" is not shown where saving follows.
        clock: tells the time in seconds.
    """

    shows_progress = False

    def __init__(
        self, *, final_event: str = "saved", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._final_event = final_event
        self._clock = clock
        self._tally = Tally(final_event)
        self._causes = CauseFilter()
        self._states: dict[str, str] = {}
        self._last_line = clock()

    def expect(
        self,
        films: int,
        slots: int = 0,
        *,
        running: Collection[str] = (),
        hindrance: Hindrance = nothing,
    ) -> None:
        self._tally.expect(films, slots, running=running, hindrance=hindrance)

    def show_event(self, event: str, facts: Mapping[str, Any]) -> None:
        now = self._clock()
        self._tally.add(event, facts, now)
        if event == "polled" and not self._is_new_state(facts["name"], facts["state"]):
            return
        if event == "finished" != self._final_event:
            return
        if (text := sentence(event, facts)) and self._causes.is_new(event, facts, now):
            self.show_text(self._number(event) + text)

    def _number(self, event: str) -> str:
        """How many films have ended with this one, where there are several."""
        films = self._tally.films
        ends = event in (*FINAL_EVENTS, self._final_event)
        return f"[{self._tally.ended}/{films}] " if ends and films > 1 else ""

    def tick(self) -> None:
        if self._tally.films and self._clock() - self._last_line >= HEARTBEAT:
            parts = self._tally.states(), self._tally.cost_and_time(self._clock())
            self.show_text("; ".join(filter(None, parts)))

    def _is_new_state(self, name: str, state: str) -> bool:
        """Whether a film's state has changed: each step of its progress would fill a log."""
        before = self._states.get(name, "waiting")  # the state of every film just submitted
        self._states[name] = state
        return state != before

    def show_text(self, text: str) -> None:
        self._last_line = self._clock()
        click.echo(clean(text), err=True)

    def close(self) -> None:
        return


class UnbufferedView:
    """Lines that pass every buffer and lock: another thread may hold one and never release it."""

    shows_progress = False

    def expect(
        self,
        films: int,
        slots: int = 0,
        *,
        running: Collection[str] = (),
        hindrance: Hindrance = nothing,
    ) -> None:
        return

    def tick(self) -> None:
        return

    def show_event(self, event: str, facts: Mapping[str, Any]) -> None:
        if text := sentence(event, facts):
            self.show_text(text)

    def show_text(self, text: str) -> None:
        os.write(2, f"{clean(text)}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        return


class Reporter:
    """Reports events: to programs with `--json`, to people always.

    A closed pipe is no reason to give up films that are paid: what cannot be written is dropped.

    Args:
        view: what people see on stderr.
        as_json: whether events are printed on stdout.
    """

    def __init__(self, view: View, *, as_json: bool) -> None:
        self.view: View = view
        self.as_json = as_json
        self._results: list[str | Path] = []
        # Checked before bars are drawn: while they are, rich before 15 replaces stderr with an
        # object that says that it is no terminal.
        on_terminal = sys.stdout.isatty()
        self._same_terminal = on_terminal and sys.stderr.isatty()
        self._keeps_results = on_terminal and view.shows_progress  # bars are no place for them
        self._unbuffered = False

    def event(self, event: str, /, **facts: Any) -> None:
        """Report an event; facts that are None are left out."""
        known = self.program_event(event, **facts)
        film = str(known.get("key") or known.get("file") or known.get("task_id") or "")
        shown = {**known, "name": plain(film)}
        self._show(lambda: self.view.show_event(event, shown))

    def program_event(self, event: str, /, **facts: Any) -> dict[str, Any]:
        """Report an event to programs only: people read it elsewhere. Gives the facts."""
        known = {name: fact for name, fact in facts.items() if fact is not None}
        if self.as_json:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._write_out(json.dumps({"event": event, "at": at, **known}, default=str))
        return known

    def end(self, code: int) -> None:
        """Report the end of the command, with its exit code: the last event of all."""
        self.program_event("end", exit_code=code, reason=reason_for(code))

    def tick(self) -> None:
        """Show what has changed by time alone."""
        self._show(self.view.tick)

    def message(self, text: str) -> None:
        """Show a sentence to people only."""
        self._show(lambda: self.view.show_text(plain(text)))

    def result(self, line: str | Path, *, shown: bool = False) -> None:
        """Print a line on stdout, among bars when they are gone; with `--json` there are events.

        Args:
            line: what the command was asked for, such as the path of a film.
            shown: an event has shown it already. Then it is not printed a second time where
                stdout and stderr are the same terminal.
        """
        if not self.as_json and not (shown and self._same_terminal):
            self._results.append(line)
            if not self._keeps_results:
                self.print_results()

    def print_results(self) -> None:
        """Print the results that were kept so far."""
        results, self._results = self._results, []
        for line in results:
            self._write_out(line)

    def close(self) -> None:
        """Close the view and print the results."""
        self._show(self.view.close)
        self.print_results()

    def unbuffer(self) -> None:
        """Write past all buffers from now on: the process may end at any moment."""
        if not isinstance(self.view, LineView):
            os.write(2, b"\r\x1b[J\x1b[?25h")  # erase the bars, show the cursor
        self.view = UnbufferedView()
        self._unbuffered = True

    def _write_out(self, line: str | Path) -> None:
        try:
            if self._unbuffered:
                os.write(1, f"{plain(line)}\n".encode(errors="backslashreplace"))
            elif isinstance(line, Path) and not sys.stdout.isatty():
                click.echo(bytes(line))  # a program needs the name's exact bytes
            else:
                click.echo(plain(line))
        except OSError:
            _discard_output(sys.stdout)

    def _show(self, show: Callable[[], None]) -> None:
        try:
            show()
        except OSError:
            _discard_output(sys.stderr)


def _discard_output(stream: TextIO) -> None:
    """Discard what is written to *stream* from now on: its reader has gone."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
