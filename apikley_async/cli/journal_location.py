"""Where the journal of a command is: beside the films, or on a disk that can hold it.

SQLite is not safe on network disks. If the output folder lies on one, the journal goes into the
user's state folder, and a marker file in the output folder names it: on another machine, or after
the state folder was lost, the command is refused and nothing is paid again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import secrets
import time
from pathlib import Path

import attrs

from apikley_async._disk import (
    open_own,
    read_own,
    state_folder,
    state_place,
    try_lock,
    write_whole,
)
from apikley_async.batch import Journal
from apikley_async.cli.exit_codes import PostponedError, RefusedError
from apikley_async.cli.option_types import Place
from apikley_async.cli.output.terminal_text import plain

__all__ = [
    "JOURNAL",
    "MARKER",
    "JournalLocation",
    "compared_with_earlier",
    "locate_batch_journal",
    "locate_journal",
    "locate_named_journal",
    "locate_profile_journal",
]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

JOURNAL = "apikley.db"
MARKER = "apikley.journal.json"
MAX_MARKER = 64 * 1024  # bytes
FOLDERS = "profile-folders.json"  # in the state folder
MAX_FOLDERS = 100
MAX_FOLDERS_FILE = 4 * 2**20  # bytes: so many of the longest paths fit, each byte as an escape
LOCK_TRIES, LOCK_INTERVAL = 50, 0.02  # seconds


@attrs.frozen
class JournalLocation:
    """Where a journal is.

    Attributes:
        journal: its path; None for a rehearsal, whose journal is temporary.
        marker: the file that is to name the journal, if it does not lie beside the films.
        wait: seconds to wait while another process has it locked.
        note: what to tell the user about it.
        others: journals of the same films' folder, or of the usual one that a profile has moved
            them from; what they have sent is not paid again, nor another film of such a name.
        earlier: journals of other folders that a profile has named; a content that they have sent
            is not paid again.
        moved_to: the folder that a profile names, to be remembered.
    """

    journal: Place | None
    marker: Path | None = None
    wait: float = 0.0
    note: str = ""
    others: tuple[Path, ...] = ()
    earlier: tuple[Path, ...] = ()
    moved_to: Path | None = None

    @property
    def compared(self) -> tuple[Path, ...]:
        """All journals that films are compared with before they are paid."""
        return (*self.others, *self.earlier)

    def write_marker(self) -> None:
        """Let the output folder name its journal, which exists by now. Blocks.

        A folder that a profile names is remembered, for the day on which it names another one.

        Raises:
            PostponedError: another process has just begun in this folder.
            RefusedError: the marker cannot be written; nothing was sent.
        """
        if self.moved_to is not None:
            remember_folder(self.moved_to)
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
            folder = plain(self.marker.parent)
            raise PostponedError(
                f"another apikley has just begun in {folder}; run this again"
            ) from None
        except OSError as error:
            raise RefusedError(
                f"{plain(self.marker)}: cannot be written: {error.strerror}"
            ) from None


def locate_named_journal(journal: Path, folder: Path, *, wait: float = 0.0) -> JournalLocation:
    """The location of a journal that the user names for the films in *folder*. Blocks.

    If the folder has no other journal, a marker there names this one: the same command without
    `--journal` finds it, and pays nothing again. If it has others, the note says so.
    """
    alone = not any(os.path.lexists(folder / name) for name in (JOURNAL, MARKER))
    # A folder with a journal or a marker gets no other marker: the one there may name films that
    # are paid, and would not be found any more.
    journal = journal.absolute()
    marker = folder / MARKER if alone and journal != (folder / JOURNAL).absolute() else None
    others: tuple[Path, ...] = ()
    note = ""
    try:
        others = journals_in(folder, besides=journal)
    except PostponedError:  # that journal cannot be read, but the user has named one
        note = f"{folder} had another journal, which cannot be read: see {MARKER}"
    if others:
        listed = " and ".join(map(str, others))
        note = f"{folder} has another journal, {listed}. What this run pays is in {journal} only"
    return JournalLocation(journal, marker, wait, note, others)


def locate_batch_journal(journal: Place, folder: Path | None) -> JournalLocation:
    """The location of a batch's journal; *folder* is where its films go, if that is known. Blocks.

    The folder may have a journal of `generate`: what that one has sent is not paid again.
    """
    others = () if folder is None else journals_in(folder, besides=journal)
    return JournalLocation(journal, others=others)


def journals_in(folder: Path, *, besides: Place | None) -> tuple[Path, ...]:
    """The journals of `generate` for the films in *folder*, apart from one. Blocks.

    Raises:
        PostponedError: a marker there names one that is not here.
    """
    beside = folder / JOURNAL
    found: list[Path] = [beside] if os.path.lexists(beside) else []
    if (named := read_marker(folder / MARKER)) is not None:
        found.append(named)
    others = (path for path in found if not (isinstance(besides, Path) and is_same(path, besides)))
    return tuple(path.absolute() for path in others)


def is_same(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file. Blocks."""
    try:
        return path.samefile(other)
    except OSError:
        return path.absolute() == other.absolute()


def locate_profile_journal(
    folder: Path, profile: Path, *, usual: Path, wait: float = 0.0
) -> JournalLocation:
    """The location of the journal for films in the *folder* that a profile names. Blocks.

    The journal is there too. The note says so, since a profile that is new or has changed moves
    both. What a journal in the *usual* folder has sent is not paid again, nor what was sent while
    a profile has named another folder.

    Raises:
        PostponedError: as for `locate_journal`, of either folder.
        RefusedError: no disk of this machine can hold a journal.
    """
    location = locate_journal(folder, wait=wait)
    journal = location.journal
    begun = "is" if isinstance(journal, Path) and journal.exists() else "will be"
    place = location.note or f"Their journal {begun} {journal}"
    return attrs.evolve(
        compared_with_earlier(location),
        note=f"The films go to {folder}, as {profile} says. {place}",
        others=journals_in(usual, besides=journal),
        moved_to=folder.absolute(),
    )


def compared_with_earlier(location: JournalLocation) -> JournalLocation:
    """A location whose films are compared with what was sent into folders of profiles. Blocks.

    A profile moves the journal with the films: without that, a film that was sent would be paid
    again after the profile has changed, or is gone.
    """
    found: list[Path] = []
    for folder in remembered_folders():
        with contextlib.suppress(PostponedError):  # that journal is not here any more
            found += journals_in(folder, besides=location.journal)
    return attrs.evolve(location, earlier=tuple(dict.fromkeys(found)))


def remembered_folders() -> list[Path]:
    """The folders that profiles have named in earlier runs; none if that is not known. Blocks."""
    try:
        names = json.loads(read_own(state_place() / FOLDERS, MAX_FOLDERS_FILE))
        return [path for path in map(Path, names) if path.is_absolute()]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def remember_folder(folder: Path) -> None:
    """Remember a folder that a profile names; where that fails it is logged. Blocks.

    Where the file cannot be locked, or somebody keeps it locked, it is written all the same: at
    worst what another command writes at that moment is forgotten.
    """
    if folder in remembered_folders():
        return
    try:
        path = state_folder() / FOLDERS
        with open(path.with_suffix(".lock"), "wb", opener=open_own) as lock:
            for _ in range(LOCK_TRIES):  # another command may be about to write what it has read
                if try_lock(lock.fileno()):
                    break
                time.sleep(LOCK_INTERVAL)
            if folder not in (known := remembered_folders()):
                content = json.dumps([*map(str, [*known, folder][-MAX_FOLDERS:])]).encode()
                _ = write_whole(path, content, mode=0o600, is_ours=lambda: True)
    except OSError as error:
        logger.info("the folder of the profile is not remembered: %s", error.strerror)


def locate_journal(folder: Path, *, wait: float = 0.0) -> JournalLocation:
    """The location of the journal for the films in *folder*, which exists. Blocks.

    Raises:
        PostponedError: the journal of this folder is on another machine, or is gone.
        RefusedError: no disk of this machine can hold a journal.
    """
    if (journal := read_marker(folder / MARKER)) is not None:
        return JournalLocation(journal, wait=wait)
    beside = folder / JOURNAL
    if (fault := Journal.disk_fault(beside)) is None:
        return JournalLocation(beside, wait=wait)
    try:
        state = state_folder()
    except OSError as error:
        raise RefusedError(
            f"{plain(folder)} lies on {fault}; the user's state folder cannot be made: "
            f"{error.strerror}; name a file with --journal"
        ) from None
    name = f"{folder.resolve().name or 'films'}-{secrets.token_hex(6)}.db"
    journal = state / name
    if (other := Journal.disk_fault(journal)) is not None:
        raise RefusedError(
            f"neither {plain(folder)} ({fault}) nor {plain(state)} ({other}) can hold the journal; "
            "name a file on a local disk with --journal"
        )
    note = (
        f"{folder} lies on {fault}, which cannot hold the journal. It is {journal}; "
        f"{MARKER} in {folder} names it."
    )
    return JournalLocation(journal, folder / MARKER, wait, note)


def read_marker(marker: Path) -> Path | None:
    """The journal that *marker* names, which must exist; None if there is no marker."""
    fault = ""
    try:
        fields = json.loads(read_own(marker, MAX_MARKER))
        journal, machine = Path(fields["journal"]), str(fields["machine"])
    except FileNotFoundError:
        return None
    except OSError as error:
        fault = error.strerror or "it is not ours"
    except (ValueError, KeyError, TypeError, RecursionError):
        fault = "it is damaged"
    else:
        if journal.is_absolute() and journal.is_file():
            return journal
        fault = f"it names {journal} on {machine}, which is not here"
    raise PostponedError(
        f"{plain(marker)} names the journal of these films, and {plain(fault)}. Nothing was "
        "sent: run this where that journal is, or name a journal with --journal"
    )
