"""What becomes of dead machines in a long run: their memory is given back, and they touch nothing.

A short run keeps its dead until it is over. A day cannot: it would hold every task there ever
was. So the dead are buried at once, while their folder still has its name; their `finally` blocks
run now, in the name of the dead, to whom disk and journal are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import heapq
from collections.abc import Coroutine
from typing import Any

from simulation.loop import DRIVER, HOST, SimLoop

__all__ = ["bury"]

LAYERS = 100  # of `finally` blocks that wait for something, around one another


def bury(loop: SimLoop) -> None:
    """Let go of dead machines, and of all tasks that have ended."""
    name = max(loop.dead, default=HOST.get())
    context = contextvars.copy_context()
    context.run(HOST.set, name)
    context.run(_bury, loop)


def _bury(loop: SimLoop) -> None:
    gone = [task for task, host in loop.tasks.items() if host in loop.dead]
    for task in gone:
        if not task.done():
            end(task.get_coro())
    for task in [task for task in loop.tasks if task.done()]:
        del loop.tasks[task]
    for task in gone:
        loop.tasks.pop(task, None)
    del gone
    _drop_handles(loop)
    _drop_sockets(loop)
    loop._busy = {thread: at for thread, at in loop._busy.items() if at > loop.time()}
    gc.collect()


def end(work: Any) -> None:
    """Unwind a coroutine, however many of its `finally` blocks want to wait."""
    if isinstance(work, Coroutine):
        for _ in range(LAYERS):
            with contextlib.suppress(BaseException):
                work.close()
                return


def _drop_handles(loop: SimLoop) -> None:
    """Forget what the dead have still meant to do."""
    whole: Any = loop
    timers: list[asyncio.TimerHandle] = [*whole._scheduled]
    whole._scheduled[:] = [timer for timer in timers if not is_dead(timer, loop)]
    heapq.heapify(whole._scheduled)
    cancelled = sum(timer.cancelled() for timer in timers if is_dead(timer, loop))
    whole._timer_cancelled_count -= cancelled
    ready = [handle for handle in whole._ready if not is_dead(handle, loop)]
    whole._ready.clear()
    whole._ready.extend(ready)


def is_dead(handle: Any, loop: SimLoop) -> bool:
    return handle._context.get(HOST, DRIVER) in loop.dead


def _drop_sockets(loop: SimLoop) -> None:
    """Close what was dialled and never connected: between the two no time passes."""
    for sock in loop.network._dialled:
        sock.close()
    loop.network._dialled.clear()
