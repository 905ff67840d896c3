"""`apikley generate`, killed at random moments: the same command resumes, and pays nothing twice.

APIKLEY_GENERATE_KILLS says how many kills there are; `nox -s kill` sets fifty.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

import pytest
from batch.helpers import check_consistency, states
from forked_process import ForkedProcess

from apikley_async.batch import Batch, ItemState
from apikley_async.cli import main
from apikley_async.simulator import Constant, Fault, RandomFaults, Simulator, Terms

KILLS = int(os.environ.get("APIKLEY_GENERATE_KILLS", "3"))
SEED = int(os.environ.get("APIKLEY_SEED", "1"))
FILMS = 4

pytestmark = pytest.mark.timeout(60 + 10 * KILLS)


def slow_service(rng: random.Random) -> Simulator:
    """A service with slow answers, so that many kills hit a request under way."""
    late = {"create": {Fault.late(0.2): 0.7}, "file": {Fault.slow(0.2): 0.5}}
    terms = Terms(duration=Constant(20))
    faults = RandomFaults(seed=rng.randrange(1000), **late)  # type: ignore[arg-type]
    return Simulator(terms, faults=faults, speed=100, rng=rng)


def start(folder: Path, service: Simulator, files: list[str]) -> ForkedProcess:
    key = {"APIKLEY_API_KEY": service.api_key, "APIKLEY_BASE_URL": service.base_url}
    return ForkedProcess(main, "generate", "--yes", *files, cwd=folder, env=os.environ | key)


async def kill_soon(process: ForkedProcess, service: Simulator, rng: random.Random) -> bool:
    """Kill it a little after its next request that pays; returns whether it was still running."""
    before, left = len(service.ledger.creations), rng.uniform(0, 0.5)
    while process.poll() is None and left > 0:
        await asyncio.sleep(0.01)
        begun = len(service.ledger.creations) > before or len(service.ledger.paid) == FILMS
        left -= 0.01 if begun else 0
    still_running = process.poll() is None
    process.close()
    return still_running


async def test_killed_at_random_moments_the_same_command_resumes(tmp_path: Path) -> None:
    """Each film is paid once or reported as uncertain; every file is whole. (A7, A8, I1)"""
    rng = random.Random(SEED)
    kills = runs = 0
    while kills < KILLS:
        runs += 1
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        files = [f"film{number}.json" for number in range(FILMS)]
        for file in files:
            shots = [{"scene": f"The scene of {file.removesuffix('.json')}.", "duration": 10}]
            (folder / file).write_text(json.dumps({"shots": shots, "duration": 10}))
        async with slow_service(rng) as service:
            while kills < KILLS:
                process = start(folder, service, files)
                if not await kill_soon(process, service, rng):
                    break
                kills += 1
            last = start(folder, service, files)

            assert await asyncio.to_thread(last.wait) in (0, 3)
            last.close()

            async with Batch.open(folder / "films" / "apikley.db") as batch:
                await check_consistency(service, batch, folder / "films")
                assert {*(await states(batch)).values()} <= {ItemState.DONE, ItemState.UNCERTAIN}
