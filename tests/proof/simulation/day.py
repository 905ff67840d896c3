"""A day of work: one service, one journal, thousands of films, and a crash in every hour.

    python tests/proof/simulation/day.py --hours 24 --crashes 24 --seed 1

In each hour films are added four times; for ten minutes the service has faults, which are drawn
anew; and the machine dies at some step and restarts. Without crashes one client, one limiter and
one batch live all day. It shows what no short run shows: memory and descriptors that grow, and
work that grows with the journal.

Exits with 1 when a promise was broken, memory grew by 1 MB an hour after the first one, or
descriptors were left open.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / folder) for folder in ("proof", ".", "support", "..")
)

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
import random
import shutil
import sqlite3
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import attrs
from simulation.archive import Archive
from simulation.dead_hosts import end, release
from simulation.loop import Deadlock
from simulation.plans import Plan, draw_plan
from simulation.runs import MEMORY, silenced
from simulation.simulation_run import MAX_LIFE, NEVER, SimulationRun, serving

import apikley_async
from apikley_async import Client, Shot, Storyboard
from apikley_async.batch import Batch, ItemState
from apikley_async.simulator import RandomFaults

__all__ = ["Day", "Hour", "day"]

HOUR = 3600.0
ADDITIONS = 4  # in each hour
BUSY = 2400.0  # seconds of an hour over which they are spread
FAULTY = 600.0  # seconds of an hour in which the service has faults
FAULT_SHARE = 0.5  # of the shares that shorter runs have
CRASH_BY = 3300.0  # seconds of an hour, by which its crash has happened
PAUSES = (0.5, 30.0, 300.0)  # seconds until a machine restarts
STEPS = 100  # for each film, until an hour has shown the real number
PAUSE_BETWEEN_RUNS = 30.0  # between two runs of the batch
MAX_GROWTH = 1.0  # MB an hour, after the first one
MIN_HOURS = 6  # of a day whose growth counts; in the first ones caches fill
PACKAGE = Path(apikley_async.__file__).parent


@attrs.frozen
class Hour:
    """The state at the end of an hour; films, payments and crashes are those of the day so far."""

    number: int
    done: int
    failed: int
    uncertain: int
    paid: int
    crashes: int
    memory: float
    """Resident MB."""
    package: float
    """MB that the package holds by itself, where that is traced."""
    faults: int
    """Faults of the service."""
    descriptors: int
    connections: int
    scratch: int
    """Unnamed temporary files of SQLite."""
    broken: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.number:4} {self.done:6} {self.failed:6} {self.uncertain:9} {self.paid:6} "
            f"{self.crashes:7} {self.faults:6} {self.memory:9.2f} {self.package:10.3f} "
            f"{self.descriptors:11} {self.connections:5} {self.scratch:7} {self.broken:6} "
            f"{self.seconds:7.1f}"
        )

    @property
    def lasting(self) -> int:
        """The descriptors without connections and temporary files."""
        return self.descriptors - self.connections - self.scratch


HEAD = (
    "hour   done failed uncertain   paid crashes faults memory/MB package/MB descriptors lines "
    "scratch broken seconds"
)


@attrs.define
class Day:
    """The result of a day."""

    hours: list[Hour] = attrs.Factory(list)
    broken: list[str] = attrs.Factory(list)
    states: dict[str, int] = attrs.Factory(dict)
    paid: int = 0
    seconds: float = 0.0
    grown: list[str] = attrs.Factory(list)
    """The lines of the package whose memory has grown most, when it is traced."""

    @property
    def growth(self) -> float:
        """MB an hour, after the first one."""
        grown = [hour.memory - self.hours[0].memory for hour in self.hours]
        return grown[-1] / max(1, len(grown) - 1) if grown else 0.0

    @property
    def is_flat(self) -> bool:
        """Whether no hour ends with more descriptors than the first."""
        return all(hour.lasting <= self.hours[0].lasting for hour in self.hours)

    @property
    def is_good(self) -> bool:
        grows = len(self.hours) >= MIN_HOURS and self.growth >= MAX_GROWTH
        return not self.broken and self.is_flat and not grows

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        flat = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{'good' if self.is_good else 'BROKEN'}: {states}; {self.paid} paid; "
            f"{self.growth:+.3f} MB an hour after the first, descriptors {flat}, "
            f"{len(self.broken)} broken; {self.seconds:.0f} s"
        )


class DayRun(SimulationRun):
    """A run whose first life is a whole day."""

    def __init__(self, plan: Plan, root: Path, *, hours: int, an_hour: int, crashes: int) -> None:
        super().__init__(plan, root)
        self.day = Day()
        self.on_hour: Callable[[Hour], None] = lambda hour: None
        self._root = root
        self._hours, self._an_hour, self._crashes = hours, an_hour, crashes
        self._archive = Archive(root / "attic", self.simulator)
        self._additions = additions(hours, an_hour)
        self._added = 0
        self.started = time.monotonic()
        self._before: tracemalloc.Snapshot | None = None

    # --- the day --------------------------------------------------------------------------------

    async def life(
        self, kill: int | None, acts: Mapping[int, Any] = MappingProxyType({}), **more: Any
    ) -> None:
        """The day instead of a life with faults; then lives without faults as in any run."""
        if kill is None:
            await super().life(kill, acts, **more)
        else:
            await self._day()

    async def _day(self) -> None:
        self.simulator.faults = None
        self._begin()
        for number in range(self._hours):
            await self._hour(number)
        self._mark_growth()
        async with asyncio.timeout(MAX_LIFE):
            await self.current
        self._check_end(self.current, expected=False)
        self.loop.mortal = ""

    async def _hour(self, number: int) -> None:
        rng = random.Random(f"hour {self.plan.seed} {number}")
        began, crashes = number * HOUR, self.report.died
        steps = self.loop.steps
        self._schedule_faults(rng, began)
        if dies := number < self._crashes:
            usual = int(0.9 * steps / number) if number else STEPS * self._an_hour
            self.loop.kill_at = steps + rng.randint(1, usual)
        await self._until(began + CRASH_BY)
        if dies and self.report.died == crashes:
            self.loop.kill(self.loop.mortal)
        await self._until(began + HOUR)
        self._read(number + 1)

    def _schedule_faults(self, rng: random.Random, began: float) -> None:
        """Give ten minutes of this hour faults."""
        mixes = self.plan.mixes
        while not {"create", "record"} <= {end for end, _ in mixes}:
            mixes = draw_plan(rng.getrandbits(32)).mixes
        mild = tuple(
            (end, tuple((n, FAULT_SHARE * share) for n, share in mix)) for end, mix in mixes
        )
        faults = attrs.evolve(self.plan, seed=rng.getrandbits(32), mixes=mild).faults
        starts = began + rng.uniform(0.0, BUSY - 1.5 * FAULTY)
        self.loop.call_at(starts, self._set_faults, faults)
        self.loop.call_at(starts + FAULTY, self._set_faults, None)

    def _set_faults(self, faults: RandomFaults | None) -> None:
        self.simulator.faults = faults

    # --- lives ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.lives += 1
        self.killed = self.loop.create_future()
        self.loop.mortal = f"life {self.lives}"
        self.current = self.on(self.loop.mortal, self.live())

    async def _until(self, when: float) -> None:
        """Run the machine, and restart it when it dies."""
        while (left := when - self.loop.time()) > 0:
            ends = asyncio.FIRST_COMPLETED
            done, _ = await asyncio.wait(
                {self.current, self.killed}, timeout=left, return_when=ends
            )
            if self.killed.done():
                del done
                await self._restart()
            elif done:
                self._check_end(self.current, expected=False)
                self._begin()

    async def _restart(self) -> None:
        """Release the dead machine while the folder is still its own; then start the next life."""
        self.loop.mortal, self.loop.kill_at = "", None
        del self.current
        self.client = self.limiter = None
        release(self.loop)
        self.disk.close_dead_files()
        self.disk.revive()
        for left in self._root.glob("dead-*"):
            shutil.rmtree(left)
        self.disk.power_cuts = self.rng.random() < 0.4
        await asyncio.sleep(self.rng.choice(PAUSES))
        self._begin()

    async def live(self) -> None:
        """The user's program."""
        client, callback = self.new_client()
        self.watch_submissions(client)
        batch = Batch.open(self.disk.place / "batch.db", clock=self.clock)
        async with client, self._leaves_no_tasks("BatchRun."), batch, serving(callback):
            await self._add(batch, wait=False)
            async with asyncio.TaskGroup() as work:
                _ = work.create_task(self._add(batch, wait=True))
                await self._work(batch, client)
            if self._finished:
                self.report.states = {item.key: item.state.value async for item in batch.items()}

    @property
    def _finished(self) -> bool:
        return self._added == len(self._additions) and self.loop.time() >= self._hours * HOUR

    async def _add(self, batch: Batch, *, wait: bool) -> None:
        """Add the films that are due; with *wait* also the later ones, in their time."""
        while self._added < len(self._additions):
            at, first, last = self._additions[self._added]
            if (left := at - self.loop.time()) > 0:
                if not wait:
                    return
                await asyncio.sleep(left)
            await batch.add(storyboards(first, last))
            self._added += 1

    async def _work(self, batch: Batch, client: Client) -> None:
        """Run the batch again and again until the day is over."""
        while True:
            began = self.loop.time()
            folder, running = self.disk.place / "films", self.plan.running
            async for item in batch.run(client, folder=folder, max_running=running):
                if item.task_id is not None:
                    self.require_row("task_id", "item", item.task_id, "I6: the program has")
                self._check_polling(item.key, item.state, self.loop.time() - began)
            if self._finished:
                return
            await asyncio.sleep(PAUSE_BETWEEN_RUNS)

    # --- measuring ----------------------------------------------------------------------------

    def _read(self, number: int) -> None:
        """Archive what has ended, and measure memory and descriptors."""
        self._archive.store(self.disk.place)
        if not self._crashes:
            self.disk.synced_names.clear()  # no power cut will need them
            self.disk.synced_sizes.clear()
        release(self.loop)
        with contextlib.closing(sqlite3.connect(self.disk.place / "batch.db")) as db:
            counts = dict(db.execute("SELECT state, count(*) FROM item GROUP BY state").fetchall())
        if number == 1 and tracemalloc.is_tracing():
            self._before = of_package()
        hour = Hour(
            number=number,
            done=counts.get(ItemState.DONE, 0),
            failed=counts.get(ItemState.FAILED, 0),
            uncertain=counts.get(ItemState.UNCERTAIN, 0),
            paid=self._archive.paid,
            crashes=self.report.died,
            memory=resident(),
            package=traced(),
            faults=self._archive.faults,
            descriptors=len(descriptors()),
            connections=sum(e.sock is not None for e in self.loop.network.open.values()),
            scratch=sum("/etilqs_" in name for name in descriptors()),
            broken=len(self.report.broken),
            seconds=time.monotonic() - self.started,
        )
        self.day.hours.append(hour)
        self.on_hour(hour)

    def _mark_growth(self) -> None:
        if self._before is not None:
            differences = of_package().compare_to(self._before, "lineno")
            self.day.grown = [str(line).replace(f"{PACKAGE}/", "") for line in differences[:15]]

    def _check_no_task_is_left(self, host: str, kind: str) -> None:
        if host not in self.loop.dead:  # dead machines end their tasks when they are released
            super()._check_no_task_is_left(host, kind)

    def check(self) -> None:
        """Restore everything, and compare it with the promises."""
        self._archive.restore(self.disk.place)
        super().check()


def additions(hours: int, an_hour: int) -> list[tuple[float, int, int]]:
    """When films are added, and which: the first number and the one after the last."""
    planned = []
    for hour in range(hours):
        marks = [hour * an_hour + an_hour * part // ADDITIONS for part in range(ADDITIONS + 1)]
        for part in range(ADDITIONS):
            at = hour * HOUR + BUSY * part / ADDITIONS
            planned.append((at, marks[part], marks[part + 1]))
    return planned


def storyboards(first: int, last: int) -> list[tuple[str, Storyboard]]:
    """Films with different scenes."""
    return [
        (f"k{n}", Storyboard([Shot(f"The scene of k{n}.", 5)], duration=10))
        for n in range(first, last)
    ]


def resident() -> float:
    """The resident MB of this process, after free memory was returned."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> list[str]:
    """The open files of this process."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the folder itself
            names.append(str(entry.readlink()))
    return names


def of_package() -> tracemalloc.Snapshot:
    """What the package's own lines have allocated, without the simulator."""
    inside = tracemalloc.Filter(True, f"{PACKAGE}/*")
    outside = tracemalloc.Filter(False, f"{PACKAGE}/simulator/*")
    return tracemalloc.take_snapshot().filter_traces([inside, outside])


def traced() -> float:
    """MB of the package by itself; 0.0 when memory is not traced."""
    if not tracemalloc.is_tracing():
        return 0.0
    return sum(line.size for line in of_package().statistics("filename")) / 2**20


def day(
    hours: int = 24,
    films_an_hour: int = 360,
    *,
    crashes: bool | int = True,
    seed: int = 1,
    on_hour: Callable[[Hour], None] = lambda hour: None,
) -> Day:
    """Run a day, and call *on_hour* after each hour. *crashes*: in every hour, or in so many."""
    number = hours if crashes is True else int(crashes)
    plan = Plan(
        seed=seed,
        films=0,
        running=100,
        kills=(NEVER,) if number else (),
        callbacks=True,
        mixes=(("create", ()),),
    )
    root = Path(tempfile.mkdtemp(prefix="apikley-", dir=MEMORY if MEMORY.is_dir() else None))
    with silenced():
        run = DayRun(plan, root, hours=hours, an_hour=films_an_hour, crashes=number)
        run.on_hour = on_hour
        run.loop.set_exception_handler(lambda _loop, context: None)
        asyncio.set_event_loop(run.loop)
        try:
            with run.disk.watched():
                run.loop.run_until_complete(run.play())
        except Deadlock as error:
            run.report.broken.append(f"I9: nothing can happen any more: {error}")
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - any error breaks a promise
            run.report.broken.append(f"I9: the day breaks off: {type(error).__name__}: {error}")
        finally:
            asyncio.set_event_loop(None)
            with run.disk.watched():
                end(run.loop)
            shutil.rmtree(root, ignore_errors=True)
            run.loop.close()
            gc.collect()
    return summarised(run)


def summarised(run: DayRun) -> Day:
    report, result = run.report, run.day
    states = [*report.states.values()]
    result.broken, result.paid = report.broken, report.paid
    result.states = {state: states.count(state) for state in {*states}}
    result.seconds = time.monotonic() - run.started
    return result


def run_and_print(hours: int, crashes: int, seed: int) -> int:
    """Run a day and print its hours and its result; the exit code, 1 when it is not good."""
    print(HEAD, flush=True)
    result = day(hours, crashes=crashes, seed=seed, on_hour=lambda hour: print(hour, flush=True))
    for line in [*result.broken[:20], *result.grown]:
        print(f"  {line[:1000]}")
    print(f"day {seed}: {result}", flush=True)
    return 0 if result.is_good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--crashes", type=int, help="hours with a crash; by default all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="the package's own memory; slow")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # dead machines leave coroutines behind
    sys.unraisablehook = lambda _: None
    if options.trace:
        tracemalloc.start()
    crashes = options.hours if options.crashes is None else options.crashes
    return run_and_print(options.hours, crashes, options.seed)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # dead machines need no cleanup at the end
