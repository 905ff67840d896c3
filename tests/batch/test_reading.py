"""A journal on a disk that is full or read only is read all the same, with what its log holds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from batch.helpers import films, open_batch

from apikley_async._sqlite import Database
from apikley_async.batch import Batch
from apikley_async.batch.store import journal_file

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
READ = """
import asyncio, subprocess, sys, tempfile
from pathlib import Path
from apikley_async.batch import Batch

async def read() -> None:
    for how in ({"read_only": True}, {"private": True}):
        async with Batch.open(Path(sys.argv[2], "b.db"), **how) as batch:
            print(*[item.key async for item in batch.items()])

for source in sys.argv[3:]:
    for disk in ("full", "read only"):
        subprocess.run(["sh", "-c", sys.argv[1], "sh", sys.argv[2], source, disk], check=True)
        tempfile.tempdir = None
        asyncio.run(read())
"""
DISK = """
set -e
if mountpoint -q "$1"; then umount "$1"; fi
mount -t tmpfs -o size=400k tmpfs "$1"
cp "$2"/* "$1"
if [ "$3" = full ]; then dd if=/dev/zero of="$1/fill" bs=1k count=999 2>/dev/null || true
else mount -o remount,ro "$1"; fi
"""


def can_mount(folder: Path) -> bool:
    try:
        command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


async def copy_in_use(folder: Path, *, log: bool) -> Path:
    """A journal as a crash leaves it: with a log, of which nothing is in the main file."""
    folder.mkdir(exist_ok=True)
    async with open_batch(folder / "b.db") as batch:
        await batch.add(films(1))
    target = folder / "copy"
    target.mkdir()
    async with open_batch(folder / "b.db") as batch:
        await batch.add(films(3))
        for name in ("b.db", "b.db-wal") if log else ():
            shutil.copyfile(folder / name, target / name)
    if not log:
        shutil.copyfile(folder / "b.db", target / "b.db")
    return target


@pytest.mark.parametrize("temporary", ["another", "same"], ids=["other disks", "no other disk"])
@pytest.mark.slow
async def test_a_real_disk(tmp_path: Path, temporary: str) -> None:
    """Full or read only, with a log and without one: also where temporary files have no room."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if not can_mount(mounted):
        pytest.skip("nothing can be mounted here")
    sources = [await copy_in_use(tmp_path / str(log), log=log) for log in (True, False)]
    # One process for all disks: to start Python takes longer than to read the journal. It reads
    # at its start where temporary files go.
    read = [*NAMESPACE, sys.executable, "-c", READ, DISK, mounted, *sources]
    same = {"TMPDIR": str(mounted)} if temporary == "same" else {}
    found = subprocess.run(
        read,
        env=os.environ | same,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )

    assert found.stdout.splitlines() == ["k0 k1 k2"] * 2 * 2 * len(sources), found.stderr


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE])
async def test_what_sqlite_says_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    source = await copy_in_use(tmp_path, log=True) / "b.db"
    check = journal_file.check_journal

    def refuse(db: Database, path: Path, migrations: Any) -> int:
        if db.path == source:  # and not a copy of it
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = code
            raise error
        return check(db, path, migrations)

    monkeypatch.setattr(journal_file, "check_journal", refuse)
    async with Batch.open(source, read_only=True) as batch:
        assert [item.key async for item in batch.items()] == ["k0", "k1", "k2"]


async def test_a_copy_is_taken_again_where_somebody_writes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was moved into the main file between the two: together they would be neither."""
    source = await copy_in_use(tmp_path, log=True) / "b.db"
    copyfile, copied = shutil.copyfile, list[str]()

    def move_once(path: Path, target: Path) -> None:
        copyfile(path, target)
        copied.append(Path(path).name)
        if copied == ["b.db-wal"]:
            source.touch()

    monkeypatch.setattr(shutil, "copyfile", move_once)
    journal_file.copy_with_log(source, tmp_path / "c.db")

    assert copied == ["b.db-wal", "b.db", "b.db-wal", "b.db"]
    assert (tmp_path / "c.db").read_bytes() == source.read_bytes()
