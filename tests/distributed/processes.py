"""Processes that take permits of one `SharedLimiter`: `python processes.py DSN '{...}'`.

Each line that such a process prints is one attempt: when it was sent and when it ended, by the
machine's clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

__all__ = ["start"]


def start(dsn: str, **values: Any) -> subprocess.Popen[str]:
    """Start a process; for *values* see `take`."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, __file__, dsn, json.dumps(values)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
        text=True,
    )


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


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1], **json.loads(sys.argv[2])))
