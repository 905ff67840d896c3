"""Where a long run puts what is over, so that only the package's own memory is left to grow.

The books of the service and the films of a day go to the disk, hour by hour, and come back for
the check at the end. The journal stays as it is: a long one is part of the trial.
"""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
from pathlib import Path
from typing import Any

from apikley_async.simulator import Simulator

__all__ = ["Attic"]

LISTS = ("creations", "paid", "refunds", "files", "callbacks", "faults")
NEIGHBOURS = 2  # tasks that stand in for others in answers about somebody else's


class Attic:
    """What is over of one run, in the folder *place*."""

    def __init__(self, place: Path, simulator: Simulator) -> None:
        self.paid = self.faults = 0
        self._books = place / "books"
        self._films = place / "films"
        self._films.mkdir(parents=True)
        self._simulator = simulator

    def put_away(self, folder: Path) -> None:
        """Take the service's books, the tasks that nobody asks for any more, and their films."""
        service, ledger = self._simulator.service, self._simulator.ledger
        away: dict[str, Any] = {name: [*getattr(ledger, name)] for name in LISTS}
        for name in LISTS:
            getattr(ledger, name).clear()
        self.paid += len(away["paid"])
        self.faults += len(away["faults"])
        away["tasks"] = service.evict(self._over(folder))
        service.files.drop_expired_links()
        with self._books.open("ab") as file:
            pickle.dump(away, file)

    def _over(self, folder: Path) -> list[str]:
        """The tasks whose items are done or failed; the films of those that are done go too."""
        service, over = self._simulator.service, []
        now = service.clock.now()
        with contextlib.closing(sqlite3.connect(folder / "batch.db")) as db:
            ask = "SELECT key, state FROM item WHERE task_id = ? AND state IN ('done', 'failed')"
            for task in service.tasks[NEIGHBOURS:]:
                if task.due_at > now:
                    continue
                if row := db.execute(ask, (task.task_id,)).fetchone():
                    over.append(task.task_id)
                    if row[1] == "done":
                        film = folder / "films" / f"{row[0]}.mp4"
                        film.rename(self._films / film.name)
        return over

    def bring_back(self, folder: Path) -> None:
        """Give everything back to the service and to the folder of films."""
        service, ledger = self._simulator.service, self._simulator.ledger
        whole: dict[str, list[Any]] = {name: [] for name in LISTS}
        with contextlib.suppress(EOFError, FileNotFoundError), self._books.open("rb") as file:
            while True:
                away = pickle.load(file)  # noqa: S301 - our own, of a moment ago
                service.restore(away["tasks"])
                for name in LISTS:
                    whole[name] += away[name]
        for name in LISTS:
            getattr(ledger, name)[:0] = whole[name]
        (folder / "films").mkdir(exist_ok=True)
        for film in [*self._films.iterdir()]:
            film.rename(folder / "films" / film.name)
