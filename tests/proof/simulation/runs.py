"""Running one plan: `run(plan)` gives what happened, and every promise that was broken.

The same plan gives the same history, in every process; with `even`, on every Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import itertools
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from simulation.callers import Callers
from simulation.even import evenly
from simulation.loop import Deadlock
from simulation.plans import Plan
from simulation.world import Report, World

__all__ = ["Report", "run", "unheard"]

MEMORY = Path("/dev/shm")


def run(plan: Plan) -> Report:
    """Let a plan happen."""
    root = Path(tempfile.mkdtemp(prefix="apikley-", dir=MEMORY if MEMORY.is_dir() else None))
    with unheard():
        world = (Callers if plan.callers else World)(plan, root)
        world.loop.set_exception_handler(lambda _loop, context: None)
        asyncio.set_event_loop(world.loop)
        try:
            with world.disk.watched(), evenly() if plan.even else contextlib.nullcontext():
                world.loop.run_until_complete(world.story())
        except Deadlock as error:
            world.report.broken.append(f"I9: nobody moves any more: {error}")
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a verdict as well
            told = f"{type(error).__name__}: {error}"
            world.report.broken.append(f"I9: the story breaks off: {told}")
        finally:
            asyncio.set_event_loop(None)
            _tell(world)
            shutil.rmtree(root, ignore_errors=True)
            world.loop.close()
            world.loop.tasks.clear()
            bury()
    return world.report


_runs = itertools.count(1)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Nobody hears the dead, and none is buried while others live: burying runs their `finally`."""
    was, off = sys.unraisablehook, logging.root.manager.disable
    collected = gc.isenabled()
    sys.unraisablehook = lambda _: None
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(off)
        sys.unraisablehook = was
        if collected:
            gc.enable()


def bury() -> None:
    """Collect what dead machines have left, now and then."""
    if next(_runs) % 25 == 0:
        gc.collect()


def _tell(world: World) -> None:
    ledger, report = world.simulator.ledger, world.report
    report.steps, report.commits = world.loop.steps, world.disk.commits
    told = [(c.at, c.task_id, c.outcome, c.fault, c.callback_url) for c in ledger.creations]
    more = [(c.at, c.task_id, c.outcome, c.status) for c in ledger.callbacks]
    files = [(f.at, f.method, f.range, f.fault) for f in ledger.files]
    polls = sorted(ledger.polls.items())
    states = sorted(report.states.items())
    whole = repr((told, more, files, polls, states, report.steps))
    report.history = hashlib.sha256(whole.encode()).hexdigest()
    ends = repr(([c[1:4] for c in told], states))
    report.ends = hashlib.sha256(ends.encode()).hexdigest()
