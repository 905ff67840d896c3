"""The journal's file: whose it is, whether it is one, and how one is made.

Nothing here writes to a file that is not certainly ours, and a journal bears its name only when
it is whole: what a crash leaves of a beginning is never taken for a journal that was lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sqlite3
import sys
from pathlib import Path

from apikley_async._disk import (
    create_private,
    link_if_free,
    lock_file,
    open_nonblocking,
    open_own,
    sync_folder,
)
from apikley_async._sqlite import connect, make_lasting, refuse_special, schema_fault
from apikley_async.batch.store.rows import ID, Facts, read_facts
from apikley_async.batch.store.schema import APPLICATION, Migrations, migrate
from apikley_async.batch.store.witness import WAY_OUT, Witness
from apikley_async.errors import Blame, JournalError

__all__ = [
    "InUseError",
    "back_up",
    "check",
    "connect",
    "copy_privately",
    "disk_fault",
    "facts_in",
    "has_log",
    "hindered",
    "keep_copy",
    "lock_inode",
    "make",
    "make_lasting",
    "note_owner",
    "refuse_gone",
    "refuse_lost",
    "refuse_network",
    "refuse_special",
    "take_lock",
]

PASSING = frozenset(
    (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
    )
)
LOCAL_FUSE = frozenset(  # other fuse.* are taken for clouds and shares
    (
        *("fuse.bindfs", "fuse.ecryptfs", "fuse.encfs", "fuse.exfat", "fuse.ext2", "fuse.ext4"),
        *("fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs", "fuse.ntfs", "fuse.ntfs-3g"),
        *("fuse.cryfs", "fuse.zfs"),
    )
)
LONGEST_LOCK = 128  # bytes: a process and a journal's id
MOUNTS = Path("/proc/self/mountinfo")  # where Linux says what lies on which disk
NETWORKS = frozenset(
    (
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs", "gfs2", "glusterfs"),
        *("gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb2", "smb3", "smbfs"),
        *("prl_fs", "vboxsf", "virtiofs", "vmhgfs"),  # of the machine around a virtual one
    )
)


def hindered(told: str, cause: OSError | int | None = None) -> JournalError:
    """An error of the journal that running again may cure: it is in use, locked, or has no room.

    *cause* is what the system says, or SQLite's primary code; some say that it is no use.
    """
    mistaken = isinstance(cause, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    if mistaken or (isinstance(cause, int) and cause not in PASSING):
        return JournalError(told)
    return JournalError(told, resumable=True, blames=Blame.NETWORK)


class InUseError(JournalError):
    """Another process owns the journal."""


def refuse_network(path: Path) -> None:
    """Refuse a folder of another machine, as far as the system says so."""
    if (fault := disk_fault(path)) is not None:
        raise JournalError(
            f"{path} lies on {fault}, whose locks and writes cannot be relied on; "
            "keep the journal on a local disk, the films may go there"
        )


def disk_fault(path: Path) -> str | None:
    """Say why the disk of *path* cannot hold a journal; None when nothing is known against it.

    On a network disk two machines do not see each other's locks, nor one of them what the other
    has written.
    """
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return None
    kind = kind_of_disk(path.resolve(), mounts)
    shared = kind in NETWORKS or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)
    return f"a network disk ({kind})" if shared else None


def kind_of_disk(path: Path, mounts: str) -> str:
    """The kind of file system that *path* is on, by the nearest mount point above it."""
    nearest, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        if len(point) >= len(nearest) and path.is_relative_to(point):
            nearest, kind = point, right.split(" ")[0]
    return kind


def take_lock(path: Path) -> int:
    """Become the owner of the journal at *path*, until the handle is closed.

    SQLite's own locks would not do: they vanish when anyone in the process opens and closes the
    file again.
    """
    place = path.with_name(f"{path.name}.lock")
    try:
        lock = open_own(place, os.O_RDWR | os.O_CREAT)
    except PermissionError as exc:
        raise JournalError(f"{place} cannot be used as the lock: {exc.strerror}") from None
    except OSError as exc:
        raise hindered(f"{path} cannot be made: {exc.strerror}", exc) from None
    try:
        lock_file(lock)
        refuse_gone(path, os.read(lock, LONGEST_LOCK))
        note_owner(lock)
    except JournalError:
        os.close(lock)
        raise
    except BlockingIOError:
        owner = os.read(lock, LONGEST_LOCK).decode(errors="replace").partition("\n")[0] or "unknown"
        os.close(lock)
        told = f"{path} is in use by process {owner}; wait for it or stop it"
        raise InUseError(told, resumable=True, blames=Blame.NETWORK) from None
    except OSError as exc:
        os.close(lock)
        told = f"{path} cannot be locked ({exc.strerror}); keep it on a local disk with some space"
        raise hindered(told, exc) from None
    return lock


def note_owner(lock: int, journal_id: str = "") -> None:
    """Write into the lock who has it and, once that is known, of which journal."""
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, f"{os.getpid()}\n{journal_id}\n".encode())


def refuse_gone(path: Path, left: bytes | None = None) -> None:
    """Refuse to begin anew where a journal was, with which something was sent.

    *left* is what its lock says; by default it is read. A lock of ours that has lost its journal
    names it, and its witness knows whether anything was sent.
    """
    if path.exists():
        return
    place = path.with_name(f"{path.name}.lock")
    if left is None:
        try:
            with open(place, "rb", opener=open_own) as file:
                left = file.read(LONGEST_LOCK)
        except OSError:
            return
    lines = left.decode(errors="replace").splitlines()
    seen = Witness(lines[1]).read() if len(lines) > 1 and ID.fullmatch(lines[1]) else None
    if seen is not None and seen[1] > 0:
        raise JournalError(
            f"{path} is gone, and {seen[1]} attempts were made with it. Bring it back, or a copy "
            f"of it, {WAY_OUT}. To begin anew and pay again, remove {place.name} too"
        )


def lock_inode(path: Path) -> int | None:
    """Lock the journal itself, whatever it is called by; refuse one that has two names.

    The handle is opened before SQLite's and closed after them: closing it takes their locks away.
    On Linux `flock` is none of their kind; elsewhere it would be in their way.
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
        told = f"{path} is in use under another name; wait for that or stop it"
        raise InUseError(told, resumable=True, blames=Blame.NETWORK) from None
    except OSError as exc:
        os.close(handle)
        told = f"{path} cannot be locked ({exc.strerror}); keep it on a local disk"
        raise hindered(told, exc) from None
    return handle


def has_log(path: Path) -> bool:
    """Whether the log of a journal that was not closed lies beside it."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def back_up(db: sqlite3.Connection, target: Path) -> None:
    """Copy a journal as it is at this moment into one whole file, which was closed well.

    Raises:
        JournalError: something of that name is there already.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        create_private(draft)
        with contextlib.closing(connect(draft)) as copy:
            db.backup(copy)
            make_lasting(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("DELETE FROM meta WHERE name = 'begun'")
        if not link_if_free(draft, target):
            raise JournalError(f"{target} exists; a backup replaces nothing")
    except OSError as exc:
        raise hindered(f"{target} cannot be written: {exc.strerror}", exc) from None
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(target.parent)


def refuse_lost(path: Path) -> None:
    """Refuse to begin anew where a journal has left its log behind."""
    if has_log(path):
        log = path.with_name(f"{path.name}-wal")
        raise JournalError(
            f"{path} is gone, but {log.name} is still there, with what was written last; bring the "
            f"journal back, or, if you are sure, remove {log.name} too"
        )


def copy_privately(path: Path, copy: Path, migrations: Migrations) -> Facts:
    """Copy a journal, log included, to where nobody else comes; give what the original says.

    It may be in use, and it may lie on a disk that cannot be written.
    """
    refuse_special(path)
    create_private(copy)
    if not copied_at_rest(path, copy):
        try:
            with contextlib.closing(connect(path, read_only=True)) as db:
                check(db, path, migrations)
                with contextlib.closing(connect(copy)) as target:
                    db.backup(target)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF not in (
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_READONLY,
            ):
                raise
            for end in ("-wal", ""):  # SQLite reads no log beside which it cannot write
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{end}", f"{copy}{end}")
    with contextlib.closing(connect(copy)) as db:
        check(db, path, migrations)
        return facts_in(db)


def copied_at_rest(path: Path, copy: Path) -> bool:
    """Copy a journal that was closed, if nobody opens it meanwhile, and leave nothing beside it."""
    log = path.with_name(f"{path.name}-wal")
    before = path.stat()
    if log.exists():
        return False
    shutil.copyfile(path, copy)
    after = path.stat()
    at_rest = (before.st_ino, before.st_size, before.st_mtime_ns) == (
        *(after.st_ino, after.st_size, after.st_mtime_ns),
    )
    return at_rest and not log.exists()


def facts_in(db: sqlite3.Connection) -> Facts:
    """What a journal says of itself."""
    [intents] = db.execute("SELECT count(*) FROM attempt").fetchone()
    return read_facts(db.execute("SELECT name, value FROM meta LIMIT 100").fetchall(), intents)


def make(path: Path, migrations: Migrations) -> None:
    """Make an empty journal, private from its first moment: prompts are personal data.

    The caller holds the lock, so that the draft is ours.
    """
    refuse_lost(path)
    draft = path.with_name(f"{path.name}.new")
    for left in (draft, path.with_name(f"{draft.name}-journal")):
        left.unlink(missing_ok=True)
    create_private(draft)
    with contextlib.closing(connect(draft)) as db:
        make_lasting(db)
        db.execute("BEGIN IMMEDIATE")
        migrate(db, migrations)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        facts = (("journal_id", secrets.token_hex(16)), ("epoch", "0"))
        db.executemany("INSERT INTO meta VALUES (?, ?)", facts)
        db.execute("COMMIT")
    draft.rename(path)
    sync_folder(path.parent)


def check(db: sqlite3.Connection, path: Path, migrations: Migrations) -> int:
    """Say the version of a journal's tables; refuse what is none of ours, or damaged."""
    newest = len(migrations)
    if path.stat().st_size == 0:
        raise JournalError(
            f"{path} is empty: a journal that was lost, or none. It is left as it is; "
            "bring back a copy, or name another file"
        )
    try:
        [application] = db.execute("PRAGMA application_id").fetchone()
        [version] = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        told = f"{path} is not a journal of this program; it is left as it is"
        raise JournalError(told) from None
    if application != APPLICATION:
        raise JournalError(f"{path} is a database of another program; it is left as it is")
    if version > newest:
        raise JournalError(
            f"{path} was written by a newer version (schema {version}, here {newest}); "
            "upgrade this package"
        )
    made = tuple(statement for script in migrations[: max(0, version)] for statement in script)
    if (fault := schema_fault(db, made)) is not None:  # before anything in it could be run
        raise JournalError(
            f"{path} is not as this program makes journals: {fault}. It is left as it is"
        )
    [verdict] = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise JournalError(
            f"{path} is damaged ({verdict}); it is left as it is. Bring back a copy, or "
            "recover what can be read with sqlite3's .recover into a new file"
        )
    return int(version)


def keep_copy(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Keep the journal as it is, before its tables are brought up to date."""
    copy = path.with_name(f"{path.name}.v{version}")
    copy.unlink(missing_ok=True)  # of an upgrade that broke off
    create_private(copy)
    db.execute("VACUUM INTO ?", (str(copy),))
