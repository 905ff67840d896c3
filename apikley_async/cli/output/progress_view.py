"""Films in the making as progress bars on a terminal; events are printed above them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from apikley_async.cli.output.sentences import sentence
from apikley_async.cli.output.terminal_text import clean, count, plain

__all__ = ["ProgressView"]

FINAL_EVENTS = ("failed", "saved", "stopped")


class _TextColumn(ProgressColumn):
    """One of a bar's fields as text: nothing in it is markup."""

    def __init__(self, field: str, *, min_width: int, max_width: int) -> None:
        column = Column(no_wrap=True, overflow="ellipsis", max_width=max_width, min_width=min_width)
        super().__init__(column)
        self._field = field

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(self._field, "")))


class ProgressView:
    """A bar for each film in the making, as many as fit, and one for all of them.

    Args:
        films: how many there are, as far as known.
        final_event: the event that ends a film: "ready", or "saved" where films are saved.
    """

    shows_progress = True

    def __init__(self, films: int, *, final_event: str = "saved") -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            _TextColumn("name", min_width=20, max_width=40),
            BarColumn(bar_width=30),
            _TextColumn("state", min_width=16, max_width=64),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
        )
        self._final_events = {*FINAL_EVENTS, final_event}
        self._max_bars = max(3, min(12, self._console.height - 6))
        self._bars: dict[str, TaskID] = {}
        self._films = films
        self._ended: set[str] = set()
        self._credits: dict[str, float] = {}
        self._total: TaskID | None = None

    def expect(self, films: int) -> None:
        self._films = films
        self._start()

    def show_event(self, event: str, facts: Mapping[str, Any]) -> None:
        name = facts["name"]
        moves = event in ("submitted", "state", "ready") and event not in self._final_events
        if facts.get("credits") is not None:
            self._credits[name] = facts["credits"]
        if moves:
            self._move_bar(name, event, facts)
        if (not moves or event == "submitted") and (text := sentence(event, facts)):
            self.show_text(text)
        if event in self._final_events:
            self._remove_bar(name)

    def show_text(self, text: str) -> None:
        self._console.print(Text(clean(text)), soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()

    def _move_bar(self, name: str, event: str, facts: Mapping[str, Any]) -> None:
        bar = self._bars.get(name)
        self._ended.discard(name)  # a failed film that is made again
        if bar is None:
            self._start()
            bar = self._bars[name] = self._progress.add_task(
                "", total=None, visible=len(self._bars) < self._max_bars, name=name, state=""
            )
        if event == "ready":
            self._progress.update(bar, total=100, completed=100, state="saving")
        elif facts.get("progress") is not None:
            done = min(100.0, max(0.0, facts["progress"]))
            state = f"{plain(facts['state'])} {done:.0f}%"
            self._progress.update(bar, total=100, completed=done, state=state)
        else:
            self._progress.update(bar, state=plain(facts.get("state", event)))

    def _start(self) -> None:
        if self._total is None and self._films:
            self._total = self._progress.add_task("", total=self._films, name="all", state="")
            self._update_total()
            self._progress.start()

    def _remove_bar(self, name: str) -> None:
        self._ended.add(name)
        bar = self._bars.pop(name, None)
        if bar is not None:
            self._progress.remove_task(bar)
        for number, other in enumerate(self._bars.values()):
            self._progress.update(other, visible=number < self._max_bars)
        self._update_total()

    def _update_total(self) -> None:
        if self._total is None:
            return
        done = len(self._ended)
        parts = [f"{done} of {count(self._films)}"]
        if len(self._bars) > self._max_bars:
            parts.append(f"{len(self._bars)} in the making")
        seconds = self._progress.tasks[self._progress.task_ids.index(self._total)].elapsed or 0.0
        if done and seconds > 0:
            left = round((self._films - done) * seconds / done)
            parts += [f"{60 * done / seconds:.3g} a minute", f"{timedelta(seconds=left)} left"]
        if self._credits:
            parts.append(f"{sum(self._credits.values()):.12g} credits")
        self._progress.update(self._total, completed=done, state=", ".join(parts))
