"""A day of work: one service, one journal, thousands of films, and a crash in every hour.

    python tests/proof/simulation/day.py --hours 24 --crashes 24 --seed 1

In each hour films are added in bites; for ten minutes of it the service is in trouble, of a kind
that is drawn anew; and the machine dies at some step and comes back. Without crashes one client,
one limiter and one batch live all day. What no short run shows is shown here: memory and
descriptors that grow, and work that grows with the journal.

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
from simulation.attic import Attic
from simulation.burial import bury
from simulation.loop import Deadlock
from simulation.plans import Plan, drawn
from simulation.runs import MEMORY, unheard
from simulation.world import LONGEST, NEVER, World, served

import apikley_async
from apikley_async import Client, Shot, Storyboard
from apikley_async.batch import Batch, ItemState
from apikley_async.simulator import RandomFaults

__all__ = ["Day", "Hour", "day"]

HOUR = 3600.0
BITES = 4  # in each hour
BUSY = 2400.0  # seconds of an hour over which they are spread; then it becomes quiet
TROUBLE = 600.0  # seconds of an hour in which the service errs
MILD = 0.5  # of the shares that shorter runs have
LAST_CALL = 3300.0  # seconds of an hour by which its crash has come
PAUSES = (0.5, 30.0, 300.0)  # until a machine is back
STEPS = 100  # for each film, until an hour has shown how many there are
BREATH = 30.0  # between two runs of the batch
MOST_GROWTH = 1.0  # MB an hour, after the first one
TELLING = 6  # hours; what grows in the first ones is a program getting warm
PACKAGE = Path(apikley_async.__file__).parent


@attrs.frozen
class Hour:
    """How things stand at the end of an hour; films, payments and crashes since the day began."""

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
    """What the service has done wrong."""
    descriptors: int
    connections: int
    scratch: int
    """Files that SQLite makes for itself where a list is long, and no name leads to."""
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
        """The descriptors that stay when nothing is under way."""
        return self.descriptors - self.connections - self.scratch


HEAD = (
    "hour   done failed uncertain   paid crashes faults memory/MB package/MB descriptors lines "
    "scratch broken seconds"
)


@attrs.define
class Day:
    """What came of a day."""

    hours: list[Hour] = attrs.Factory(list)
    broken: list[str] = attrs.Factory(list)
    states: dict[str, int] = attrs.Factory(dict)
    paid: int = 0
    seconds: float = 0.0
    grown: list[str] = attrs.Factory(list)
    """The lines of the package whose memory has grown most, where that is traced."""

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
    def is_well(self) -> bool:
        grows = len(self.hours) >= TELLING and self.growth >= MOST_GROWTH
        return not self.broken and self.is_flat and not grows

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        flat = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{'well' if self.is_well else 'BROKEN'}: {states}; {self.paid} paid; "
            f"{self.growth:+.3f} MB an hour after the first, descriptors {flat}, "
            f"{len(self.broken)} broken; {self.seconds:.0f} s"
        )


class LongWorld(World):
    """A world whose first life is a whole day."""

    def __init__(self, plan: Plan, root: Path, *, hours: int, an_hour: int, crashes: int) -> None:
        super().__init__(plan, root)
        self.day = Day()
        self.told: Callable[[Hour], None] = lambda hour: None
        self._root = root
        self._hours, self._an_hour, self._crashes = hours, an_hour, crashes
        self._attic = Attic(root / "attic", self.simulator)
        self._bites = bites(hours, an_hour)
        self._added = 0
        self._began = time.monotonic()
        self._before: tracemalloc.Snapshot | None = None

    # --- the story ------------------------------------------------------------------------------

    async def life(
        self, kill: int | None, acts: Mapping[int, Any] = MappingProxyType({}), **more: Any
    ) -> None:
        """The day, where a short run has its life with faults; then lives as ever."""
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
        async with asyncio.timeout(LONGEST):
            await self.current
        self._check_end(self.current, expected=False)
        self.loop.mortal = ""

    async def _hour(self, number: int) -> None:
        rng = random.Random(f"hour {self.plan.seed} {number}")
        began, crashes = number * HOUR, self.report.died
        steps = self.loop.steps
        self._let_it_rain(rng, began)
        if dies := number < self._crashes:
            usual = int(0.9 * steps / number) if number else STEPS * self._an_hour
            self.loop.kill_at = steps + rng.randint(1, usual)
        await self._until(began + LAST_CALL)
        if dies and self.report.died == crashes:
            self.loop.kill(self.loop.mortal)
        await self._until(began + HOUR)
        self._read(number + 1)

    def _let_it_rain(self, rng: random.Random, began: float) -> None:
        """Ten minutes of this hour are bad."""
        mixes = self.plan.mixes
        while not {"create", "record"} <= {end for end, _ in mixes}:
            mixes = drawn(rng.getrandbits(32)).mixes
        mild = tuple((end, tuple((n, MILD * share) for n, share in mix)) for end, mix in mixes)
        weather = attrs.evolve(self.plan, seed=rng.getrandbits(32), mixes=mild).faults
        starts = began + rng.uniform(0.0, BUSY - 1.5 * TROUBLE)
        self.loop.call_at(starts, self._set_faults, weather)
        self.loop.call_at(starts + TROUBLE, self._set_faults, None)

    def _set_faults(self, faults: RandomFaults | None) -> None:
        self.simulator.faults = faults

    # --- lives ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.lives += 1
        self.killed = self.loop.create_future()
        self.loop.mortal = f"life {self.lives}"
        self.current = self.on(self.loop.mortal, self.live())

    async def _until(self, when: float) -> None:
        """Let the machine live; when it dies, it comes back."""
        while (left := when - self.loop.time()) > 0:
            ends = asyncio.FIRST_COMPLETED
            done, _ = await asyncio.wait(
                {self.current, self.killed}, timeout=left, return_when=ends
            )
            if self.killed.done():
                del done
                await self._come_back()
            elif done:
                self._check_end(self.current, expected=False)
                self._begin()

    async def _come_back(self) -> None:
        """Bury the dead while the folder is still theirs; then let the next life begin."""
        self.loop.mortal, self.loop.kill_at = "", None
        del self.current
        self.client = self.limiter = None
        bury(self.loop)
        self.disk.let_go()
        self.disk.revive()
        for left in self._root.glob("dead-*"):
            shutil.rmtree(left)
        self.disk.power_cuts = self.rng.random() < 0.4
        await asyncio.sleep(self.rng.choice(PAUSES))
        self._begin()

    async def live(self) -> None:
        """What the program of the day does."""
        client, callback = self.a_client()
        self.overhear(client)
        batch = Batch.open(self.disk.place / "batch.db", clock=self.clock)
        async with client, self._seen_to_end("Run."), batch, served(callback):
            await self._add(batch, wait=False)
            async with asyncio.TaskGroup() as work:
                _ = work.create_task(self._add(batch, wait=True))
                await self._work(batch, client)
            if self._is_over:
                self.report.states = {item.key: item.state.value async for item in batch.items()}

    @property
    def _is_over(self) -> bool:
        return self._added == len(self._bites) and self.loop.time() >= self._hours * HOUR

    async def _add(self, batch: Batch, *, wait: bool) -> None:
        """Add the films whose time has come; *wait* for the others too."""
        while self._added < len(self._bites):
            at, first, last = self._bites[self._added]
            if (left := at - self.loop.time()) > 0:
                if not wait:
                    return
                await asyncio.sleep(left)
            await batch.add(boards(first, last))
            self._added += 1

    async def _work(self, batch: Batch, client: Client) -> None:
        """Run the batch again and again, as somebody would who leaves it on."""
        while True:
            began = self.loop.time()
            folder, running = self.disk.place / "films", self.plan.running
            async for item in batch.run(client, folder=folder, max_running=running):
                if item.task_id is not None:
                    self.must_stand("task_id", "item", item.task_id, "I6: somebody was told of")
                self._check_patience(item.key, item.state, self.loop.time() - began)
            if self._is_over:
                return
            await asyncio.sleep(BREATH)

    # --- what is read -------------------------------------------------------------------------

    def _read(self, number: int) -> None:
        """Put away what is over, and read memory and descriptors."""
        self._attic.put_away(self.disk.place)
        if not self._crashes:
            self.disk.synced_names.clear()  # nobody will ask
            self.disk.synced_sizes.clear()
        bury(self.loop)
        with contextlib.closing(sqlite3.connect(self.disk.place / "batch.db")) as db:
            counts = dict(db.execute("SELECT state, count(*) FROM item GROUP BY state").fetchall())
        if number == 1 and tracemalloc.is_tracing():
            self._before = of_package()
        hour = Hour(
            number=number,
            done=counts.get(ItemState.DONE, 0),
            failed=counts.get(ItemState.FAILED, 0),
            uncertain=counts.get(ItemState.UNCERTAIN, 0),
            paid=self._attic.paid,
            crashes=self.report.died,
            memory=resident(),
            package=traced(),
            faults=self._attic.faults,
            descriptors=len(descriptors()),
            connections=sum(e._sock is not None for e in self.loop.network.open.values()),
            scratch=sum("/etilqs_" in name for name in descriptors()),
            broken=len(self.report.broken),
            seconds=time.monotonic() - self._began,
        )
        self.day.hours.append(hour)
        self.told(hour)

    def _mark_growth(self) -> None:
        if self._before is not None:
            differences = of_package().compare_to(self._before, "lineno")
            self.day.grown = [str(line).replace(f"{PACKAGE}/", "") for line in differences[:15]]

    def _check_no_task_is_left(self, host: str, kind: str) -> None:
        if host not in self.loop.dead:  # the dead say so while they are buried
            super()._check_no_task_is_left(host, kind)

    def check(self) -> None:
        """Bring everything back, and hold it against the promises."""
        self._attic.bring_back(self.disk.place)
        super().check()


def bites(hours: int, an_hour: int) -> list[tuple[float, int, int]]:
    """When which films are added: the first and the one behind the last."""
    told = []
    for hour in range(hours):
        marks = [hour * an_hour + an_hour * bite // BITES for bite in range(BITES + 1)]
        for bite in range(BITES):
            at = hour * HOUR + BUSY * bite / BITES
            told.append((at, marks[bite], marks[bite + 1]))
    return told


def boards(first: int, last: int) -> list[tuple[str, Storyboard]]:
    """Films that can be told apart, by their numbers."""
    return [
        (f"k{n}", Storyboard([Shot(f"The scene of k{n}.", 5)], duration=10))
        for n in range(first, last)
    ]


def resident() -> float:
    """The resident MB of this process, when what is free has been given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> list[str]:
    """What this process holds open."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the folder itself
            names.append(str(entry.readlink()))
    return names


def of_package() -> tracemalloc.Snapshot:
    """What was allocated by the package's own lines, the simulator's aside."""
    inside = tracemalloc.Filter(True, f"{PACKAGE}/*")
    outside = tracemalloc.Filter(False, f"{PACKAGE}/simulator/*")
    return tracemalloc.take_snapshot().filter_traces([inside, outside])


def traced() -> float:
    """MB of the package by itself; 0.0 when nobody traces."""
    if not tracemalloc.is_tracing():
        return 0.0
    return sum(line.size for line in of_package().statistics("filename")) / 2**20


def day(
    hours: int = 24,
    films_an_hour: int = 360,
    *,
    crashes: bool | int = True,
    seed: int = 1,
    told: Callable[[Hour], None] = lambda hour: None,
) -> Day:
    """Let a day happen; *told* hears of each hour. *crashes*: in every hour, or in so many."""
    deaths = hours if crashes is True else int(crashes)
    plan = Plan(
        seed=seed,
        films=0,
        running=100,
        kills=(NEVER,) if deaths else (),
        callbacks=True,
        mixes=(("create", ()),),
    )
    root = Path(tempfile.mkdtemp(prefix="apikley-", dir=MEMORY if MEMORY.is_dir() else None))
    with unheard():
        world = LongWorld(plan, root, hours=hours, an_hour=films_an_hour, crashes=deaths)
        world.told = told
        world.loop.set_exception_handler(lambda _loop, context: None)
        asyncio.set_event_loop(world.loop)
        try:
            with world.disk.watched():
                world.loop.run_until_complete(world.story())
        except Deadlock as error:
            world.report.broken.append(f"I9: nobody moves any more: {error}")
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a verdict as well
            world.report.broken.append(f"I9: the day breaks off: {type(error).__name__}: {error}")
        finally:
            asyncio.set_event_loop(None)
            shutil.rmtree(root, ignore_errors=True)
            world.loop.close()
            world.loop.tasks.clear()
            gc.collect()
    return summed(world)


def summed(world: LongWorld) -> Day:
    report, told = world.report, world.day
    states = [*report.states.values()]
    told.broken, told.paid = report.broken, report.paid
    told.states = {state: states.count(state) for state in {*states}}
    told.seconds = time.monotonic() - world._began
    return told


def tell(hours: int, crashes: int, seed: int) -> int:
    """Let a day happen, tell its hours and its end; 1 when it is not well."""
    print(HEAD, flush=True)
    came = day(hours, crashes=crashes, seed=seed, told=lambda hour: print(hour, flush=True))
    for line in [*came.broken[:20], *came.grown]:
        print(f"  {line[:1000]}")
    print(f"day {seed}: {came}", flush=True)
    return 0 if came.is_well else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--crashes", type=int, help="hours with a crash; by default all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="the package's own memory; slow")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # the dead leave coroutines behind
    sys.unraisablehook = lambda _: None
    if asked.trace:
        tracemalloc.start()
    crashes = asked.hours if asked.crashes is None else asked.crashes
    return tell(asked.hours, crashes, asked.seed)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the dead need no burial at the end
