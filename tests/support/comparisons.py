"""A loop whose futures count how often they are compared: a search in a queue compares them."""

from __future__ import annotations

import asyncio
from typing import Any

from apikley_async.virtual import VirtualLoop

__all__ = ["ComparingLoop"]


class ComparingLoop(VirtualLoop):
    """Virtual time; *compared* says how many comparisons of its futures there were."""

    compared = 0

    def create_future(self) -> asyncio.Future[Any]:
        return _Compared(loop=self)


class _Compared(asyncio.Future[Any]):
    def __eq__(self, other: object) -> bool:
        loop = self.get_loop()
        assert isinstance(loop, ComparingLoop)
        loop.compared += 1
        return self is other

    __hash__ = asyncio.Future.__hash__
