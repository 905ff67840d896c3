"""Where the id of a paid task is stored when the journal cannot be written any more.

A note is one line of JSON in a file beside the journal or, where that fails, in the folder for
temporary files. Whoever opens the journal next moves the notes into it. A note holds no prompt and
no API key. It begins with the end of a line: what a full disk has left of another note spoils that
one only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from apikley_async._disk import open_own, state_folder, sync_folder, temporary_folder

__all__ = ["FoundNotes", "RescuePlaces", "RescuedTask", "read_notes", "remove_notes", "write_note"]

LONGEST = 1024**2  # bytes of a line that are read at once


@attrs.frozen
class RescuedTask:
    """A task that was paid, and the attempt that paid for it.

    Attributes:
        key: of the attempt's item.
        token: of the attempt.
        task_id: of the task.
        at: when its id was to be stored, in seconds since 1970.
    """

    key: str
    token: str
    task_id: str
    at: float


@attrs.frozen
class FoundNotes:
    """What one file holds.

    Attributes:
        path: of the file.
        notes: about the journal whose notes were looked for.
        is_understood: whether it holds nothing else, such as a part of a note or notes of another
            journal. Otherwise it must not be removed.
    """

    path: Path
    notes: tuple[RescuedTask, ...]
    is_understood: bool


@attrs.frozen
class RescuePlaces:
    """Where the notes of a journal are.

    Attributes:
        journal_id: of the journal.
        files: the better place first.
        apart: whether each note is a file of its own, named after one of *files*: several may write
            at once, and whoever moves a note into the journal removes no other.
    """

    journal_id: str
    files: tuple[Path, ...]
    apart: bool = False

    @classmethod
    def beside(cls, journal: Path, journal_id: str) -> RescuePlaces:
        """The places of a journal in a file."""
        beside = journal.with_name(f"{journal.name}.rescue.jsonl")
        folder, name = temporary_folder(), f"apikley-{journal_id}.rescue.jsonl"
        return cls(journal_id, (beside,) if folder is None else (beside, folder / name))

    @classmethod
    def of_machine(cls, journal_id: str) -> RescuePlaces:
        """The places on this machine for a journal that is not a file of it."""
        folders = [folder] if (folder := temporary_folder()) is not None else []
        with contextlib.suppress(OSError):
            folders.insert(0, state_folder())
        return cls(journal_id, tuple(folder / f"apikley-{journal_id}" for folder in folders), True)

    def for_token(self, token: str) -> tuple[Path, ...]:
        """Where the note about an attempt goes."""
        if not self.apart:
            return self.files
        name = hashlib.sha256(token.encode()).hexdigest()[:32]
        return tuple(file.with_name(f"{file.name}-{name}.rescue.jsonl") for file in self.files)

    def found(self) -> list[Path]:
        """The files of notes that there may be."""
        if not self.apart:
            return [*self.files]
        return [
            path
            for file in self.files
            for path in sorted(file.parent.glob(f"{file.name}-*.rescue.jsonl"))
        ]


def write_note(places: RescuePlaces, rescued: RescuedTask) -> Path | None:
    """Write a note durably, and give its file; None when no place takes it. Blocks."""
    note = json.dumps({"journal": places.journal_id, **attrs.asdict(rescued)})
    for path in places.for_token(rescued.token):
        with contextlib.suppress(OSError):
            _append(path, f"\n{note}\n".encode())
            return path
    return None


def _append(path: Path, text: bytes) -> None:
    """Add *text* to a file, or nothing: a disk may take a part only.

    Raises:
        OSError: not all of it is certainly on the disk.
    """
    handle = open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        size = os.fstat(handle).st_size
        taken = os.write(handle, text)
        if taken != len(text):
            if os.fstat(handle).st_size == size + taken:  # else another process has added a note
                os.ftruncate(handle, size)
            raise OSError(f"{path} took a part only")
        os.fsync(handle)
        sync_folder(path.parent)
    finally:
        os.close(handle)


def read_notes(places: RescuePlaces) -> list[FoundNotes]:
    """The notes about this journal, in the files that hold any, or hold what may be one."""
    read = (_read(path, places.journal_id) for path in places.found())
    return [found for found in read if found.notes or not found.is_understood]


def _read(path: Path, journal_id: str) -> FoundNotes:
    """The notes in one file, as far as it is a file of ours and can be read."""
    notes, is_understood = [], True
    try:
        for line in _lines_of(path):
            note = _note_in(line, journal_id)
            if note is not None:
                notes.append(note)
            elif line.strip():
                is_understood = False
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        is_understood = False
    return FoundNotes(path, tuple(notes), is_understood)


def _lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file of ours; very long ones come in pieces."""
    with open(path, "rb", opener=open_own) as file:
        yield from iter(lambda: file.readline(LONGEST), b"")


def _note_in(line: bytes, journal_id: str) -> RescuedTask | None:
    """The note of this journal that a line is; None when it is another one, or incomplete."""
    with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
        note = json.loads(line)
        names = note["key"], note["token"], note["task_id"]
        "".join(names).encode()  # what is no text, or none in Unicode, is no name
        if note["journal"] == journal_id and math.isfinite(note["at"]):
            return RescuedTask(*names, float(note["at"]))
    return None


def remove_notes(paths: Iterable[Path]) -> None:
    """Remove files of notes, once what they say is in the journal."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
