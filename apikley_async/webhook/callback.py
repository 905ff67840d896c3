"""`Callback`, which a client is given, and `Receiver`, which listens for other processes."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import ssl as tls
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import urlsplit

from aiohttp import web
from yarl import URL

from apikley_async import Clock, SystemClock
from apikley_async._tokens import Seal
from apikley_async.errors import JournalError
from apikley_async.webhook import aiohttp_app, asgi_app
from apikley_async.webhook.dispatch import Hear, Listeners
from apikley_async.webhook.inbox import Inbox
from apikley_async.webhook.reception import Ask, Gate, Reception
from apikley_async.webhook.request_limits import Limits
from apikley_async.webhook.server import Server, serve
from apikley_async.webhook.verify import Heard, Keys

__all__ = ["Callback", "Receiver"]

logger = logging.getLogger("apikley_async")

LONGEST_URL = 2000


class _House:
    """A house that callbacks come to: as many doors as are wanted, one judgement behind them."""

    def __init__(
        self,
        hmac_keys: Iterable[str],
        *,
        ask: Ask,
        clock: Clock | None,
        limits: Limits | None,
        seal: Seal | None = None,
    ) -> None:
        clock, limits = clock or SystemClock(), limits or Limits()
        try:
            keys = Keys(hmac_keys)
        finally:
            del hmac_keys  # a traceback that shows locals must not show them
        self._gate = Gate(keys, ask, clock, limits, seal)
        self._said = False

    @property
    def gate(self) -> str:
        """What a callback must have to be believed as a hint, in words."""
        raise NotImplementedError

    def aiohttp_app(self) -> web.Application:
        """A new aiohttp application: `add_subapp` it at any prefix, or run it alone."""
        return aiohttp_app.create_app(self._reception())

    def asgi_app(self) -> asgi_app.ASGIApplication:
        """A new ASGI application: mount it at any path, or run it alone."""
        return asgi_app.create_app(self._reception())

    @contextlib.asynccontextmanager
    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 8787,
        *,
        ssl_context: tls.SSLContext | None = None,
    ) -> AsyncIterator[Server]:
        """Listen for as long as the `async with` lasts; port 0 is any that is free.

        By default only this machine is heard: a proxy that speaks https belongs in front.
        """
        limits = self._gate.limits
        async with serve(
            self._reception(), limits, host=host, port=port, ssl=ssl_context
        ) as server:
            yield server

    def _reception(self) -> Reception:
        if not self._gate.keys and not self._said:
            self._said = True
            logger.warning("callbacks are not signed as far as is known here: %s", self.gate)
        return Reception(self._gate)

    def _signed(self) -> str:
        return "signed" if self._gate.keys else "unsigned"

    def _refused(self) -> bool:
        """Whether it was never made, and somebody prints what stands in a traceback."""
        return not hasattr(self, "_gate")


class Callback(_House):
    """Gives each submission its own callback URL, and passes on what is heard: `Client(callback=)`.

    Serve it with `aiohttp_app`, `asgi_app` or `serve`, in the event loop of those who listen, or
    let another process receive and share an *inbox* with it.

    Args:
        public_url: where the service reaches us: https, without query. The token is appended.
        hmac_keys: keys that callbacks may be signed with. Without any, signatures are not looked
            at, and the unguessable token in the URL is the only gate: one that this process
            waits for, or whose mark was made with the client's API key.
        inbox: a file in which a `Receiver` in another process keeps callbacks.
        clock: tells the time.
        limits: what a caller may ask of us.
    """

    marked_tokens = True

    def __init__(
        self,
        public_url: str,
        *,
        hmac_keys: Iterable[str] = (),
        inbox: str | os.PathLike[str] | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        fault = _url_fault(public_url)
        if fault is not None:
            del public_url, hmac_keys  # a traceback that shows locals must not show them
            raise ValueError(f"public_url: {fault}")
        self._url = public_url.rstrip("/")
        self._listeners = Listeners(
            None if inbox is None else Inbox(inbox),
            clock=clock or SystemClock(),
            limits=limits or Limits(),
        )
        ask = self._listeners.answer
        try:
            super().__init__(hmac_keys, ask=ask, clock=clock, limits=limits)
        finally:
            del hmac_keys

    @property
    def gate(self) -> str:
        tokens = "a token that somebody here waits for"
        return f"{tokens}, and a signature" if self._gate.keys else tokens

    def url_for(self, token: str) -> str:
        """The URL to be called about the attempt of this token; a mark may stand behind it."""
        return f"{self._url}/{token}"

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Await `hear(token, task_id)` for each callback; True when the token is known.

        With an inbox it has to be called in an event loop, and what is in the inbox is heard too.
        What it gives back ends the listening, at once and as often as you like.
        """
        return self._listeners.listen(hear)

    async def catch_up(self) -> None:
        """Wait until those who listen have heard what lay in the inbox; 30 seconds at most."""
        await self._listeners.catch_up()

    def __repr__(self) -> str:
        if self._refused():
            return "<Callback refused>"
        return f"<Callback {self._signed()}, {len(self._listeners)} listening>"


class Receiver(_House):
    """Receives for other processes: a callback is answered when it is safe in the *inbox*.

    It knows no tokens. With a secret it keeps those whose mark was made with the API key that the
    secret was derived from; without one and without keys, whatever is well-formed: then anybody
    who knows the address can fill the inbox.

    Args:
        inbox: where callbacks are kept, for a `Callback(inbox=...)` elsewhere.
        token_secrets: what `apikley webhook secret` or `token_secret(api_key)` gives, one for
            each API key whose films are called about. The keys themselves do not belong here.
        hmac_keys, clock, limits: as for `Callback`.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        token_secrets: Iterable[str] = (),
        hmac_keys: Iterable[str] = (),
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.inbox = inbox
        self._trouble = ""
        try:
            seal = Seal(token_secrets)
            super().__init__(hmac_keys, ask=self._keep, clock=clock, limits=limits, seal=seal)
        finally:
            del hmac_keys, token_secrets  # a traceback that shows locals must not show them

    @property
    def gate(self) -> str:
        told = []
        if self._gate.seal:
            told.append("a token that was made with the API key")
        if self._gate.keys:
            told.append("a signature")
        return " and ".join(told) or "none: whoever knows the address can fill the inbox"

    async def _keep(self, heard: Heard) -> int:
        try:
            await self.inbox.keep(heard.token, heard.task_id)
        except JournalError as error:
            if error.message != self._trouble:
                logger.error("callbacks are not kept: %s", error.message)
            self._trouble = error.message
            return 503
        self._trouble = ""
        return 200

    def __repr__(self) -> str:
        if self._refused():
            return "<Receiver refused>"
        return f"<Receiver {self._signed()}, {self.inbox.path}>"


def _url_fault(url: object) -> str | None:
    """Say why the service could not be asked to call *url*, without repeating it."""
    if not isinstance(url, str):
        return f"a text, not {type(url).__name__}"
    if len(url) > LONGEST_URL:
        return f"at most {LONGEST_URL} characters, not {len(url)}"
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        return "a URL without spaces and control characters"
    try:
        parts = urlsplit(url)
        host, port = URL(url).raw_host, parts.port  # as others read it who call it
    except (ValueError, IndexError):
        return "a valid URL"
    scheme = parts.scheme
    if scheme not in ("http", "https"):
        return f"https://host/path, not {scheme}:" if scheme else "https://host/path, not a path"
    if not host or port == 0:
        return "a URL with a host" if not host else "a port from 1 to 65535, not 0"
    if parts.username is not None or parts.password is not None:
        return "a URL without user name and password"
    if "?" in url or "#" in url:
        return "a URL without query and fragment: the token is appended to its path"
    if scheme == "http" and not _is_loopback(host):
        return "https, not http: the token in it is a secret (http only on this machine)"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
