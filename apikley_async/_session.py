"""What a client has in one event loop, how it is put together, and how it ends."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import NoneType

import attrs

from apikley_async._api import Api
from apikley_async._callbacks import CallbackMatching
from apikley_async._download.saver import Saver
from apikley_async._download.stream import Streams
from apikley_async._environment import Environment
from apikley_async._http import HttpTransport, Transport
from apikley_async._jobs import Jobs
from apikley_async._limiter import Limiter
from apikley_async._network import Network
from apikley_async._polling import Backoff, positive
from apikley_async._recorder import Callbacks, Recorder
from apikley_async._retry import Timeouts
from apikley_async._secret import Secret
from apikley_async._spending import Spending
from apikley_async._submission import Submitter
from apikley_async._tasks import TaskScope
from apikley_async._uploads import Uploads
from apikley_async._urls import AddressPolicy
from apikley_async._validation import is_count, kind_fault
from apikley_async.errors import ClientClosedError
from apikley_async.events import Emitter

__all__ = ["Session", "Sessions", "Settings", "argument_fault"]


@attrs.frozen
class Settings:
    """The arguments of a client, checked; they hold for every event loop it is used in.

    Attributes:
        limiter: paces submissions; *call_limiter* bounds the calls that cost nothing.
        spending: bounds what submissions may cost.
        polling: how often jobs poll; *callback_polling* where a callback is expected.
        learns: whether many films are polled as earlier ones have taught.
        job_timeout: seconds for which a job is polled.
        retry_for: seconds for which a request or a download that fails is tried again.
        max_running: films that it has running at once.
        address_policy: where films and images may come from.
        recorder: of submissions without one of their own.
        emit: is given each event; None where nobody wants them.
    """

    key: Secret
    base_url: str
    network: Network
    limiter: Limiter
    call_limiter: Limiter
    spending: Spending
    polling: Backoff
    callback_polling: Backoff
    learns: bool
    job_timeout: float = attrs.field(validator=positive)
    retry_for: float = attrs.field(validator=positive)
    max_running: int = attrs.field(validator=is_count)
    not_created: frozenset[int]
    address_policy: AddressPolicy
    environment: Environment
    recorder: Recorder
    emit: Emitter | None = None


# What the arguments of a client must be, where nothing else says so.
ARGUMENTS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "base_url": ((str, NoneType), "a URL as text"),
    "limiter": ((Limiter, NoneType), "a Limiter, such as RateLimiter()"),
    "max_running": ((int, float), "a whole number, 1 or more"),
    "polling": ((Backoff, NoneType), "a Backoff"),
    "callback": ((Callbacks, NoneType), "a Callback of apikley_async.webhook, or your own"),
    "recorder": ((Recorder, NoneType), "a Recorder"),
    "timeouts": ((Timeouts, NoneType), "a Timeouts"),
    "proxy": ((str, NoneType), "a URL as text"),
    "trust_env": ((bool,), "True or False"),
    "allow_private": ((bool,), "True or False"),
    "environment": ((Environment, NoneType), "an Environment"),
}


def argument_fault(**given: object) -> str | None:
    """Say which argument of a client is of a wrong kind; values are not shown."""
    faults = (kind_fault(name, value, *ARGUMENTS[name]) for name, value in given.items())
    return next(filter(None, faults), None)


def warn_unclosed(network: Network, base_url: str) -> None:
    """Warn of a client that nobody holds any more and nobody has closed, and let go of it."""
    if network.abandon():
        warnings.warn(
            f"unclosed client of {base_url}: use `async with Client()`, or await client.aclose()",
            ResourceWarning,
            stacklevel=2,
        )


class Session:
    """Everything that is made anew for each event loop; made in that loop."""

    def __init__(self, settings: Settings, matching: CallbackMatching, jobs: Jobs) -> None:
        environment = settings.environment
        network = attrs.evolve(settings.network, opened=[])
        # Not `__del__`: in a circle of garbage aiohttp's own warnings might come first.
        weakref.finalize(self, warn_unclosed, network, settings.base_url)
        clock, rng, emit = environment.clock, environment.rng, settings.emit
        self.tasks: TaskScope = TaskScope()
        transport = environment.transport
        if transport is None:
            transport = HttpTransport(settings.key, settings.base_url, network)
        self.transport: Transport = transport
        self.api: Api = Api(
            self.tasks,
            self.transport,
            settings.call_limiter,
            timeouts=network.timeouts,
            clock=clock,
            rng=rng,
            emit=emit,
        )
        self.uploads: Uploads = Uploads(
            self.api.upload, policy=settings.address_policy, clock=clock, rng=rng, emit=emit
        )
        self.submitter: Submitter = Submitter(
            self.transport,
            settings.limiter,
            self.uploads,
            matching,
            jobs,
            retry_for=settings.retry_for,
            not_created=settings.not_created,
            clock=clock,
            rng=rng,
            emit=emit,
        )
        self.saver: Saver = Saver(
            reissue=self.api.new_links,
            policy=settings.address_policy,
            network=network,
            retry_for=settings.retry_for,
            clock=clock,
            rng=rng,
            emit=emit,
        )
        self.streams: Streams = Streams(self.saver.transfers, self.api.new_links, self.tasks, clock)
        self._jobs = jobs
        self.stop_receiving: Callable[[], None] = matching.open(self.api, self.tasks)

    async def aclose(self, grace: float) -> None:
        """Submit nothing more, wait for requests that are out, then end all that runs."""
        self.tasks.interrupt()
        async with contextlib.AsyncExitStack() as last:  # in reverse order, whatever fails
            last.push_async_callback(
                self.tasks.shut, self.submitter.end, self.transport.aclose, self.saver.aclose
            )
            last.callback(self.stop_receiving)
            self._jobs.detach()
            await self.submitter.drain(grace)


class Sessions:
    """The sessions of a client: one for each event loop it is used in, one after another.

    Attributes:
        closed: whether the client is closed, until it is opened again.
    """

    def __init__(self, settings: Settings, matching: CallbackMatching, jobs: Jobs) -> None:
        self._settings = settings
        self._matching = matching
        self._jobs = jobs
        self._session: Session | None = None
        self.closed: bool = False

    def current(self) -> Session:
        """Return the session of the running loop; open one if need be.

        Raises:
            ClientClosedError: the client is closed, or open in another loop or process.
        """
        self._forget_gone()
        if self._session is not None:
            self._session.tasks.check()
        if self.closed:
            raise ClientClosedError("The client is closed; nothing was sent")
        if self._session is None:
            self._session = Session(self._settings, self._matching, self._jobs)
        return self._session

    @property
    def state(self) -> str:
        """In a word or three, for a `repr`."""
        return "closed" if self.closed else "open" if self._session else "not yet open"

    async def open(self) -> None:
        """Open a session in the running loop; an earlier one may just be closing."""
        session = self._session
        if session is not None and session.tasks.closing and not session.tasks.gone:
            await session.tasks.wait_closed()
        self.closed = False
        _ = self.current()

    async def aclose(self, grace: float) -> None:
        """Close the present session; closing twice is closing once."""
        self._forget_gone()
        session = self._session
        if session is None:
            self.closed = True
            return
        if session.tasks.closing:
            await session.tasks.wait_closed()
            return
        session.tasks.check()
        self.closed = True
        try:
            await session.aclose(grace)
        finally:
            self._let_go(session)

    def _forget_gone(self) -> None:
        """Let go of a session that was closed, or whose loop was closed around it."""
        if (session := self._session) is not None and session.tasks.gone:
            self._let_go(session)
            session.stop_receiving()

    def _let_go(self, session: Session) -> None:
        if self._session is session:
            self._session = None
