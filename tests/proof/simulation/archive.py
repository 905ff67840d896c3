"""Moves what has ended in a long run to the disk, so that only the package's own memory can grow.

The service's ledger and the films of a day are written to the disk every hour, and restored for
the check at the end. The journal is left alone: a long one is part of the test.
"""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
from pathlib import Path
from typing import Any

from apikley_async.simulator import Simulator

__all__ = ["Archive"]

LISTS = ("creations", "paid", "refunds", "files", "callbacks", "faults")
OTHER_TASKS = 2  # tasks that are kept, because faults answer with the id of another task


class Archive:
    """What has ended in one run, in the folder *place*."""

    def __init__(self, place: Path, simulator: Simulator) -> None:
        self.paid = self.faults = 0
        self._file = place / "ledger"
        self._films = place / "films"
        self._films.mkdir(parents=True)
        self._simulator = simulator

    def store(self, folder: Path) -> None:
        """Move the ledger's entries, the tasks that have ended, and their films to the disk."""
        service, ledger = self._simulator.service, self._simulator.ledger
        entries: dict[str, Any] = {name: [*getattr(ledger, name)] for name in LISTS}
        for name in LISTS:
            getattr(ledger, name).clear()
        self.paid += len(entries["paid"])
        self.faults += len(entries["faults"])
        entries["tasks"] = service.evict(self._ended(folder))
        service.files.drop_expired_links()
        with self._file.open("ab") as file:
            pickle.dump(entries, file)

    def _ended(self, folder: Path) -> list[str]:
        """The tasks whose items are done or failed; moves the films of those that are done."""
        service, ended = self._simulator.service, []
        now = service.clock.now()
        with contextlib.closing(sqlite3.connect(folder / "batch.db")) as db:
            query = "SELECT key, state FROM item WHERE task_id = ? AND state IN ('done', 'failed')"
            for task in service.tasks[OTHER_TASKS:]:
                if task.due_at > now:
                    continue
                if row := db.execute(query, (task.task_id,)).fetchone():
                    ended.append(task.task_id)
                    if row[1] == "done":
                        film = folder / "films" / f"{row[0]}.mp4"
                        film.rename(self._films / film.name)
        return ended

    def restore(self, folder: Path) -> None:
        """Put everything back into the service and the folder of films."""
        service, ledger = self._simulator.service, self._simulator.ledger
        whole: dict[str, list[Any]] = {name: [] for name in LISTS}
        with contextlib.suppress(EOFError, FileNotFoundError), self._file.open("rb") as file:
            while True:
                entries = pickle.load(file)  # noqa: S301 - our own, of a moment ago
                service.restore(entries["tasks"])
                for name in LISTS:
                    whole[name] += entries[name]
        for name in LISTS:
            getattr(ledger, name)[:0] = whole[name]
        (folder / "films").mkdir(exist_ok=True)
        for film in [*self._films.iterdir()]:
            film.rename(folder / "films" / film.name)
