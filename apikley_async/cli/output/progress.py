"""The films in the making as bars on a terminal; what has happened is printed above them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from apikley_async.cli.output.reporter import clean, count, plain, sentence

__all__ = ["Bars"]

ENDS = ("failed", "saved", "stopped", "uncertain")


class Words(ProgressColumn):
    """One of a bar's fields, as it is: nothing in it is markup."""

    def __init__(self, field: str, *, most: int, least: int) -> None:
        column = Column(no_wrap=True, overflow="ellipsis", max_width=most, min_width=least)
        super().__init__(column)
        self._field = field

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(self._field, "")))


class Bars:
    """A bar for each film in the making, as far as they fit, and one for all of them.

    Args:
        films: how many there are, as far as known.
        ends: with which event a film is done; saving comes after "ready" where films are saved.
    """

    lively = True

    def __init__(self, films: int, *, ends: str = "saved") -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            Words("name", most=40, least=20),
            BarColumn(bar_width=30),
            Words("state", most=64, least=16),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
        )
        self._ends = {*ENDS, ends}
        self._most = max(3, min(12, self._console.height - 6))
        self._bars: dict[str, TaskID] = {}
        self._films = films
        self._ended: set[str] = set()
        self._credits: dict[str, float] = {}
        self._total: TaskID | None = None

    def expect(self, films: int) -> None:
        self._films = films
        self._begin()

    def show(self, event: str, facts: Mapping[str, Any]) -> None:
        name = facts["name"]
        moves = event in ("submitted", "state", "ready") and event not in self._ends
        if facts.get("credits") is not None:
            self._credits[name] = facts["credits"]
        if moves:
            self._move(name, event, facts)
        if (not moves or event == "submitted") and (told := sentence(event, facts)):
            self.say(told)
        if event in self._ends:
            self._finish(name)

    def say(self, text: str) -> None:
        self._console.print(Text(clean(text)), soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()

    def _move(self, name: str, event: str, facts: Mapping[str, Any]) -> None:
        bar = self._bars.get(name)
        self._ended.discard(name)  # a failed one that is made again
        if bar is None:
            self._begin()
            bar = self._bars[name] = self._progress.add_task(
                "", total=None, visible=len(self._bars) < self._most, name=name, state=""
            )
        if event == "ready":
            self._progress.update(bar, total=100, completed=100, state="saving")
        elif facts.get("progress") is not None:
            done = min(100.0, max(0.0, facts["progress"]))
            state = f"{plain(facts['state'])} {done:.0f}%"
            self._progress.update(bar, total=100, completed=done, state=state)
        else:
            self._progress.update(bar, state=plain(facts.get("state", event)))

    def _begin(self) -> None:
        if self._total is None and self._films:
            self._total = self._progress.add_task("", total=self._films, name="all", state="")
            self._count()
            self._progress.start()

    def _finish(self, name: str) -> None:
        self._ended.add(name)
        bar = self._bars.pop(name, None)
        if bar is not None:
            self._progress.remove_task(bar)
        for number, waiting in enumerate(self._bars.values()):
            self._progress.update(waiting, visible=number < self._most)
        self._count()

    def _count(self) -> None:
        if self._total is None:
            return
        done = len(self._ended)
        words = [f"{done} of {count(self._films)}"]
        if len(self._bars) > self._most:
            words.append(f"{len(self._bars)} in the making")
        seconds = self._progress.tasks[self._progress.task_ids.index(self._total)].elapsed or 0.0
        if done and seconds > 0:
            left = round((self._films - done) * seconds / done)
            words += [f"{60 * done / seconds:.3g} a minute", f"{timedelta(seconds=left)} left"]
        if self._credits:
            words.append(f"{sum(self._credits.values()):.12g} credits")
        self._progress.update(self._total, completed=done, state=", ".join(words))
