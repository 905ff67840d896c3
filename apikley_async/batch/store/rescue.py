"""Where the id of a paid task is stored when the journal cannot be written any more.

A note is one line of JSON in a file beside the journal or, where that fails, in the folder for
temporary files. Whoever opens the journal next moves the notes into it. A note holds no prompt and
no API key.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import attrs

from apikley_async._disk import open_own, read_own, sync_folder

__all__ = ["RescuePlaces", "RescuedTask", "read_notes", "remove_notes", "write_note"]

LONGEST = 1024**2  # bytes of a file of notes that are read


@attrs.frozen
class RescuedTask:
    """A task that was paid, and the attempt that paid for it.

    Attributes:
        key: of the attempt's item.
        token: of the attempt.
        task_id: of the task.
        at: when the note was written, in seconds since 1970.
    """

    key: str
    token: str
    task_id: str
    at: float


@attrs.frozen
class RescuePlaces:
    """Where the notes of a journal are.

    Attributes:
        journal_id: of the journal.
        files: the better place first.
    """

    journal_id: str
    files: tuple[Path, ...]

    @classmethod
    def beside(cls, journal: Path, journal_id: str) -> RescuePlaces:
        """The places of a journal in a file."""
        beside = journal.with_name(f"{journal.name}.rescue.jsonl")
        elsewhere = Path(tempfile.gettempdir()) / f"apikley-{journal_id}.rescue.jsonl"
        return cls(journal_id, (beside, elsewhere))


def write_note(places: RescuePlaces, rescued: RescuedTask) -> Path | None:
    """Write a note durably, and give its file; None when no place takes it. Blocks."""
    line = json.dumps({"journal": places.journal_id, **attrs.asdict(rescued)}) + "\n"
    for path in places.files:
        with contextlib.suppress(OSError):
            _append(path, line.encode())
            return path
    return None


def _append(path: Path, line: bytes) -> None:
    handle = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        if os.write(handle, line) != len(line):
            raise OSError(f"{path} took a part only")
        os.fsync(handle)
        sync_folder(path.parent)
    finally:
        os.close(handle)


def read_notes(places: RescuePlaces) -> dict[Path, list[RescuedTask]]:
    """The notes about this journal, by their file."""
    found = {path: list(_notes_in(path, places.journal_id)) for path in places.files}
    return {path: notes for path, notes in found.items() if notes}


def _notes_in(path: Path, journal_id: str) -> Iterable[RescuedTask]:
    """The notes of one file, if it is a file of ours; incomplete lines are skipped."""
    try:
        lines = read_own(path, LONGEST).splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            note = json.loads(line)
            names = note["key"], note["token"], note["task_id"]
            if note["journal"] == journal_id and all(isinstance(name, str) for name in names):
                yield RescuedTask(*names, float(note["at"]))


def remove_notes(paths: Iterable[Path]) -> None:
    """Remove files of notes, once what they say is in the journal."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
