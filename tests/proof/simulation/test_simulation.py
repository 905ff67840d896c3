"""A short share of the simulation: the promises hold in a world with faults, kills, power cuts.

`nox -s simulate` runs more of it, `nox -s prove` as much as wanted; `prove.py one` repeats a plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import random
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from simulation.burial import bury
from simulation.day import day, descriptors
from simulation.disk import Disk
from simulation.loop import HOST, Deadlock, SimLoop
from simulation.pacing import paced
from simulation.plans import Plan, at_every_step, drawn, quiet, read, spelled
from simulation.prove import hunted, shrunk, told_elsewhere
from simulation.runs import run, unheard
from volume import LONG, volume

from apikley_async.batch.store import journal_file

CORPUS = Path(__file__).with_name("corpus.jsonl").read_text(encoding="utf-8").splitlines()
SCENARIOS = (3, 5)  # one without callbacks, one with

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # coroutines of the dead
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # and their files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(300),
]


@pytest.fixture(autouse=True)
def buried() -> Iterator[None]:
    """Bury the dead of a test before the next one begins."""
    yield
    with unheard():
        gc.collect()


def broken(plans: Iterable[Plan]) -> list[str]:
    """What was broken, each with the line that repeats it."""
    return [
        f"{'; '.join(report.broken)}\n{spelled(report.plan)}"
        for report in map(run, plans)
        if report.broken
    ]


def each(kind: str, seed: int, every: int) -> list[Plan]:
    """A trouble at every so-many-th step of a scenario's first life."""
    every *= volume(5, 1)
    base = quiet(seed)
    return at_every_step(kind, base, range(1 + seed % every, run(base).first_life, every))


@pytest.mark.parametrize("first", range(0, volume(20, 40), 20))
def test_the_promises_hold_whatever_happens(first: int) -> None:
    """Faults, crashes and power cuts by chance break none of I1 to I13 (J1, J9, W6)."""
    assert broken(map(drawn, range(first, first + 20))) == []


@pytest.mark.parametrize("seed", SCENARIOS)
@pytest.mark.parametrize(("kind", "every"), [("kills", 29), ("power", 37), ("cancels", 31)])
def test_the_promises_hold_at_every_step(kind: str, every: int, seed: int) -> None:
    """A kill, a power cut, a cancel or a close may come at any step (I1 to I13)."""
    plans = each(kind, seed, every)

    assert len(plans) > volume(1, 10)
    assert broken(plans) == []


@pytest.mark.parametrize("line", CORPUS, ids=lambda line: str(read(line).seed))
def test_what_was_found_stays_mended(line: str) -> None:
    """Each plan that once broke a promise, or looked so, holds now."""
    assert broken([read(line)]) == []


def test_one_number_gives_one_history() -> None:
    """Processes with other hash seeds see the same requests, looks and ends at the same times."""
    told = {told_elsewhere(0, volume(4, 8), salt) for salt in ("1", "77")}

    assert len(told) == 1


@pytest.mark.parametrize(
    "name",
    [
        "skip the intent",
        "show the key to the host of files",
        *(["do not undo a step that failed"] if LONG else []),  # takes half a minute
    ],
)
def test_a_mistake_of_ours_is_noticed(name: str) -> None:
    """The simulation sees what it is there to see."""
    _, number, what = hunted(name, runs=100)

    assert number, what


@pytest.mark.parametrize("window", ["fixed", "sliding"])
def test_the_limit_is_used_and_never_passed(window: Literal["fixed", "sliding"]) -> None:
    """400 submissions, late answers: no refusal of our own making, at 96 % of the limit (I7)."""
    told = paced(400, window)

    assert told["refused"] == 0
    assert told["share"] >= 0.96


@pytest.mark.parametrize("crashes", [True, *([False] if LONG else [])])
def test_a_long_run_keeps_its_promises_and_lets_go(crashes: bool) -> None:
    """Two hours of one journal, with a crash in each or with none: no descriptor is left (N8)."""
    films = volume(4, 20)
    came = day(hours=2, films_an_hour=films, crashes=crashes, seed=3)

    assert came.broken == []
    assert came.is_flat
    assert (came.hours[-1].crashes, came.paid) == (2 * crashes, 2 * films)


# --- the simulation itself -----------------------------------------------------------------------


def test_a_plan_survives_its_line() -> None:
    """What a failure prints is what is run again."""
    plans = [drawn(seed) for seed in range(50)]

    assert [read(spelled(plan)) for plan in plans] == plans


def test_nobody_waits_unseen() -> None:
    """When nothing is scheduled and somebody waits, that is told with a name (I9)."""
    loop = SimLoop(random.Random(1))

    async def waits_for_ever() -> None:
        await loop.create_future()

    with pytest.raises(Deadlock, match="waits_for_ever"), unheard():
        loop.run_until_complete(waits_for_ever())
    loop.close()


def test_a_story_that_breaks_off_is_a_violation() -> None:
    """An error that nobody foresaw does not end the runner; it is told with its plan."""
    impossible = attrs.evolve(drawn(1), running=0)

    report = run(impossible)

    assert any(line.startswith("I9:") for line in report.broken)


def test_a_failure_shrinks() -> None:
    """What a failure does not need is left out of its plan."""
    plan = attrs.evolve(drawn(5), running=0, kills=(), films=3)

    small = shrunk(plan, run(plan).broken)

    assert (small.films, small.mixes, small.callbacks) == (1, (), False)


TOUCHES: dict[str, Callable[[Path], object]] = {
    "removes": Path.unlink,
    "cuts": lambda file: os.truncate(file, 0),
    "moves": lambda file: file.rename(file.with_name("moved")),
    "writes": lambda file: os.close(os.open(file, os.O_WRONLY | os.O_TRUNC)),
}


@pytest.mark.parametrize("touches", TOUCHES)
def test_the_dead_touch_nothing_of_the_living(tmp_path: Path, touches: str) -> None:
    """What a dead program's `finally` would do to a file of the next life is not done."""
    loop = SimLoop(random.Random(1))
    disk = Disk(loop, tmp_path, random.Random(1))
    loop.on_kill = disk.die
    file = disk.place / "film.mp4"
    file.write_bytes(b"whole")
    tried = []

    async def lives() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            try:
                await asyncio.sleep(1)  # as closing a client does
            finally:
                tried.append(touches)
                TOUCHES[touches](file)

    with unheard(), disk.watched():
        killed(loop, lives())
        disk.revive()
        bury(loop)

    assert tried == [touches]
    assert file.read_bytes() == b"whole"
    assert not loop.tasks
    assert not loop._scheduled
    loop.close()


def test_the_dead_let_go_of_their_journal(tmp_path: Path) -> None:
    """A journal that was open is closed with its machine; the log stays the next life's."""
    loop = SimLoop(random.Random(1))
    disk = Disk(loop, tmp_path, random.Random(1))
    loop.on_kill = disk.die
    journal = disk.place / "batch.db"
    journal.touch()

    async def lives() -> None:
        db = journal_file.connect(journal)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE film (key)")
        await asyncio.sleep(60)

    with unheard(), disk.watched():
        killed(loop, lives())
        bury(loop)
        disk.let_go()
        disk.revive()

    assert not [name for name in descriptors() if name.startswith(str(tmp_path))]
    assert Path(f"{journal}-wal").stat().st_size
    with contextlib.closing(sqlite3.connect(journal)) as db:
        assert db.execute("SELECT count(*) FROM film").fetchone() == (0,)
    loop.close()


def killed(loop: SimLoop, work: Coroutine[Any, Any, None]) -> None:
    """Let a machine work until it waits, and die."""
    context = contextvars.copy_context()
    context.run(HOST.set, "life 1")
    _ = loop.create_task(work, context=context)
    loop.run_until_complete(asyncio.sleep(1))
    loop.kill("life 1")
