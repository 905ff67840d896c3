"""One history on all Pythons: what newer ones order otherwise is ordered as on the oldest.

From 3.12 on aiohttp lets some tasks begin at once, without a turn of the loop, and `gather` takes
notice of what has ended already at once. Both is right, and moves steps and latencies. Runs that
are compared between Pythons do neither; all others are as their Python has them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any

from aiohttp import client_reqrep, connector, web_protocol

__all__ = ["evenly"]

ROOMS: tuple[Any, ...] = (client_reqrep, connector, web_protocol)


class _Asyncio:
    """asyncio, as those modules of aiohttp see it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    def Task(  # noqa: N802 - its name
        work: Coroutine[Any, Any, Any],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        eager_start: bool = False,
        **options: Any,
    ) -> asyncio.Task[Any]:
        """Begin in a turn of its own."""
        return (loop or asyncio.get_running_loop()).create_task(work, **options)

    @staticmethod
    async def gather(*works: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Wait for one after the other; here all are under way already."""
        ends: list[Any] = []
        for work in works:
            try:
                ends.append(await work)
            except Exception as error:
                if not return_exceptions:
                    raise
                ends.append(error)
        return ends


@contextlib.contextmanager
def evenly() -> Iterator[None]:
    """Let aiohttp order its steps as on every Python."""
    for room in ROOMS:
        room.asyncio = _Asyncio()
    try:
        yield
    finally:
        for room in ROOMS:
            room.asyncio = asyncio
