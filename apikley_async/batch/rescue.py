"""Where a paid task's id goes when the journal cannot be written any more.

One line of JSON for each, in a file beside the journal or, where that fails, in the folder for
temporary files. Whoever opens the journal next binds what is written there. No prompt, no key.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import attrs

from apikley_async._disk import open_own, sync_folder

__all__ = ["Rescued", "notes_of", "put", "remove"]

LONGEST = 1024**2


@attrs.frozen
class Rescued:
    """A task that was paid, and the attempt that paid for it."""

    key: str
    token: str
    task_id: str
    at: float


def places(journal: Path, journal_id: str) -> tuple[Path, Path]:
    """Where notes may stand, the better place first."""
    beside = journal.with_name(f"{journal.name}.rescue.jsonl")
    return beside, Path(tempfile.gettempdir()) / f"apikley-{journal_id}.rescue.jsonl"


def put(journal: Path, journal_id: str, rescued: Rescued) -> Path | None:
    """Write a note, to last, and say where; None when no place would take it. Blocks."""
    line = json.dumps({"journal": journal_id, **attrs.asdict(rescued)}) + "\n"
    for place in places(journal, journal_id):
        with contextlib.suppress(OSError):
            append(place, line.encode())
            return place
    return None


def append(place: Path, line: bytes) -> None:
    handle = open_own(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        if os.write(handle, line) != len(line):
            raise OSError(f"{place} took a part only")
        os.fsync(handle)
        sync_folder(place.parent)
    finally:
        os.close(handle)


def notes_of(journal: Path, journal_id: str) -> dict[Path, list[Rescued]]:
    """What stands in each of the places about this journal."""
    found = {place: list(read(place, journal_id)) for place in places(journal, journal_id)}
    return {place: notes for place, notes in found.items() if notes}


def read(place: Path, journal_id: str) -> Iterable[Rescued]:
    """The notes of one file, if it is a file of ours; a line that was cut off is none."""
    try:
        with open(place, "rb", opener=open_own) as file:
            lines = file.read(LONGEST).splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            names = said["key"], said["token"], said["task_id"]
            if said["journal"] == journal_id and all(isinstance(name, str) for name in names):
                yield Rescued(*names, float(said["at"]))


def remove(places: Iterable[Path]) -> None:
    """Remove the notes at *places*, once what they say is in the journal."""
    for place in places:
        with contextlib.suppress(OSError):
            place.unlink()
