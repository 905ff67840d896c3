"""Real kills of a real process, at named points and at random ones; then on to the end.

`worker.py` runs the batch and ends itself; the simulator lives in the test's process, so its
ledger knows what was paid whatever happens to the worker. How many kills there are is set by
APIKLEY_KILLS (at each point), APIKLEY_RANDOM_KILLS and APIKLEY_MISHAPS; `nox -s kill` wants many.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch.helpers import check_consistency, key_of_request, states
from batch.worker import HOOK_KEY, POINTS, REFUSED
from forked_process import ForkedProcess
from rawserver import reserved_port
from volume import volume

from apikley_async._postgres import Dsn, connect
from apikley_async.batch import Batch, ItemState
from apikley_async.batch.store.protocol import LEASE
from apikley_async.cli import main
from apikley_async.simulator import Constant, Fault, RandomFaults, Simulator, Terms

KILLS = int(os.environ.get("APIKLEY_KILLS", "1"))
RANDOM_KILLS = int(os.environ.get("APIKLEY_RANDOM_KILLS", volume(5, 20)))
SHARED_KILLS = int(os.environ.get("APIKLEY_RANDOM_KILLS", volume(6, 20)))  # in PostgreSQL
LIVES = 10  # random kills of one batch
MISHAPS = int(os.environ.get("APIKLEY_MISHAPS", volume(4, 30)))  # journals, three kills each
SEED = int(os.environ.get("APIKLEY_SEED", "1"))
WORKER = Path(__file__).with_name("worker.py")

pytestmark = pytest.mark.timeout(60 + 2 * max(KILLS * len(POINTS), RANDOM_KILLS))

TROUBLE = {
    "create": {Fault.RESET_AFTER: 0.04, Fault.HTTP_500_AFTER: 0.03, Fault.NO_TASK_ID: 0.02,
               Fault.RESET: 0.03, Fault.late(0.1): 0.3},
    "record": {Fault.HTTP_500: 0.05, Fault.EMPTY: 0.05, Fault.NOT_FOUND: 0.05},
    "file": {Fault.CUT: 0.02, Fault.slow(0.2): 0.3},
}  # fmt: skip


class Worker:
    """A process whose children are the lives: it has imported everything already.

    It is started when it is first needed, and once more after a life whose end nobody saw.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self._process: subprocess.Popen[str] | None = None
        self._living = False

    async def live(self, life: dict[str, Any]) -> int:
        """Live one life, and say how it ended."""
        if self._living:
            self.stop()
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        self._living = True
        reported = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(life), file=process.stdin, flush=True)
            async with asyncio.timeout(60):
                await readable(process.stdout.fileno())
            reported = process.stdout.readline()
        assert reported, f"the worker itself has ended, {how_ended(process.pid)}"
        self._living = False
        code: int = json.loads(reported)["code"]
        return code

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._env,
            text=True,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End it, and the life that it may be at."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(BrokenPipeError), self._process:
                pass
            self._process = None
        self._living = False


def how_ended(pid: int) -> str:
    """How a child has ended; its number stays its own, so that its group can still be killed."""
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert end is not None
    if end.si_code == os.CLD_EXITED:
        return f"with exit code {end.si_status}"
    # Of the worker's processes only lives are killed here, so somebody else has sent it.
    return f"by {signal.Signals(end.si_status).name}, which no test sends to it"


async def readable(pipe: int) -> None:
    """Wait until something can be read from a pipe, or it has ended."""
    loop, seen = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe, seen.set)
    try:
        await seen.wait()
    finally:
        loop.remove_reader(pipe)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One worker for all tests."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("APIKLEY_")}
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        env[name] = str(tmp_path_factory.mktemp(name))
    worker = Worker(env | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    yield worker
    worker.stop()


class Lives:
    """Lives of one batch in a place of its own."""

    def __init__(self, worker: Worker, place: Path, simulator: Simulator, **setting: Any) -> None:
        self._worker = worker
        setting |= {"key": simulator.api_key, "url": simulator.base_url}
        self._batch = {"place": str(place), "setting": setting}

    async def live(self, **life: Any) -> int:
        code = await self._worker.live(life | self._batch)
        journal = self._batch["setting"].get("journal")
        if journal is not None and code != 0:
            # What the dead one had claimed is free when its lease is over: let that time pass.
            with contextlib.closing(connect(Dsn.parse(journal))) as database:
                database.execute("UPDATE owner SET seen_at = seen_at - ?", (LEASE,))
        return code


def busy_world(seed: int, **signing: str) -> Simulator:
    faults = RandomFaults(seed=seed, **TROUBLE)  # type: ignore[arg-type]
    terms = Terms(limit=None, max_running=None, duration=Constant(30))
    return Simulator(
        terms, faults=faults, speed=300, rng=random.Random(seed), hosts=("localhost",), **signing
    )  # type: ignore[arg-type]


async def check_the_end(
    simulator: Simulator, place: Path, journal: str | None = None
) -> dict[str, ItemState]:
    async with Batch.open(journal or place / "batch.db") as batch:
        await check_consistency(simulator, batch, place / "films")
        return await states(batch)


@pytest.mark.parametrize("turn", range(KILLS))
async def test_killed_at_every_point_and_resumed(turn: int, worker: Worker, tmp_path: Path) -> None:
    """SIGKILL at each named point, one life after the other: nothing is paid twice or lost.

    Every film that succeeded is on the disk as it was served. (A7, A8, D14, J9, I1, I2, I3)
    """
    rng = random.Random(SEED * 1000 + turn)
    points = rng.sample(POINTS, len(POINTS))
    async with busy_world(SEED * 1000 + turn) as simulator:
        lives = Lives(worker, tmp_path, simulator, films=100, running=4)
        for point in points:
            # A run claims its films in two steps: after the second nothing is left to submit.
            nth = 1 if "claim" in point else rng.randint(1, 2)
            assert await lives.live(at=point, nth=nth) == -9, point
        paid = len(simulator.ledger.paid)

        assert await lives.live() == 0
        assert await lives.live() == 0

        assert len(simulator.ledger.paid) >= paid
        stand = await check_the_end(simulator, tmp_path)
    assert set(stand.values()) <= {ItemState.DONE, ItemState.UNCERTAIN}


@pytest.mark.parametrize("turn", range(-(-RANDOM_KILLS // LIVES)))
async def test_killed_at_random_moments_and_resumed(
    turn: int, worker: Worker, tmp_path: Path
) -> None:
    """The same at moments drawn by chance. (A8, J9)"""
    rng = random.Random(SEED * 7000 + turn)
    async with busy_world(SEED * 7000 + turn) as simulator:
        lives = Lives(worker, tmp_path, simulator, films=40, running=8)
        for _ in range(min(LIVES, RANDOM_KILLS)):
            assert await lives.live(after=[rng.uniform(0.0, 0.4)]) in (-9, 0)

        assert await lives.live() == 0
        posts = len(simulator.ledger.arrivals("create"))
        assert await lives.live() == 0

        assert len(simulator.ledger.arrivals("create")) == posts
        await check_the_end(simulator, tmp_path)


@pytest.mark.parametrize("turn", range(-(-SHARED_KILLS // LIVES)))
async def test_killed_with_a_journal_in_postgresql(
    turn: int, worker: Worker, tmp_path: Path, shared_dsn: str
) -> None:
    """At named points and at random moments, the database being another process. (A8, J9)"""
    rng = random.Random(SEED * 3000 + turn)
    async with busy_world(SEED * 3000 + turn) as simulator:
        lives = Lives(worker, tmp_path, simulator, films=40, running=8, journal=shared_dsn)
        for number in range(min(LIVES, SHARED_KILLS)):
            at = {"at": rng.choice(POINTS), "nth": rng.randint(1, 3)}
            life = at if number % 2 else {"after": [rng.uniform(0.0, 0.6)]}
            assert await lives.live(**life) in (-9, 0)

        assert await lives.live() == 0
        posts = len(simulator.ledger.arrivals("create"))
        assert await lives.live() == 0

        assert len(simulator.ledger.arrivals("create")) == posts
        stand = await check_the_end(simulator, tmp_path, shared_dsn)
    assert set(stand.values()) <= {ItemState.DONE, ItemState.UNCERTAIN, ItemState.FAILED}


@contextlib.asynccontextmanager
async def receiver(place: Path, port: int) -> AsyncIterator[None]:
    """`apikley webhook serve`, as a process of its own; killed at the end."""
    words = ("serve", "--json", "--inbox", str(place / "calls.db"), "--port", str(port))
    env = os.environ | {"APIKLEY_WEBHOOK_HMAC_KEY": HOOK_KEY}
    process = ForkedProcess(main, "webhook", *words, cwd=place, env=env)
    with contextlib.closing(process):
        assert process.stdout is not None
        await readable(process.stdout.fileno())
        assert "receiving" in process.stdout.readline()
        yield


async def killed_now_and_then(place: Path, port: int, rng: random.Random) -> None:
    """Receivers, one after the other, each killed before long."""
    while True:
        async with receiver(place, port):
            await asyncio.sleep(rng.uniform(0.2, 1.5))


@pytest.fixture
def port() -> Iterator[int]:
    """Where the receivers of a test listen, one after the other, and nobody else."""
    with reserved_port() as port:
        yield port


@pytest.mark.parametrize("turn", range(-(-RANDOM_KILLS // (2 * LIVES))))
async def test_receiver_and_runner_are_killed_at_random(
    turn: int, worker: Worker, port: int, tmp_path: Path
) -> None:
    """Both by SIGKILL, each at moments of its own: the invariants hold. (W8, I1, I2, I3)

    What is still uncertain at the end was announced while nobody received.
    """
    rng = random.Random(SEED * 9000 + turn)
    others = random.Random(rng.random())  # both draw at the same time
    async with receiver(tmp_path, port):
        pass  # the first one waits until what it is forked from has imported everything
    async with busy_world(SEED * 9000 + turn, webhook_key=HOOK_KEY) as simulator:
        lives = Lives(
            worker,
            tmp_path,
            simulator,
            films=40,
            running=8,
            hook=f"http://127.0.0.1:{port}/hooks",
            listening=3.0,
        )
        killing = asyncio.create_task(killed_now_and_then(tmp_path, port, others))
        for _ in range(min(LIVES, RANDOM_KILLS)):
            assert await lives.live(after=[rng.uniform(0.0, 0.8)]) in (-9, 0)
        killing.cancel()
        with pytest.raises(asyncio.CancelledError):  # it has not ended with an error before
            await killing

        async with receiver(tmp_path, port):
            assert await lives.live() == 0
            posts = len(simulator.ledger.arrivals("create"))
            assert await lives.live() == 0

        assert len(simulator.ledger.arrivals("create")) == posts
        stand = await check_the_end(simulator, tmp_path)
        doubtful = [key for key, state in stand.items() if state is ItemState.UNCERTAIN]
        reported = {call.task_id for call in simulator.ledger.callbacks if call.status == 200}
        async with Batch.open(tmp_path / "batch.db", read_only=True) as batch:
            bound = {item.task_id async for item in batch.items()}
        lost = {charge.task_id for charge in simulator.ledger.paid} - bound
        assert len(lost) <= len(doubtful)
        assert not lost & reported, "a callback was answered, and its film is not bound"


def files_of(place: Path) -> list[Path]:
    """The journal, and its log where there is one."""
    return [file for end in ("", "-wal") if (file := place / f"batch.db{end}").exists()]


def backed_up(place: Path) -> None:
    """Keep the journal as it is now, as somebody's nightly copy does."""
    (place / "backup").mkdir(exist_ok=True)
    for file in files_of(place):
        shutil.copy(file, place / "backup" / file.name)


def brought_elsewhere(place: Path, *, log: bool) -> None:
    """Copy the journal to other inodes, with its log or without; the old files are gone."""
    names = files_of(place) if log else files_of(place)[:1]
    for file in names:
        shutil.copy(file, f"{file}.copied")
    for file in [*files_of(place), place / "batch.db-shm"]:
        file.unlink(missing_ok=True)
    for file in names:
        Path(f"{file}.copied").rename(file)


def restored(place: Path) -> None:
    """Put the older copy where the journal was."""
    for file in [*files_of(place), place / "batch.db-shm"]:
        file.unlink(missing_ok=True)
    for file in (place / "backup").iterdir():
        shutil.copy(file, place / file.name)


MISHAP: dict[str, Callable[[Path], None]] = {
    "copied with its log": lambda place: brought_elsewhere(place, log=True),
    "copied without its log": lambda place: brought_elsewhere(place, log=False),
    "an older copy": restored,
    "a second name": lambda place: (place / "another.db").hardlink_to(place / "batch.db"),
}


@pytest.mark.parametrize("turn", range(MISHAPS))
async def test_killed_and_the_journal_is_moved_about(
    turn: int, worker: Worker, tmp_path: Path
) -> None:
    """Copied, restored, linked between lives: refused, or gone on with; never paid twice. (J3)

    What is paid and stands nowhere in the journal is uncertain, or the journal was refused.
    """
    rng = random.Random(SEED * 5000 + turn)
    mishap = list(MISHAP)[turn % len(MISHAP)]
    async with busy_world(SEED * 5000 + turn) as simulator:
        lives = Lives(worker, tmp_path, simulator, films=24, running=4)
        for number in range(3):
            at = {"at": rng.choice(POINTS), "nth": rng.randint(1, 3)}
            assert await lives.live(**at) in (-9, 0)
            if number == 0:
                backed_up(tmp_path)
        MISHAP[mishap](tmp_path)

        code = await lives.live()
        if mishap == "a second name":
            assert code == REFUSED
            (tmp_path / "another.db").unlink()
            code = await lives.live()
        if code == REFUSED:
            assert mishap in ("copied without its log", "an older copy")
            code = await lives.live(adopt=True)
        assert code == 0

        async with Batch.open(tmp_path / "batch.db") as batch:
            items = {item.key: item async for item in batch.items()}
        paid = {key_of_request(charge.body): charge.task_id for charge in simulator.ledger.paid}
        assert Counter(
            key_of_request(charge.body) for charge in simulator.ledger.paid
        ).total() == len(paid)
        for key, task_id in paid.items():
            assert items[key].state is ItemState.UNCERTAIN or items[key].task_id == task_id


async def test_a_disk_that_fills_up_while_a_post_is_out(worker: Worker, tmp_path: Path) -> None:
    """The answer came and cannot be written down: the id is rescued, and bound later. (J2)"""
    terms = Terms(limit=None, duration=Constant(30))
    async with Simulator(terms, speed=300) as simulator:
        lives = Lives(worker, tmp_path, simulator, films=5, running=1)
        assert await lives.live(at="after answer", nth=2, full=True) == REFUSED
        assert (tmp_path / "batch.db.rescue.jsonl").exists()

        assert await lives.live() == 0

        assert not (tmp_path / "batch.db.rescue.jsonl").exists()
        stand = await check_the_end(simulator, tmp_path)
        assert set(stand.values()) == {ItemState.DONE}
        assert len(simulator.ledger.paid) == 5


@pytest.mark.parametrize(
    "life",
    [
        {"at": "before first byte"},
        {"at": "after first byte"},
        {"at": "after answer"},
        {"after": [0.35, 0.02]},
    ],
    ids=["before first byte", "after first byte", "after answer", "twice"],
)
async def test_interrupted_during_a_post(
    life: dict[str, Any], worker: Worker, tmp_path: Path
) -> None:
    """Ctrl-C while a POST is out, once or twice: the film is bound, or uncertain. (A11, C10)"""
    terms = Terms(limit=None, duration=Constant(30))
    async with Simulator(terms, speed=300) as simulator:
        lives = Lives(worker, tmp_path, simulator, films=3, running=1)
        simulator.script("create", [Fault.late(0.3)] * 3)
        assert await lives.live(signal="SIGINT", **life) in (130, 1)

        async with Batch.open(tmp_path / "batch.db") as batch:
            stand = await states(batch)
            bound = {item.task_id async for item in batch.items()}
            assert await batch.verify() == []
        doubts = list(stand.values()).count(ItemState.UNCERTAIN)
        assert len({charge.task_id for charge in simulator.ledger.paid} - bound) <= doubts
        assert not doubts or "after" in life, "one Ctrl-C waits for the answer"
        assert await lives.live() == 0
        await check_the_end(simulator, tmp_path)
