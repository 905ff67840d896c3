"""Files on every system: locks, careful ways to open, and names that last.

Made for POSIX. Where `fcntl` is missing, as on Windows, locks are those of `msvcrt`, and what the
system has no flag or call for is left out. No policy and no message for users stands here.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "OPEN_FILES_MOVE",
    "TOO_MANY_FILES",
    "UNASKABLE",
    "USUAL",
    "check_own",
    "is_own",
    "is_same_file",
    "lock_file",
    "longest_name",
    "make_folder",
    "make_private",
    "nearest_folder",
    "open_own",
    "open_unlinked",
    "open_without_waiting",
    "read_at",
    "state_folder",
    "sync_file",
    "sync_folder",
    "synced",
    "take_name",
    "try_folder",
    "try_lock",
    "user_id",
]

USUAL = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | USUAL
FAR = 2**40  # msvcrt's locks keep others from reading too: behind the end nobody reads
LINKS = (errno.ELOOP, errno.EMLINK)  # what O_NOFOLLOW says of a link
NOT_OURS = "it is not a regular file of ours without links"
UNASKABLE = (
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV),
)
"""What file systems answer that have no such thing as a hard link, or a folder to sync."""

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
"""What passes when somebody closes theirs."""

TAKEN = (errno.EACCES, errno.EDEADLK, errno.EAGAIN)


def module(name: str) -> Any:
    """A module of the standard library that some systems lack; None there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


fcntl, msvcrt = module("fcntl"), module("msvcrt")
OPEN_FILES_MOVE = fcntl is not None  # on Windows they can be neither renamed nor removed


def lock_file(handle: int) -> None:
    """Lock an open file until its handle is closed, without waiting.

    Raises:
        BlockingIOError: somebody else has it, perhaps in this process.
        OSError: it cannot be locked.
    """
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        place = os.lseek(handle, 0, os.SEEK_CUR)
        os.lseek(handle, FAR, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        finally:
            os.lseek(handle, place, os.SEEK_SET)
    else:
        raise OSError(errno.ENOTSUP, "this Python has neither fcntl nor msvcrt")


def try_lock(handle: int) -> bool:
    """Lock an open file; False when somebody has locked it, or it cannot be locked."""
    try:
        lock_file(handle)
    except OSError:
        return False
    return True


def make_private(path: Path) -> None:
    """Make an empty file that only its owner may read; refuse a name that is taken."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | USUAL, 0o600))


def take_name(draft: Path, name: Path) -> bool:
    """Give a finished file its name where that is free; False, and nothing done, when it is not.

    The draft's own name may stay: the caller removes it.
    """
    try:
        os.link(draft, name)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (*UNASKABLE, errno.EMLINK):
            raise
        if os.path.lexists(name):  # a file system without links
            return False
        draft.replace(name)
    return True


def open_without_waiting(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """Open it so that a pipe with nobody at its other end cannot hold us."""
    return os.open(path, flags | WITHOUT_WAITING, mode)


def open_unlinked(path: str, flags: int) -> int:
    """Open a file that may be anybody's: follow no link, and do not wait at a pipe."""
    return open_without_waiting(path, flags | NOFOLLOW)


def open_own(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """Open a helper file of ours; nothing is cut, written or believed before it is known as such.

    No link is followed, and nothing waits at a pipe. It may be used as an `opener`.

    Raises:
        PermissionError: it is a link, no regular file, another user's, or has another name too.
        OSError: it cannot be opened.
    """
    try:
        handle = open_without_waiting(path, (flags & ~os.O_TRUNC) | NOFOLLOW, mode)
    except OSError as error:
        if error.errno in LINKS:
            raise PermissionError(errno.EPERM, NOT_OURS, str(path)) from None
        raise
    try:
        check_own(os.fstat(handle), path)
        if flags & os.O_TRUNC:
            os.ftruncate(handle, 0)
    except BaseException:
        os.close(handle)
        raise
    return handle


def check_own(about: os.stat_result, path: str | Path, *, links: int = 1) -> None:
    """Refuse what is no regular file of ours, or has more names than *links*; see `open_own`."""
    if not stat.S_ISREG(about.st_mode) or not is_own(about) or about.st_nlink > links:
        raise PermissionError(errno.EPERM, NOT_OURS, str(path))


def is_same_file(handle: int, path: Path) -> bool:
    """Whether an open file is a regular one and still has that path."""
    about = os.fstat(handle)
    try:
        return stat.S_ISREG(about.st_mode) and os.path.samestat(about, path.lstat())
    except FileNotFoundError:
        return False


def read_at(handle: int, count: int, place: int) -> bytes:
    """Read at a place. The handle's own place is kept where the system can, else it moves."""
    if hasattr(os, "pread"):
        return os.pread(handle, count, place)
    os.lseek(handle, place, os.SEEK_SET)
    return os.read(handle, count)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where that can be asked for."""
    with synced(folder):
        pass


@contextlib.contextmanager
def synced(folder: Path) -> Iterator[None]:
    """Put the names that a folder has in the end on the disk; it is opened before anything else.

    So too many open files are found out before a name is given.
    """
    handle = None
    try:
        if hasattr(os, "O_DIRECTORY"):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | USUAL)
    except OSError as error:
        if error.errno not in UNASKABLE and not isinstance(error, PermissionError):
            raise  # else it may be written to but not read
    if handle is None:
        yield
        return
    try:
        yield
        sync_file(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and sync each into the folder above it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def sync_file(handle: int) -> None:
    """Put what is open on the disk, as far as its file system can be asked to."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNASKABLE:
            raise


def state_folder() -> Path:
    """The user's folder for what programs remember, made if need be; only the user reads it.

    Raises:
        OSError: it cannot be made.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        home = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "the user has no home") from None
    place = home / "apikley"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def nearest_folder(folder: Path) -> Path:
    """*folder*, or what is there already of the way to it."""
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)


def longest_name(folder: Path) -> int:
    """How many bytes a file's name may have on the disk of *folder*, or where it will be made."""
    try:
        return os.pathconf(nearest_folder(folder), "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # it cannot be asked, as on Windows
        return 255


def user_id() -> int | None:
    """The number of the user who runs this; None where users have none."""
    return os.getuid() if hasattr(os, "getuid") else None


def is_own(about: os.stat_result) -> bool:
    """Say whether a file is ours; where users have no number there is nothing to compare."""
    return user_id() in (None, about.st_uid)


def try_folder(folder: Path) -> None:
    """Make a folder if need be, and write a byte into it; nothing of that is left.

    Raises:
        OSError: it cannot be made, or nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, prefix=".apikley-") as file:
        file.write(b"\0")
        file.flush()
