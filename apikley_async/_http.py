"""The only module that talks HTTP to the API; it knows whether a failed request may have arrived.

A `Reply` comes back for every answer with a status line, however broken its body. Otherwise
`UnreachableError` (nothing was sent) or `UnansweredError` (it may have been processed) is raised;
they differ by a flag set when the first byte leaves, never by the type of an exception.

Exceptions of aiohttp hold the request's headers, so they end here, as values; what is raised is
raised outside of their handlers and has no trace of them. A cancellation is raised anew for the
same reason. The key is added to each request at the last moment and goes to the base URL's
origin only; no session has it as a default.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import logging
import socket
import ssl as tls
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Protocol
from urllib.parse import urlsplit
from weakref import ref

import aiohttp
import attrs
from yarl import URL

from apikley_async._clock import Clock
from apikley_async._network import Network, proxy_refusal
from apikley_async._secret import HiddenHeader, Secret
from apikley_async._tasks import CancelScope, Limit
from apikley_async._urls import is_fake_ip
from apikley_async._wire.envelope import Reply
from apikley_async._wire.requests import MAX_ANSWER_BYTES, File, Request
from apikley_async.errors import ApikleyError, UnansweredError, UnreachableError

__all__ = ["HttpTransport", "Transport", "send_logged"]

logger = logging.getLogger("apikley_async")

CONNECTIONS = 40
KEEP_ALIVE = 75.0  # longer than any pause between two polls
SENT_AHEAD = 128 * 1024  # bytes that may wait in a socket's buffer
STALL, GRACE = 1.0, 5.0
MOST_CUT_OFF = 20  # polls in a row that count
PAUSES = ("retry-after", "retry-after-ms")  # headers; with one of them the date is read too


class Transport(Protocol):
    """What the client needs of a transport; `apikley_async.testing` has a scripted one."""

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        """Send one request once.

        *on_sent* is called before the first byte leaves; if it raises, no byte does.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection; a later `send` opens new ones."""
        ...


async def send_logged(
    transport: Transport,
    request: Request,
    *,
    attempt: str | int,
    clock: Clock,
    on_sent: Callable[[], None] | None = None,
) -> Reply:
    """Send one request once, and log at DEBUG what came of it: no key, query, body or address.

    Args:
        transport, request, on_sent: see `Transport.send`.
        attempt: which attempt it is: a number, or how the token of a paid one begins.
        clock: takes the time.
    """
    if not logger.isEnabledFor(logging.DEBUG):
        return await transport.send(request, on_sent=on_sent)
    began, end = clock.now(), "ended by its caller"
    try:
        reply = await transport.send(request, on_sent=on_sent)
        end = f"HTTP {reply.status}" if reply.complete else f"HTTP {reply.status}, broke off"
        return reply
    except ApikleyError as error:
        end = type(error).__name__
        raise
    finally:
        took = (clock.now() - began) * 1000
        message = "%s %s: %s in %.0f ms, attempt %s"
        logger.debug(message, request.method, request.path, end, took, attempt)


@attrs.define
class _Answer:
    """An answer as far as it has come; at most 4 MiB are kept."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)  # a server may repeat the key
    content: bytearray = attrs.field(factory=bytearray, repr=False)
    complete: bool = False


@attrs.define
class _Progress:
    """How far a request has come: whether its first byte has left, and what was answered."""

    on_sent: Callable[[], None] | None = None
    opened: bool = False  # a socket was opened for it
    kept: bool = False  # it went out on a kept connection, which may have been dead
    sent: bool = False
    answer: _Answer | None = None
    moved: Callable[[], None] | None = None  # called when a piece of the body is taken

    def refuse_repeat(self) -> None:
        """Prevent aiohttp from repeating a GET that was cut off, unless a kept one was dead."""
        if self.sent and not self.kept:
            raise aiohttp.ServerDisconnectedError

    def leave(self) -> None:
        """Note that the first byte leaves now, unless it must not."""
        self.refuse_repeat()
        if self.on_sent is not None:
            self.on_sent()  # the last moment for a no
        self.sent = True


_progress: ContextVar[_Progress] = ContextVar("_progress")  # of the request that this task sends


class _FreeRequest(aiohttp.ClientRequest):
    """A request that costs nothing. A trace would tell the same, and cost a sixth of a poll."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        progress = _progress.get()
        progress.kept = progress.kept or not (progress.sent or progress.opened)
        progress.leave()
        return await super().send(conn)


async def _refuse_repeat(_session: Any, context: SimpleNamespace, _params: Any) -> None:
    context.trace_request_ctx.refuse_repeat()


async def _note_sent(_session: Any, context: SimpleNamespace, _params: Any) -> None:
    context.trace_request_ctx.leave()


class HttpTransport:
    """The API over aiohttp: one pool for free calls, and a fresh connection per createTask.

    A kept connection that the server has just given up on makes a POST ambiguous (5 in 10 where
    it was measured); a fresh one costs a round trip and is certain.
    """

    def __init__(
        self,
        key: Secret,
        base_url: str,
        network: Network,
    ) -> None:
        self._key = key
        self._base = base_url.rstrip("/")
        parts = urlsplit(base_url)
        self._host = parts.hostname
        # Plain http is for this machine only: through a proxy the key would leave it unprotected.
        self._proxy = network.proxy_for(base_url) if parts.scheme == "https" else None
        self._network = network
        self._timeouts = network.timeouts
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._cut_off: dict[tuple[str, ...], int] = {}  # polls in a row, by what they ask
        self._urls: dict[str, URL] = {}  # of the endpoints
        # By their numbers, which are used again and again: as many as were ever open at once.
        self._sockets: dict[int, ref[socket.socket]] = {}

    async def send(self, request: Request, *, on_sent: Callable[[], None] | None = None) -> Reply:
        progress = _Progress(on_sent)
        exchange = self._exchange(request, progress)
        cancelled: tuple[Any, ...] | None = None
        outcome: Reply | ApikleyError
        try:
            if request.repeatable:
                outcome = await self._in_time(exchange, progress, request)
            else:
                outcome = await self._until_idle(exchange, progress)
        except asyncio.CancelledError as exc:
            cancelled = exc.args
        if cancelled is not None:
            if request.repeatable or progress.answer is None:
                raise asyncio.CancelledError(*cancelled)
            outcome = self._reply(progress.answer)  # it may hold the id of what is paid
        if isinstance(outcome, ApikleyError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()
        # One whose other side has stopped reading would wait for ever to get rid of its bytes.
        for opened in self._sockets.values():
            with contextlib.suppress(OSError):
                if (stuck := opened()) is not None:
                    stuck.shutdown(socket.SHUT_RDWR)

    async def _in_time(
        self,
        exchange: Coroutine[Any, Any, Reply | ApikleyError],
        progress: _Progress,
        request: Request,
    ) -> Reply | ApikleyError:
        """Wait for an answer; an upload that makes progress is given all the time it takes.

        After two polls in a row that were cut off the next one has twice as long: an answer that
        is always slow is read in the end.
        """
        key = (request.path, *request.query.values())
        cut_off = self._cut_off.pop(key, 0)
        seconds = min(self._timeouts.read, self._timeouts.repeatable * 2.0 ** (cut_off // 2))
        with Limit(seconds) as limit:
            progress.moved = functools.partial(limit.restart, self._timeouts.idle)
            try:
                return await exchange
            finally:
                progress.moved = None
        if request.query:  # of one task: others may be answered at once
            self._cut_off[key] = min(cut_off + 1, MOST_CUT_OFF)
        return self._error_for(progress, f"no answer within {limit.seconds:g} s")

    async def _until_idle(
        self, exchange: Coroutine[Any, Any, Reply | ApikleyError], progress: _Progress
    ) -> Reply | ApikleyError:
        """Wait for createTask's answer, and never give it up while it lies in the socket.

        A long request that makes progress is given all the time it takes. When the loop itself
        stood still, the timer and the answer come due together: then the answer gets five more
        seconds to be read.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + self._timeouts.connect + self._timeouts.read
        timer: asyncio.TimerHandle
        with CancelScope() as scope:

            def move() -> None:
                nonlocal due
                due = max(due, loop.time() + self._timeouts.read)

            def expire() -> None:
                nonlocal timer
                if due > timer.when():
                    timer = loop.call_at(due, expire)
                else:
                    stalled = loop.time() - due > STALL
                    loop.call_later(GRACE if stalled else 0.0, scope.cancel)

            timer, progress.moved = loop.call_at(due, expire), move
            try:
                return await exchange
            finally:
                timer.cancel()
                progress.moved = None
        return self._error_for(progress, f"no answer within {self._timeouts.read:g} s")

    async def _exchange(self, request: Request, progress: _Progress) -> Reply | ApikleyError:
        """One request, and whatever comes of it as a value."""
        url = self._url(request.path)
        if request.query:
            url = url.with_query(request.query)
        session = self._session(request.repeatable)
        sending = _progress.set(progress)
        try:
            async with session.request(
                request.method,
                url,
                data=_payload(request, progress),
                headers=self._headers(request),
                allow_redirects=False,
                proxy=self._proxy,
                ssl=self._network.ssl or True,
                trace_request_ctx=progress,
            ) as response:
                progress.answer = _Answer(response.status, response.headers)
                await _read(response, progress.answer)
                return self._reply(progress.answer)
        except (aiohttp.ClientConnectorCertificateError, tls.SSLCertVerificationError):
            return self._error_for(progress, "its certificate is not valid", permanent=True)
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            return self._error_for(progress, "the address is not one", permanent=True)
        except TimeoutError:
            return self._error_for(progress, f"no connection within {self._timeouts.connect:g} s")
        except aiohttp.ClientConnectorError as exc:
            return self._error_for(progress, exc.os_error.strerror or type(exc.os_error).__name__)
        except aiohttp.ClientHttpProxyError as exc:
            return self._error_for(progress, proxy_refusal(exc))
        except (aiohttp.ClientError, OSError) as exc:
            return self._error_for(progress, type(exc).__name__)
        except ApikleyError as refusal:  # of `on_sent`
            return refusal
        except Exception as exc:  # noqa: BLE001 - what aiohttp did not foresee ends here as well
            return self._error_for(progress, type(exc).__name__, permanent=True)
        finally:
            _progress.reset(sending)

    def _url(self, path: str) -> URL:
        """The URL of an endpoint, read once."""
        if (url := self._urls.get(path)) is None:
            url = self._urls[path] = URL(self._base + path)
        return url

    def _reply(self, answer: _Answer) -> Reply:
        text = self._key.blot(answer.content.decode(errors="replace"))
        kept: dict[str, str] = {}
        if any(name in answer.headers for name in PAUSES):
            kept = {
                name: self._key.blot(answer.headers[name])
                for name in ("date", *PAUSES)
                if name in answer.headers
            }
        return Reply(answer.status, text, kept, answer.complete)

    def _error_for(
        self, progress: _Progress, why: str, *, permanent: bool = False
    ) -> Reply | ApikleyError:
        if progress.answer is not None:
            return self._reply(progress.answer)  # what broke off may hold the task id all the same
        if progress.sent:
            return UnansweredError(f"{self._host} was asked but did not answer: {why}")
        return UnreachableError(f"{self._host} was not reached: {why}", permanent=permanent)

    def _headers(self, request: Request) -> dict[str, str]:
        headers: dict[str, str] = {"Authorization": HiddenHeader(f"Bearer {self._key.reveal()}")}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        return headers

    def _session(self, repeatable: bool) -> aiohttp.ClientSession:
        if repeatable not in self._sessions:
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_start.append(_refuse_repeat)
            trace.on_request_headers_sent.append(_note_sent)
            options: Mapping[str, Any] = (
                {"limit": CONNECTIONS, "keepalive_timeout": KEEP_ALIVE}
                if repeatable
                else {"limit": 0, "force_close": True}
            )
            self._sessions[repeatable] = aiohttp.ClientSession(
                connector=self._network.connector(socket_factory=self._open_socket, **options),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": self._network.user_agent,
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                request_class=_FreeRequest if repeatable else aiohttp.ClientRequest,
                trace_configs=None if repeatable else [trace],
                trust_env=False,  # it would read netrc
            )
            self._network.opened.append(self._sessions[repeatable])
        return self._sessions[repeatable]

    def _open_socket(self, info: Any) -> socket.socket:
        family, kind, protocol, _name, address = info
        if self._proxy is None and self._host != address[0]:
            self._network.seen.made_up = is_fake_ip(address[0])
        if (progress := _progress.get(None)) is not None:
            progress.refuse_repeat()
            progress.opened = True
        opened = socket.socket(family, kind, protocol)
        with contextlib.suppress(OSError):  # what lies in its buffer is no progress that we see
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD)
        self._sockets[opened.fileno()] = ref(opened)
        return opened


class _Body(io.BytesIO):
    """A body that reports when a piece of it is taken to be sent."""

    def __init__(self, content: bytes, progress: _Progress) -> None:
        super().__init__(content)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        if self._progress.moved is not None:
            self._progress.moved()
        return super().read(size)


def _payload(request: Request, progress: _Progress) -> Any:
    if request.form is None:
        content = request.content()
        if content is None or len(content) < SENT_AHEAD:  # no piece of it would be progress
            return content
        return _Body(content, progress)
    form = aiohttp.FormData()
    for name, value in request.form.items():
        if isinstance(value, File):
            form.add_field(
                name,
                _Body(value.content, progress),
                filename=value.name,
                content_type=value.content_type,
            )
        else:
            form.add_field(name, value)
    return form


async def _read(response: aiohttp.ClientResponse, answer: _Answer) -> None:
    while not response.content.at_eof():
        answer.content += await response.content.readany()
        if len(answer.content) > MAX_ANSWER_BYTES:
            del answer.content[MAX_ANSWER_BYTES:]
            return
    answer.complete = True
