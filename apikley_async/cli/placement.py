"""Where a command writes down what it pays: beside the films, or on a disk that can hold it.

Network disks hold films well and journals badly. Where the output folder lies on one, the journal
goes into the user's state folder, and a marker in the output folder names it: whoever comes from
another machine, or has lost the state folder, is refused and does not pay again.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from pathlib import Path

import attrs

from apikley_async._disk import open_own, state_folder
from apikley_async.batch import Journal
from apikley_async.cli.exit_codes import NotNow, Refused
from apikley_async.cli.output.reporter import plain

__all__ = ["Place", "place_beside", "place_named"]

JOURNAL = "apikley.db"
MARKER = "apikley.journal.json"
LARGEST_MARKER = 64 * 1024


@attrs.frozen
class Place:
    """Where a journal is.

    Attributes:
        journal: its path; None for a rehearsal, whose journal nobody keeps.
        marker: the file that is to name the journal, where it lies elsewhere than the films.
        wait: how many seconds another process may keep it locked.
        note: what to say about it.
        others: other journals of films in that folder; what was sent with them is not paid again.
    """

    journal: Path | None
    marker: Path | None = None
    wait: float = 0.0
    note: str = ""
    others: tuple[Path, ...] = ()

    def mark(self) -> None:
        """Let the output folder name its journal, which exists by now. Blocks.

        Raises:
            NotNow: another process has begun there in this moment.
            Refused: the marker cannot be written; nothing was sent.
        """
        if self.marker is None:
            return
        fields = {"journal": str(self.journal), "machine": platform.node()}
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with os.fdopen(os.open(self.marker, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(json.dumps(fields) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            told = f"another apikley has just begun in {plain(self.marker.parent)}; run this again"
            raise NotNow(told) from None
        except OSError as error:
            raise Refused(f"{plain(self.marker)}: cannot be written: {error.strerror}") from None


def place_named(journal: Path, folder: Path, *, wait: float = 0.0) -> Place:
    """The place of a journal that a person names for the films in *folder*, which exists. Blocks.

    Where the folder has no other journal, a marker there names it: the same line without its
    name finds it, and pays for nothing again. Where it has others, that is said.
    """
    alone = not any(os.path.lexists(folder / name) for name in (JOURNAL, MARKER))
    journal = journal.absolute()
    marker = folder / MARKER if alone and journal != (folder / JOURNAL).absolute() else None
    others, note = [folder / JOURNAL] if os.path.lexists(folder / JOURNAL) else [], ""
    try:
        if (named := named_by(folder / MARKER)) is not None:
            others.append(named)
    except NotNow:  # a person has named a journal, where that one cannot be asked
        note = f"{folder} had another journal, which cannot be asked what is paid: see {MARKER}"
    others = [other.absolute() for other in others if not is_same(other, journal)]
    if others:
        told = " and ".join(map(str, others))
        note = f"{folder} has another journal, {told}. What this run pays stands in {journal} only"
    return Place(journal, marker, wait, note, tuple(others))


def is_same(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file. Blocks."""
    try:
        return path.samefile(other)
    except OSError:
        return path.absolute() == other.absolute()


def place_beside(folder: Path, *, wait: float = 0.0) -> Place:
    """The place of the journal for the films in *folder*, which exists. Blocks.

    Raises:
        NotNow: the journal of this folder lies on another machine, or is not there.
        Refused: no disk of this machine can hold a journal.
    """
    if (journal := named_by(folder / MARKER)) is not None:
        return Place(journal, wait=wait)
    beside = folder / JOURNAL
    if (fault := Journal.disk_fault(beside)) is None:
        return Place(beside, wait=wait)
    try:
        state = state_folder()
    except OSError as error:
        told = f"{plain(folder)} lies on {fault}; the user's state folder cannot be made"
        raise Refused(f"{told}: {error.strerror}; name a place with --journal") from None
    name = f"{folder.resolve().name or 'films'}-{secrets.token_hex(6)}.db"
    journal = state / name
    if (other := Journal.disk_fault(journal)) is not None:
        raise Refused(
            f"neither {plain(folder)} ({fault}) nor {plain(state)} ({other}) can hold the journal; "
            "name a place on a local disk with --journal"
        )
    note = (
        f"{folder} lies on {fault}, which cannot hold the journal. It is {journal}; "
        f"{MARKER} in {folder} says so."
    )
    return Place(journal, folder / MARKER, wait, note)


def named_by(marker: Path) -> Path | None:
    """The journal that *marker* names, which must be there; None where there is no marker."""
    told = ""
    try:
        fields = json.loads(read_own(marker))
        journal, machine = Path(fields["journal"]), str(fields["machine"])
    except FileNotFoundError:
        return None
    except OSError as error:
        told = error.strerror or "it is not ours"
    except (ValueError, KeyError, TypeError, RecursionError):
        told = "it is damaged"
    else:
        if journal.is_absolute() and journal.is_file():
            return journal
        told = f"it names {journal} on {machine}, which is not here"
    raise NotNow(
        f"{plain(marker)} says where these films are written down, and {plain(told)}. Nothing was "
        "sent: run this where that journal is, or name a journal with --journal"
    )


def read_own(path: Path) -> bytes:
    """What stands in a small file of ours; no link is followed."""
    with open(path, "rb", opener=open_own) as file:
        return file.read(LARGEST_MARKER)
