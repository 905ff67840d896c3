"""The thread of an inbox: it alone works on the file or the connection, one operation at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

__all__ = ["InboxTable", "InboxThread"]

CLOSING = 5.0  # seconds for the operations under way, until a silent database is cut off

T = TypeVar("T")


class InboxTable(Protocol):
    """What the thread works on. Every method blocks."""

    def perform(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Do an operation on this; what goes wrong is a `JournalError`."""
        ...

    def close(self) -> None:
        """Close what is open; the next operation opens it again."""
        ...

    def cut(self) -> None:
        """Let an operation that waits for an answer fail; called from another thread."""
        ...


class InboxThread:
    """Begins with the first operation, and again with the first one after it was closed.

    Args:
        make: makes what it works on; opens nothing yet.
    """

    def __init__(self, make: Callable[[], InboxTable]) -> None:
        self._make = make
        self._worker: tuple[ThreadPoolExecutor, InboxTable] | None = None
        self._lock = threading.Lock()  # it may be used in the loops of several threads

    async def run(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Do an operation in the thread: whole, also when its caller is cancelled."""
        with self._lock:
            if self._worker is None:
                executor = ThreadPoolExecutor(1, thread_name_prefix="apikley-inbox")
                self._worker = executor, self._make()
            thread, table = self._worker
            # Within the lock: once another thread closes this one, it takes nothing more.
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(thread, table.perform, operation, *arguments)
        return await asyncio.shield(running)

    def close(self) -> None:
        """Close as soon as the operations under way are done; does not wait."""
        if (worker := self._give_up()) is not None:
            thread, table = worker
            thread.submit(table.close)
            thread.shutdown(wait=False)

    async def aclose(self) -> None:
        """Close, and wait until that is done."""
        if (worker := self._give_up()) is not None:
            thread, table = worker
            closing = asyncio.get_running_loop().run_in_executor(thread, table.close)
            thread.shutdown(wait=False)
            await asyncio.wait([closing], timeout=CLOSING)
            if not closing.done():
                table.cut()
                await asyncio.wait([closing], timeout=CLOSING)

    def _give_up(self) -> tuple[ThreadPoolExecutor, InboxTable] | None:
        """What is to be closed, for one of those who close it at the same time."""
        with self._lock:
            worker, self._worker = self._worker, None
        return worker
