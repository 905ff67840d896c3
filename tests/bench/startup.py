"""Part 2: how long it takes to start, beside `import aiohttp`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec

from bench.processes import child_environment
from bench.tables import Figure, Table, ratios

__all__ = ["starts"]

AIOHTTP = "import aiohttp"
PEERS = ("fal_client", "replicate", "runwayml", "openai")
FROM = "from apikley_async import Client"  # what a program does: the package itself is lazy
COMMAND = ("-c", "from apikley_async.cli import main; main()", "--help")  # as `apikley` does


def run(*words: str) -> tuple[float, float]:
    """Wall and CPU seconds of one start of Python; needs Unix, `os.times` being too coarse."""
    from resource import RUSAGE_CHILDREN, getrusage

    before, wall = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *words], env=child_environment(), stdout=subprocess.DEVNULL, check=True
    )
    took, after = time.perf_counter() - wall, getrusage(RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu


def starts(rounds: int, scale: float) -> Iterator[Table]:
    """`apikley --help` and `import apikley_async` beside `import aiohttp`, interleaved."""
    names = ["apikley_async", *(name for name in PEERS if find_spec(name))]
    imports = [FROM, *(f"import {name}" for name in names)]
    starts: dict[str, tuple[str, ...]] = {"--help": COMMAND}
    starts |= {words: ("-c", words) for words in (AIOHTTP, *imports)}
    wall: dict[str, list[float]] = {name: [] for name in starts}
    cpu: dict[str, list[float]] = {name: [] for name in starts}
    for turn in range(rounds + 1):
        for name, words in starts.items():
            took = run(*words)
            if turn:  # the first start of each writes bytecode and fills the disk's cache
                wall[name].append(took[0])
                cpu[name].append(took[1])
    base = f"`{AIOHTTP}`"
    figures = [Figure(f"{base}, wall", [1000 * took for took in wall[AIOHTTP]], "ms")]
    help_ratio = ratios(wall["--help"], wall[AIOHTTP])
    figures.append(Figure(f"`apikley --help` / {base}, wall", help_ratio, gate=0.4))
    for words in imports:
        gate = 1.25 if words == FROM else None
        of_both = ratios(cpu[words], cpu[AIOHTTP])
        figures.append(Figure(f"`{words}` / {base}, CPU", of_both, gate=gate))
    yield Table("Start-up", figures)
