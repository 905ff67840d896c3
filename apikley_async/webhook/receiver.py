"""`Receiver`: takes callbacks for clients in other processes, and adds them to an inbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from apikley_async import Clock, SystemClock
from apikley_async._tokens import TokenMac
from apikley_async.errors import JournalError
from apikley_async.webhook.endpoint import Endpoint
from apikley_async.webhook.handler import Verifier
from apikley_async.webhook.inbox import CallbackInbox
from apikley_async.webhook.limits import Limits
from apikley_async.webhook.verify import HmacKeys, Notification

__all__ = ["Receiver"]

logger: logging.Logger = logging.getLogger("apikley_async")


class Receiver(Endpoint):
    """Takes callbacks for other processes: it answers when the callback is safe in the *inbox*.

    It knows no attempts. With a token secret it accepts the tokens that were made with the API
    key of that secret. Without one, and without HMAC keys, it accepts whatever is well-formed:
    then anybody who knows the address can fill the inbox.

    Args:
        inbox: the callbacks go there, for a `Callback(inbox=...)` elsewhere.
        token_secrets: what `apikley webhook secret` prints or `token_secret(api_key)` returns,
            one for each API key whose films are called back about. Not the keys themselves.
        hmac_keys: keys that callbacks may be signed with; without any, signatures are not checked.
        clock: tells the time.
        limits: bounds for callers and for the inbox.

    Raises:
        ValueError: a key or a secret is none. The message does not repeat it.
    """

    def __init__(
        self,
        inbox: CallbackInbox,
        *,
        token_secrets: Iterable[str] = (),
        hmac_keys: Iterable[str] = (),
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.inbox = inbox
        self._logged = ""
        try:
            token_mac, keys = TokenMac(token_secrets), HmacKeys(hmac_keys)
        finally:
            # a traceback that shows local variables must not show them
            del hmac_keys, token_secrets
        verifier = Verifier(keys, clock=clock or SystemClock(), token_mac=token_mac)
        super().__init__(verifier, self._store, limits or Limits())

    @property
    def gate(self) -> str:
        required = []
        if self._verifier.token_mac:
            required.append("a token that was made with the API key")
        if self._verifier.keys:
            required.append("a signature")
        return " and ".join(required) or "none: whoever knows the address can fill the inbox"

    async def _store(self, notification: Notification) -> int:
        try:
            await self.inbox.add(notification.token, notification.task_id)
        except JournalError as error:
            if error.message != self._logged:  # an inbox stays broken for long: log it once
                logger.error("callbacks cannot be stored: %s", error.message)
            self._logged = error.message
            return 503
        self._logged = ""
        return 200

    async def _is_healthy(self) -> bool:
        """Whether the last callback was stored, or the inbox can be opened again since."""
        if self._logged:
            with contextlib.suppress(JournalError, TimeoutError):
                async with asyncio.timeout(self._limits.dispatch):
                    await self.inbox.check()
                    self._logged = ""
        return not self._logged

    def __repr__(self) -> str:
        if self._is_incomplete():
            return "<Receiver refused>"
        return f"<Receiver {self._signing()}, {self.inbox!r}>"
