"""Fuzz in volume: `nox -s fuzz`, or `python tests/proof/fuzz/run.py --help`.

    python tests/proof/fuzz/run.py --bodies 1000000 --pauses 100000 --jobs 2 --seed 2026
    python tests/proof/fuzz/run.py manifests names urls environment --count 100000

Prints the seed, the rates, what came out and how long the slowest took; ends with 1 when a
promise was broken, naming the case by its seed and number. `--only SEED/CHUNK:NUMBER` reads that
one case again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.kinds import CHUNK, KINDS, Share, case_of, read

TOLD = 100_000  # after so many a line says how far it is
MOST_DEFECTS = 20
MOST_GROWTH = 200  # MiB that a process may grow while it reads
PARTS = ("manifests", "names", "urls", "environment")

# --- many processes ------------------------------------------------------------------------------

_first_memory: dict[str, int] = {}


def begin(folder: str) -> None:
    """Make a process ready; whatever it puts on the disk goes into *folder*."""
    logging.disable()  # what the wire would warn of is what we are looking for
    tempfile.tempdir = folder


def work(order: tuple[str, int]) -> Share:
    """Read one chunk."""
    seed, count = order
    share = read(seed, count)
    share.memory = _memory()
    share.growth = share.memory - _first_memory.setdefault(seed.partition("/")[0], share.memory)
    return share


def _memory() -> int:
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def orders(kind: str, seed: int, count: int) -> Iterator[tuple[str, int]]:
    """Cut the work into chunks, each with a seed of its own."""
    for chunk, start in enumerate(range(0, count, CHUNK)):
        yield f"{kind}/{seed}/{chunk}", min(CHUNK, count - start)


def run(seed: int, counts: dict[str, int], jobs: int) -> Share:
    """Read everything over *jobs* processes; stop early when too much is broken."""
    total = Share()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(jobs, begin, (folder,)) as pool:
        for kind, count in counts.items():
            if count and len(total.defects) < MOST_DEFECTS:
                _run_kind(pool, kind, seed, count, total)
    return total


def _run_kind(pool: Pool, kind: str, seed: int, count: int, total: Share) -> None:
    began, read_before, slowest = time.monotonic(), total.read, 0.0
    for share in pool.imap_unordered(work, orders(kind, seed, count)):
        total.findings.add(share.findings)
        total.defects += share.defects
        total.read += share.read
        total.memory = max(total.memory, share.memory)
        total.growth = max(total.growth, share.growth)
        slowest = max(slowest, share.findings.slowest)
        if total.read % TOLD < CHUNK:
            print(f"  {total.read} read, {len(total.defects)} defects", flush=True)
        if len(total.defects) >= MOST_DEFECTS:
            break
    took, number = time.monotonic() - began, total.read - read_before
    print(
        f"{kind}: {number} in {took:.0f} s, {number / took:.0f} a second; "
        f"the slowest took {slowest * 1000:.1f} ms for each 64 KiB or less",
        flush=True,
    )


def again(name: str) -> int:
    """Read one case again."""
    seed, number, case = case_of(name)
    print(case)
    return reported(read(seed, number + 1, only=number))


def main(words: list[str] | None = None) -> int:
    """Read the arguments (*words*, or the command line's) and the cases, and tell."""
    parser = argparse.ArgumentParser(description="Fuzz the wire, or what is named.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--count", type=int, default=100_000, help="of each part")
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--pauses", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None, help="by default another one each time")
    parser.add_argument("--only", help="SEED:NUMBER of a case to be read again")
    options = parser.parse_args(words)
    if options.only:
        return again(options.only)
    counts = dict.fromkeys(options.parts, options.count)
    if unknown := counts.keys() - KINDS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}, only {', '.join(PARTS)}")
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    total = run(seed, counts or {"body": options.bodies, "pause": options.pauses}, options.jobs)
    took = time.monotonic() - began
    print(f"{total.read} read in {took:.0f} s: {total.read / took:.0f} a second")
    return reported(total, seed)


def reported(total: Share, seed: int | None = None) -> int:
    """Print what was found; 1 when a promise was broken."""
    print(f"{total.findings.characters / 2**20:.0f} Mi characters")
    print(f"the slowest took {total.findings.slowest * 1000:.1f} ms for each 64 KiB or less")
    print(f"{total.memory} MiB at the highest, {total.growth} more than after the first chunk")
    for outcome, count in sorted(total.findings.outcomes.items()):
        print(f"  {count:>9} {outcome}")
    if total.growth > MOST_GROWTH:
        total.defects.append(f"memory grew by {total.growth} MiB")
    for defect in total.defects:
        print(f"DEFECT {defect}")
    print(f"{'' if seed is None else f'seed {seed}: '}{len(total.defects)} promises broken")
    return 1 if total.defects else 0


if __name__ == "__main__":
    sys.exit(main())
