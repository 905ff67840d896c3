"""A film that is being downloaded: its part file, the checkpoint beside it, and its final name.

A part file belongs to one file of one task, and is locked while somebody writes it. After a crash
the next `save` of that task into that folder resumes it as far as the checkpoint says:
so many bytes, with this SHA-256, of the version with this ETag. What does not match is started
again, and what nobody resumes is removed after a week.
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
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeAlias, TypeVar

import attrs

from apikley_async._disk import (
    OPEN_FILES_MOVE,
    TOO_MANY_FILES,
    is_own,
    is_same_file,
    link_if_free,
    make_folder,
    open_own,
    open_unlinked,
    read_at,
    sync_file,
    synced_folder,
    try_lock,
)
from apikley_async._download.media import (
    HEAD_BYTES,
    Completeness,
    is_mp4,
    mp4_completeness,
    suffix_of,
)
from apikley_async._download.names import with_matching_suffix
from apikley_async._download.ranges import HeldBytes, TransferInterruptedError, strong_etag
from apikley_async.errors import Blame, DownloadError

__all__ = ["Check", "PartFile", "SavedFile"]

COMPARED_BYTES = 256 * 1024  # at once
CHECKPOINT_EVERY = 8 * 1024**2  # at most so many bytes are fetched again after a crash
MAX_CHECKPOINT_BYTES = 4096
DISK_FAILURES = (  # not of one file: no other film could be written either
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENODEV),
)
WEEK = 7 * 24 * 3600.0
PART_NAME = re.compile(r"\..+\.apikley\.part(\.json)?")

Check: TypeAlias = Callable[[Completeness], None]
"""Raises unless a film whose content says so about its end is whole."""

Owner = TypeVar("Owner", bound="PartFile")
Returned = TypeVar("Returned")
Parameters = ParamSpec("Parameters")


def in_thread(
    method: Callable[Concatenate[Owner, Parameters], Returned],
) -> Callable[Concatenate[Owner, Parameters], Coroutine[Any, Any, Returned]]:
    """Run a method that blocks in a thread, and wait for its end even when cancelled.

    So no thread ever writes to a file that is closed already. An error of the disk becomes a
    `DownloadError` that names the target.
    """

    @functools.wraps(method)
    async def awaitable(
        part: Owner, /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Returned:
        call = functools.partial(method, part, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(None, call)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError as error:
                cancelled = error
        failure = future.exception()
        if cancelled is not None:
            raise cancelled
        if isinstance(failure, OSError) and failure.errno in TOO_MANY_FILES:
            raise TransferInterruptedError("too many files are open here")  # some will be closed
        if isinstance(failure, OSError):
            raise disk_error(part.target, failure)
        return future.result()

    return awaitable


@attrs.frozen
class SavedFile:
    """A file that was saved: its path, and the size in bytes and SHA-256 that it must have."""

    path: Path
    size: int
    sha256: str


@attrs.define
class PartFile:
    """The first bytes of a film, beside the path that it will have.

    Open it first; close it in any case.

    Attributes:
        target: the path that was asked for; the suffix may become another.
        stem: what the part file's name is made from.
        rng: source of a unique name, where the usual one is taken.
        size: bytes that are written.
        total: bytes of the whole film, where they are known.
        etag: strong ETag of the version that the bytes belong to, where there is one.
        head: the first of the bytes.
    """

    target: Path
    stem: str
    rng: random.Random
    size: int = attrs.field(default=0, init=False)
    total: int | None = attrs.field(default=None, init=False)
    etag: str | None = attrs.field(default=None, init=False)
    head: bytes = attrs.field(default=b"", init=False)
    _path: Path = attrs.field(factory=Path, init=False)
    _handle: int | None = attrs.field(default=None, init=False)
    _has_usual_name: bool = attrs.field(default=False, init=False)  # the next `save` finds it
    _digest: Any = attrs.field(factory=hashlib.sha256, init=False)
    _checkpoint_size: int = attrs.field(default=0, init=False)

    @property
    def _folder(self) -> Path:
        return self.target.parent

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def waited(self) -> float:
        """A disk is not waited for as a reader is."""
        return 0.0

    @property
    def is_open(self) -> bool:
        return self._handle is not None

    @property
    def held(self) -> HeldBytes:
        return HeldBytes(self.size, self.total, self.etag)

    @property
    def sha256(self) -> str:
        digest: str = self._digest.hexdigest()
        return digest

    @property
    def _file(self) -> int:
        if self._handle is None:
            raise ValueError("the part is not open")
        return self._handle

    @property
    def _checkpoint(self) -> Path:
        return self._path.with_name(f"{self._path.name}.json")

    @in_thread
    def open(self) -> None:
        """Resume what an earlier attempt has left, unless it is in use; else start anew."""
        check_target(self.target)
        make_folder(self._folder)
        self._has_usual_name = self._open_locked(f".{self.stem}.apikley.part")
        if not self._has_usual_name:
            unique = f".{self.stem}.{self.rng.getrandbits(64):016x}.apikley.part"
            if not self._open_locked(unique, os.O_EXCL, required=False):
                raise FileExistsError(errno.EEXIST, f"{unique} is in the way")
        with contextlib.suppress(OSError):
            os.utime(self._file)  # so that nobody removes it as a leftover
        self._resume()

    def _open_locked(self, name: str, flags: int = 0, *, required: bool = True) -> bool:
        """Open and lock the file of that name; False where somebody else has it, or it is odd.

        Unless *required*, a file system without locks is accepted.
        """
        path = self._folder / name
        try:
            handle = open_own(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EISDIR, errno.ENXIO, errno.EACCES) and required:
                return False  # something odd in its place: leave it alone
            raise
        locked = try_lock(handle) or not required
        if locked and is_same_file(handle, path):
            self._path, self._handle = path, handle
            return True
        os.close(handle)
        return False

    def _resume(self) -> None:
        """Continue behind the bytes of the checkpoint; without one, at the beginning."""
        held, sha256 = (
            read_checkpoint(self._checkpoint) if self._has_usual_name else (HeldBytes(), "")
        )
        left = held.size
        while left and (chunk := os.read(self._file, min(left, 1024**2))):
            self._count(chunk)
            left -= len(chunk)
        if left == 0 and self.size and self.sha256 == sha256:
            self.total, self.etag, self._checkpoint_size = held.total, held.etag, held.size
            os.ftruncate(self._file, self.size)
        else:
            self._restart()

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self.size += len(chunk)

    # --- writing ---------------------------------------------------------------------------------

    @in_thread
    def restart(self) -> None:
        """Discard the bytes that are there."""
        self._restart()

    def _restart(self) -> None:
        self._checkpoint.unlink(missing_ok=True)  # first: it says that the bytes are good
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)
        self.size, self.total, self.etag, self.head, self._checkpoint_size = 0, None, None, b"", 0
        self._digest = hashlib.sha256()

    @in_thread
    def begin(
        self, total: int | None, etag: str | None, first: bytes = b"", *, anew: bool = False
    ) -> None:
        """Begin with the bytes of one response; a short film is written in this one piece.

        Args:
            total: bytes of the whole film, where they are known. They are refused before the
                first one is written where the disk has no room.
            etag: strong ETag of the version that comes.
            first: the first bytes of the response.
            anew: whether they are the first ones of the film; what is there is discarded.
        """
        if anew:
            self._restart()
        self.total, self.etag = total, etag
        disk = shutil.disk_usage(self._folder)
        if disk.total and disk.free < (total or 0) - self.size:
            raise OSError(errno.ENOSPC, f"{total} bytes are too many for this disk")
        self._write(first)

    @in_thread
    def write(self, chunk: bytes) -> None:
        self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._count(chunk)
        if self.size - self._checkpoint_size >= CHECKPOINT_EVERY:
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        """Vouch for the bytes, for a `save` after a crash. It is no harm when that fails."""
        self._checkpoint_size = self.size
        if not self._is_resumable:
            return
        fields = {"version": self.etag, "total": self.total, "have": self.size}
        text = json.dumps(fields | {"sha256": self.sha256})
        with (
            contextlib.suppress(OSError),
            open(self._checkpoint, "w", encoding="ascii", opener=open_own) as file,
        ):
            file.write(text)

    @property
    def _is_resumable(self) -> bool:
        return self._has_usual_name and self.size > 0 and self.etag is not None

    def _completeness(self) -> Completeness:
        """What the content says about its end; `TRUNCATED` for what is no film either."""
        if not is_mp4(self.head):
            unknown = suffix_of(self.head) is None
            return Completeness.TRUNCATED if unknown else Completeness.UNKNOWN
        return mp4_completeness(
            lambda position, count: read_at(self._file, count, position), self.size
        )

    # --- the end ---------------------------------------------------------------------------------

    @in_thread
    def publish(
        self,
        *,
        check: Check = lambda found: None,
        overwrite: bool | Callable[[Path], bool] = False,
    ) -> SavedFile:
        """Give the film its final name, and close: sync the file, rename it, sync the folder.

        Args:
            check: is given what the content says about its end, in a thread; nothing is published
                when it raises.
            overwrite: whether to replace another file of that name; or a function that is given
                the final path, whose suffix fits the content, at the last moment.

        Returns:
            The file that has the name now; it was hashed while it was written.

        Raises:
            DownloadError: another file has the name; one of the same content is left as it is.
        """
        check(self._completeness())
        if not is_same_file(self._file, self._path):  # only what was written here is published
            raise OSError(errno.ESTALE, "somebody has exchanged or removed the part")
        final = with_matching_suffix(self.target, self.head)
        check_target(final)
        sync_file(self._file)
        saved: SavedFile | None = SavedFile(final, self.size, self.sha256)
        with synced_folder(final.parent):
            self._close_before_rename()
            if overwrite(final) if callable(overwrite) else overwrite:
                self._path.replace(final)
            elif not link_if_free(self._path, final):
                saved = self._equal_file(final)
            if saved is None:
                raise target_error(
                    f"{final} exists and is another file; move it, or allow it to be overwritten"
                )
            self._remove()
        self._close()
        self._path = Path()
        return saved

    def _equal_file(self, final: Path) -> SavedFile | None:
        """The file of that name, if it is the same film, bytes behind its end not counted."""
        if not final.is_file():
            return None
        size = final.stat().st_size
        with final.open("rb") as file:
            if size != self.size and not self._equals_up_to_trailing_bytes(file, size):
                return None
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        same = size != self.size or sha256 == self.sha256
        return SavedFile(final, size, sha256) if same else None

    def _equals_up_to_trailing_bytes(self, other: BinaryIO, size: int) -> bool:
        """Whether the longer file is the shorter, a whole film, and bytes that are no box."""
        if not is_mp4(self.head):
            return False
        found = {}
        with self._path.open("rb") as own:
            for file, length in ((own, self.size), (other, size)):
                found[length] = mp4_completeness(functools.partial(_read_from, file), length)
            shorter, longer = found[min(found)], found[max(found)]
            whole = shorter in (Completeness.COMPLETE, Completeness.TRAILING_BYTES)
            if not whole or longer is not Completeness.TRAILING_BYTES:
                return False
            own.seek(0)
            other.seek(0)
            left = min(found)
            while left > 0:
                pieces = [file.read(min(left, COMPARED_BYTES)) for file in (own, other)]
                if pieces[0] != pieces[1] or not pieces[0]:
                    return False
                left -= len(pieces[0])
        return True

    async def close(self, *, keep: bool = False) -> None:
        """Close the file, and remove it unless *keep* says so and it can be resumed."""
        if self._path.name:
            await self._give_up(keep=keep)

    @in_thread
    def _give_up(self, *, keep: bool) -> None:
        try:
            if keep and self._is_resumable:
                self._write_checkpoint()
            else:
                self._close_before_rename()
                self._remove()
        finally:
            self._close()
            self._path = Path()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _close_before_rename(self) -> None:
        """Close it where an open file can be neither renamed nor removed."""
        if not OPEN_FILES_MOVE:
            self._close()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._checkpoint.unlink(missing_ok=True)
            if self._handle is None or is_same_file(self._handle, self._path):
                self._path.unlink(missing_ok=True)

    @in_thread
    def remove_leftovers(self) -> None:
        """Remove part files in the folder that nobody has written to for a week."""
        now = os.fstat(self._file).st_mtime  # by the disk's own clock
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if PART_NAME.fullmatch(entry.name):
                    remove_older(Path(entry.path), now - WEEK)


def disk_error(target: Path, error: OSError) -> DownloadError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = f"{error.strerror or error}{'; make room' if full else ''}"
    message = f"{target} cannot be written: {reason}"
    return DownloadError(message, affects_all=error.errno in DISK_FAILURES)


def target_error(message: str) -> DownloadError:
    """The target is the caller's mistake: saving there again will not help."""
    return DownloadError(message, resumable=False, blames=Blame.INPUT)


def check_target(target: Path) -> None:
    """Refuse a target that no film can be written to, before the film is fetched.

    Raises:
        DownloadError: it is no path, a symbolic link or a folder.
    """
    try:
        encoded = os.fsencode(target)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise target_error(f"{str(target)!r} is not a path")
    if target.is_symlink():
        raise target_error(f"{target} is a symbolic link; name the file itself")
    if target.is_dir():
        raise target_error(f"{target} is a folder")


def remove_older(path: Path, when: float) -> None:
    """Remove a file of ours that nobody has locked, and nobody has written to since *when*."""
    with contextlib.suppress(OSError):
        with open(path, "rb", opener=open_unlinked) as file:
            about = os.fstat(file.fileno())
            old = about.st_mtime < when and is_own(about)
            if not (old and is_same_file(file.fileno(), path) and try_lock(file.fileno())):
                return
            if OPEN_FILES_MOVE:
                path.unlink()
        if not OPEN_FILES_MOVE:
            path.unlink()


def read_checkpoint(path: Path) -> tuple[HeldBytes, str]:
    """The bytes that a checkpoint confirms, and their SHA-256; none unless all of it is valid.

    Whoever can write into the folder can write a checkpoint: it is believed field by field.
    """
    try:
        with open(path, "rb", opener=open_own) as file:
            text = file.read(MAX_CHECKPOINT_BYTES) if is_same_file(file.fileno(), path) else b""
        fields = json.loads(text)
        size, total, etag, sha256 = (fields[n] for n in ("have", "total", "version", "sha256"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return HeldBytes(), ""
    numbers = type(size) is int and (total is None or type(total) is int)
    texts = isinstance(etag, str) and isinstance(sha256, str)
    if not numbers or not texts or strong_etag({"ETag": etag}) is None:
        return HeldBytes(), ""
    if not 0 < size <= (size if total is None else total):
        return HeldBytes(), ""
    return HeldBytes(size, total, etag), sha256


def _read_from(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)
