"""A film in the making, on the disk: its `.part`, the note beside it, and at last its name.

A part belongs to one file of one task and is locked while somebody writes it. What a crash leaves
behind is taken up by the next `save` of that task into that folder, as far as the note vouches
for it: so many bytes, with this SHA-256, of this version. Whatever does not match is begun again,
and what nobody comes back for is swept after a week.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import json
import os
import random
import re
import shutil
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

import attrs

from apikley_async._disk import (
    NOFOLLOW,
    OPEN_FILES_MOVE,
    TOO_MANY_FILES,
    is_own,
    lock_file,
    open_own,
    open_without_waiting,
    read_at,
    sync_file,
    sync_folder,
    synced,
    take_name,
)
from apikley_async._download.media import HEAD, Shape, is_mp4, kind_of, mp4_shape
from apikley_async._download.names import fitting
from apikley_async._download.ranges import BrokenOffError, Held, strong_version
from apikley_async.errors import Blame, DownloadError

__all__ = ["PartFile"]

PIECE = 256 * 1024  # bytes that are compared at once
NOTED_EVERY = 8 * 1024**2  # at most so much is fetched again after a crash
LONGEST_NOTE = 4096
WEEK = 7 * 24 * 3600.0
OURS = re.compile(r"\..+\.apikley\.part(\.json)?")

Mine = TypeVar("Mine", bound="PartFile")
Given = TypeVar("Given")
Arguments = ParamSpec("Arguments")


def in_a_thread(
    act: Callable[Concatenate[Mine, Arguments], Given],
) -> Callable[Concatenate[Mine, Arguments], Coroutine[Any, Any, Given]]:
    """Let *act*, which blocks, be awaited; it is seen to its end even when we are cancelled.

    So no thread ever writes to what is closed already. What the disk does not let us do becomes
    a `DownloadError` that tells of the target, which it is all about.
    """

    @functools.wraps(act)
    async def awaitable(part: Mine, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Given:
        step = functools.partial(act, part, *args, **kwargs)
        doing = asyncio.get_running_loop().run_in_executor(None, step)
        cancelled: asyncio.CancelledError | None = None
        while not doing.done():
            try:
                await asyncio.wait({doing})
            except asyncio.CancelledError as error:
                cancelled = error
        trouble = doing.exception()
        if cancelled is not None:
            raise cancelled
        if isinstance(trouble, OSError) and trouble.errno in TOO_MANY_FILES:
            raise BrokenOffError("too many files are open here")  # some will be closed
        if isinstance(trouble, OSError):
            raise cannot_be_written(part.target, trouble)
        return doing.result()

    return awaitable


@attrs.define
class PartFile:
    """The beginning of *target*, beside it, under a name made from *stem*.

    Open it first; close it in any case.
    """

    target: Path
    stem: str
    rng: random.Random
    have: int = 0
    total: int | None = None
    version: str | None = None
    head: bytes = b""
    _path: Path = attrs.field(factory=Path, init=False)
    _handle: int | None = attrs.field(default=None, init=False)
    _lasting: bool = attrs.field(default=False, init=False)  # will be found again by its name
    _digest: Any = attrs.field(factory=hashlib.sha256, init=False)
    _noted: int = attrs.field(default=0, init=False)

    @property
    def _folder(self) -> Path:
        return self.target.parent

    @property
    def is_open(self) -> bool:
        return self._handle is not None

    @property
    def held(self) -> Held:
        return Held(self.have, self.total, self.version)

    @property
    def sha256(self) -> str:
        found: str = self._digest.hexdigest()
        return found

    @property
    def _file(self) -> int:
        if self._handle is None:
            raise ValueError("the part is not open")
        return self._handle

    @property
    def _note(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

    @in_a_thread
    def open(self) -> None:
        """Take up what an earlier attempt has left, unless it is in use; else begin anew."""
        check_target(self.target)
        make_folder(self._folder)
        self._lasting = self._claim(f".{self.stem}.apikley.part")
        if not self._lasting:
            unique = f".{self.stem}.{self.rng.getrandbits(64):016x}.apikley.part"
            if not self._claim(unique, os.O_EXCL, locked=False):
                raise FileExistsError(errno.EEXIST, f"{unique} is in the way")
        with contextlib.suppress(OSError):
            os.utime(self._file)  # it is in use: not to be swept
        self._take_up()

    def _claim(self, name: str, flags: int = 0, *, locked: bool = True) -> bool:
        """Open and lock the file of that name, if it is ours alone."""
        path = self._folder / name
        try:
            handle = open_own(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EISDIR, errno.ENXIO, errno.EACCES) and locked:
                return False  # something odd in its place: leave it alone
            raise
        mine = locks(handle) or not locked
        if mine and is_there(handle, path):
            self._path, self._handle = path, handle
            return True
        os.close(handle)
        return False

    def _take_up(self) -> None:
        """Go on behind what the note vouches for; without a note, at the beginning."""
        held, sha256 = read_note(self._note) if self._lasting else (Held(), "")
        left = held.have
        while left and (chunk := os.read(self._file, min(left, 1024**2))):
            self._count(chunk)
            left -= len(chunk)
        if left == 0 and self.have and self.sha256 == sha256:
            self.total, self.version, self._noted = held.total, held.version, held.have
            os.ftruncate(self._file, self.have)
        else:
            self._restart()

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        if len(self.head) < HEAD:
            self.head += chunk[: HEAD - len(self.head)]
        self.have += len(chunk)

    # --- filling it ------------------------------------------------------------------------------

    @in_a_thread
    def restart(self) -> None:
        """Forget what is there."""
        self._restart()

    def _restart(self) -> None:
        self._note.unlink(missing_ok=True)  # first, since it speaks of what is there
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)
        self.have, self.total, self.version, self.head, self._noted = 0, None, None, b"", 0
        self._digest = hashlib.sha256()

    @in_a_thread
    def expect(self, total: int | None, version: str | None) -> None:
        """Learn what is coming, and refuse it before its first byte if there is no room."""
        self.total, self.version = total, version
        disk = shutil.disk_usage(self._folder)
        if disk.total and disk.free < (total or 0) - self.have:
            raise OSError(errno.ENOSPC, f"{total} bytes are too many for this disk")

    @in_a_thread
    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._count(chunk)
        if self.have - self._noted >= NOTED_EVERY:
            self._write_note()

    def _write_note(self) -> None:
        """Write down what is there, for whoever goes on after a crash. Doing without is no harm."""
        self._noted = self.have
        if not self._resumable:
            return
        said = {"version": self.version, "total": self.total, "have": self.have}
        text = json.dumps(said | {"sha256": self.sha256})
        with (
            contextlib.suppress(OSError),
            open(self._note, "w", encoding="ascii", opener=open_own) as file,
        ):
            file.write(text)

    @property
    def _resumable(self) -> bool:
        return self._lasting and self.have > 0 and self.version is not None

    @in_a_thread
    def shape(self) -> Shape:
        """Say whether it is a film or the like, and what a film's boxes say about its end."""
        if not is_mp4(self.head):
            return Shape.CUT if kind_of(self.head) is None else Shape.OPEN
        return mp4_shape(lambda at, count: read_at(self._file, count, at), self.have)

    # --- its end ---------------------------------------------------------------------------------

    @in_a_thread
    def publish(self, *, overwrite: bool | Callable[[Path], bool] = False) -> Path:
        """Give it its name: file to the disk, name, folder to the disk.

        Another file of that name is never replaced unasked; the same content is left as it is. A
        function is asked about the very name, when the file's kind is known, at the last moment.
        """
        if not is_there(self._file, self._path):  # what gets the name is what was written here
            raise OSError(errno.ESTALE, "somebody has exchanged or removed the part")
        final = fitting(self.target, self.head)
        check_target(final)
        sync_file(self._file)
        with synced(final.parent):
            self._release()
            if overwrite(final) if callable(overwrite) else overwrite:
                self._path.replace(final)
            elif not self._link(final) and not self._equals(final):
                told = f"{final} exists and is another file; move it, or say overwrite=True"
                raise refused(told)
            self._remove()
        return final

    def _link(self, final: Path) -> bool:
        """Take a name that is free; False when it is not."""
        return take_name(self._path, final)

    def _equals(self, final: Path) -> bool:
        """Whether the same film stands there; odd bytes behind a whole one make no other of it."""
        if not final.is_file():
            return False
        size = final.stat().st_size
        with final.open("rb") as file:
            if size == self.have:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
            return self._differs_behind_its_end(file, size)

    def _differs_behind_its_end(self, other: BinaryIO, size: int) -> bool:
        """Whether the longer of two is the shorter, whole, and bytes behind it that are no box."""
        if not is_mp4(self.head):
            return False
        shapes = {}
        with self._path.open("rb") as own:
            for file, length in ((own, self.have), (other, size)):
                shapes[length] = mp4_shape(functools.partial(_bytes_of, file), length)
            whole = shapes[min(shapes)] in (Shape.WHOLE, Shape.ODD)
            if not whole or shapes[max(shapes)] is not Shape.ODD:
                return False
            own.seek(0)
            other.seek(0)
            left = min(shapes)
            while left > 0:
                pieces = [file.read(min(left, PIECE)) for file in (own, other)]
                if pieces[0] != pieces[1] or not pieces[0]:
                    return False
                left -= len(pieces[0])
        return True

    @in_a_thread
    def close(self, *, keep: bool = False) -> None:
        """Let go of it: to be taken up again if *keep* says so and it can be, else for good."""
        if not self._path.name:
            return
        try:
            if keep and self._resumable:
                self._write_note()
            else:
                self._release()
                self._remove()
        finally:
            self._close()
            self._path = Path()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _release(self) -> None:
        """Close it early where an open file keeps its name."""
        if not OPEN_FILES_MOVE:
            self._close()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)
            if self._handle is None or is_there(self._handle, self._path):
                self._path.unlink(missing_ok=True)

    @in_a_thread
    def sweep(self) -> None:
        """Remove what crashed attempts left in the folder a week ago and nobody came back for."""
        now = os.fstat(self._file).st_mtime  # by the disk's own calendar
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if OURS.fullmatch(entry.name):
                    remove_older(Path(entry.path), now - WEEK)


def cannot_be_written(target: Path, trouble: OSError) -> DownloadError:
    full = trouble.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    why = f"{trouble.strerror or trouble}{'; make room' if full else ''}"
    return DownloadError(f"{target} cannot be written: {why}")


def refused(told: str) -> DownloadError:
    """The place that was asked for is none, and stays none."""
    return DownloadError(told, resumable=False, blames=Blame.INPUT)


def check_target(target: Path) -> None:
    """Refuse what is no place for a film, best before it is fetched."""
    try:
        spelled = os.fsencode(target)
    except UnicodeEncodeError:
        spelled = b"\0"
    if b"\0" in spelled:
        raise refused(f"{str(target)!r} is not a path")
    if target.is_symlink():
        raise refused(f"{target} is a symbolic link; name the file itself")
    if target.is_dir():
        raise refused(f"{target} is a folder")


def warily(path: str, flags: int) -> int:
    """Open without following a link, waiting for a pipe, or letting others read what we write."""
    return open_without_waiting(path, flags | NOFOLLOW)


def locks(handle: int) -> bool:
    """Lock an open file for ourselves; False when it is somebody's, or cannot be locked."""
    try:
        lock_file(handle)
    except OSError:
        return False
    return True


def is_there(handle: int, path: Path) -> bool:
    """Say whether an open file is a regular one and still bears that name."""
    mine = os.fstat(handle)
    try:
        return stat.S_ISREG(mine.st_mode) and os.path.samestat(mine, path.lstat())
    except FileNotFoundError:
        return False


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, to last."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync_folder(place.parent)


def remove_older(path: Path, when: float) -> None:
    """Remove a file that nobody has locked and nobody has written to since *when*."""
    with contextlib.suppress(OSError):
        with open(path, "rb", opener=warily) as file:
            about = os.fstat(file.fileno())
            old = about.st_mtime < when and is_own(about)
            if not (old and is_there(file.fileno(), path) and locks(file.fileno())):
                return
            if OPEN_FILES_MOVE:
                path.unlink()
        if not OPEN_FILES_MOVE:
            path.unlink()


def read_note(path: Path) -> tuple[Held, str]:
    """What a note vouches for, and the SHA-256 of it; nothing, unless all of it makes sense."""
    try:
        with open(path, "rb", opener=open_own) as file:
            said = json.loads(file.read(LONGEST_NOTE) if is_there(file.fileno(), path) else b"")
        have, total, version, sha256 = (said[n] for n in ("have", "total", "version", "sha256"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Held(), ""
    numbers = type(have) is int and (total is None or type(total) is int)
    words = isinstance(version, str) and isinstance(sha256, str)
    if not numbers or not words or strong_version({"ETag": version}) is None:
        return Held(), ""
    if not 0 < have <= (have if total is None else total):
        return Held(), ""
    return Held(have, total, version), sha256


def _bytes_of(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
