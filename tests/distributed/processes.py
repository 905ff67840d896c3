"""Processes that take permits of one `SharedLimiter`.

Each line that such a process prints is one attempt: when it was sent and when it ended, by the
machine's clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from forked_process import ForkedProcess

__all__ = ["start"]


def start(dsn: str, **values: Any) -> ForkedProcess:
    """Start a process; for *values* see `take`."""
    return ForkedProcess(main, dsn, json.dumps(values), cwd=Path.cwd(), env=os.environ)


def main() -> None:
    """Be such a process."""
    asyncio.run(take(sys.argv[1], **json.loads(sys.argv[2])))


async def take(dsn: str, count: int, hold: float, **values: Any) -> None:
    """Make *count* attempts of *hold* seconds each, with a limiter made of *values*."""
    from apikley_async.distributed import SharedLimiter

    async def attempt() -> None:
        async with limiter.slot():
            sent = time.time()
            print(f"sent {sent}", flush=True)
            await asyncio.sleep(hold)
        print(f"{sent} {time.time()}", flush=True)

    async with SharedLimiter(dsn, **values) as limiter:
        await asyncio.gather(*(attempt() for _ in range(count)))
