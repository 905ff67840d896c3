"""Part files: resumed after a crash, never confused, never in the way of others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filehost import film
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apikley_async._disk import user_id
from apikley_async._download.media import Completeness
from apikley_async._download.partfile import PartFile, SavedFile, in_thread, read_checkpoint
from apikley_async._download.ranges import HeldBytes
from apikley_async.errors import DownloadError

FILM = film(size=5000)
TAG = '"v1"'
PART, CHECKPOINT = ".task_1-1.apikley.part", ".task_1-1.apikley.part.json"


def make(folder: Path, name: str = "task_1.mp4") -> PartFile:
    return PartFile(folder / name, "task_1-1", random.Random(1))


async def begun(folder: Path, count: int = 2000, tag: str | None = TAG) -> PartFile:
    """A part file with the first bytes of the film in it."""
    part = make(folder)
    await part.open()
    await part.begin(len(FILM), tag)
    await part.write(FILM[:count])
    return part


async def left_behind(folder: Path) -> None:
    """What remains of an interrupted save."""
    await (await begun(folder)).close(keep=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- resuming --------------------------------------------------------------------------------


async def test_a_part_file_is_resumed_where_it_ended(tmp_path: Path) -> None:
    """A part file and its checkpoint outlive the process that wrote them."""
    await left_behind(tmp_path)
    part = make(tmp_path)

    await part.open()

    assert part.held == HeldBytes(2000, len(FILM), TAG)
    await part.write(FILM[2000:])
    await part.publish()
    await part.close()
    assert names(tmp_path) == ["task_1.mp4"]
    assert (tmp_path / "task_1.mp4").read_bytes() == FILM


async def test_the_checkpoint_is_private_and_holds_no_link(tmp_path: Path) -> None:
    """0600, and nothing in it that opens anything (J15, S11)."""
    await left_behind(tmp_path)

    checkpoint = tmp_path / CHECKPOINT
    assert stat.S_IMODE(checkpoint.stat().st_mode) == 0o600
    assert set(json.loads(checkpoint.read_text())) == {"version", "total", "have", "sha256"}


async def test_a_film_has_the_usual_permissions(tmp_path: Path) -> None:
    """The user's umask decides who may see a film."""
    before = os.umask(0o027)
    try:
        part = await begun(tmp_path, len(FILM))
        await part.publish()
        await part.close()
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "task_1.mp4").stat().st_mode) == 0o640


async def test_without_an_etag_nothing_is_kept(tmp_path: Path) -> None:
    """Bytes without a strong ETag cannot be resumed, so they are not kept (D4)."""
    part = await begun(tmp_path, tag=None)

    await part.close(keep=True)

    assert names(tmp_path) == []


async def test_a_part_file_that_is_not_kept_leaves_nothing(tmp_path: Path) -> None:
    """A failed save cleans up behind itself."""
    await left_behind(tmp_path)
    part = make(tmp_path)
    await part.open()

    await part.close()

    assert names(tmp_path) == []


async def test_bytes_behind_the_checkpoint_are_not_trusted(tmp_path: Path) -> None:
    """They are fetched again: a crash may have left anything there (D14)."""
    await left_behind(tmp_path)
    with (tmp_path / PART).open("ab") as file:
        file.write(b"\0" * 7000)
    part = make(tmp_path)

    await part.open()

    assert part.size == 2000
    await part.write(FILM[2000:])
    found: list[Completeness] = []
    saved = await part.publish(check=found.append)
    assert found == [Completeness.COMPLETE]
    assert saved.path.read_bytes() == FILM
    assert saved == SavedFile(saved.path, len(FILM), hashlib.sha256(FILM).hexdigest())
    await part.close()


def as_a_pipe(_part: Path, checkpoint: Path) -> None:
    checkpoint.unlink()
    os.mkfifo(checkpoint)


@pytest.mark.parametrize(
    "damage",
    [
        lambda part, note: part.write_bytes(part.read_bytes()[:-1]),
        lambda part, note: part.write_bytes(b"\0" * 2000),
        lambda part, note: part.write_bytes(b""),
        lambda part, note: part.unlink(),
        lambda part, note: note.unlink(),
        lambda part, note: note.write_text(note.read_text()[:-1]),
        lambda part, note: note.write_text(""),
        lambda part, note: note.write_text("[" * 4000),
        lambda part, note: note.write_bytes(b"\xff\xfe"),
        lambda part, note: note.write_text(note.read_text().replace("2000", "1999")),
        lambda part, note: (note.unlink(), note.mkdir(), (note / "x").touch()),
        as_a_pipe,
        lambda part, note: (note.rename(note.with_name("n")), note.symlink_to(note.with_name("n"))),
    ],
)  # fmt: skip
async def test_a_part_file_that_does_not_match_its_checkpoint_is_started_again(
    tmp_path: Path, damage: Any
) -> None:
    """Nothing that happened to the two files meanwhile gets into a film (D14)."""
    await left_behind(tmp_path)
    damage(tmp_path / PART, tmp_path / CHECKPOINT)
    part = make(tmp_path)

    if (tmp_path / CHECKPOINT).is_dir():
        with pytest.raises(DownloadError):
            await part.open()
    else:
        await part.open()
        assert part.held == HeldBytes()
    await part.close()


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "version": st.sampled_from(['"v1"', 'W/"v1"', "", None, 7, '"a\r\nX-Evil: 1"']),
            "total": st.one_of(st.none(), st.integers(-5, 5000), st.booleans(), st.floats()),
            "have": st.one_of(st.none(), st.integers(-5, 5000), st.booleans(), st.text()),
            "sha256": st.sampled_from(["", "ab" * 32, None, 3]),
            "more": st.text(),
        },
    )
)
@example({"version": '"v1"', "total": 10, "have": 11, "sha256": "ab" * 32})
@example({"version": 'W/"v1"', "total": 10, "have": 5, "sha256": "ab" * 32})
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_checkpoint_is_valid_or_ignored(tmp_path: Path, said: dict[str, Any]) -> None:
    """A hostile checkpoint never leads to an impossible range request."""
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps(said))

    held, _ = read_checkpoint(path)

    if held != HeldBytes():
        assert 0 < held.size <= (held.total or held.size)
        assert held.etag == '"v1"'


async def test_a_partial_write_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may write less than it was given (D8)."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:700]))

    part = await begun(tmp_path, len(FILM))
    await part.publish()
    await part.close()

    assert (tmp_path / "task_1.mp4").read_bytes() == FILM


async def test_a_checkpoint_is_written_every_eight_megabytes(tmp_path: Path) -> None:
    """A crash costs eight megabytes at most."""
    part = make(tmp_path)
    await part.open()
    await part.begin(None, TAG)
    piece = film(size=1024**2)

    for _ in range(9):
        await part.write(piece)

    assert json.loads((tmp_path / CHECKPOINT).read_text())["have"] == 8 * 1024**2
    await part.restart()
    assert names(tmp_path) == [PART]  # the checkpoint never describes bytes that are gone
    await part.close()


# --- side by side ----------------------------------------------------------------------------


async def test_two_downloads_of_one_film_do_not_mix(tmp_path: Path) -> None:
    """The second one writes beside the first, and both are saved (D17)."""
    first, second = make(tmp_path), make(tmp_path)
    await first.open()
    await second.open()

    for at in range(0, len(FILM), 500):
        await first.write(FILM[at : at + 500])
        await second.write(FILM[at : at + 500])

    whole = SavedFile(tmp_path / "task_1.mp4", len(FILM), hashlib.sha256(FILM).hexdigest())
    assert await first.publish() == await second.publish() == whole
    await first.close()
    await second.close()
    assert names(tmp_path) == ["task_1.mp4"]
    assert (tmp_path / "task_1.mp4").read_bytes() == FILM


async def test_another_process_keeps_its_part_file(tmp_path: Path) -> None:
    """A part file that is being written is neither taken over nor removed (D17)."""
    await left_behind(tmp_path)
    os.utime(tmp_path / PART, (0, 0))
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); input()"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - a test may start a process and wait for it
        [sys.executable, "-c", hold, str(tmp_path / PART)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        part = make(tmp_path)

        await part.open()
        await part.remove_leftovers()

        assert part.held == HeldBytes()
        assert PART in names(tmp_path)
        await part.close()
        other.communicate(b"\n")
    assert names(tmp_path) == [PART, CHECKPOINT]


@pytest.mark.parametrize("odd", ["symlink", "dangling", "fifo", "folder", "hard link"])
async def test_an_odd_file_in_its_place_is_left_alone(tmp_path: Path, odd: str) -> None:
    """Nothing is written through another file (D15)."""
    stranger, place = tmp_path / "precious", tmp_path / PART
    stranger.write_text("precious")
    if odd == "symlink":
        place.symlink_to(stranger)
    elif odd == "dangling":
        place.symlink_to(tmp_path / "nowhere")
    elif odd == "fifo":
        os.mkfifo(place)
    elif odd == "folder":
        place.mkdir()
    else:
        place.hardlink_to(stranger)
    part = make(tmp_path)

    await part.open()
    await part.write(FILM)
    assert (await part.publish()).path.read_bytes() == FILM
    await part.close()

    assert stranger.read_text() == "precious"
    assert names(tmp_path) == sorted([PART, "precious", "task_1.mp4"])


@pytest.mark.skipif(user_id() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("planted", [PART, CHECKPOINT])
async def test_a_part_file_of_another_user_is_not_resumed(tmp_path: Path, planted: str) -> None:
    """In a shared folder both files may be anybody's; only our own are believed."""
    await left_behind(tmp_path)
    os.chown(tmp_path / planted, 12345, -1)
    part = make(tmp_path)

    await part.open()

    assert part.held == HeldBytes()
    await part.close()


async def test_leftovers_are_removed_after_a_week(tmp_path: Path) -> None:
    """What a crash left is removed after a week; nothing else ever is."""
    week_ago = 8 * 24 * 3600
    part = make(tmp_path)
    await part.open()
    now = (tmp_path / PART).stat().st_mtime
    for name in (".a-1.apikley.part", ".a-1.apikley.part.json", ".b-1.0123.apikley.part"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - week_ago,) * 2)
    kept = ["film.mp4", ".a.part", "a.apikley.part", ".x.apikley.part.mp4", ".apikley.part"]
    for name in kept:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now - week_ago,) * 2)
    (tmp_path / ".young-1.apikley.part").touch()
    os.utime(tmp_path / ".young-1.apikley.part", (now - 6 * 24 * 3600,) * 2)
    (tmp_path / ".link-1.apikley.part").symlink_to(tmp_path / "film.mp4")

    await part.remove_leftovers()

    assert names(tmp_path) == sorted([*kept, PART, ".young-1.apikley.part", ".link-1.apikley.part"])
    await part.close()


async def test_folders_that_are_made_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film is not on the disk while a folder above it is only in memory (D14)."""
    synced, fsync = set(), os.fsync

    def noticed(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", noticed)
    place = tmp_path / "campaign" / "films"

    await published(place)

    folders = (tmp_path, tmp_path / "campaign", place)
    assert {folder.stat().st_ino for folder in folders} <= synced


# --- room for it -----------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "fits"), [(3000, True), (2999, False)])
async def test_the_disk_needs_room_for_the_missing_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    """The first 2000 of 5000 bytes are on the disk already (D8)."""
    part = await begun(tmp_path, 2000)
    disk = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)

    with contextlib.nullcontext() if fits else pytest.raises(DownloadError, match="make room"):
        await part.begin(len(FILM), TAG)

    await part.close()


# --- its name --------------------------------------------------------------------------------


async def published(
    folder: Path, *, overwrite: bool | Callable[[Path], bool] = False, data: bytes = FILM
) -> Path:
    part = make(folder)
    try:
        await part.open()
        await part.write(data)
        saved = await part.publish(overwrite=overwrite)
    finally:
        await part.close()
    content = saved.path.read_bytes()
    assert saved == SavedFile(saved.path, len(content), hashlib.sha256(content).hexdigest())
    return saved.path


@pytest.mark.parametrize(
    ("there", "came", "same"),
    [
        (FILM + b"\r\n", FILM, True),
        (FILM, FILM + b"\r\n", True),
        (FILM + b"\0\0\0", FILM + b"\r\n", False),  # two tails: the stricter reading
        (FILM[:-1] + b"?\r\n", FILM, False),  # another film with a tail
        (FILM[:-3], FILM, False),  # a film that is cut
        (FILM + b"\0\0\0\x08free", FILM, False),  # what is there goes on with a box of its own
    ],
)
async def test_trailing_bytes_make_no_other_film_of_it(
    tmp_path: Path, there: bytes, came: bytes, same: bool
) -> None:
    """A film that was published before a crash is recognised, whatever is behind its last box."""
    target = tmp_path / "task_1.mp4"
    target.write_bytes(there)

    with contextlib.nullcontext() if same else pytest.raises(DownloadError, match="another file"):
        assert await published(tmp_path, data=came) == target

    assert target.read_bytes() == there


async def test_overwrite_is_called_with_the_final_path(tmp_path: Path) -> None:
    """A function is called when the format of the file is known; "no" is like overwrite=False."""
    target = tmp_path / "task_1.mp4"
    photo = target.with_suffix(".jpg")
    for there in (target, photo):
        there.write_bytes(b"there before")

    with pytest.raises(DownloadError, match=r"task_1\.jpg exists and is another file"):
        await published(tmp_path, overwrite=target.__eq__, data=b"\xff\xd8\xff" * 9)
    assert photo.read_bytes() == b"there before"

    assert await published(tmp_path, overwrite=target.__eq__) == target
    assert target.read_bytes() == FILM


async def test_another_file_is_never_overwritten(tmp_path: Path) -> None:
    """Another file of that name stays as it is, and the error says what to do (D15)."""
    target = tmp_path / "task_1.mp4"
    target.write_bytes(FILM[:-1] + b"?")

    with pytest.raises(
        DownloadError, match="is another file; move it, or allow it to be overwritten"
    ):
        await published(tmp_path)

    assert target.read_bytes() == FILM[:-1] + b"?"
    assert names(tmp_path) == ["task_1.mp4"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("by", ["another file", "a link", "nothing"])
async def test_only_what_was_written_is_published(tmp_path: Path, by: str, overwrite: bool) -> None:
    """In a folder that others may write to, the part file may be exchanged meanwhile (D13)."""
    part = await begun(tmp_path, len(FILM))
    (tmp_path / PART).unlink()
    if by == "another file":
        (tmp_path / PART).write_bytes(b"theirs")
    elif by == "a link":
        (tmp_path / PART).symlink_to("/etc/hosts")

    with pytest.raises(DownloadError, match="exchanged or removed"):
        await part.publish(overwrite=overwrite)
    await part.close()

    assert "task_1.mp4" not in names(tmp_path)


async def test_the_same_file_is_a_success(tmp_path: Path) -> None:
    """Saving twice is saving once: the file is not even touched (D15)."""
    target = await published(tmp_path)
    before = target.stat()

    assert await published(tmp_path) == target

    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(tmp_path) == ["task_1.mp4"]


async def test_overwriting_replaces_the_whole_file(tmp_path: Path) -> None:
    """Asked to, it replaces at once and leaves other names of the old file alone (D15)."""
    target, backup = tmp_path / "task_1.mp4", tmp_path / "backup"
    target.write_bytes(b"old")
    backup.hardlink_to(target)

    await published(tmp_path, overwrite=True)

    assert target.read_bytes() == FILM
    assert backup.read_bytes() == b"old"
    assert names(tmp_path) == ["backup", "task_1.mp4"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["symlink", "dangling", "folder"])
async def test_a_target_is_a_file_or_nothing(tmp_path: Path, kind: str, overwrite: bool) -> None:
    """Symbolic links and folders are refused before a byte is fetched, even to overwrite (D16)."""
    target, other = tmp_path / "task_1.mp4", tmp_path / "other"
    other.write_text("other")
    if kind == "folder":
        target.mkdir()
    else:
        target.symlink_to(other if kind == "symlink" else tmp_path / "nowhere")

    with pytest.raises(DownloadError, match=r"symbolic link|folder"):
        await published(tmp_path, overwrite=overwrite)

    assert other.read_text() == "other"
    assert names(tmp_path) == ["other", "task_1.mp4"]


async def test_a_symlink_that_appears_meanwhile_is_refused_too(tmp_path: Path) -> None:
    """The target is checked again at the end (D16)."""
    part = make(tmp_path)
    await part.open()
    await part.write(FILM)
    (tmp_path / "task_1.mp4").symlink_to(tmp_path / "nowhere")

    for overwrite in (False, True):
        with pytest.raises(DownloadError, match="symbolic link"):
            await part.publish(overwrite=overwrite)
    await part.close()

    assert names(tmp_path) == ["task_1.mp4"]


async def test_a_symlinked_folder_is_fine(tmp_path: Path) -> None:
    """Where films live is the user's business (D16)."""
    (tmp_path / "real").mkdir()
    (tmp_path / "films").symlink_to(tmp_path / "real")

    await published(tmp_path / "films")

    assert names(tmp_path / "real") == ["task_1.mp4"]


UNASKED = [errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EXDEV]


@pytest.mark.parametrize("number", UNASKED)
@pytest.mark.parametrize("there", [None, FILM, b"another"])
async def test_a_disk_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bytes | None, number: int
) -> None:
    """On such a file system the promises are the same (D15)."""

    def link(*_: object, **__: object) -> None:
        raise OSError(number, "no such thing here")

    monkeypatch.setattr(os, "link", link)
    target = tmp_path / "task_1.mp4"
    if there is not None:
        target.write_bytes(there)

    if there == b"another":
        with pytest.raises(DownloadError, match="is another file"):
            await published(tmp_path)
    else:
        await published(tmp_path)

    assert target.read_bytes() == (there or FILM)
    assert names(tmp_path) == ["task_1.mp4"]


async def test_a_crash_between_two_hard_links_does_no_harm(tmp_path: Path) -> None:
    """A part file that is a second name of a finished film is not written into (D14)."""
    target = await published(tmp_path)
    (tmp_path / PART).hardlink_to(target)
    part = make(tmp_path)

    await part.open()
    await part.write(b"\0" * len(FILM))
    await part.close()

    assert target.read_bytes() == FILM


# --- the disk --------------------------------------------------------------------------------


async def test_a_film_too_large_for_the_disk_is_not_started(tmp_path: Path) -> None:
    """What will not fit is refused before its first byte, and says so (D13)."""
    part = make(tmp_path)
    await part.open()

    with pytest.raises(DownloadError, match=r"cannot be written.*too many.*make room"):
        await part.begin(10**15, TAG)

    await part.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("folder", ["file/below", "nul\0/x", "/proc/none/x"])
async def test_an_impossible_folder(tmp_path: Path, folder: str) -> None:
    """An error of the disk is a `DownloadError` that names the path."""
    (tmp_path / "file").touch()

    with pytest.raises(DownloadError, match=r"cannot be written|is not a path"):
        await published(tmp_path / folder)


async def test_new_folders_are_made(tmp_path: Path) -> None:
    await published(tmp_path / "a" / "b")

    assert (tmp_path / "a" / "b" / "task_1.mp4").read_bytes() == FILM


async def test_a_thread_is_waited_for_when_cancelled(tmp_path: Path) -> None:
    """However often it is cancelled, no thread writes to a file that is closed (C14)."""
    go, ended = threading.Event(), []

    class Slow(PartFile):
        @in_thread
        def dawdle(self) -> None:
            go.wait(10)
            ended.append(True)

    part = Slow(tmp_path / "x.mp4", "x", random.Random(1))
    waiting = asyncio.ensure_future(part.dawdle())
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()

    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


@pytest.mark.parametrize("number", UNASKED)
async def test_a_disk_that_cannot_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """That is no error: the film is there, in a folder that was made."""

    def unable(*_: object, **__: object) -> None:
        raise OSError(number, "no such thing here")

    for call in ("fsync", "utime"):
        monkeypatch.setattr(os, call, unable)

    path = await published(tmp_path / "new" / "films")

    assert path.read_bytes() == FILM


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_a_failed_sync_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that can sync and fails has not kept the film."""

    def failing(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)

    with pytest.raises(DownloadError, match="cannot be written"):
        await published(tmp_path)
