"""What `Callback` and `Receiver` share: the applications and the server that take callbacks."""

from __future__ import annotations

import contextlib
import logging
import ssl as tls
from collections.abc import AsyncIterator

from aiohttp import web

from apikley_async.webhook import aiohttp_app, asgi_app
from apikley_async.webhook.handler import CallbackHandler, Dispatch, Verifier
from apikley_async.webhook.limits import Limits
from apikley_async.webhook.server import Server, serve

__all__ = ["Endpoint"]

logger: logging.Logger = logging.getLogger("apikley_async")


class Endpoint:
    """Any number of applications and servers, which share one verifier and one dispatch."""

    def __init__(self, verifier: Verifier, dispatch: Dispatch, limits: Limits) -> None:
        self._verifier = verifier
        self._dispatch = dispatch
        self._limits = limits
        self._logged_unsigned = False

    @property
    def gate(self) -> str:
        """What a callback must have to be accepted, in words."""
        raise NotImplementedError

    def aiohttp_app(self) -> web.Application:
        """A new aiohttp application: `add_subapp` it at any prefix, or run it alone."""
        return aiohttp_app.create_app(self._new_handler())

    def asgi_app(self) -> asgi_app.ASGIApplication:
        """A new ASGI application: mount it at any path, or run it alone."""
        return asgi_app.create_app(self._new_handler())

    @contextlib.asynccontextmanager
    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 8787,
        *,
        ssl_context: tls.SSLContext | None = None,
    ) -> AsyncIterator[Server]:
        """Take callbacks on a port for as long as the `async with` lasts.

        `GET /healthz` is answered with 200 there, and with 503 while callbacks cannot be stored.

        Args:
            host: the address to listen on; by default only this machine can connect, which suits
                a proxy in front that speaks https.
            port: 0 for any port that is free.
            ssl_context: makes the server itself speak https.

        Raises:
            OSError: the address cannot be listened on.
        """
        handler = self._new_handler()
        async with serve(
            handler,
            self._limits,
            healthy=self._is_healthy,
            host=host,
            port=port,
            ssl=ssl_context,
        ) as server:
            yield server

    async def _is_healthy(self) -> bool:
        """Whether callbacks are taken, as far as is known."""
        return True

    def _new_handler(self) -> CallbackHandler:
        if not self._verifier.keys and not self._logged_unsigned:
            self._logged_unsigned = True
            message = "callbacks are not verified by a signature; what counts: %s"
            logger.warning(message, self.gate, extra={"event": "unsigned"})
        return CallbackHandler(self._verifier, self._dispatch, self._limits)

    def _signing(self) -> str:
        return "signed" if self._verifier.keys else "unsigned"

    def _is_incomplete(self) -> bool:
        """Whether its arguments were refused: a traceback with local variables prints it too."""
        return not hasattr(self, "_verifier")
