"""The disk of a machine that dies: what is left of it, after a kill or after a power cut.

A machine works in one folder. When it dies, a copy of that folder is what its next life finds;
what the dead one may still do, while Python unwinds it, happens in the folder it leaves behind.

After a power cut less may be left: a name that was given and not synced with its folder may be
gone, the end of a file that was not synced too, and of the journal's log everything behind the
last commit that waited for the disk.
"""

from __future__ import annotations

import contextlib
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
"""What the dead may not do either. No steps: plans count on those there are."""


class Disk:
    """The folder *place* of the machine that *loop* may kill."""

    def __init__(self, loop: SimLoop, root: Path, rng: random.Random) -> None:
        self.place = root / "place"
        self.place.mkdir()
        self._left = root / "left"
        self._state = root / "state"  # its user's, which neither kills nor cuts take anything from
        self._root = root
        self._loop = loop
        self._rng = rng
        self._buried = 0
        self.power_cuts = False
        self.commits = 0
        self.synced_sizes: dict[int, int] = {}  # of files, by inode
        self.synced_names: set[tuple[int, str]] = set()  # names in folders, by the folder's inode
        self.logs: dict[Path, int] = {}  # how much of a journal's log is certainly there
        self._opened: list[tuple[str, sqlite3.Connection]] = []  # by which machine

    def die(self, host: str) -> None:
        """Keep what the next life will find."""
        shutil.rmtree(self._left, ignore_errors=True)
        shutil.copytree(self.place, self._left)
        if self.power_cuts:
            self._lose()

    def let_go(self) -> None:
        """Close what dead machines hold open in their folder, while it still has its name.

        SQLite removes a log by its path when the last connection ends, whoever has it by then.
        """
        for _, db in (each for each in self._opened if each[0] in self._loop.dead):
            with contextlib.suppress(sqlite3.Error):
                db.close()
        self._opened = [each for each in self._opened if each[0] not in self._loop.dead]
        for entry in [*Path("/proc/self/fd").iterdir()]:
            with contextlib.suppress(OSError):
                opened = entry.readlink()
                if opened.is_relative_to(self.place) or opened.is_relative_to(self._state):
                    os.close(int(entry.name))

    def revive(self) -> None:
        """Give the next life what was left."""
        self._buried += 1
        self.place.rename(self._root / f"dead-{self._buried}")
        self._left.rename(self.place)
        for known in (self.synced_sizes, self.synced_names, self.logs):
            known.clear()  # of files that are others now
        for path in [self.place, *self.place.rglob("*")]:  # what has survived is on the disk
            about = path.stat()
            if path.is_dir():
                self.synced_names |= {(about.st_ino, each.name) for each in path.iterdir()}
            else:
                self.synced_sizes[about.st_ino] = about.st_size
            if path.name.endswith("-wal"):
                self.logs[path] = about.st_size

    def _lose(self) -> None:
        for old in [*self.place.rglob("*")]:
            new = self._left / old.relative_to(self.place)
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
        for shared in self._left.glob("*-shm"):
            shared.unlink()

    def _cut(self, file: Path, certain: int) -> None:
        size = file.stat().st_size
        if size > certain:
            os.truncate(file, self._rng.randint(certain, size))

    # --- what is watched --------------------------------------------------------------------------

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count commits and file operations as steps, and note what has become durable."""
        taken: dict[str, Any] = {name: getattr(os, name) for name in LINKING + TOUCHING}
        connect = journal_file.connect
        for name, inner in taken.items():
            around = self._around if name in LINKING else self._kept_from_the_dead
            setattr(os, name, around(name, inner))

        def tapped(path: Path, **options: Any) -> Any:
            db = connect(path, **options)
            self._opened.append((HOST.get(), db))
            return Tap(db, path, self)

        journal_file.connect = tapped  # type: ignore[assignment]
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

    def _kept_from_the_dead(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
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

    def note_commit(self, path: Path, *, lasting: bool) -> None:
        self.commits += 1
        if lasting:
            log = path.with_name(f"{path.name}-wal")
            self.logs[log] = log.stat().st_size if log.exists() else 0


class Tap:
    """A connection to a journal; commits are steps."""

    def __init__(self, db: sqlite3.Connection, path: Path, disk: Disk) -> None:
        self._db = db
        self._path = path.resolve()
        self._disk = disk
        self._lasting = False

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith("PRAGMA synchronous"):
            self._lasting = statement.endswith("FULL")
        if statement != "COMMIT":
            return self._db.execute(statement, *values)
        self._disk._loop.tick()
        done = self._db.execute(statement)
        self._disk.note_commit(self._path, lasting=self._lasting)
        self._disk._loop.tick()
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)
