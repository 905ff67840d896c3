"""Orders the steps of aiohttp as on the oldest Python, so that a plan has one history on all.

From 3.12 on aiohttp starts some tasks eagerly, without a turn of the loop, and `gather` notices at
once what has ended already. Both are correct, and move steps and latencies. Runs that are compared
between Pythons do neither; all other runs are as their Python orders them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any

from aiohttp import client_reqrep, connector, web_protocol

__all__ = ["in_oldest_order"]

AIOHTTP_MODULES: tuple[Any, ...] = (client_reqrep, connector, web_protocol)


class _Asyncio:
    """asyncio, as these modules of aiohttp see it."""

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
        """Start in a turn of its own."""
        return (loop or asyncio.get_running_loop()).create_task(work, **options)

    @staticmethod
    async def gather(*works: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Await one after the other; all of them are running already."""
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
def in_oldest_order() -> Iterator[None]:
    """Let aiohttp order its steps as on the oldest Python."""
    for module in AIOHTTP_MODULES:
        module.asyncio = _Asyncio()
    try:
        yield
    finally:
        for module in AIOHTTP_MODULES:
            module.asyncio = asyncio
