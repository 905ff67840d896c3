"""The locks of a journal: one owner at a time, whatever name the file is opened by.

The owner holds three: a lock file beside the journal, which also names the journal's id, on Linux
the journal's own inode, and the witness, which all copies of the journal have in common.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from apikley_async._disk import lock_file, open_nonblocking, open_own, read_own
from apikley_async.batch.store.journal_errors import JournalInUseError, journal_error
from apikley_async.batch.store.rows import JOURNAL_ID
from apikley_async.batch.store.witness import WAY_OUT, Witness
from apikley_async.errors import Blame, JournalError

__all__ = ["check_never_used", "lock_inode", "lock_witness", "note_owner", "take_lock"]

logger: logging.Logger = logging.getLogger("apikley_async.batch")

LONGEST_LOCK = 128  # bytes: a process and a journal's id


def take_lock(path: Path) -> int:
    """Become the owner of the journal at *path*, until the returned handle is closed.

    SQLite's own locks are not enough: they are lost when anyone in the process opens the file
    again and closes it.

    Raises:
        JournalInUseError: another process is the owner.
        JournalError: the lock cannot be taken, or a journal that was used is gone.
    """
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        lock = open_own(lock_path, os.O_RDWR | os.O_CREAT)
    except PermissionError as exc:
        raise JournalError(f"{lock_path} cannot be used as the lock: {exc.strerror}") from None
    except OSError as exc:
        raise journal_error(f"{path} cannot be made: {exc.strerror}", exc) from None
    try:
        lock_file(lock)
        check_never_used(path, os.read(lock, LONGEST_LOCK))
        note_owner(lock)
    except JournalError:
        os.close(lock)
        raise
    except BlockingIOError:
        owner = os.read(lock, LONGEST_LOCK).decode(errors="replace").partition("\n")[0] or "unknown"
        os.close(lock)
        message = f"{path} is in use by process {owner}; wait for it or stop it"
        raise JournalInUseError(message, resumable=True, blames=Blame.NETWORK) from None
    except OSError as exc:
        os.close(lock)
        message = (
            f"{path} cannot be locked ({exc.strerror}); keep it on a local disk with some space"
        )
        raise journal_error(message, exc) from None
    return lock


def note_owner(lock: int, journal_id: str = "") -> None:
    """Write this process into the lock and, once it is known, the journal's id."""
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, f"{os.getpid()}\n{journal_id}\n".encode())


def check_never_used(path: Path, lock_text: bytes | None = None) -> None:
    """Refuse to make a journal where one was that has sent something.

    A lock file that is left without its journal names the journal's id, and the witness of that
    id knows whether anything was sent.

    Args:
        path: of the journal.
        lock_text: the content of its lock; by default it is read.

    Raises:
        JournalError: attempts were made with the journal that is gone.
    """
    if path.exists():
        return
    lock_path = path.with_name(f"{path.name}.lock")
    if lock_text is None:
        try:
            lock_text = read_own(lock_path, LONGEST_LOCK)
        except OSError:
            return
    lines = lock_text.decode(errors="replace").splitlines()
    known = len(lines) > 1 and JOURNAL_ID.fullmatch(lines[1])
    seen = Witness(lines[1]).read() if known else None
    if seen is not None and seen[1] > 0:
        raise JournalError(
            f"{path} is gone, and {seen[1]} attempts were made with it. Bring it back, or a copy "
            f"of it, {WAY_OUT}. To begin anew and pay again, remove {lock_path.name} too"
        )


def lock_inode(path: Path) -> int | None:
    """Lock the journal's inode, so that a second name of it cannot be used at the same time.

    Returns:
        A handle that must be opened before SQLite's and closed after them, since closing it takes
        their locks away; None where the system has no such lock. On Linux `flock` and SQLite's
        locks do not disturb each other; elsewhere they would.

    Raises:
        JournalInUseError: another process uses the journal under another name.
        JournalError: the file has two names, or cannot be locked.
    """
    if path.stat().st_nlink > 1:
        raise JournalError(
            f"{path} has another name too (a hard link), under which nothing would be locked; "
            "remove all names but one"
        )
    if sys.platform != "linux":
        return None
    handle = open_nonblocking(path, os.O_RDONLY)
    try:
        lock_file(handle)
    except BlockingIOError:
        os.close(handle)
        message = f"{path} is in use under another name; wait for that or stop it"
        raise JournalInUseError(message, resumable=True, blames=Blame.NETWORK) from None
    except OSError as exc:
        os.close(handle)
        message = f"{path} cannot be locked ({exc.strerror}); keep it on a local disk"
        raise journal_error(message, exc) from None
    return handle


def lock_witness(witness: Witness, path: Path) -> None:
    """Lock a journal's witness until it is closed, so that no copy is used at the same time.

    Both would pay for the films that neither has sent. Where no witness can be kept, or locked,
    only the other locks hold.

    Args:
        witness: of the journal.
        path: of the journal, for messages.

    Raises:
        JournalInUseError: a copy of the journal is in use, by this user on this machine.
    """
    try:
        lock_file(witness.open())
    except BlockingIOError:
        message = (
            f"a copy of {path} is in use, another file of the same journal: both would pay for the "
            "same films. Wait until that run has ended, and go on with its file, which knows what "
            "was paid meanwhile"
        )
        raise JournalInUseError(message, resumable=True, blames=Blame.NETWORK) from None
    except OSError as exc:
        logger.info("no copy of %s can be kept from being used: %s", path, exc.strerror)
