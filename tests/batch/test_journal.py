"""The journal on the disk: what every store promises, and what a file can suffer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from batch.conformance import StoreContract, attempt, film
from batch.conftest import SmallDisk
from forked_process import ran

from apikley_async import Clock, SystemClock, Verdict, _sqlite
from apikley_async._disk import is_same_file
from apikley_async.batch import (
    Bounds,
    ItemEvent,
    ItemState,
    Journal,
    ManifestEntry,
    Store,
    StoredFile,
    Transition,
)
from apikley_async.batch.store import local_disk, locks
from apikley_async.batch.store.local_disk import file_system_of
from apikley_async.batch.store.schema import APPLICATION, MIGRATIONS, VERSION
from apikley_async.batch.store.witness import Witness
from apikley_async.errors import Blame, BudgetExceededError, JournalError
from apikley_async.testing import LoopClock


class TestJournal(StoreContract):
    """The journal is a store."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "batch.db"
        self.clock = MovableClock()

    def opened(self) -> AbstractAsyncContextManager[Journal]:
        return journal(self.path, clock=self.clock, shared=True)

    @asynccontextmanager
    async def opened_by(
        self, machines: int, *, clocks_off: float = 0.0
    ) -> AsyncIterator[Sequence[Journal]]:
        """A file is one machine's, whose clock may be set at any time."""
        self.clock.set_to = [number * clocks_off for number in range(machines)]
        async with self.opened() as store:
            yield [store] * machines

    async def pass_time(self, store: Store, seconds: float) -> None:
        self.clock.passed += seconds


class MovableClock(SystemClock):
    """A clock that a test moves on; each time it is read it may have been set anew."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.set_to = [0.0]

    def now(self) -> float:
        return super().now() + self.passed

    def wall(self) -> float:
        self.set_to.append(self.set_to.pop(0))
        return super().wall() + self.passed + self.set_to[-1]


@asynccontextmanager
async def journal(
    path: Path,
    *,
    clock: Clock | None = None,
    read_only: bool = False,
    private: bool = False,
    shared: bool = False,
) -> AsyncIterator[Journal]:
    opened = await Journal.open(
        path, clock=clock, read_only=read_only, private=private, shared=shared
    )
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batch.db"


async def test_it_is_private(path: Path) -> None:
    """Prompts are personal data: nobody else may read the journal. (J15)."""
    async with journal(path):
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


async def test_a_second_owner_is_refused_at_once(path: Path) -> None:
    """One process at a time; the message names the other. (J5)."""
    async with journal(path):
        with pytest.raises(JournalError, match=f"in use by process {os.getpid()}") as caught:
            await Journal.open(path)
        assert caught.value.resumable
    async with journal(path):
        pass


async def test_another_process_is_refused_and_may_read(path: Path) -> None:
    """A second process cannot run the batch, but it can look at it."""
    code = (
        "import asyncio, sys\n"
        "from apikley_async.batch import Journal\n"
        "async def main():\n"
        "    look = await Journal.open(sys.argv[1], read_only=True)\n"
        "    print(dict(await look.counts()))\n"
        "    await look.aclose()\n"
        "    await Journal.open(sys.argv[1])\n"
        "asyncio.run(main())\n"
    )
    async with journal(path) as owner:
        await owner.plan([film("a")])
        done = await asyncio.to_thread(ran, code, path)
    assert "planned" in done.stdout
    assert "JournalError" in done.stderr
    assert "in use by process" in done.stderr


async def test_a_former_owner_writes_nothing(path: Path) -> None:
    """An owner whose epoch has passed cannot write any more. (J5, J6)."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        thief = sqlite3.connect(path)
        with thief:
            thief.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
        thief.close()

        with pytest.raises(JournalError, match="another owner"):
            await owner.intend("a", "t", "print", None)

        assert (await owner.item("a")).state is ItemState.PLANNED


async def test_a_former_owner_s_late_answer_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may send nothing more, but what it has bought binds, by its token. (J5, J6, A28)."""
    # A disk whose locks hold nobody off.
    monkeypatch.setattr(locks, "lock_file", lambda handle: None)
    async with journal(path) as former:
        await former.plan([film(key) for key in "abc"])
        for key in "ab":
            await former.intend(key, f"t-{key}", "print", 150.0)
        async with journal(path) as owner:
            assert (await owner.counts())[ItemState.UNCERTAIN] == 2
            with pytest.raises(JournalError, match="another owner"):
                await former.intend("c", "t-c", "print", None)

            late = attempt("t-a", Verdict.ACCEPTED, "task_1")
            item = await former.settle("a", late, Transition(ItemEvent.ACCEPT, task_id="task_1"))
            refused = attempt("t-b", Verdict.REFUSED)
            other = await former.settle("b", refused, Transition(ItemEvent.REFUSE))

            assert (item.state, other.state) == (ItemState.SUBMITTED, ItemState.UNCERTAIN)
            assert [i.state for i in await owner.items()] == [
                ItemState.SUBMITTED,
                ItemState.UNCERTAIN,
                ItemState.PLANNED,
            ]
            with pytest.raises(JournalError, match="another owner"):
                await former.apply("a", Transition(ItemEvent.STALL))
            assert (await owner.apply("a", Transition(ItemEvent.STALL))).task_id == "task_1"
            assert await owner.verify() == []


async def test_many_entries_wait_in_a_file_without_a_name(path: Path) -> None:
    """What does not fit into some megabytes leaves nothing behind, planned or not."""
    long = "x" * 1_000_000

    def entries(broken: bool) -> Iterator[ManifestEntry]:
        for number in range(4):
            yield film(f"k{number}", f"{number} {long}")
        if broken:
            raise ValueError("theirs")

    async with journal(path) as owner:
        with pytest.raises(ValueError, match="theirs"):
            await owner.plan(entries(broken=True))
        assert await owner.items() == []
        assert (await owner.plan(entries(broken=False))).new == 4
        assert (await owner.plan(entries(broken=False))).known == 4
    assert {file.name for file in path.parent.iterdir()} == {"batch.db", "batch.db.lock"}


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"", "is empty"),
        (b"films:\n  - key: a\n", "not a journal"),
        (
            b"SQLite format 3\x00" + b"\x00" * 4096,
            "cannot be written or read|another program|not a journal",
        ),
    ],
    ids=["empty", "text", "zeros"],
)
async def test_what_is_no_journal_is_left_as_it_is(
    path: Path, content: bytes, reported: str
) -> None:
    """A file that is no journal is refused, and not touched. (J4)."""
    path.write_bytes(content)

    with pytest.raises(JournalError, match=reported):
        await Journal.open(path)

    assert path.read_bytes() == content


async def test_another_program_s_database_is_refused(path: Path) -> None:
    """SQLite is not enough to be a journal. (J4)."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = path.read_bytes()

    with pytest.raises(JournalError, match="another program") as caught:
        await Journal.open(path)
    assert (caught.value.resumable, caught.value.blames) == (False, Blame.INPUT)

    assert path.read_bytes() == before


async def test_a_newer_journal_is_refused(path: Path) -> None:
    """A schema of the future is not guessed at. (J10)."""
    async with journal(path):
        pass
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {VERSION + 1}")
    newer.close()

    with pytest.raises(JournalError, match="newer version"):
        await Journal.open(path)


async def test_a_damaged_journal_is_refused_or_unharmed(path: Path, tmp_path: Path) -> None:
    """Flipped bytes lead to a clear error or to the same rows, never to a new journal. (J4)."""
    async with journal(path) as owner:
        await owner.plan([film(f"k{number}") for number in range(200)])
        rows = await owner.items()
    whole = path.read_bytes()
    rng = random.Random(4)
    refused = 0
    for number in range(120):
        hurt = bytearray(whole)
        for _ in range(rng.randrange(1, 30)):
            hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
        copy = tmp_path / f"copy{number}.db"
        copy.write_bytes(hurt)
        try:
            async with journal(copy) as opened:
                faults = await opened.verify()
                found = await opened.items()
                assert faults or [i.payload for i in found] == [i.payload for i in rows]
        except JournalError:
            refused += 1
        except (ValueError, KeyError, UnicodeDecodeError):
            pytest.fail("damage came out as something else than a JournalError")
    assert refused > 10


async def test_after_a_full_disk_nothing_more_is_written(path: Path, disk: type[SmallDisk]) -> None:
    """What cannot be written down is not sent, and the error says what to do. (J1)."""
    async with journal(path) as owner:
        await owner.plan([film(f"k{number}") for number in range(50)])
        disk.pages = 1

        async def fill() -> None:
            for number in range(50):
                await owner.intend(f"k{number}", f"token{number}" * 50, "print", None)

        with pytest.raises(JournalError, match="free some space") as caught:
            await fill()
        assert caught.value.resumable
        with pytest.raises(JournalError, match="free some space") as caught:
            await owner.item("k0")
        assert caught.value.resumable

    async with journal(path) as again:
        assert not await again.verify()
        assert (await again.apply("k49", Transition(ItemEvent.DROP))).state is ItemState.DROPPED


FAILING = """
import asyncio, resource, signal, sys
from pathlib import Path
from apikley_async.batch import Journal, ManifestEntry
from apikley_async.errors import JournalError

async def main(path):
    journal = await Journal.open(path)
    size = Path(f"{path}-wal").stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            await journal.intend("a", "t1", "print", None)
        except JournalError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    await journal.aclose()

asyncio.run(main(sys.argv[1]))
"""


async def test_after_a_write_that_failed_nothing_more_is_intended(path: Path) -> None:
    """What the disk once refused is not tried again on the same handle. (J3)."""
    async with journal(path) as opened:
        await opened.plan([film("a")])

    done = await asyncio.to_thread(ran, FAILING, path)

    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "cannot be written" in first == second
    async with journal(path) as again:
        assert (await again.item("a")).state is ItemState.PLANNED
        await again.intend("a", "t2", "print", None)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_child_does_not_write_in_its_parent_s_journal(path: Path) -> None:
    """Handles of SQLite do not survive a fork. (J11)."""
    async with journal(path) as opened:
        await opened.plan([film("a")])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                refused = opened.intend("a", "t1", "print", None)
                refused.send(None)
            except JournalError as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert (await opened.item("a")).state is ItemState.PLANNED


async def test_the_log_does_not_stay_large(path: Path) -> None:
    """At its end it is written into the journal, and cut. (J14)."""
    log = path.with_name("batch.db-wal")
    async with journal(path) as opened:
        await opened.plan(film(f"film {number}") for number in range(3000))
        assert log.stat().st_size > 1_000_000

    assert not log.exists() or log.stat().st_size == 0


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:26 / /mnt/films rw shared:2 - nfs4 server:/films rw
31 30 8:2 / /mnt/films/local\\040disk rw - xfs /dev/sdb1 rw
32 21 0:27 / /srv/cloud rw - fuse.sshfs me@server: rw
half a line
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/srv/batch.db", "ext4"),
        ("/mnt/films/batch.db", "nfs4"),
        ("/mnt/filmstrip/batch.db", "ext4"),
        ("/mnt/films/local disk/batch.db", "xfs"),
        ("/srv/cloud/a/b/batch.db", "fuse.sshfs"),
    ],
)
def test_the_nearest_mount_says_what_a_disk_is(place: str, kind: str) -> None:
    """As Linux tells it, blanks in names included. (J7)."""
    assert file_system_of(Path(place), MOUNTS) == kind


async def test_a_network_disk_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is made there; a missing list of mounts refuses nothing. (J7)."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"21 1 0:1 / / rw - ext4 a rw\n22 21 0:2 / {tmp_path} rw - cifs b rw\n")
    monkeypatch.setattr(local_disk, "MOUNTS", mounts)

    with pytest.raises(JournalError, match=r"network disk \(cifs\)"):
        await Journal.open(path)

    assert not path.exists()
    mounts.unlink()
    async with journal(path):
        assert path.exists()


async def test_foreign_text_is_kept_as_far_as_it_can_be(path: Path) -> None:
    """Lone surrogates from a strange answer do not break a commit. (M6)."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        item = await owner.apply("a", Transition(ItemEvent.DROP, cause="odd \ud800 text"))

        assert item.cause == "odd ? text"


async def test_the_file_says_what_it_is(path: Path) -> None:
    """The header names the program and the version of the tables."""
    async with journal(path):
        pass
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    db.close()


async def test_verify_finds_a_broken_history(path: Path) -> None:
    """A row that was changed behind the journal's back is found. (I12)."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.apply("a", Transition(ItemEvent.DROP))
    db = sqlite3.connect(path)
    db.execute("UPDATE item SET state = 'done'")
    db.commit()
    db.close()

    async with journal(path) as owner:
        faults = await owner.verify()

    assert any("task id" in fault for fault in faults)
    assert any("history" in fault for fault in faults)


# --- the file -------------------------------------------------------------------------------------


async def test_a_beginning_that_was_cut_off_is_no_lost_journal(path: Path) -> None:
    """What a crash leaves of making a journal is swept away, not taken for one. (J9)."""
    path.with_name("batch.db.new").write_bytes(b"half a journal")
    async with journal(path) as owner:
        await owner.plan([film("a")])
    assert sorted(file.name for file in path.parent.iterdir()) == ["batch.db", "batch.db.lock"]


async def test_a_log_without_its_journal_is_left_as_it_is(path: Path) -> None:
    """A journal that was removed while its log was left would come back in pieces. (J8)."""
    log = path.with_name("batch.db-wal")
    log.write_bytes(b"frames")

    with pytest.raises(JournalError, match=r"batch\.db-wal is still there"):
        await Journal.open(path)

    assert log.read_bytes() == b"frames"
    assert not path.exists()


async def test_one_lock_for_all_names_of_a_journal(path: Path, tmp_path: Path) -> None:
    """A link to the journal is the journal. (J5)."""
    async with journal(path):
        (tmp_path / "link.db").symlink_to(path)
        with pytest.raises(JournalError, match="in use"):
            await Journal.open(tmp_path / "link.db")


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
async def test_the_lock_writes_through_no_link(path: Path, tmp_path: Path, kind: str) -> None:
    """What somebody has put in the lock's place is not cut to our process's number."""
    theirs, lock = tmp_path / "precious", path.with_name("batch.db.lock")
    theirs.write_text("precious")
    if kind == "symlink":
        lock.symlink_to(theirs)
    else:
        lock.hardlink_to(theirs)

    with pytest.raises(JournalError, match=r"batch\.db\.lock cannot be used as the lock") as caught:
        await Journal.open(path)

    assert not caught.value.resumable
    assert theirs.read_text() == "precious"
    assert not path.exists()


async def test_closing_is_finished_when_it_is_cancelled(path: Path) -> None:
    """Whoever is cancelled while closing leaves a closed journal behind. (C14)."""
    for _ in range(3):
        owner = await Journal.open(path)
        closing = asyncio.create_task(owner.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        await owner.aclose()
        with pytest.raises(JournalError, match="closed"):
            await owner.counts()


async def test_a_write_is_seen_to_its_end(path: Path) -> None:
    """Cancelling whoever waits for a write does not undo it, nor leave half of it. (C14)."""
    async with journal(path) as owner:
        await owner.plan([film(f"k{number}") for number in range(50)])
        drops = [
            asyncio.create_task(owner.apply(f"k{number}", Transition(ItemEvent.DROP)))
            for number in range(50)
        ]
        await asyncio.sleep(0)
        for drop in drops:
            drop.cancel()
        await asyncio.wait(drops)
        assert await owner.counts() == {ItemState.DROPPED: 50}
        assert await owner.verify() == []


# --- migrations -----------------------------------------------------------------------------------

SECOND = ("ALTER TABLE item ADD COLUMN mood TEXT", "UPDATE item SET mood = 'calm'")
THIRD = ("CREATE INDEX item_mood ON item (mood)",)


def choose_version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as db:
        [version] = db.execute("PRAGMA user_version").fetchone()
        return int(version)


async def upgraded(path: Path, *more: tuple[str, ...]) -> Journal:
    return await Journal.open(path, migrations=(*MIGRATIONS, *more))


async def test_an_older_journal_is_brought_up_to_date_step_by_step(path: Path) -> None:
    """Each version is a step, made once; the journal as it was is kept beside it. (J10)."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)

    for more in ((SECOND,), (SECOND, THIRD), (SECOND, THIRD)):
        owner = await upgraded(path, *more)
        assert [item.key for item in await owner.items()] == ["a"]
        assert (await owner.item("a")).state is ItemState.UNCERTAIN
        assert await owner.verify() == []
        await owner.aclose()
        assert choose_version(path) == VERSION + len(more)

    copies = [path.with_name(f"batch.db.v{VERSION + step}") for step in (0, 1)]
    assert [choose_version(copy) for copy in copies] == [VERSION, VERSION + 1]
    assert all(stat.S_IMODE(copy.stat().st_mode) == 0o600 for copy in copies)
    with pytest.raises(JournalError, match="newer version"):
        await Journal.open(path)


async def test_a_journal_of_the_schema_before_learns(path: Path) -> None:
    """Its films stay as they are; from here on there is a place for what runs learn. (J10)."""
    before = await Journal.open(path, migrations=MIGRATIONS[:4])
    await before.plan([film("a")])
    await before.aclose()
    assert choose_version(path) == 4

    async with journal(path) as owner:
        assert [item.key for item in await owner.items()] == ["a"]
        assert await owner.read_learned("pace") is None
        await owner.write_learned("pace", "18")
        assert await owner.verify() == []

    assert choose_version(path) == VERSION
    assert choose_version(path.with_name("batch.db.v4")) == 4


async def test_a_journal_of_the_schema_before_knows_destinations(path: Path) -> None:
    """Its saved films stay where they are; what is put elsewhere has a place. (J10)."""
    before = await Journal.open(path, migrations=MIGRATIONS[:5])
    await before.plan([film("a"), film("b")])
    await before.aclose()
    saved = json.dumps([{"path": "films/a.mp4", "size": 5, "sha256": "ab" * 32}])
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO folder VALUES ('films')")
        db.execute("UPDATE item SET files = ? WHERE key = 'a'", (saved,))
        db.commit()
    assert choose_version(path) == 5
    with pytest.raises(JournalError, match="older version"):
        await Journal.open(path, read_only=True)

    stored = StoredFile("b.mp4", 7, "cd" * 32, "s3://films/b.mp4")
    async with journal(path) as owner:
        assert [item.stored for item in await owner.items()] == [(), ()]
        assert (await owner.item("a")).files[0].path == path.parent / "films" / "a.mp4"
        await owner.intend("b", "t1", "print", None)
        ended = attempt("t1", Verdict.ACCEPTED, "task_1")
        await owner.settle("b", ended, Transition(ItemEvent.ACCEPT, task_id="task_1"))
        await owner.apply("b", Transition(ItemEvent.SUCCEED, result='{"urls": []}'))
        await owner.apply("b", Transition(ItemEvent.SAVE, stored=(stored,)))
        assert await owner.verify() == []

    assert choose_version(path) == VERSION
    assert choose_version(path.with_name("batch.db.v5")) == 5
    async with journal(path) as owner:
        assert (await owner.item("b")).stored == (stored,)
    with pytest.raises(JournalError, match="newer version"):  # an older program, and this journal
        await Journal.open(path, migrations=MIGRATIONS[:5])


async def test_a_journal_of_the_schema_before_is_claimed(path: Path) -> None:
    """Its films are nobody's; what it was sending is uncertain, and what it cost counts. (J10)."""
    before = await Journal.open(path, migrations=MIGRATIONS[:6])
    await before.plan([film(key) for key in "abc"])
    await before.aclose()
    with contextlib.closing(sqlite3.connect(path)) as db:
        for key, state in (("a", "accepted"), ("b", "intent")):
            db.execute(
                "INSERT INTO attempt (token, key, n, state, fingerprint, reserved, began_at)"
                " VALUES (?, ?, 1, ?, 'print', 150.0, 1.0)",
                (f"t-{key}", key, state),
            )
        db.execute("UPDATE attempt SET task_id = 'task_1' WHERE key = 'a'")
        db.execute("UPDATE item SET state = 'submitted', task_id = 'task_1' WHERE key = 'a'")
        db.execute("UPDATE item SET state = 'sending' WHERE key = 'b'")
        event = 'INSERT INTO event (at, mono, key, event, "from", "to") VALUES (1, 1, ?, ?, ?, ?)'
        db.executemany(event, [(key, "intend", "planned", "sending") for key in "ab"])
        db.execute(event, ("a", "accept", "sending", "submitted"))
        db.commit()
    assert choose_version(path) == 6

    async with journal(path) as owner:
        assert [item.key for item in await owner.claim("run", 5)] == ["a", "c"]
        assert (await owner.item("b")).state is ItemState.UNCERTAIN
        assert (await owner.spending()).credits == 300.0
        bounds = Bounds(max_credits=400.0)
        with pytest.raises(BudgetExceededError):
            await owner.intend("c", "t-c", "print", 150.0, owner="run", kind=10, bounds=bounds)
        assert await owner.verify() == []

    assert choose_version(path) == VERSION
    assert choose_version(path.with_name("batch.db.v6")) == 6
    with pytest.raises(JournalError, match="newer version"):  # an older program, and this journal
        await Journal.open(path, migrations=MIGRATIONS[:6])


async def test_whoever_opens_a_journal_is_its_only_owner(path: Path) -> None:
    """The lock shows that all former ones have ended: nobody waits for their leases."""
    async with journal(path) as former:
        await former.plan([film(key) for key in "ab"])
        await former.claim("former", 2)
        await former.intend("a", "t1", "print", None, owner="former")

    async with journal(path) as owner:
        assert (await owner.item("a")).state is ItemState.UNCERTAIN
        assert [item.key for item in await owner.claim("new", 2)] == ["b"]
        assert await owner.verify() == []


async def test_an_upgrade_that_breaks_off_changes_nothing(path: Path) -> None:
    """All steps are one transaction: what fails leaves the journal as it was. (J10)."""
    async with journal(path) as owner:
        await owner.plan([film("a")])

    with pytest.raises(JournalError):
        await upgraded(path, SECOND, ("ALTER TABLE nothing ADD COLUMN x",))

    assert choose_version(path) == VERSION
    async with journal(path) as owner:
        assert await owner.verify() == []
    owner = await upgraded(path, SECOND, THIRD)
    await owner.aclose()
    assert choose_version(path) == VERSION + 2


async def test_an_older_journal_is_not_upgraded_by_reading(path: Path) -> None:
    """Reading changes nothing, and the error says what to do. (J10)."""
    async with journal(path):
        pass
    with pytest.raises(JournalError, match="older version"):
        await Journal.open(path, read_only=True, migrations=(*MIGRATIONS, SECOND))
    assert choose_version(path) == VERSION


async def test_a_new_journal_is_made_with_all_steps(path: Path) -> None:
    """The first version and the newest are made by the same steps."""
    owner = await upgraded(path, SECOND, THIRD)
    await owner.aclose()
    assert choose_version(path) == VERSION + 2
    assert not list(path.parent.glob("*.v*"))


# --- the newest journal, and no other -------------------------------------------------------------

KILLED = """
import asyncio, os, signal, sys
from batch.conformance import film
from apikley_async.batch import Journal

async def main(path):
    journal = await Journal.open(path)
    await journal.plan([film(key) for key in "abc"])
    await journal.intend("a", "t1", "print", None)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


async def left_by_a_kill(path: Path) -> None:
    """A journal whose owner was killed while a POST was out."""
    killed = await asyncio.to_thread(ran, KILLED, path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert path.with_name("batch.db-wal").stat().st_size


async def test_a_journal_that_was_killed_goes_on(path: Path) -> None:
    await left_by_a_kill(path)
    for _ in range(2):
        async with journal(path) as owner:
            assert (await owner.item("a")).state is ItemState.UNCERTAIN
            assert (await owner.item("b")).state is ItemState.PLANNED


async def test_a_journal_without_its_log_after_a_crash_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file alone looks whole, and what was paid last is missing: on another machine too."""
    await left_by_a_kill(path)
    moved = tmp_path / "moved.db"
    moved.write_bytes(path.read_bytes())
    held = moved.read_bytes()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))

    for _ in range(2):
        with pytest.raises(JournalError, match="batch adopt") as caught:
            await Journal.open(moved)

    assert not caught.value.resumable
    assert moved.read_bytes() == held


async def test_the_main_file_of_an_open_journal_is_marked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent: a copy of it without the log is refused, on another machine too."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
    moved = tmp_path / "moved.db"
    async with journal(path) as owner:
        await owner.intend("a", "t1", "print", None)
        moved.write_bytes(path.read_bytes())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))

    with pytest.raises(JournalError, match="batch adopt"):
        await Journal.open(moved)


async def test_a_log_that_another_program_has_written_back_is_no_lost_one(path: Path) -> None:
    """Looking into it with the tools of SQLite takes it its log, and loses nothing."""
    await left_by_a_kill(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("SELECT count(*) FROM item").fetchone()
    assert not path.with_name("batch.db-wal").exists()

    async with journal(path) as owner:
        assert (await owner.item("a")).state is ItemState.UNCERTAIN


async def test_a_file_left_by_itself_after_a_kill_is_refused_here_too(
    path: Path, tmp_path: Path
) -> None:
    """The witness stood by when what the log held was sent."""
    await left_by_a_kill(path)
    moved = tmp_path / "moved.db"
    moved.write_bytes(path.read_bytes())

    with pytest.raises(JournalError, match="batch adopt"):
        await Journal.open(moved)


async def test_an_older_copy_is_refused(path: Path, tmp_path: Path) -> None:
    """A backup that was restored knows nothing of what was paid since; the newest goes on."""
    async with journal(path) as owner:
        await owner.plan([film(key) for key in "abc"])
        await owner.backup(tmp_path / "copy.db")
        await owner.intend("a", "t1", "print", None)

    with pytest.raises(JournalError, match="older copy"):
        await Journal.open(tmp_path / "copy.db")
    async with journal(path) as owner:
        assert (await owner.item("a")).state is ItemState.UNCERTAIN


@pytest.mark.parametrize("adopt", [False, True], ids=["opened", "adopted"])
async def test_a_copy_is_refused_while_the_journal_is_in_use(
    path: Path, tmp_path: Path, adopt: bool
) -> None:
    """As new as the journal itself, it would pay for the same films once more. (J5, J8)"""
    copy = tmp_path / "copy.db"
    async with journal(path) as owner:
        await owner.plan([film(key) for key in "ab"])
        await owner.intend("a", "t1", "print", None)
        await owner.backup(copy)
        with pytest.raises(JournalError, match=r"a copy of .* is in use") as caught:
            await Journal.open(copy, adopt=adopt)
        assert caught.value.resumable
        for harmless in ({"read_only": True}, {"private": True}):
            async with journal(copy, **harmless) as look:
                assert len(await look.items()) == 2
        await owner.intend("b", "t2", "print", None)  # the refused one has changed nothing

    async with journal(path) as owner:
        assert (await owner.item("b")).state is ItemState.UNCERTAIN


@pytest.mark.virtual
async def test_a_copy_may_be_waited_for(path: Path, tmp_path: Path) -> None:
    """Whoever waits for a journal in use waits for its copy as well. (J5)"""
    owner = await Journal.open(path)
    await owner.backup(tmp_path / "copy.db")
    waiting = asyncio.create_task(Journal.open(tmp_path / "copy.db", clock=LoopClock(), wait=60))
    await asyncio.sleep(30)
    assert not waiting.done()
    await owner.aclose()

    await (await waiting).aclose()


async def test_a_witness_on_a_full_disk_still_keeps_copies_away(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said is outdated from then on, and is believed no more; its lock holds. (J5)"""
    write = os.write

    def full(handle: int, content: bytes) -> int:
        if len(content) == len(b"%012d %012d\n" % (0, 0)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content)

    async with journal(path) as owner:
        await owner.plan([film("a")])
        monkeypatch.setattr(os, "write", full)
        await owner.intend("a", "t1", "print", None)
        await owner.backup(tmp_path / "copy.db")
        assert Witness(owner.journal_id).read() is None
        with pytest.raises(JournalError, match=r"a copy of .* is in use"):
            await Journal.open(tmp_path / "copy.db")


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_a_witness_that_cannot_be_locked_is_no_refusal(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A home on a network disk without locks: the other locks hold as before."""
    lock = locks.lock_file
    witnesses = Path(os.environ["XDG_STATE_HOME"]) / "apikley" / "witnesses"

    def without_locks(handle: int) -> None:
        if any(is_same_file(handle, witness) for witness in witnesses.glob("*")):
            raise OSError(error, os.strerror(error))
        lock(handle)

    monkeypatch.setattr(locks, "lock_file", without_locks)
    async with journal(path) as owner:
        await owner.plan([film("a")])
        with pytest.raises(JournalError, match="in use by process"):
            await Journal.open(path)


async def test_a_missing_witness_is_no_refusal(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine, another user, or a home that cannot be written."""
    async with journal(path) as owner:
        await owner.plan([film(key) for key in "ab"])
        await owner.intend("a", "t1", "print", None)
    (tmp_path / "no folder").write_text("")
    for place in ("elsewhere", "no folder"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / place))
        async with journal(path) as owner:
            assert await owner.verify() == []


async def test_what_was_learned_comes_with_a_copy(path: Path, tmp_path: Path) -> None:
    """A backup has it, and adopting the copy keeps it: it is a hint about the service only."""
    copy = tmp_path / "copy.db"
    async with journal(path) as owner:
        await owner.write_learned("pace", "18")
        await owner.backup(copy)
        await owner.plan([film("a")])
        await owner.intend("a", "t1", "print", None)

    adopted = await Journal.open(copy, adopt=True)
    found = await adopted.read_learned("pace")
    await adopted.aclose()

    assert found is not None
    assert found.value == "18"


async def test_a_reader_learns_nothing(path: Path) -> None:
    """It reads what was learned, and writes nothing."""
    async with journal(path) as owner:
        await owner.write_learned("pace", "18")
    reader = await Journal.open(path, read_only=True)
    try:
        assert await reader.read_learned("pace") is not None
        with pytest.raises(JournalError, match="for reading only"):
            await reader.write_learned("pace", "17")
    finally:
        await reader.aclose()


async def test_an_adopted_copy_takes_nothing_for_unpaid(path: Path, tmp_path: Path) -> None:
    """What was planned may have been sent: each is uncertain. The copy is the newest then."""
    copy = tmp_path / "copy.db"
    async with journal(path) as owner:
        await owner.plan([film(key) for key in "abcd"])
        await owner.apply("d", Transition(ItemEvent.DROP))
        await owner.intend("a", "t0", "print", None)
        await owner.settle(
            "a",
            attempt("t0", Verdict.ACCEPTED, "task_1"),
            Transition(ItemEvent.ACCEPT, task_id="task_1"),
        )
        await owner.backup(copy)
        await owner.intend("b", "t1", "print", None)

    adopted = await Journal.open(copy, adopt=True)
    stand = {item.key: item.state for item in await adopted.items()}
    assert stand == {
        "a": ItemState.SUBMITTED,
        "b": ItemState.UNCERTAIN,
        "c": ItemState.UNCERTAIN,
        "d": ItemState.DROPPED,
    }
    assert await adopted.verify() == []
    await adopted.aclose()

    async with journal(copy) as owner:
        assert (await owner.apply("b", Transition(ItemEvent.RESUBMIT))).state is ItemState.PLANNED
    with pytest.raises(JournalError, match="older copy"):
        await Journal.open(path)


async def test_what_came_after_an_adopted_copy_is_not_paid_again(
    path: Path, tmp_path: Path
) -> None:
    """Films that are new to the copy, or have other content there, may be the lost attempts'."""
    copy = tmp_path / "copy.db"
    async with journal(path) as owner:
        await owner.plan([film("a"), film("b")])
        await owner.intend("a", "t1", "print", None)
        await owner.settle("a", attempt("t1", Verdict.REFUSED), Transition(ItemEvent.REFUSE))
        await owner.apply("b", Transition(ItemEvent.DROP))
        await owner.backup(copy)
        await owner.plan([film("a", "corrected"), film("c")])
        for key, token in (("a", "t2"), ("c", "t3")):
            await owner.intend(key, token, "print", None)
    adopted = await Journal.open(copy, adopt=True)
    await adopted.aclose()

    async with journal(copy, private=True) as rehearsal:  # a dry run tells the same
        await rehearsal.plan([film("c")])
        assert (await rehearsal.item("c")).state is ItemState.UNCERTAIN
    async with journal(copy) as owner:
        plan = await owner.plan([film("a", "corrected"), film("c")])
        assert (plan.new, plan.changed) == (1, 1)
        for key in "ac":
            item = await owner.item(key)
            assert item.state is ItemState.UNCERTAIN
            assert "may have been sent" in item.cause
        await owner.apply("a", Transition(ItemEvent.RESOLVE, task_id="task_a"))
    async with journal(copy) as owner:  # one is still missing
        await owner.plan([film("d")])
        assert (await owner.item("d")).state is ItemState.UNCERTAIN
        await owner.apply("c", Transition(ItemEvent.RESOLVE, task_id="task_c"))
        await owner.plan([film("e")])
        assert (await owner.item("e")).state is ItemState.PLANNED
        assert await owner.verify() == []
    with pytest.raises(JournalError, match="older copy"):
        await Journal.open(path)


async def test_a_copy_adopted_without_a_witness_may_have_lost_anything(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine nobody knows how many attempts came after it."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    adopted = await Journal.open(path, adopt=True)
    await adopted.apply("a", Transition(ItemEvent.RESOLVE, task_id="task_a"))
    await adopted.aclose()

    async with journal(path) as owner:
        await owner.plan([film("b")])
        assert (await owner.item("b")).state is ItemState.UNCERTAIN


async def test_the_newest_journal_loses_nothing_by_an_adoption(path: Path) -> None:
    """What is new to it later is new."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
    adopted = await Journal.open(path, adopt=True)
    await adopted.plan([film("b")])
    assert (await adopted.item("a")).state is ItemState.UNCERTAIN
    assert (await adopted.item("b")).state is ItemState.PLANNED
    await adopted.aclose()


async def test_a_backup_is_made_while_another_has_the_journal(path: Path, tmp_path: Path) -> None:
    """It stands for itself, is private, replaces nothing, and can be opened."""
    async with journal(path) as owner:
        await owner.plan([film("a")])
        async with journal(path, read_only=True) as look:
            await look.backup(tmp_path / "copy.db")
            with pytest.raises(JournalError, match="replaces nothing"):
                await look.backup(tmp_path / "copy.db")
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"batch.db", "batch.db.lock", "copy.db"}
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    async with journal(tmp_path / "copy.db") as owner:
        assert [item.key for item in await owner.items()] == ["a"]


async def test_a_backup_goes_to_a_disk_without_links(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on most memory sticks; the error names the backup, not the journal."""

    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    target = path.with_name("stick.db")
    async with journal(path) as owner:
        await owner.plan([film("a")])
        await owner.backup(target)
        with pytest.raises(JournalError, match=r"stick\.db exists"):
            await owner.backup(target)
        with pytest.raises(JournalError, match=r"nowhere/stick\.db cannot be written"):
            await owner.backup(path.with_name("nowhere") / "stick.db")
        assert (await owner.item("a")).state is ItemState.PLANNED
    assert not [*path.parent.glob(".stick*")]
    async with journal(target) as copy:
        assert [item.key for item in await copy.items()] == ["a"]


async def test_a_journal_with_two_names_is_refused(path: Path, tmp_path: Path) -> None:
    """Under the other name it would not be locked, and have another log."""
    async with journal(path):
        pass
    (tmp_path / "other.db").hardlink_to(path)

    for name in (path, tmp_path / "other.db"):
        with pytest.raises(JournalError, match="another name"):
            await Journal.open(name)


@pytest.mark.skipif(sys.platform != "linux", reason="only there the file itself is locked")
async def test_the_file_itself_is_locked_too(path: Path) -> None:
    """Whoever comes by a way on which the lock file is another one is refused."""
    async with journal(path):
        path.with_name("batch.db.lock").unlink()
        with pytest.raises(JournalError, match="in use under another name"):
            await Journal.open(path)


@pytest.mark.virtual
@pytest.mark.skipif(sys.platform != "linux", reason="only there the file itself is locked")
async def test_who_waits_for_a_journal_does_not_wait_for_its_own_lock(path: Path) -> None:
    """Each try takes all locks anew: of those that a former one has got none is left."""
    owner = await Journal.open(path)
    path.with_name("batch.db.lock").unlink()
    waiting = asyncio.create_task(Journal.open(path, clock=LoopClock(), wait=60))
    await asyncio.sleep(30)
    assert not waiting.done()
    await owner.aclose()

    await (await waiting).aclose()


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        *(("virtiofs", True), ("vmhgfs", True), ("prl_fs", True), ("fuse.vmhgfs-fuse", True)),
        *(("fuse.s3fs", True), ("fuse.ceph", True), ("fuse.somebodys-cloud", True)),
        *(("ext4", False), ("fuse.ntfs-3g", False), ("fuseblk", False), ("overlay", False)),
    ],
)
def test_shares_that_look_local_are_known(
    kind: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What FUSE or a virtual machine's host serves may lie anywhere, unless it is known. (J7)"""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"21 1 0:1 / / rw - ext4 a rw\n22 21 0:2 / {tmp_path} rw - {kind} b rw\n")
    monkeypatch.setattr(local_disk, "MOUNTS", mounts)

    assert (Journal.disk_fault(tmp_path / "batch.db") is not None) == refused


@pytest.mark.parametrize("name", ["batch.db", "batch.db-wal"])
@pytest.mark.parametrize("way", [{}, {"read_only": True}, {"private": True}])
async def test_a_pipe_instead_of_a_journal_blocks_nothing(
    path: Path, name: str, way: dict[str, bool]
) -> None:
    """SQLite would wait at it for good, and no signal would end that."""
    if name != path.name:
        async with journal(path):
            pass
    os.mkfifo(path.with_name(name))

    with pytest.raises(JournalError, match=f"{name} is not a regular file") as caught:
        await Journal.open(path, **way)
    assert not caught.value.resumable


class Impatient(_sqlite.Database):
    """A connection that waits for nobody."""

    def begin(self) -> None:
        super().begin()
        self.execute("PRAGMA busy_timeout = 0")


async def test_a_purge_that_leaves_old_text_on_the_disk_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another program reads the file, what that one sees stays in it."""
    monkeypatch.setattr(_sqlite, "Database", Impatient)
    async with journal(path) as store:
        await store.plan([film("a", "A secret scene."), film("b")])
        other = (await store.item("b")).payload
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT key FROM item").fetchall()
            with pytest.raises(JournalError, match="has the old text in its files still"):
                await store.purge({"a": other})
        await store.purge({"a": other})
        found = [file.read_bytes().count(b"A secret scene.") for file in path.parent.iterdir()]

    assert set(found) == {0}


async def test_a_journal_that_cannot_be_marked_as_open_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a copy without its log nobody could tell, later, that something is missing. (J8)"""
    async with journal(path) as store:
        await store.plan([film("a")])
    monkeypatch.setattr(_sqlite, "Database", Impatient)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT key FROM item").fetchall()
        with pytest.raises(JournalError, match="another program has been reading it") as caught:
            await Journal.open(path)
    assert caught.value.resumable

    async with journal(path) as store:
        assert (await store.item("a")).state is ItemState.PLANNED


# --- private copies -------------------------------------------------------------------------------


async def test_a_private_copy_leaves_the_journal_as_it_is(path: Path) -> None:
    """While another process has it, too: what is planned in the copy is gone with it."""
    async with journal(path) as own:
        await own.plan([film("a")])
        copy = await Journal.open(path, private=True)
        await copy.plan([film("b")])
        assert [item.key for item in await copy.items()] == ["a", "b"]
        await copy.aclose()
        assert [item.key for item in await own.items()] == ["a"]
    files = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}

    copy = await Journal.open(path, private=True)
    await copy.intend("a", "t1", "print", None)
    await copy.aclose()

    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == files
    async with journal(path) as own:  # and no witness says that this one is older
        assert (await own.item("a")).state is ItemState.PLANNED


async def test_a_private_copy_of_what_is_not_there_is_empty(path: Path) -> None:
    """Nothing is made; a log that was left alone is refused as it would be."""
    copy = await Journal.open(path, private=True)
    await copy.plan([film("a")])
    await copy.aclose()
    assert [*path.parent.iterdir()] == []

    path.with_name("batch.db-wal").write_bytes(b"what was written last")
    with pytest.raises(JournalError, match="is gone"):
        await Journal.open(path, private=True)


async def test_a_private_copy_of_an_older_journal_is_refused(path: Path) -> None:
    """As the journal itself would be: a dry run must not promise what is refused. (A21)"""
    async with journal(path) as own:
        await own.plan([film("a"), film("b")])
        await own.backup(path.with_name("older.db"))
        await own.intend("a", "t1", "print", None)
    path.with_name("older.db").replace(path)

    with pytest.raises(JournalError, match="older copy"):
        async with journal(path, private=True):
            pass


async def test_a_private_copy_of_a_journal_that_goes_on_is_no_older_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner sends on while the copy is taken: that is no reason to advise an adoption. (A21)"""
    opens, loop, sent = sqlite3.connect, asyncio.get_running_loop(), iter("abcdefgh")

    async with journal(path) as own:
        await own.plan([film(key) for key in "abcdefgh"])

        def connect(name: str, *args: Any, **options: Any) -> sqlite3.Connection:
            intent = own.intend(key := next(sent), f"t{key}", "print", None)
            asyncio.run_coroutine_threadsafe(intent, loop).result()
            return opens(name, *args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(sqlite3, "connect", connect)
            copy = await Journal.open(path, private=True)
        assert [item.key for item in await copy.items()] == [*"abcdefgh"]
        await copy.aclose()


# --- a journal that is gone -----------------------------------------------------------------------


async def test_a_journal_that_is_gone_is_not_begun_anew(path: Path) -> None:
    """Its lock stays behind, and names it: what was sent would be paid again. (A21)"""
    async with journal(path) as own:
        await own.plan([film("a")])
        await own.intend("a", "t1", "print", None)
        await own.backup(path.with_name("copy.db"))
    path.unlink()

    for private in (False, True):
        with pytest.raises(JournalError, match=r"batch\.db is gone, and 1 attempts were made"):
            await Journal.open(path, private=private)
    path.with_name("copy.db").rename(path)
    async with journal(path) as own:
        assert (await own.item("a")).state is ItemState.UNCERTAIN
    path.unlink()
    path.with_name("batch.db.lock").unlink()
    async with journal(path) as own:
        assert not await own.items()


@pytest.mark.parametrize("whole_folder", [False, True])
async def test_a_journal_that_is_removed_while_it_is_in_use_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_folder: bool
) -> None:
    """SQLite goes on in a file without a name: what is paid would be forgotten. (A9, J8)"""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "films" / "batch.db"
    path.parent.mkdir()
    async with journal(path) as own:
        await own.plan([film("a"), film("b"), film("c")])
        for key in "ab":
            await own.intend(key, f"t-{key}", "print", None)
        accepted = Transition(ItemEvent.ACCEPT, task_id="task_a")
        await own.settle("a", attempt("t-a", Verdict.ACCEPTED, "task_a"), accepted)
        if whole_folder:
            shutil.rmtree(path.parent)
        else:
            path.unlink()

        with pytest.raises(JournalError, match=r"batch\.db was removed .* sends nothing more"):
            await own.intend("c", "t-c", "print", None)
        assert path.exists(), "a second Ctrl-C may come before it is closed"
        accepted = Transition(ItemEvent.ACCEPT, task_id="task_b")
        with pytest.raises(JournalError, match="its id is written down in"):
            await own.settle("b", attempt("t-b", Verdict.ACCEPTED, "task_b"), accepted)

    async with journal(path) as own:
        assert [(item.key, item.task_id) for item in await own.items()] == [
            ("a", "task_a"),
            ("b", "task_b"),
            ("c", None),
        ]
        assert (await own.item("c")).state is ItemState.PLANNED
        assert not await own.verify()


async def test_a_removed_journal_replaces_no_other(path: Path) -> None:
    """Somebody has begun anew in its place: both are there in the end."""
    async with journal(path) as own:
        await own.plan([film("a")])
        await own.intend("a", "t-a", "print", None)
        for left in path.parent.glob("batch.db*"):
            left.unlink()
        async with journal(path) as other:
            await other.plan([film("b")])

    async with journal(path) as other:
        assert [item.key for item in await other.items()] == ["b"]
    async with journal(path.with_name("batch.db.removed")) as own:
        assert (await own.item("a")).state is ItemState.UNCERTAIN


async def test_a_journal_that_is_removed_again_comes_back_again(path: Path) -> None:
    """Whoever cleans up sees that it is still there. (J8)"""
    async with journal(path) as own:
        await own.plan([film("a"), film("b")])
        await own.intend("a", "t-a", "print", None)
        path.unlink()
        with pytest.raises(JournalError, match="sends nothing more"):
            await own.intend("b", "t-b", "print", None)
        path.unlink()

    async with journal(path) as own:
        assert (await own.item("a")).state is ItemState.UNCERTAIN


@pytest.mark.parametrize("circle", [False, True])
async def test_a_removed_journal_that_cannot_come_back_keeps_no_lock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, circle: bool
) -> None:
    """A file is where its folder was, or a link. Whoever has a copy goes on with that. (J8)"""
    path, copy = tmp_path / "films" / "batch.db", tmp_path / "copy.db"
    path.parent.mkdir()
    async with journal(path) as own:
        await own.plan([film("a")])
        await own.intend("a", "t-a", "print", None)
        await own.backup(copy)
        shutil.rmtree(path.parent)
        if circle:
            path.parent.symlink_to(path.parent)
        else:
            path.parent.touch()
    assert "was removed while in use, and cannot be put back" in caplog.text

    async with journal(copy) as own:
        assert (await own.item("a")).state is ItemState.UNCERTAIN


async def test_a_journal_that_sent_nothing_may_go(path: Path) -> None:
    """Nothing would be paid again."""
    async with journal(path) as own:
        await own.plan([film("a")])
    path.unlink()

    async with journal(path) as own:
        assert not await own.items()
