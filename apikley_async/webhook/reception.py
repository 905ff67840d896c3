"""Between the doors and those who listen: judges what comes, and answers in time.

Knows no framework. Whoever takes long to listen goes on in a task that ends with the door.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TypeAlias

import attrs

from apikley_async import Clock
from apikley_async._tokens import Seal
from apikley_async.webhook.request_limits import Limits
from apikley_async.webhook.verify import LARGEST, Heard, Keys, Letter, Replays, judge, refusal

__all__ = ["PHRASES", "Ask", "Gate", "Reception", "kind_of"]

logger = logging.getLogger("apikley_async")

Ask: TypeAlias = Callable[[Heard], Awaitable[int]]
"""Hands on what was heard, and gives the status to answer with."""

PHRASES = {
    200: '{"code":200,"msg":"success"}',
    400: "A callback is a JSON object that names a task.\n",
    401: "The signature is missing, out of date or not ours.\n",
    404: "Nobody here waits for that.\n",
    405: "Callbacks are posted.\n",
    413: "A callback is not that long.\n",
    415: "A callback is not compressed.\n",
    503: "Not now; please call again.\n",
}
"""All that a caller is ever told; what the service expects is JSON, and is the first one."""


def kind_of(status: int) -> str:
    """The content type of an answer."""
    return "application/json" if status == 200 else "text/plain; charset=utf-8"


@attrs.define(eq=False, repr=False)
class Gate:
    """What all doors of one receiver share."""

    keys: Keys
    ask: Ask
    clock: Clock
    limits: Limits
    seal: Seal | None = None
    replays: Replays = attrs.Factory(Replays)
    warned: bool = False

    def warn_once(self) -> None:
        """Say that a signature did not fit: an attack, or a key that was mistyped."""
        if not self.warned:
            self.warned = True
            logger.warning(
                "a callback was refused: its signature is missing, out of date or made with a key "
                "that is not in hmac_keys; if none is ever heard, check the keys and this "
                "machine's clock (this is said once)"
            )


class Reception:
    """What stands behind one door."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._hearings: dict[asyncio.Task[int], None] = {}

    def refusal(self, letter: Letter) -> int | None:
        """The status of a request whose body need not be read."""
        return refusal(letter, self._gate.seal)

    async def read(self, pieces: AsyncIterable[bytes]) -> bytes | int:
        """A body whole and in time, or the status of what is none."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._gate.limits.body):
                async for piece in pieces:
                    body += piece
                    if len(body) > LARGEST:
                        return 413
        except Exception as error:  # noqa: BLE001 - too slow, broken off, badly chunked: no body
            logger.debug("a callback was not read: %s", type(error).__name__)
            return 400
        return bytes(body)

    async def receive(self, letter: Letter, body: bytes) -> int:
        """Judge a request, let those hear it whom it may concern, and give the status."""
        gate = self._gate
        now = gate.clock.now()
        ruling = judge(
            letter,
            body,
            keys=gate.keys,
            wall=gate.clock.wall(),
            replayed=lambda mark: gate.replays.knows(mark, now),
        )
        if ruling.status == 401:
            gate.warn_once()
        if ruling.heard is None:
            return ruling.status
        if len(self._hearings) >= gate.limits.waiting:
            return 503
        return await self._hear(ruling.heard, ruling.mark)

    async def _hear(self, heard: Heard, mark: bytes) -> int:
        gate = self._gate
        hearing = asyncio.get_running_loop().create_task(self._ask(heard), name="a callback")
        self._hearings[hearing] = None
        hearing.add_done_callback(self._hearings.pop)
        await asyncio.wait({hearing}, timeout=gate.limits.hear)
        status = _status_of(hearing) if hearing.done() else 503
        # Only what was heard is remembered: what nobody knew yet may be known when it is repeated.
        if status == 200 and mark:
            gate.replays.keep(mark, gate.clock.now())
        return status

    async def _ask(self, heard: Heard) -> int:
        try:
            return await self._gate.ask(heard)
        except Exception as error:  # noqa: BLE001 - its text may hold a token: its name has to do
            logger.error("a callback could not be heard: %s", type(error).__name__)
            return 503

    async def aclose(self) -> None:
        """End those who still listen."""
        hearings = set(self._hearings)
        for hearing in hearings:
            hearing.cancel()
        if hearings:
            await asyncio.wait(hearings)


def _status_of(hearing: asyncio.Task[int]) -> int:
    return 503 if hearing.cancelled() else hearing.result()
