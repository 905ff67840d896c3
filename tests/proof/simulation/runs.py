"""Running one plan: `run(plan)` returns what happened, and every promise that was broken.

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

from simulation.callers import CallersRun
from simulation.dead_hosts import end
from simulation.loop import Deadlock
from simulation.plans import Plan
from simulation.python_order import in_oldest_order
from simulation.simulation_run import Report, SimulationRun

__all__ = ["Report", "run", "silenced"]

MEMORY = Path("/dev/shm")


def run(plan: Plan) -> Report:
    """Run a plan."""
    root = Path(tempfile.mkdtemp(prefix="apikley-", dir=MEMORY if MEMORY.is_dir() else None))
    with silenced():
        current = (CallersRun if plan.callers else SimulationRun)(plan, root)
        current.loop.set_exception_handler(lambda _loop, context: None)
        asyncio.set_event_loop(current.loop)
        try:
            with (
                current.disk.watched(),
                in_oldest_order() if plan.even else contextlib.nullcontext(),
            ):
                current.loop.run_until_complete(current.play())
        except Deadlock as error:
            current.report.broken.append(f"I9: nothing can happen any more: {error}")
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - any error breaks a promise
            shown = f"{type(error).__name__}: {error}"
            current.report.broken.append(f"I9: the run breaks off: {shown}")
        finally:
            asyncio.set_event_loop(None)
            _record(current)
            with current.disk.watched():
                end(current.loop)
            shutil.rmtree(root, ignore_errors=True)
            current.loop.close()
            collect_sometimes()
    return current.report


_runs = itertools.count(1)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence logs and warnings, and rest the collector, which would run `finally` blocks."""
    hook, level = sys.unraisablehook, logging.root.manager.disable
    collects = gc.isenabled()
    sys.unraisablehook = lambda _: None
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        sys.unraisablehook = hook
        if collects:
            gc.enable()


def collect_sometimes() -> None:
    """Collect the garbage of dead machines every 25 runs."""
    if next(_runs) % 25 == 0:
        gc.collect()


def _record(finished: SimulationRun) -> None:
    ledger, report = finished.simulator.ledger, finished.report
    report.steps, report.commits = finished.loop.steps, finished.disk.commits
    creations = [(c.at, c.task_id, c.outcome, c.fault, c.callback_url) for c in ledger.creations]
    callbacks = [(c.at, c.task_id, c.outcome, c.status) for c in ledger.callbacks]
    files = [(f.at, f.method, f.range, f.fault) for f in ledger.files]
    polls = sorted(ledger.polls.items())
    states = sorted(report.states.items())
    whole = repr((creations, callbacks, files, polls, states, report.steps))
    report.history = hashlib.sha256(whole.encode()).hexdigest()
    ends = repr(([c[1:4] for c in creations], states))
    report.ends = hashlib.sha256(ends.encode()).hexdigest()
