"""Locks, safe openings and synced names, on this system as it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from apikley_async._disk import (
    create_private,
    is_own,
    lock_file,
    open_nonblocking,
    open_own,
    read_at,
    sync_folder,
    user_id,
)


def test_a_lock_has_one_owner(tmp_path: Path) -> None:
    """Another handle does not get it, even in the same process, until the first is closed."""
    create_private(tmp_path / "lock")
    first, second = (os.open(tmp_path / "lock", os.O_RDWR) for _ in range(2))
    lock_file(first)

    with pytest.raises(BlockingIOError):
        lock_file(second)
    os.close(first)
    lock_file(second)
    os.close(second)


def test_a_private_file_is_new_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    create_private(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_own(path.stat())
    with pytest.raises(FileExistsError):
        create_private(path)


@pytest.mark.timeout(10)
def test_a_pipe_is_opened_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    os.close(open_nonblocking(tmp_path / "pipe", os.O_RDONLY))


def test_a_file_is_read_at_any_position(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"0123456789")
    handle = os.open(tmp_path / "film", os.O_RDONLY)

    found = [read_at(handle, 3, position) for position in (4, 0, 9, 20)]
    assert found == [b"456", b"012", b"9", b""]
    os.close(handle)


def test_a_folder_can_be_synced(tmp_path: Path) -> None:
    """A folder that is not there is an error."""
    sync_folder(tmp_path)

    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")


def test_a_link_is_neither_followed_nor_written_through(tmp_path: Path) -> None:
    """Whatever it is opened for, nothing behind the link is truncated."""
    target = tmp_path / "theirs"
    target.write_bytes(b"precious")
    (tmp_path / "soft").symlink_to(target)
    (tmp_path / "hard").hardlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")

    for name in ("soft", "hard", "dangling"):
        with pytest.raises(PermissionError, match="without links"):
            open_own(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    assert target.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.timeout(10)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    for name in ("pipe", "folder"):
        with pytest.raises(PermissionError, match="regular file"):
            open_own(tmp_path / name, os.O_RDONLY)


@pytest.mark.skipif(user_id() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "planted"
    path.write_bytes(b"believe me")
    os.chown(path, 12345, -1)

    with pytest.raises(PermissionError, match="ours"):
        open_own(path, os.O_RDWR | os.O_TRUNC)

    assert path.read_bytes() == b"believe me"


def test_an_own_file_is_created_and_truncated(tmp_path: Path) -> None:
    path = tmp_path / "note"

    for text in ("a long note", "short"):
        with open(path, "w", encoding="ascii", opener=open_own) as file:
            file.write(text)

    assert path.read_text() == "short"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
