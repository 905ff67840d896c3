"""Files on every system: locks, safe ways to open, and names that survive a power cut.

Made for POSIX. Where `fcntl` is missing, as on Windows, locks are those of `msvcrt`, and what the
system has no flag or call for is left out. No policy and no message for users is here.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "COMMON_FLAGS",
    "OPEN_FILES_MOVE",
    "TOO_MANY_FILES",
    "UNSUPPORTED",
    "check_own",
    "check_writable",
    "create_private",
    "is_own",
    "is_same_file",
    "link_if_free",
    "lock_file",
    "make_folder",
    "max_name_bytes",
    "nearest_existing_folder",
    "open_nonblocking",
    "open_own",
    "open_unlinked",
    "private_folder",
    "read_at",
    "read_own",
    "state_folder",
    "state_place",
    "sync_file",
    "sync_folder",
    "synced_folder",
    "temporary_folder",
    "try_lock",
    "user_id",
    "write_whole",
]

COMMON_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
NONBLOCKING_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | COMMON_FLAGS
LOCK_OFFSET = 2**40  # behind the end of any file: a lock of msvcrt also keeps others from reading
LINK_ERRORS = (errno.ELOOP, errno.EMLINK)  # of O_NOFOLLOW at a symbolic link
NOT_OWN = "it is not a regular file of ours without links"
UNSUPPORTED = (
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV),
)
"""Errors of file systems without hard links, or whose folders cannot be synced."""

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
"""Errors that pass: somebody will close a file."""

MEMORY = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
SPACE = 1024 * 1024  # bytes besides those that are needed: SQLite writes beside its files

LOCKED_ERRORS = (errno.EACCES, errno.EDEADLK, errno.EAGAIN)


def optional_module(name: str) -> Any:
    """A module of the standard library; None on systems that lack it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


fcntl, msvcrt = optional_module("fcntl"), optional_module("msvcrt")
OPEN_FILES_MOVE = fcntl is not None  # on Windows they can be neither renamed nor removed


def lock_file(handle: int) -> None:
    """Lock an open file until its handle is closed, without waiting.

    Raises:
        BlockingIOError: it is locked already, perhaps in this process.
        OSError: it cannot be locked.
    """
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        position = os.lseek(handle, 0, os.SEEK_CUR)
        os.lseek(handle, LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in LOCKED_ERRORS:
                raise
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        finally:
            os.lseek(handle, position, os.SEEK_SET)
    else:
        raise OSError(errno.ENOTSUP, "this Python has neither fcntl nor msvcrt")


def try_lock(handle: int) -> bool:
    """Lock an open file; False when somebody has locked it, or it cannot be locked."""
    try:
        lock_file(handle)
    except OSError:
        return False
    return True


def create_private(path: Path) -> None:
    """Create an empty file that only its owner may read.

    Raises:
        FileExistsError: the name is taken.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | COMMON_FLAGS, 0o600))


def link_if_free(draft: Path, name: Path) -> bool:
    """Give a finished file its final name, unless that is taken; says whether it was free.

    The name of the draft may stay: the caller removes it.
    """
    try:
        os.link(draft, name)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (*UNSUPPORTED, errno.EMLINK):
            raise
        if os.path.lexists(name):  # a file system without links
            return False
        draft.replace(name)
    return True


def open_nonblocking(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """Open a file without waiting, should it be a pipe with nobody at its other end."""
    return os.open(path, flags | NONBLOCKING_FLAGS, mode)


def open_unlinked(path: str, flags: int) -> int:
    """Open a file that may be anybody's: follow no link, and do not wait at a pipe."""
    return open_nonblocking(path, flags | NOFOLLOW)


def open_own(path: str | Path, flags: int, mode: int = 0o600) -> int:
    """Open a file that this program made: nothing is truncated before that is certain.

    No link is followed, and nothing waits at a pipe. It may be used as the `opener` of `open`.

    Raises:
        PermissionError: it is a link or no regular file, belongs to another user, or has a
            second name.
        OSError: it cannot be opened.
    """
    try:
        handle = open_nonblocking(path, (flags & ~os.O_TRUNC) | NOFOLLOW, mode)
    except OSError as error:
        if error.errno in LINK_ERRORS:
            raise PermissionError(errno.EPERM, NOT_OWN, str(path)) from None
        raise
    try:
        check_own(os.fstat(handle), path)
        if flags & os.O_TRUNC:
            os.ftruncate(handle, 0)
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_own(path: str | Path, size: int) -> bytes:
    """The first *size* bytes of a small file that this program made.

    Raises:
        PermissionError, OSError: see `open_own`.
    """
    with open(path, "rb", opener=open_own) as file:
        return file.read(size)


def check_own(about: os.stat_result, path: str | Path, *, links: int = 1) -> None:
    """Refuse what is no regular file of this user, or has more names than *links*.

    Raises:
        PermissionError: see `open_own`.
    """
    if not stat.S_ISREG(about.st_mode) or not is_own(about) or about.st_nlink > links:
        raise PermissionError(errno.EPERM, NOT_OWN, str(path))


def is_same_file(handle: int, path: Path) -> bool:
    """Whether an open file is a regular one and still has that path."""
    about = os.fstat(handle)
    try:
        return stat.S_ISREG(about.st_mode) and os.path.samestat(about, path.lstat())
    except FileNotFoundError:
        return False


def read_at(handle: int, count: int, position: int) -> bytes:
    """Read at a position; that of the handle itself changes where the system has no `pread`."""
    if hasattr(os, "pread"):
        return os.pread(handle, count, position)
    os.lseek(handle, position, os.SEEK_SET)
    return os.read(handle, count)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the file system can."""
    with synced_folder(folder):
        pass


@contextlib.contextmanager
def synced_folder(folder: Path) -> Iterator[None]:
    """Sync a folder after the block. It is opened before it.

    So an error such as too many open files comes before a name is given.
    """
    handle = None
    try:
        if hasattr(os, "O_DIRECTORY"):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | COMMON_FLAGS)
    except OSError as error:
        if error.errno not in UNSUPPORTED and not isinstance(error, PermissionError):
            raise  # a folder without read permission cannot be synced, but may be written to
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
    """Put an open file or folder on the disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def temporary_folder() -> Path | None:
    """The folder for temporary files; None where all such places are read only, or full."""
    with contextlib.suppress(OSError):
        return Path(tempfile.gettempdir())
    return None


def private_folder(size: int = 0) -> tempfile.TemporaryDirectory[str]:
    """A new folder for temporary files of *size* bytes, in memory where the usual one has no room.

    Raises:
        OSError: there is no place for it.
    """
    places = [place for place in (temporary_folder(), MEMORY) if place is not None]
    roomy = (p for p in places if p.is_dir() and shutil.disk_usage(p).free >= size + SPACE)
    return tempfile.TemporaryDirectory(
        prefix="apikley-", dir=next(roomy, None), ignore_cleanup_errors=True
    )


def state_place() -> Path:
    """Where the folder for state of this program is, or would be.

    Raises:
        OSError: the user has no home.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        home = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "the user has no home") from None
    return home / "apikley"


def state_folder() -> Path:
    """The folder for state of this program, made if need be; only its user may read it.

    Raises:
        OSError: it cannot be made.
    """
    folder = state_place()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def nearest_existing_folder(folder: Path) -> Path:
    """*folder*, or the nearest folder above it that exists."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)


def max_name_bytes(folder: Path) -> int:
    """How many bytes a file's name may have in *folder*, or where that will be made."""
    try:
        return os.pathconf(nearest_existing_folder(folder), "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # the system does not say, as on Windows
        return 255


def user_id() -> int | None:
    """The id of the user; None where users have none."""
    return os.getuid() if hasattr(os, "getuid") else None


def is_own(about: os.stat_result) -> bool:
    """Whether a file belongs to this user; yes where users have no ids."""
    return user_id() in (None, about.st_uid)


def write_whole(path: Path, content: bytes, *, mode: int, is_ours: Callable[[], bool]) -> bool:
    """Write a file that appears whole; one that is there is replaced only if it is ours.

    Args:
        path: of the file.
        content: all of it.
        mode: its permissions, before the umask.
        is_ours: says whether the file that has the name may be replaced.

    Returns:
        False when another file has the name; it is left as it is.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)  # of a process that was killed and had the same number
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | COMMON_FLAGS
    try:
        with os.fdopen(os.open(draft, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            sync_file(file.fileno())  # or a power cut leaves an empty one, which is nobody's
        if link_if_free(draft, path):
            return True
        if not is_ours():
            return False
        draft.replace(path)
        return True
    finally:
        draft.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder if need be, and write a byte into it that is removed again.

    Raises:
        OSError: it cannot be made, or nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, prefix=".apikley-") as file:
        file.write(b"\0")
        file.flush()
