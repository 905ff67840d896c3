"""What shows that a journal is the newest copy of itself: a mark in it, and a witness elsewhere.

The mark is in the journal's main file while an owner has it open. It reveals a file that was copied
or moved without its log after a crash. The witness is a file in the user's state folder with the
journal's epoch and its number of intents. It is written when the journal is opened, and after each
intent's commit, before the POST. A missing witness means nothing. A journal that is older than its
witness is refused. The owner holds a lock on the witness (`locks.lock_witness`): a copy that is as
new as the journal cannot be used at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from apikley_async._disk import open_own, read_own, state_folder, sync_folder
from apikley_async.errors import JournalError

__all__ = ["WAY_OUT", "Witness", "check_newest"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

_sync_content = getattr(os, "fdatasync", os.fsync)  # the size never changes: half the work
CONTENT = re.compile(rb"([0-9]{12}) ([0-9]{12})\n")
WAY_OUT = (
    "or, if that is lost, run `apikley batch adopt`: every film that may have been paid is then "
    "uncertain, and decided by you"
)


class Witness:
    """The witness of the journal with this id. Blocks."""

    def __init__(self, journal_id: str) -> None:
        self._name = journal_id
        self._handle: int | None = None

    def open(self) -> int:
        """Open its file, or make it; give the handle, which stays open until `close`.

        Raises:
            OSError: no witness can be kept here.
        """
        if self._handle is None:
            folder = state_folder() / "witnesses"
            folder.mkdir(mode=0o700, exist_ok=True)
            self._handle = open_own(folder / self._name, os.O_RDWR | os.O_CREAT)
            sync_folder(folder)
        return self._handle

    def read(self) -> tuple[int, int] | None:
        """The newest epoch and number of intents that were stored; None when nothing is known."""
        try:
            content = CONTENT.fullmatch(read_own(state_folder() / "witnesses" / self._name, 64))
        except OSError:
            return None
        return None if content is None else (int(content[1]), int(content[2]))

    def write(self, epoch: int, intents: int) -> None:
        """Store both durably. Where that fails it is logged, and is no error."""
        try:
            handle = self.open()
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, b"%012d %012d\n" % (epoch, intents))
            _sync_content(handle)
        except OSError as error:
            logger.info("no witness of the journal can be kept: %s", error.strerror)
            self._forget()

    def _forget(self) -> None:
        """Leave nothing that is outdated and would be believed; a lock on the file stays."""
        with contextlib.suppress(OSError):
            if self._handle is None:
                (state_folder() / "witnesses" / self._name).unlink(missing_ok=True)
            else:
                os.ftruncate(self._handle, 0)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def check_newest(
    path: Path, here: tuple[int, int], seen: tuple[int, int] | None, *, log_is_lost: bool
) -> None:
    """Refuse a journal that is not the newest copy of itself.

    Args:
        path: of the journal, for messages.
        here: its epoch and number of intents.
        seen: those of its witness; None when there is no witness.
        log_is_lost: whether it was not closed, and its log is missing.

    Raises:
        JournalError: it is older than its witness, or what was written last may be missing.
    """
    if seen is not None and (here[0] < seen[0] or here[1] < seen[1]):
        raise JournalError(
            f"{path} is an older copy: {here[1]} attempts stand in it, and {seen[1]} were made. "
            f"Use the newest one; {WAY_OUT}"
        )
    if log_is_lost and seen is None:  # the witness would have shown that nothing is missing
        raise JournalError(
            f"{path} was not closed, and its log {path.name}-wal is not there: what was paid last "
            f"may be missing. Bring the log back; {WAY_OUT}"
        )
