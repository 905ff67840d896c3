"""Films in the making as progress bars on a terminal; events are printed above them.

Below the bars are the totals, on lines of their own, so that both are legible in 80 columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from apikley_async.cli.output.reporter import CauseFilter
from apikley_async.cli.output.sentences import sentence
from apikley_async.cli.output.tally import FINAL_EVENTS, Hindrance, Tally, nothing
from apikley_async.cli.output.terminal_text import clean, plain

__all__ = ["ProgressView"]

BAR_WIDTH = 20
MAX_BARS = 12
OTHER_LINES = 8  # of a terminal: totals, the line below, and some of what happened
SIGNS = {  # of an event, by its meaning: a sign, one for terminals without it, and a colour
    "saved": ("✓", "+", "green"),
    "finished": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "error": ("✗", "x", "red"),
    "delayed": ("!", "!", "yellow"),
    "stopped": ("!", "!", "yellow"),
    "remark": ("!", "!", "yellow"),
    "uncertain": ("?", "?", "bold yellow"),
    "listening": ("?", "?", "bold yellow"),
    "undecided": ("?", "?", "bold yellow"),
}


@attrs.define
class Bar:
    """A film in the making."""

    began: float
    state: str = ""
    done: float | None = None  # per cent


def bar_of(done: float, width: int, style: str) -> ProgressBar:
    """A bar that is *done* per cent full."""
    return ProgressBar(
        total=100, completed=done, width=width, complete_style=style, finished_style="green"
    )


class ProgressView:
    """A bar for each film in the making, as many as fit, and the totals of all.

    Args:
        films: how many there are, as far as known.
        final_event: the event that ends a film: "finished", or "saved" where films are saved.
        clock: tells the time in seconds.
    """

    shows_progress = True

    def __init__(
        self,
        films: int,
        *,
        final_event: str = "saved",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._final_events = {*FINAL_EVENTS, final_event}
        self._max_bars = max(1, min(MAX_BARS, self._console.height - OTHER_LINES))
        self._bars: dict[str, Bar] = {}
        self._causes = CauseFilter()
        self._tally = Tally(final_event)
        self._tally.expect(films)
        # Last, since it draws at once; and it draws in a thread of its own.
        self._live = Live(
            console=self._console,
            get_renderable=self.__rich__,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def expect(
        self,
        films: int,
        slots: int = 0,
        *,
        running: Collection[str] = (),
        hindrance: Hindrance = nothing,
    ) -> None:
        self._tally.expect(films, slots, running=running, hindrance=hindrance)
        self._start()

    def show_event(self, event: str, facts: Mapping[str, Any]) -> None:
        name, now = facts["name"], self._clock()
        self._tally.add(event, facts, now)
        if event in ("submitted", "polled", "finished") and event not in self._final_events:
            self._start()
            self._move(self._bars.setdefault(name, Bar(now)), event, facts)
            return
        if event in self._final_events or event in ("uncertain", "listening", "delayed"):
            self._bars.pop(name, None)
        if (text := sentence(event, facts)) and self._causes.is_new(event, facts, now):
            self._print(text, *self._sign_of(event, facts))

    def show_text(self, text: str) -> None:
        self._print(text)

    def tick(self) -> None:
        return  # it is drawn anew all the time

    def close(self) -> None:
        self._live.stop()

    def _start(self) -> None:
        if self._tally.films and not self._live.is_started:
            self._live.start(refresh=True)

    def _move(self, bar: Bar, event: str, facts: Mapping[str, Any]) -> None:
        if event == "finished":
            bar.state, bar.done = "saving", 100.0
        elif facts.get("progress") is not None:
            bar.done = min(100.0, max(0.0, facts["progress"]))
            bar.state = f"{plain(facts['state'])} {bar.done:.0f}%"
        else:
            bar.state = plain(facts.get("state", "waiting"))

    # --- what is drawn ------------------------------------------------------------------------

    def __rich__(self) -> Group:
        return Group(*self._lines())

    def _lines(self) -> Iterator[Table | Text]:
        now = self._clock()
        if self._bars:
            yield self._table(now)
        width = max(BAR_WIDTH, self._console.width - 1)
        done = 100 * self._tally.ended / max(1, self._tally.films)
        total = Table.grid()
        total.add_row(bar_of(done, width, "green"))
        yield total
        yield Text(self._tally.states())
        if other := self._tally.cost_and_time(now):
            yield Text(other)

    def _table(self, now: float) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=self._console.width // 3)
        table.add_column(width=BAR_WIDTH, no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, justify="right", style="dim")
        for name, bar in [*self._bars.items()][: self._max_bars]:
            drawn = bar_of(bar.done or 0.0, BAR_WIDTH, "cyan")
            minutes, seconds = divmod(int(now - bar.began), 60)
            table.add_row(Text(name), drawn, Text(bar.state), f"{minutes}:{seconds:02}")
        return table

    def _sign_of(self, event: str, facts: Mapping[str, Any]) -> tuple[str, str]:
        """The sign of an event, followed by a blank, and its colour."""
        sign, simple, style = SIGNS.get(event, ("", "", ""))
        if facts.get("item_state") == "success" and event == "delayed":
            style = "red"  # paid, and not here
        try:
            sign.encode(self._console.encoding)
        except UnicodeError:
            sign = simple
        return (f"{sign} " if sign else ""), style

    def _print(self, text: str, sign: str = "", style: str = "") -> None:
        """Print lines: words are not broken, and commands stay whole, to be copied."""
        for number, line in enumerate(clean(text).split("\n")):
            shown = Text(line if number else sign + line, style="" if number else style)
            self._console.print(shown, soft_wrap="apikley " in line)
