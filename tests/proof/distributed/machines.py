"""Many workers on one journal, of which some die: all films come, and none is paid twice.

    python tests/proof/distributed/machines.py --films 4000 --limit 200 --seed 1

Real workers (processes of `apikley worker`), a real PostgreSQL with everything synced, and the
simulator, whose ledger knows what was paid. While the films are made, at moments that *seed* draws:
two workers are killed (SIGKILL), one is stopped for a minute and goes on (SIGSTOP, SIGCONT), and
the database is stopped and started again. What was promised is checked at the end, and one line of
JSON says what was found; the exit code is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from postgres_server import PostgresServer, missing  # noqa: E402

from apikley_async import JournalError, Shot, Storyboard  # noqa: E402
from apikley_async.batch import Batch, ItemState  # noqa: E402
from apikley_async.distributed import set_up as set_up_database  # noqa: E402
from apikley_async.simulator import Constant, Simulator, Terms  # noqa: E402

COMMAND = (sys.executable, "-m", "apikley_async")
LEASE = 60.0  # seconds until others take over from a worker that is not heard of
STOPPED = 60.0  # seconds for which one worker is stopped
PER = 10.0  # seconds of the rate limit's span
FILM = 6.0  # seconds that a film takes
COMING_BACK = 5.0  # seconds after the database is back until work counts as going on
OPEN = (ItemState.PLANNED, ItemState.SENDING, ItemState.SUBMITTED, ItemState.STALLED)
OPEN += (ItemState.SUCCESS,)
ENDING = 20.0  # seconds for a worker to end well


@attrs.define
class Worker:
    """One process of `apikley worker`."""

    name: str
    process: subprocess.Popen[bytes]
    fate: str = "lives"


@attrs.define
class Course:
    """What happened when, by the clock of the service."""

    clock: Callable[[], float]
    excused: list[tuple[float, float]] = attrs.Factory(list)
    events: list[str] = attrs.Factory(list)

    @property
    def now(self) -> float:
        return self.clock()

    def note(self, event: str, *, excuses: float = 0.0) -> None:
        """Note an event, for so many seconds after which a slower rate is no surprise."""
        self.events.append(f"{self.now:.1f} s: {event}")
        print(f"  {self.events[-1]}", file=sys.stderr, flush=True)
        if excuses:
            self.excused.append((self.now, self.now + excuses))


async def main(arguments: argparse.Namespace) -> int:
    rng = random.Random(arguments.seed)
    window = ("sliding", "fixed", "bucket")[arguments.seed % 3]
    terms = Terms(
        limit=arguments.limit,
        per=PER,
        window=window,
        max_running=None,
        duration=Constant(FILM),
        credits=1e9,
        callbacks="none",
    )
    with tempfile.TemporaryDirectory(prefix="apikley-") as name:
        folder = Path(name)
        with PostgresServer.temporary({}) as server:
            dsn = server.create_database()
            await set_up(dsn, arguments.films)
            async with Simulator(terms, rng=rng) as simulator:
                course = Course(simulator.service.clock.now)
                found = await run(server, dsn, simulator, folder, course, rng, arguments)
                found |= await judge(dsn, simulator, folder, course, arguments)
            commits = "SELECT sum(xact_commit) FROM pg_stat_database WHERE datname LIKE 'test%'"
            found["commits_per_film"] = round(int(server.execute(commits)) / arguments.films, 1)
    found["broken"] |= bool(found["ended_badly"]) or "ended by itself" in found["fates"].values()
    found |= {"seed": arguments.seed, "window": window, "events": course.events}
    print(json.dumps(found), flush=True)
    return 1 if found["broken"] else 0


async def set_up(dsn: str, films: int) -> None:
    """Make the tables, and plan the films."""
    _ = await set_up_database(dsn)
    works = [(f"film-{n:05}", Storyboard([Shot(scene_of(n))], duration=15)) for n in range(films)]
    async with Batch.open(dsn) as batch:
        print(f"  planned: {await batch.add(works)}", file=sys.stderr)


def scene_of(number: int) -> str:
    return f"Scene {number:05}: a lighthouse keeper's cat looks out at the sea, calm and content."


def film_in(body: Any) -> str:
    """The film that a request asks for."""
    return f"film-{int(body['input']['shots'][0]['Scene'][6:11]):05}"


async def run(
    server: PostgresServer,
    dsn: str,
    simulator: Simulator,
    folder: Path,
    course: Course,
    rng: random.Random,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Let the workers work, and let happen what the seed says, until no film is open."""
    with started(dsn, simulator, folder, arguments) as workers:
        ideal = arguments.films / arguments.limit * PER
        while not simulator.ledger.creations:  # noqa: ASYNC110 - the others are real processes
            await asyncio.sleep(0.1)
        chaos = asyncio.create_task(happen(server, workers, course, rng, ideal, arguments))
        last = time.monotonic() + 4 * ideal + 6 * LEASE
        open_films = -1
        while time.monotonic() < last:
            await asyncio.sleep(1)
            with contextlib.suppress(JournalError):
                open_films = await asyncio.wait_for(count_open(dsn), 5)
            if open_films == 0 and chaos.done():
                break
            dead = [each for each in workers if each.process.poll() is not None]
            for worker in dead:
                if worker.fate == "lives":
                    course.note(f"{worker.name} ended by itself: {worker.process.returncode}")
                    worker.fate = "ended by itself"
        chaos.cancel()
        course.note(f"{open_films} films are open")
        used = {each.name: cpu_of(each) for each in workers if each.process.poll() is None}
        ended = await end_well([each for each in workers if each.fate != "killed"])
    fates = {worker.name: worker.fate for worker in workers}
    return {"open": open_films, "fates": fates, "ended_badly": ended, "cpu_seconds": used}


def cpu_of(worker: Worker) -> float:
    """Seconds of processor that a worker has used; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextlib.contextmanager
def started(
    dsn: str, simulator: Simulator, folder: Path, arguments: argparse.Namespace
) -> Iterator[list[Worker]]:
    """The workers, each in a process with a log of its own."""
    env = {**os.environ, "APIKLEY_API_KEY": simulator.api_key, "XDG_STATE_HOME": str(folder)}
    words = ("--journal", dsn, "--base-url", simulator.base_url, "--limit", str(arguments.limit))
    workers = []
    try:
        for number in range(arguments.workers):
            name = f"worker {number + 1}"
            with (folder / f"{name}.log").open("wb") as log:
                command = [*COMMAND, "worker", *words, "-o", str(folder / "films"), "--json"]
                process = subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT
                )
            workers.append(Worker(name, process))
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            if worker.fate == "ended by itself" or arguments.logs:
                print((folder / f"{worker.name}.log").read_text()[-3000:], file=sys.stderr)


async def happen(
    server: PostgresServer,
    workers: list[Worker],
    course: Course,
    rng: random.Random,
    ideal: float,
    arguments: argparse.Namespace,
) -> None:
    """Kill, stop and restart, at random moments of the first part of the work."""
    chosen = rng.sample(workers, len(workers))
    plans = [kill(worker, course) for worker in chosen[: arguments.kills]]
    if arguments.stops:
        plans.append(pause(chosen[arguments.kills], course))
    if arguments.restarts:
        plans.append(restart(server, course, rng.uniform(1, 6)))
    moments = [rng.uniform(0.1, 0.7) * ideal for _ in plans]
    await asyncio.gather(*map(at, moments, plans))


async def at(moment: float, plan: Any) -> None:
    await asyncio.sleep(moment)
    await plan


async def kill(worker: Worker, course: Course) -> None:
    worker.process.kill()
    worker.fate = "killed"
    course.note(f"{worker.name} is killed", excuses=LEASE + PER)


async def pause(worker: Worker, course: Course) -> None:
    worker.process.send_signal(signal.SIGSTOP)
    course.note(f"{worker.name} is stopped", excuses=STOPPED + PER)
    await asyncio.sleep(STOPPED)
    worker.process.send_signal(signal.SIGCONT)
    course.note(f"{worker.name} goes on")


async def restart(server: PostgresServer, course: Course, away: float) -> None:
    course.note("the database is stopped", excuses=away + COMING_BACK)
    await asyncio.to_thread(server.stop)
    await asyncio.sleep(away)
    await asyncio.to_thread(server.start)
    course.note("the database is back")


async def count_open(dsn: str) -> int:
    async with Batch.open(dsn, read_only=True) as batch:
        counts = await batch.store.counts()
    return sum(counts.get(state, 0) for state in OPEN)


async def end_well(workers: list[Worker]) -> list[str]:
    """Send SIGTERM to those that live; the names of those that do not end well and soon."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    bad = []
    for worker in workers:
        try:
            code = await asyncio.to_thread(worker.process.wait, ENDING)
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            bad.append(f"{worker.name}: {code}")
    return bad


# --- the judgement --------------------------------------------------------------------------------


async def judge(
    dsn: str, simulator: Simulator, folder: Path, course: Course, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Compare the journal, the films and the ledger."""
    states: dict[str, ItemState] = {}
    lost = []
    async with Batch.open(dsn, read_only=True) as batch:
        faults = [*await batch.store.verify()]
        async for item in batch.items():
            states[item.key] = item.state
            if item.state is ItemState.DONE and not all(f.path.is_file() for f in item.files):
                lost.append(item.key)
    paid = collections.Counter(film_in(charge.body) for charge in simulator.ledger.paid)
    uncertain = {key for key, state in states.items() if state is ItemState.UNCERTAIN}
    creations = simulator.ledger.creations
    refused = [each for each in creations if each.outcome == "refused"]
    created = sorted(each.at for each in creations if each.outcome == "created")
    rate, measured = rate_of(created, course, arguments.limit)
    found = {
        "done": sum(state is ItemState.DONE for state in states.values()),
        "uncertain": len(uncertain),
        "uncertain_paid": sum(paid[key] > 0 for key in uncertain),
        "paid_twice": sorted(key for key, count in paid.items() if count > 1),
        "never_paid": sum(paid[key] == 0 for key in states if key not in uncertain),
        "refused": len(refused),
        "rate": rate,
        "rate_over": measured,
        "spans": spans_of(created),
        "seconds": round(created[-1] - created[0], 1),
        "ideal_seconds": (arguments.films / arguments.limit - 1) * PER,
        "files_lost": len(lost),
        "faults": faults[:3],
    }
    fine = (
        found["done"] + found["uncertain"] == arguments.films
        and not found["paid_twice"]
        and not found["refused"]
        and not lost
        and not faults
        and found["uncertain"] <= arguments.limit
        and rate >= arguments.rate
    )
    return found | {"broken": not fine}


def rate_of(created: list[float], course: Course, limit: int) -> tuple[float, float]:
    """The share of the ideal rate where nothing excuses a lower one, and over how many seconds.

    Spans of the limit's length are counted, from the first creation to the last span.
    """
    spans = []
    start = created[0]
    while start + PER < created[-1]:
        if not any(begin < start + PER and start < end for begin, end in course.excused):
            spans.append(sum(start <= at < start + PER for at in created))
        start += PER
    if not spans:
        return 1.0, 0.0
    return round(sum(spans) / len(spans) / limit, 3), len(spans) * PER


def spans_of(created: list[float]) -> list[int]:
    """How many films were submitted in each span of ten seconds, from the first one on."""
    count = int((created[-1] - created[0]) // PER) + 1
    spans = [0] * count
    for at in created:
        spans[int((at - created[0]) // PER)] += 1
    return spans


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--limit", type=int, default=200, help="submissions in ten seconds")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--stops", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.9, help="share of the ideal rate")
    parser.add_argument("--logs", action="store_true", help="print the end of each worker's log")
    return parser.parse_args(words)


if __name__ == "__main__":
    if (reason := missing()) is not None:
        sys.exit(reason)
    asked = parse()
    seeds = range(asked.seed, asked.seed + asked.runs)
    sys.exit(max(asyncio.run(main(argparse.Namespace(**vars(asked) | {"seed": n}))) for n in seeds))
