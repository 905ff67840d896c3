"""Fuzz the wire in volume: `nox -s fuzz`, or `python tests/fuzz/run.py --help`.

    python tests/fuzz/run.py --bodies 1000000 --pauses 100000 --jobs 2 --seed 2026

Prints the seed, the rate, what came out and how long the slowest took; ends with 1 when a
promise was broken, naming the body by its seed and number. `--only SEED/CHUNK:NUMBER` reads that
one body again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attrs
from fuzz.answers import Answer, collect
from fuzz.checks import THOROUGH, Defect, Findings, examine, examine_pause
from fuzz.mutations import bodies, pauses

CHUNK = 2_000
TOLD = 100_000  # after so many a line says how far it is
MOST_DEFECTS = 20
MOST_GROWTH = 200  # MiB that a process may grow while it reads


@attrs.define
class Share:
    """What one chunk gave."""

    findings: Findings = attrs.field(factory=Findings)
    pauses: Counter[str] = attrs.field(factory=Counter)
    defects: list[str] = attrs.field(factory=list)
    read: int = 0
    memory: int = 0  # MiB at the process's highest
    growth: int = 0  # MiB since its first chunk


def read_bodies(answers: list[Answer], seed: str, count: int = CHUNK) -> Share:
    """Read *count* bodies of one seed."""
    share = Share()
    for number, body in enumerate(bodies(answers, seed, count)):
        share.read += 1
        try:
            examine(body, share.findings, thorough=number % THOROUGH == 0)
        except Defect as defect:
            share.defects.append(
                f"{seed}:{number} ({body.kind}) {defect}\n    HTTP {body.status} "
                f"{'' if body.complete else 'cut '}{body.text!r:.300}"
            )
    return share


def read_pauses(seed: str, count: int = CHUNK) -> Share:
    """Read *count* values of Retry-After of one seed."""
    share = Share()
    for number, (header, meaning) in enumerate(pauses(seed, count)):
        share.read += 1
        try:
            share.pauses[examine_pause(header, meaning)] += 1
        except Defect as defect:
            share.defects.append(f"{seed}:{number} (pause) {defect}\n    {header!r:.200}")
    return share


# --- many processes ------------------------------------------------------------------------------

_answers: list[Answer] = []
_first_memory = 0


def begin() -> None:
    """Collect the answers once in each process: the collection is the same everywhere."""
    logging.disable()  # what the wire would warn of is what we are looking for
    _answers.extend(collect())


def work(order: tuple[str, str, int]) -> Share:
    """Read one chunk."""
    global _first_memory  # noqa: PLW0603 - of this process, which exists for nothing else
    what, seed, count = order
    share = read_bodies(_answers, seed, count) if what == "body" else read_pauses(seed, count)
    share.memory = _memory()
    _first_memory = _first_memory or share.memory
    share.growth = share.memory - _first_memory
    return share


def _memory() -> int:
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def orders(seed: int, count_bodies: int, count_pauses: int) -> Iterator[tuple[str, str, int]]:
    """Cut the work into chunks, each with a seed of its own."""
    for what, count in (("body", count_bodies), ("pause", count_pauses)):
        for chunk, start in enumerate(range(0, count, CHUNK)):
            yield what, f"{what}/{seed}/{chunk}", min(CHUNK, count - start)


def run(seed: int, count_bodies: int, count_pauses: int, jobs: int) -> Share:
    """Read everything over *jobs* processes; stop early when too much is broken."""
    total = Share()
    with multiprocessing.get_context("spawn").Pool(jobs, begin) as pool:
        for share in pool.imap_unordered(work, orders(seed, count_bodies, count_pauses)):
            total.findings.add(share.findings)
            total.pauses.update(share.pauses)
            total.defects += share.defects
            total.read += share.read
            total.memory = max(total.memory, share.memory)
            total.growth = max(total.growth, share.growth)
            if total.read % TOLD < CHUNK:
                print(f"  {total.read} read, {len(total.defects)} defects", flush=True)
            if len(total.defects) >= MOST_DEFECTS:
                break
    return total


def again(name: str) -> Share:
    """Read one body again."""
    seed, _, number = name.rpartition(":")
    body = bodies(collect(), seed, int(number) + 1)[-1]
    print(f"HTTP {body.status}, {len(body.text)} characters: {body.text[:2000]!r}")
    print(f"headers: {body.headers}, complete: {body.complete}")
    examine(body, Findings(), thorough=True)
    return Share(read=1)


def main() -> int:
    """Read the arguments and the bodies, and tell."""
    parser = argparse.ArgumentParser(description="Fuzz the wire.")
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--pauses", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None, help="by default another one each time")
    parser.add_argument("--only", help="SEED:NUMBER of a body to be read again")
    options = parser.parse_args()
    if options.only:
        again(options.only)
        return 0
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    total = run(seed, options.bodies, options.pauses, options.jobs)
    return tell(total, seed, time.monotonic() - began)


def tell(total: Share, seed: int, took: float) -> int:
    """Print what was found; 1 when a promise was broken."""
    print(f"{total.read} read in {took:.0f} s: {total.read / took:.0f} a second")
    print(f"{total.findings.characters / 2**20:.0f} Mi characters, each read as 7 kinds of answer")
    print(f"the slowest took {total.findings.slowest * 1000:.1f} ms for each 64 KiB or less")
    print(f"{total.memory} MiB at the highest, {total.growth} more than after the first chunk")
    for outcome, count in sorted(total.findings.outcomes.items()):
        print(f"  {count:>9} {outcome}")
    print(f"Retry-After: {dict(total.pauses)}")
    if total.growth > MOST_GROWTH:
        total.defects.append(f"memory grew by {total.growth} MiB")
    for defect in total.defects:
        print(f"DEFECT {defect}")
    print(f"seed {seed}: {len(total.defects)} promises broken")
    return 1 if total.defects else 0


if __name__ == "__main__":
    sys.exit(main())
