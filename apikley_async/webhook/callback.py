"""`Callback`: gives each submission its callback URL, and tells a client of its callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from apikley_async import Clock, SystemClock
from apikley_async._urls import public_url_fault
from apikley_async.webhook.dispatch import Dispatcher, Listener
from apikley_async.webhook.endpoint import Endpoint
from apikley_async.webhook.handler import Verifier
from apikley_async.webhook.inbox import CallbackInbox, Inbox
from apikley_async.webhook.limits import Limits
from apikley_async.webhook.verify import HmacKeys

__all__ = ["Callback"]


class Callback(Endpoint):
    """Gives each submission its own callback URL, and dispatches callbacks: `Client(callback=)`.

    Serve it with `aiohttp_app`, `asgi_app` or `serve`, in the event loop of the client. Or let a
    `Receiver` in another process take the callbacks, and share an *inbox* with it.

    Args:
        public_url: where the service reaches us: https, without query. The token is appended.
        hmac_keys: keys that callbacks may be signed with. Without any, signatures are not
            checked, and only the unguessable token in the URL protects: a callback counts if
            this process waits for its token, or the token carries a MAC of the API key.
        inbox: where a `Receiver` in another process adds callbacks: a file, or another
            `CallbackInbox`.
        clock: tells the time.
        limits: bounds for callers and listeners.

    Raises:
        ValueError: the service cannot be asked to call *public_url*, or a key is no key. The
            message does not repeat them.
    """

    tokens_with_mac = True

    def __init__(
        self,
        public_url: str,
        *,
        hmac_keys: Iterable[str] = (),
        inbox: str | os.PathLike[str] | CallbackInbox | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        fault = public_url_fault(public_url)
        if fault is not None:
            del public_url, hmac_keys  # a traceback that shows local variables must not show them
            raise ValueError(f"public_url: {fault}")
        clock, limits = clock or SystemClock(), limits or Limits()
        self._url = public_url.rstrip("/")
        if isinstance(inbox, (str, os.PathLike)):
            inbox = Inbox(inbox)
        self._dispatcher = Dispatcher(inbox, clock=clock, limits=limits)
        try:
            verifier = Verifier(HmacKeys(hmac_keys), clock=clock)
        finally:
            del hmac_keys
        super().__init__(verifier, self._dispatcher.dispatch, limits)

    @property
    def gate(self) -> str:
        required = "a token that this process waits for"
        return f"{required}, and a signature" if self._verifier.keys else required

    def url_for(self, token: str) -> str:
        """The callback URL of the attempt with this token; a MAC may stand behind the token."""
        return f"{self._url}/{token}"

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener of every callback.

        Args:
            listener: is awaited as `listener(token, task_id)`; returns True when it knows the
                token. With an inbox it also gets the callbacks in there, and `listen`
                has to be called in a running event loop.

        Returns:
            A function that ends this at once; it may be called more than once.
        """
        return self._dispatcher.listen(listener)

    async def catch_up(self) -> None:
        """Wait until the listeners have got what was in the inbox; at most 30 s each."""
        await self._dispatcher.catch_up()

    def __repr__(self) -> str:
        if self._is_incomplete():
            return "<Callback refused>"
        return f"<Callback {self._signing()}, {len(self._dispatcher)} listening>"
