"""Handles one callback, without a web framework: verify, dispatch to listeners, answer in time.

A listener that takes longer than the caller is kept waiting goes on in a task of its own, which
ends with the application that the callback came in by.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TypeAlias

from apikley_async import Clock
from apikley_async._tokens import TokenMac
from apikley_async.webhook.limits import Limits
from apikley_async.webhook.verify import (
    MAX_BODY,
    CallbackRequest,
    HmacKeys,
    Notification,
    ReplayCache,
    Verification,
    refusal_status,
    verify,
)

__all__ = ["RESPONSE_TEXTS", "CallbackHandler", "Dispatch", "Verifier", "content_type"]

logger: logging.Logger = logging.getLogger("apikley_async")

Dispatch: TypeAlias = Callable[[Notification], Awaitable[int]]
"""Passes a notification on, and returns the HTTP status to answer with."""

RESPONSE_TEXTS = {
    200: '{"code":200,"msg":"success"}',
    400: "A callback is a JSON object that names a task.\n",
    401: "The signature is missing, expired or wrong.\n",
    404: "No listener waits for this callback.\n",
    405: "Callbacks are sent by POST.\n",
    413: "The body is too long for a callback.\n",
    415: "A callback is not compressed.\n",
    503: "Not now; please send it again.\n",
}
"""Every body that a caller can get. The service expects JSON as the answer to a success."""


def content_type(status: int) -> str:
    """The content type of the body in `RESPONSE_TEXTS`."""
    return "application/json" if status == 200 else "text/plain; charset=utf-8"


class Verifier:
    """Verifies callbacks by the clock, and remembers those that were dispatched.

    All applications of one receiver share it, so that a replay is known at each of them.

    Args:
        keys: the keys that callbacks may be signed with.
        clock: tells the time.
        token_mac: verifies the MAC behind a token, where tokens of others are refused.
    """

    def __init__(self, keys: HmacKeys, *, clock: Clock, token_mac: TokenMac | None = None) -> None:
        self.keys = keys
        self.token_mac = token_mac
        self._clock = clock
        self._replays = ReplayCache()
        self._warned = False

    def refusal_status(self, request: CallbackRequest) -> int | None:
        """The status of a request whose body need not be read; None: read it."""
        return refusal_status(request, self.token_mac)

    def verify(self, request: CallbackRequest, body: bytes) -> Verification:
        """Verify a whole request at this time."""
        now = self._clock.now()
        verification = verify(
            request,
            body,
            keys=self.keys,
            wall=self._clock.wall(),
            is_replay=lambda replay_key: self._replays.has_seen(replay_key, now),
        )
        if verification.status == 401:
            self._warn_once()
        return verification

    def remember(self, replay_key: bytes) -> None:
        """Answer the same callback with 200 from now on, without telling the listeners."""
        self._replays.add(replay_key, self._clock.now())

    def _warn_once(self) -> None:
        """Log a wrong signature: it is an attack, or a key that was mistyped."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "a callback was refused: its signature is missing, expired or made with a key "
                "that is not in hmac_keys; if none is ever accepted, check the keys and this "
                "machine's clock (logged once)"
            )


class CallbackHandler:
    """Handles the callbacks of one application.

    Args:
        verifier: shared with the other applications of the same receiver.
        dispatch: tells the listeners, or stores the notification.
        limits: bounds for callers and listeners.
    """

    def __init__(self, verifier: Verifier, dispatch: Dispatch, limits: Limits) -> None:
        self._verifier = verifier
        self._dispatch = dispatch
        self._limits = limits
        self._dispatches: dict[asyncio.Task[int], None] = {}

    def refusal_status(self, request: CallbackRequest) -> int | None:
        """The status of a request whose body need not be read; None: read it."""
        return self._verifier.refusal_status(request)

    async def read_body(self, chunks: AsyncIterable[bytes]) -> bytes | int:
        """The whole body, or the status to answer with if it is too long, too slow or broken."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > MAX_BODY:
                        return 413
        except Exception as error:  # noqa: BLE001 - too slow, broken off or badly chunked
            logger.debug("the body of a callback was not read: %s", type(error).__name__)
            return 400
        return bytes(body)

    async def handle(self, request: CallbackRequest, body: bytes) -> int:
        """Verify a request, tell the listeners, and return the status to answer with."""
        verification = self._verifier.verify(request, body)
        if verification.notification is None:
            return verification.status
        if len(self._dispatches) >= self._limits.pending:
            return 503  # the service sends it again, so nothing is lost
        return await self._dispatch_in_time(verification.notification, verification.replay_key)

    async def _dispatch_in_time(self, notification: Notification, replay_key: bytes) -> int:
        dispatching = asyncio.get_running_loop().create_task(
            self._guarded_dispatch(notification), name="apikley callback"
        )
        self._dispatches[dispatching] = None
        dispatching.add_done_callback(self._dispatches.pop)
        # `wait` does not cancel: a listener that is late still finishes, and is called only once.
        await asyncio.wait({dispatching}, timeout=self._limits.dispatch)
        status = _status_of(dispatching) if dispatching.done() else 503
        # Only a success is remembered: a token that nobody knows yet may be known when the
        # service sends its callback again.
        if status == 200 and replay_key:
            self._verifier.remember(replay_key)
        return status

    async def _guarded_dispatch(self, notification: Notification) -> int:
        try:
            return await self._dispatch(notification)
        except Exception as error:  # noqa: BLE001 - its text may contain a token: log its class
            logger.error("a callback could not be dispatched: %s", type(error).__name__)
            return 503

    async def aclose(self) -> None:
        """Cancel the listeners that have not finished."""
        dispatches = set(self._dispatches)
        for dispatching in dispatches:
            dispatching.cancel()
        if dispatches:
            await asyncio.wait(dispatches)


def _status_of(dispatching: asyncio.Task[int]) -> int:
    return 503 if dispatching.cancelled() else dispatching.result()
