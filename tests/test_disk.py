"""Locks, careful openings and lasting names, on this system as it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from apikley_async._disk import (
    is_own,
    lock_file,
    make_private,
    open_without_waiting,
    read_at,
    sync_folder,
)


def test_a_lock_has_one_owner(tmp_path: Path) -> None:
    """Another handle does not get it, in the same process neither, until the first is closed."""
    make_private(tmp_path / "lock")
    first, second = (os.open(tmp_path / "lock", os.O_RDWR) for _ in range(2))
    lock_file(first)

    with pytest.raises(BlockingIOError):
        lock_file(second)
    os.close(first)
    lock_file(second)
    os.close(second)


def test_a_private_file_is_new_and_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    make_private(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert is_own(path.stat())
    with pytest.raises(FileExistsError):
        make_private(path)


@pytest.mark.timeout(10)
def test_a_pipe_is_opened_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    os.close(open_without_waiting(tmp_path / "pipe", os.O_RDONLY))


def test_a_place_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"0123456789")
    handle = os.open(tmp_path / "film", os.O_RDONLY)

    assert [read_at(handle, 3, place) for place in (4, 0, 9, 20)] == [b"456", b"012", b"9", b""]
    os.close(handle)


def test_a_folder_can_be_synced(tmp_path: Path) -> None:
    """What is no folder is an error rather than nothing."""
    sync_folder(tmp_path)

    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")
