"""What the kernel was asked for, and in which order: the only witness of what is on the disk.

One run of the worker under strace. It shows what no kill can: that the intent was on the disk
before the first byte of its POST, and a film and its folder before the journal calls it done.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from batch.test_kill import WORKER

from apikley_async.batch import Batch, ItemState
from apikley_async.simulator import Constant, Simulator, Terms

CALLS = "pwrite64,write,fdatasync,fsync,sendto,link"
COUNT = 4


def why_not() -> str | None:
    """Say why this machine cannot trace; None when it can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    tried = subprocess.run([strace, "-f", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr[-80:]}"


async def traced_run(place: Path, log: Path) -> None:
    """Run the worker under strace, a single life long."""
    terms = Terms(limit=None, duration=Constant(30))
    async with Simulator(terms, speed=300) as simulator:
        process = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-y", "-s", "9000", "-e", f"trace={CALLS}", "-o", str(log)),
            *(sys.executable, str(WORKER)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(WORKER.parents[2])},
        )
        setting = {"key": simulator.api_key, "url": simulator.base_url}
        setting |= {"films": COUNT, "running": COUNT}
        life = {"place": str(place), "setting": setting}
        reported, _ = await process.communicate(json.dumps(life).encode() + b"\n")
        assert json.loads(reported) == {"code": 0}


def calls_in(log: str) -> list[str]:
    """The calls in the order in which they came back; of those cut in two, both halves."""
    calls, begun = [], {}
    for line in log.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
        elif call.startswith("<... "):
            calls.append(begun.pop(pid, "") + call)
        else:
            calls.append(call)
    return calls


def first(calls: list[str], *marks: str, after: int = 0) -> int:
    """The number of the first call behind *after* in which all of *marks* stand."""
    return next(n for n in range(after, len(calls)) if all(mark in calls[n] for mark in marks))


@pytest.mark.timeout(120)
async def test_what_is_durable_before_what(tmp_path: Path) -> None:
    """Intent, fdatasync, POST; film, fsync, name, fsync of the folder, done. (A9, D14, I5)"""
    if reason := await asyncio.to_thread(why_not):
        pytest.skip(reason)
    log = tmp_path / "calls"
    await traced_run(tmp_path, log)
    async with Batch.open(tmp_path / "batch.db", read_only=True) as batch:
        items = [item async for item in batch.items()]
        tokens = {item.key: (await batch.store.attempts(item.key))[0]["token"] for item in items}
    assert {item.state for item in items} == {ItemState.DONE}
    calls = calls_in(log.read_text(errors="replace"))
    films = f"<{tmp_path / 'films'}>"

    for key, token in tokens.items():
        intent = first(calls, "pwrite64(", "batch.db-wal>", token)
        lasting = first(calls, "fdatasync(", "batch.db-wal>", after=intent)
        body = first(calls, "sendto(", f"The scene of {key}.")
        handle = calls[body].partition(",")[0]
        post = max(n for n in range(body + 1) if calls[n].startswith(handle + ', "POST'))
        assert intent < lasting < post, key

        name = first(calls, "link(", f"/{key}.mp4")
        [part] = re.findall(r'"([^"]+\.part)"', calls[name])
        written = max(n for n in range(name) if "write(" in calls[n] and f"<{part}>" in calls[n])
        kept = first(calls, "fsync(", f"<{part}>", after=written)
        in_folder = first(calls, "fsync(", films, after=name)
        done = first(calls, "pwrite64(", "batch.db-wal>", f"{key}.mp4")
        assert written < kept < name < in_folder < done, key
