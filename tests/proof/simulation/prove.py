"""The long runs of the simulation, in parts that can be run one by one.

  prove.py seeds --count 20000    random plans: faults, crashes, power cuts
  prove.py kills --count 10000    a kill at every step of scenarios
  prove.py twice --count 2000     a second one while recovering
  prove.py power --count 5000     power cuts at every step
  prove.py cancels --count 5000   cancelled, or closed, at every step
  prove.py upsets --count 5000    stalled, asleep, cut off, a clock set
  prove.py callers --count 5000   some of the waiting callers are cancelled
  prove.py same --count 50        the same history in every process;
                                                            paths of other Pythons may follow
  prove.py mutants [NAME ...]     planted mistakes, each noticed
  prove.py quick-mutants          those that are noticed soon
  prove.py pacing --count 20000   no refusal caused by our limiter
  prove.py day --count 24         so many hours of 360 films and a crash
  prove.py one PLAN               one run, as a failure has printed it

Exits with 1 when a promise was broken; a failure is shrunk and printed as a line that repeats it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve()
TESTS = HERE.parents[2]
sys.path[:1] = [*map(str, (TESTS / "proof", TESTS, TESTS / "support", TESTS.parent))]
if mutant := os.environ.get("APIKLEY_MUTANT"):
    from simulation.mutants import install

    install(mutant)

import attrs  # noqa: E402 - after the mutant, which changes what is imported
from simulation.mutants import MUTANTS, QUICK  # noqa: E402
from simulation.plans import Plan, at_every_step, draw_plan, read, scenario, to_line  # noqa: E402
from simulation.runs import Report, run  # noqa: E402

warnings.simplefilter("ignore", RuntimeWarning)  # dead machines leave coroutines behind,
sys.unraisablehook = lambda _: None  # which complain when they are collected

RUNS_A_MUTANT = 2_000
SALTS = ("0", "1", "2")


# --- which plans ---------------------------------------------------------------------------------


def seeds(first: int, count: int) -> Iterator[Plan]:
    return map(draw_plan, range(first, first + count))


def points(kind: str, first: int, count: int) -> Iterator[list[Plan]]:
    """Every step of one scenario's first life, then of the next scenario's."""
    left = count
    for seed in itertools.count(first):
        base = scenario(kind, seed)
        plans = at_every_step(kind, base, range(1, run(base).first_life + 1))[:left]
        left -= len(plans)
        yield plans
        if left <= 0:
            return


# --- failures ------------------------------------------------------------------------------------


def smaller(plan: Plan) -> Iterator[Plan]:
    """The plan without one of its events."""
    for place in range(len(plan.kills)):
        yield attrs.evolve(plan, kills=plan.kills[:place] + plan.kills[place + 1 :])
    for place, (endpoint, mix) in enumerate(plan.mixes):
        before, after = plan.mixes[:place], plan.mixes[place + 1 :]
        yield attrs.evolve(plan, mixes=before + after)
        for fault in range(len(mix) if len(mix) > 1 else 0):
            fewer = mix[:fault] + mix[fault + 1 :]
            yield attrs.evolve(plan, mixes=(*before, (endpoint, fewer), *after))
    for place in range(len(plan.upsets)):
        yield attrs.evolve(plan, upsets=plan.upsets[:place] + plan.upsets[place + 1 :])
    if plan.walls:
        yield attrs.evolve(plan, walls=())
    if plan.apart is not None:
        yield attrs.evolve(plan, apart=plan.apart[1:] if plan.apart else None)
    if plan.budget is not None:
        yield attrs.evolve(plan, budget=None)
    if plan.callbacks:
        yield attrs.evolve(plan, callbacks=False, apart=None)
    if plan.power:
        yield attrs.evolve(plan, power=False)
    if plan.films > 1:
        yield attrs.evolve(plan, films=plan.films - 1)


def shrunk(plan: Plan, broken: Iterable[str]) -> Plan:
    """The smallest plan that still breaks one of the same promises."""
    kinds = {fault.partition(":")[0] for fault in broken}
    tries = 0
    progress = True
    while progress and tries < 300:
        progress = False
        for less in smaller(plan):
            tries += 1
            if kinds & {fault.partition(":")[0] for fault in run(less).broken}:
                plan, progress = less, True
                break
    return plan


def print_failure(report: Report) -> None:
    plan = shrunk(report.plan, report.broken)
    broken = run(plan).broken
    print(f"BROKEN: {'; '.join(broken)[:1000]}")
    print(f"  python tests/proof/simulation/prove.py one '{to_line(plan)}'", flush=True)


# --- the parts -----------------------------------------------------------------------------------


def many(plans: list[Plan]) -> tuple[int, int, int, list[Report]]:
    """Run plans in this process: how many, deaths, commits, and those with broken promises."""
    reports = [run(plan) for plan in plans]
    bad = [report for report in reports if report.broken]
    return len(reports), sum(r.died for r in reports), sum(r.commits for r in reports), bad


def chunks(plans: Iterator[Plan], size: int) -> Iterator[list[Plan]]:
    while chunk := [*itertools.islice(plans, size)]:
        yield chunk


def chunk_size(count: int, jobs: int) -> int:
    """How many plans a process gets at a time: small enough that all end at about the same time."""
    return max(1, min(50, count // (8 * jobs)))


def part(name: str, work: Iterable[list[Plan]], jobs: int) -> int:
    """Run chunks of plans in *jobs* processes, and print the result."""
    began, failures, done, died, commits = time.monotonic(), 0, 0, 0, 0
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=40) as pool:
        for number, deaths, more, bad in pool.imap_unordered(many, work):
            done, died, commits = done + number, died + deaths, commits + more
            for report in bad:
                failures += 1
                if failures <= 5:
                    print_failure(report)
        pool.terminate()
    seconds = time.monotonic() - began
    pace = 60 * done / seconds / jobs
    print(
        f"{name}: {done} runs, {died} deaths, {commits} commits, {failures} broken; "
        f"{seconds:.0f} s, {pace:.0f} a minute and process",
        flush=True,
    )
    return failures


def same(first: int, count: int, pythons: list[str]) -> int:
    """Compare the histories of some seeds in processes with other hash seeds, on all *pythons*."""
    fingerprints = {
        (version, salt): fingerprint_elsewhere(first, count, salt, python)
        for version, python in sorted(python_versions(pythons).items())
        for salt in SALTS
    }
    versions = ", ".join(sorted({version for version, _ in fingerprints}))
    whole = {*fingerprints.values()}
    print(
        f"same: {count} seeds, {len(fingerprints)} processes ({versions}): {len(whole)} histories"
    )
    for where, what in fingerprints.items() if len(whole) > 1 else ():
        print(f"  {where}: {what}")
    return len(whole) - 1


def python_versions(paths: list[str]) -> dict[str, str]:
    """The versions of this Python and of those at *paths*."""
    script = "import platform; print(platform.python_version())"
    return {
        subprocess.run(
            [path, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip(): path
        for path in [sys.executable, *paths]
    }


def fingerprint_elsewhere(first: int, count: int, salt: str, python: str = sys.executable) -> str:
    """The fingerprint of some seeds from a process of its own."""
    words = ["fingerprint", "--first", str(first), "--count", str(count)]
    return last_line_of(words, python, PYTHONHASHSEED=salt)


def last_line_of(words: list[str], python: str = sys.executable, **more: str) -> str:
    """The last line that this file prints in a process of its own."""
    command = [python, str(HERE), *words]
    done = subprocess.run(
        command, env=os.environ | more, capture_output=True, text=True, check=False
    )
    if not done.stdout.strip():
        raise RuntimeError(done.stderr[-500:])
    return done.stdout.strip().splitlines()[-1]


def fingerprint(first: int, count: int) -> int:
    """A sum over whole histories, and one over ledgers and final states only."""
    reports = [run(attrs.evolve(plan, even=True)) for plan in seeds(first, count)]
    sums = ["".join(r.history for r in reports), "".join(r.ends for r in reports)]
    print(*(hashlib.sha256(each.encode()).hexdigest()[:16] for each in sums))
    return 0


def find_mutant(name: str, runs: int = RUNS_A_MUTANT) -> tuple[str, int, str]:
    """Run until a mutant is noticed; after how many runs, 0 for never."""
    try:
        line = last_line_of(["hunt", "--count", str(runs)], APIKLEY_MUTANT=name)
        number, what = line.split(" ", 1)
        return name, int(number), what
    except (RuntimeError, ValueError) as error:
        return name, 0, f"the hunt failed: {error}"


def hunt(runs: int) -> int:
    """Run random plans, and steps of some scenarios, until a promise is broken."""
    for tried, plan in enumerate(itertools.islice(hunt_plans(), runs), start=1):
        if broken := run(plan).broken:
            print(f"{tried} {broken[0].splitlines()[0][:100]}")
            return 0
    print("0 never noticed")
    return 1


def hunt_plans() -> Iterator[Plan]:
    kinds = itertools.cycle(("cancels", "kills", "power", "upsets", "callers"))
    for seed in itertools.count():
        yield draw_plan(seed)
        if seed % 10 == 0:
            kind = next(kinds)
            yield from at_every_step(kind, scenario(kind, seed), range(1, 400, 21))


def mutants(names: list[str], jobs: int, runs: int) -> int:
    """Plant each mistake in the code, and check that it is noticed within so many *runs*."""
    wanted = names or [*MUTANTS]
    missed = 0
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        hunts = functools.partial(find_mutant, runs=runs)
        for name, number, what in pool.imap_unordered(hunts, wanted):
            missed += not number
            result = f"noticed in run {number}: {what}" if number else f"MISSED: {what}"
            print(f"  {name}: {result}", flush=True)
    print(f"mutants: {len(wanted) - missed} of {len(wanted)} noticed")
    return missed


def pacing(count: int) -> int:
    """*count* submissions under fixed and sliding windows, late responses with a long tail."""
    from simulation.pacing import paced

    broken = 0
    for window in ("fixed", "sliding"):
        result = paced(count, window)
        broken += result["refused"] != 0 or result["share"] < 0.96
        print(f"pacing: {result}", flush=True)
    return broken


def a_day(hours: int, seed: int) -> int:
    """Hours of one journal, with a crash in each; `day.py` has more options."""
    from simulation.day import run_and_print

    return run_and_print(hours, hours, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_intermixed_args()
    count, first, jobs = options.count or 1000, options.first, options.jobs
    runs = options.count or RUNS_A_MUTANT
    kinds: dict[str, Callable[[], int]] = {
        "seeds": lambda: part("seeds", chunks(seeds(first, count), chunk_size(count, jobs)), jobs),
        "same": lambda: same(first, count, options.words),
        "fingerprint": lambda: fingerprint(first, count),
        "mutants": lambda: mutants(options.words, jobs, runs),
        "quick-mutants": lambda: mutants([*QUICK], jobs, runs),
        "hunt": lambda: hunt(runs),
        "pacing": lambda: pacing(count),
        "day": lambda: a_day(options.count or 24, first),
        "one": lambda: one(options.words[0]),
    }
    for kind in ("kills", "twice", "power", "cancels", "upsets", "callers"):
        kinds[kind] = functools.partial(spread, kind, first, count, jobs)
    return 1 if kinds[options.part]() else 0


def spread(kind: str, first: int, count: int, jobs: int) -> int:
    size = chunk_size(count, jobs)
    work = (chunk for plans in points(kind, first, count) for chunk in chunks(iter(plans), size))
    return part(kind, work, jobs)


def one(text: str) -> int:
    report = run(read(text))
    print(report)
    return len(report.broken)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # dead machines need no cleanup at the end
