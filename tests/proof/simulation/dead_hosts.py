"""Ends the tasks of killed machines, without letting their code do anything.

A short run keeps them until its end. A day cannot: it would hold every task there ever was. So
they are unwound at once, while their folder still has its name. Their `finally` blocks then run on
the dead machine, for which disk and journal are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

from simulation.loop import DRIVER, HOST, SimLoop

__all__ = ["end", "release"]

LAYERS = 100  # of nested `finally` blocks that await something


def release(loop: SimLoop) -> None:
    """Drop the tasks, handles and sockets of dead machines, and all tasks that have ended."""
    _on_dead_machine(loop, _release)


def end(loop: SimLoop) -> None:
    """Let every machine be dead, and unwind what has not ended, before the loop is closed.

    Whatever is left would be unwound when it is collected: at any time, up to the end of Python,
    and with errors that nobody takes.
    """
    loop.dead.update(loop.tasks.values())
    _on_dead_machine(loop, _unwind_tasks)
    _on_dead_machine(loop, _unwind_generators)
    loop.tasks.clear()


def _on_dead_machine(loop: SimLoop, act: Callable[[SimLoop], object]) -> None:
    host = max(loop.dead, default=HOST.get())
    context = contextvars.copy_context()
    context.run(HOST.set, host)
    context.run(act, loop)


def _unwind_tasks(loop: SimLoop) -> list[asyncio.Task[Any]]:
    """Unwind the tasks of dead machines, and return them."""
    gone = [task for task, host in loop.tasks.items() if host in loop.dead]
    for task in gone:
        if not task.done():
            unwind(task.get_coro())
    return gone


def _unwind_generators(loop: SimLoop) -> None:
    """Unwind what generators wait for: up to Python 3.12 closing a task stops before them."""
    whole: Any = loop
    for generator in [*whole._asyncgens]:
        unwind(generator.ag_await)


def _release(loop: SimLoop) -> None:
    gone = _unwind_tasks(loop)
    for task in [task for task in loop.tasks if task.done()]:
        del loop.tasks[task]
    for task in gone:
        loop.tasks.pop(task, None)
    del gone
    _drop_handles(loop)
    _drop_sockets(loop)
    loop.busy = {thread: at for thread, at in loop.busy.items() if at > loop.time()}
    gc.collect()


def unwind(work: Any) -> None:
    """Close a coroutine, however many of its `finally` blocks await something."""
    if isinstance(work, Coroutine):
        for _ in range(LAYERS):
            with contextlib.suppress(BaseException):
                work.close()
                return


def _drop_handles(loop: SimLoop) -> None:
    """Drop the timers and callbacks of dead machines."""
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
    """Close sockets that were dialled and never connected; no time passes between the two."""
    for sock in loop.network.dialled:
        sock.close()
    loop.network.dialled.clear()
