"""A short share of the simulation: the promises hold with faults, kills and power cuts.

`nox -s simulate` runs more of it, `nox -s prove` as many as wanted; `prove.py one` repeats a plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import random
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from simulation.day import day, descriptors
from simulation.dead_hosts import release
from simulation.disk import Disk
from simulation.loop import HOST, Deadlock, SimLoop
from simulation.pacing import paced
from simulation.plans import Plan, at_every_step, draw_plan, quiet, read, to_line
from simulation.prove import find_mutant, fingerprint_elsewhere, shrunk
from simulation.runs import run, silenced
from volume import LONG, volume

from apikley_async.batch.store import journal_file

CORPUS = Path(__file__).with_name("corpus.jsonl").read_text(encoding="utf-8").splitlines()
SCENARIOS = (3, 5)  # one without callbacks, one with

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # coroutines of dead machines
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # and their files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(300),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect the dead machines of a test before the next one begins: they do nothing any more."""
    yield
    complaints: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, complaints.append
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert [str(each) for each in complaints] == []


def broken(plans: Iterable[Plan]) -> list[str]:
    """The broken promises, each with the plan that repeats it."""
    return [
        f"{'; '.join(report.broken)}\n{to_line(report.plan)}"
        for report in map(run, plans)
        if report.broken
    ]


def each(kind: str, seed: int, every: int) -> list[Plan]:
    """An event at some steps of a scenario's first life, *every* so many."""
    every *= volume(5, 1)
    base = quiet(seed)
    return at_every_step(kind, base, range(1 + seed % every, run(base).first_life, every))


@pytest.mark.parametrize("first", range(0, volume(5, 40), 5))
def test_the_promises_hold_whatever_happens(first: int) -> None:
    """Random faults, crashes and power cuts break none of I1 to I13 (J1, J9, W6)."""
    assert broken(map(draw_plan, range(first, first + 5))) == []


@pytest.mark.parametrize("seed", volume(SCENARIOS[-1:], SCENARIOS))
@pytest.mark.parametrize(("kind", "every"), [("kills", 29), ("power", 37), ("cancels", 31)])
def test_the_promises_hold_at_every_step(kind: str, every: int, seed: int) -> None:
    """A kill, a power cut, a cancel or a close may come at any step (I1 to I13)."""
    plans = each(kind, seed, every)

    assert len(plans) > volume(1, 10)
    assert broken(plans) == []


@pytest.mark.parametrize("line", CORPUS, ids=lambda line: str(read(line).seed))
def test_plans_that_failed_once_pass(line: str) -> None:
    """Each plan in the corpus keeps the promises now."""
    assert broken([read(line)]) == []


def test_one_number_gives_one_history() -> None:
    """Processes with other hash seeds see the same requests, polls and ends at the same times."""
    histories = {fingerprint_elsewhere(0, volume(2, 8), salt) for salt in ("1", "77")}

    assert len(histories) == 1


@pytest.mark.parametrize(
    "name",
    [
        "skip the intent",
        # The second takes half a minute; `nox -s simulate` plants these and others.
        *volume([], ["show the key to the host of files", "do not undo a step that failed"]),
    ],
)
def test_a_planted_mistake_is_noticed(name: str) -> None:
    """The simulation fails when the package has a mistake."""
    _, number, what = find_mutant(name, runs=100)

    assert number, what


@pytest.mark.parametrize("window", volume(["sliding"], ["fixed", "sliding"]))
def test_the_rate_limit_is_used_and_never_exceeded(window: Literal["fixed", "sliding"]) -> None:
    """Many submissions, late responses: none is refused, at 96 % of the limit (I7)."""
    result = paced(volume(200, 400), window)

    assert result["refused"] == 0
    assert result["share"] >= 0.96


@pytest.mark.parametrize("crashes", [True, *([False] if LONG else [])])
def test_a_long_run_keeps_its_promises_and_leaks_nothing(crashes: bool) -> None:
    """Two hours of one journal, with a crash in each or with none: no descriptor is left (N8)."""
    films = volume(4, 20)
    result = day(hours=2, films_an_hour=films, crashes=crashes, seed=3)

    assert result.broken == []
    assert result.is_flat
    assert (result.hours[-1].crashes, result.paid) == (2 * crashes, 2 * films)


# --- the simulation itself -----------------------------------------------------------------------


def test_a_plan_can_be_written_and_read() -> None:
    """The line that a failure prints gives the same plan."""
    plans = [draw_plan(seed) for seed in range(50)]

    assert [read(to_line(plan)) for plan in plans] == plans


def test_a_deadlock_is_an_error() -> None:
    """When nothing is scheduled and a task waits, the error names it (I9)."""
    loop = SimLoop(random.Random(1))

    async def waits_forever() -> None:
        await loop.create_future()

    with pytest.raises(Deadlock, match="waits_forever"), silenced():
        loop.run_until_complete(waits_forever())
    loop.close()


def test_an_unexpected_error_breaks_a_promise() -> None:
    """It does not end the runner, and is reported with its plan."""
    impossible = attrs.evolve(draw_plan(1), running=0)

    report = run(impossible)

    assert any(line.startswith("I9:") for line in report.broken)


def test_the_plan_of_a_failure_is_shrunk() -> None:
    """Faults, films and events that it does not need are left out."""
    plan = attrs.evolve(draw_plan(5), running=0, kills=(), films=3)

    small = shrunk(plan, run(plan).broken)

    assert (small.films, small.mixes, small.callbacks) == (1, (), False)


TOUCHES: dict[str, Callable[[Path], object]] = {
    "removes": Path.unlink,
    "cuts": lambda file: os.truncate(file, 0),
    "moves": lambda file: file.rename(file.with_name("moved")),
    "writes": lambda file: os.close(os.open(file, os.O_WRONLY | os.O_TRUNC)),
}


@pytest.mark.parametrize("touches", TOUCHES)
def test_a_dead_machine_changes_no_file_of_the_next_life(tmp_path: Path, touches: str) -> None:
    """Although its `finally` blocks try."""
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

    with silenced(), disk.watched():
        killed(loop, lives())
        disk.revive()
        release(loop)

    assert tried == [touches]
    assert file.read_bytes() == b"whole"
    assert not loop.tasks
    assert not loop._scheduled
    loop.close()


def test_a_dead_machine_closes_its_journal(tmp_path: Path) -> None:
    """The log of the next life stays where it is."""
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

    with silenced(), disk.watched():
        killed(loop, lives())
        release(loop)
        disk.close_dead_files()
        disk.revive()

    assert not [name for name in descriptors() if name.startswith(str(tmp_path))]
    assert Path(f"{journal}-wal").stat().st_size
    with contextlib.closing(sqlite3.connect(journal)) as db:
        assert db.execute("SELECT count(*) FROM film").fetchone() == (0,)
    loop.close()


def killed(loop: SimLoop, work: Coroutine[Any, Any, None]) -> None:
    """Run a machine until it waits, and kill it."""
    context = contextvars.copy_context()
    context.run(HOST.set, "life 1")
    _ = loop.create_task(work, context=context)
    loop.run_until_complete(asyncio.sleep(1))
    loop.kill("life 1")
