"""When the runs of a batch began, kept in the journal for its report.

Only for a journal that one process uses at a time: of a shared one some worker always runs.
"""

from __future__ import annotations

import json

from apikley_async import Clock
from apikley_async.batch.store.protocol import Store
from apikley_async.batch.store.rows import read_time

__all__ = ["read_runs", "store_run"]

NAME = "runs"  # of the value in the store
MOST = 100  # runs that are kept, the latest
LONGEST = 30 * MOST  # characters of a value that this module has written


async def store_run(store: Store, clock: Clock) -> None:
    """Keep that a run begins.

    Args:
        store: of the batch.
        clock: of the batch.
    """
    if not store.shared:
        runs = [*await read_runs(store), round(clock.wall(), 3)]
        await store.write_learned(NAME, json.dumps(runs[-MOST:]))


async def read_runs(store: Store) -> list[float]:
    """When the latest runs began, in seconds since 1970, as far as it is known."""
    learned = await store.read_learned(NAME)
    runs = None if learned is None else learned.parsed(LONGEST)
    return [at for at in runs if read_time(at)] if isinstance(runs, list) else []
