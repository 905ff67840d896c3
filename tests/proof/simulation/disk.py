"""The disk of a machine that dies: what is left of it after a kill or a power cut.

A machine works in one folder. When it dies, its next life gets a copy of that folder. What the
dead machine still does while Python unwinds it happens in the old folder.

A power cut may lose more: a name whose folder was not synced, the end of a file that was not
synced, and everything in the journal's log after the last commit that waited for the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulation.loop import DRIVER, HOST, Killed, SimLoop

from apikley_async.batch.store import journal_file

__all__ = ["Disk"]

LINKING = ("link", "replace", "rename", "fsync")
TOUCHING = (
    *("open", "write", "truncate", "ftruncate", "utime", "mkdir"),
    *("unlink", "remove", "rmdir"),
)
"""What dead machines may not do either. They are no steps, because plans count the steps."""


class Disk:
    """The folder *place* of the machine that *loop* may kill."""

    def __init__(self, loop: SimLoop, root: Path, rng: random.Random) -> None:
        self.place = root / "place"
        self.place.mkdir()
        self._next_life = root / "left"
        self._state = root / "state"  # the user's state folder, which loses nothing
        self._root = root
        self._loop = loop
        self._rng = rng
        self._deaths = 0
        self.power_cuts = False
        self.commits = 0
        self.synced_sizes: dict[int, int] = {}  # of files, by inode
        self.synced_names: set[tuple[int, str]] = set()  # names in folders, by the folder's inode
        self.logs: dict[Path, int] = {}  # how much of a journal's log is certainly there
        self._opened: list[tuple[str, sqlite3.Connection]] = []  # by which machine

    def die(self, host: str) -> None:
        """Copy the folder for the next life."""
        shutil.rmtree(self._next_life, ignore_errors=True)
        shutil.copytree(self.place, self._next_life)
        if self.power_cuts:
            self._lose()

    def close_dead_files(self) -> None:
        """Close the files of dead machines in their folder, while it still has its name.

        SQLite removes a log by its path when the last connection ends, whichever log that is then.
        """
        for _, db in (each for each in self._opened if each[0] in self._loop.dead):
            with contextlib.suppress(sqlite3.Error):
                db.close()
        self._opened = [each for each in self._opened if each[0] not in self._loop.dead]
        for handle in self._open_in(self.place, self._state):
            with contextlib.suppress(OSError):
                os.close(handle)

    def _open_in(self, *folders: Path) -> Iterator[int]:
        for entry in [*Path("/proc/self/fd").iterdir()]:
            with contextlib.suppress(OSError):
                opened = entry.readlink()
                if any(opened.is_relative_to(folder) for folder in folders):
                    yield int(entry.name)

    def revive(self) -> None:
        """Give the next life its folder, and the locks of files that it has in common."""
        self._deaths += 1
        for handle in self._open_in(self._state):
            fcntl.flock(handle, fcntl.LOCK_UN)
        self.place.rename(self._root / f"dead-{self._deaths}")
        self._next_life.rename(self.place)
        for known in (self.synced_sizes, self.synced_names, self.logs):
            known.clear()  # they describe files of the old folder
        for path in [self.place, *self.place.rglob("*")]:  # what has survived is durable
            about = path.stat()
            if path.is_dir():
                self.synced_names |= {(about.st_ino, each.name) for each in path.iterdir()}
            else:
                self.synced_sizes[about.st_ino] = about.st_size
            if path.name.endswith("-wal"):
                self.logs[path] = about.st_size

    def _lose(self) -> None:
        for old in [*self.place.rglob("*")]:
            new = self._next_life / old.relative_to(self.place)
            if not old.is_file() or not new.exists():
                continue
            if old.name.endswith("-wal"):
                self._cut(new, self.logs.get(old, 0))
            elif ".db" not in old.name:
                named = (old.parent.stat().st_ino, old.name) in self.synced_names
                if not named and self._rng.random() < 0.5:
                    new.unlink()
                else:
                    self._cut(new, self.synced_sizes.get(old.stat().st_ino, 0))
        for shared in self._next_life.glob("*-shm"):
            shared.unlink()

    def _cut(self, file: Path, certain: int) -> None:
        size = file.stat().st_size
        if size > certain:
            os.truncate(file, self._rng.randint(certain, size))

    # --- watching ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count commits and file operations as steps, and note what has become durable."""
        taken: dict[str, Any] = {name: getattr(os, name) for name in LINKING + TOUCHING}
        connect = journal_file.connect
        for name, inner in taken.items():
            around = self._around if name in LINKING else self._refused_to_the_dead
            setattr(os, name, around(name, inner))

        def tapped_connect(path: Path, **options: Any) -> Any:
            db = connect(path, **options)
            self._opened.append((HOST.get(), db))
            return CommitTap(db, path, self)

        journal_file.connect = tapped_connect  # type: ignore[assignment]
        home, os.environ["XDG_STATE_HOME"] = os.environ.get("XDG_STATE_HOME"), str(self._state)
        try:
            yield
        finally:
            os.environ.pop("XDG_STATE_HOME")
            if home is not None:
                os.environ["XDG_STATE_HOME"] = home
            journal_file.connect = connect
            for name, inner in taken.items():
                setattr(os, name, inner)

    def _around(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if HOST.get() == DRIVER:
                return inner(*args, **kwargs)
            self._loop.tick()
            done = inner(*args, **kwargs)
            if name == "fsync":
                self._note_sync(args[0])
            self._loop.tick()
            return done

        return call

    def _refused_to_the_dead(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if HOST.get() in self._loop.dead:
                raise Killed(name)
            return inner(*args, **kwargs)

        return call

    def _note_sync(self, handle: int) -> None:
        about = os.fstat(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            self.synced_names |= {(about.st_ino, each.name) for each in path.iterdir()}
        else:
            self.synced_sizes[about.st_ino] = about.st_size

    def note_commit(self, path: Path, *, durable: bool) -> None:
        self.commits += 1
        if durable:
            log = path.with_name(f"{path.name}-wal")
            self.logs[log] = log.stat().st_size if log.exists() else 0


class CommitTap:
    """A connection to a journal; commits are steps."""

    def __init__(self, db: sqlite3.Connection, path: Path, disk: Disk) -> None:
        self._db = db
        self._path = path.resolve()
        self._disk = disk
        self._durable = False

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith("PRAGMA synchronous"):
            self._durable = statement.endswith("FULL")
        if statement != "COMMIT":
            return self._db.execute(statement, *values)
        self._disk._loop.tick()
        done = self._db.execute(statement)
        self._disk.note_commit(self._path, durable=self._durable)
        self._disk._loop.tick()
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)
