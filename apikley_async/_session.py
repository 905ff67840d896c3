"""What a client has in one event loop, and how it is put together."""

from __future__ import annotations

import random
from collections.abc import Callable

import aiohttp
import attrs

from apikley_async._api import Questions
from apikley_async._clock import Clock, SystemClock
from apikley_async._download.saver import Saver
from apikley_async._http import Connector, HttpTransport, Network, Secret, Transport
from apikley_async._limiter import Limiter
from apikley_async._retry import Backoff, positive
from apikley_async._spending import Spending
from apikley_async._storyboard import Urls, Work
from apikley_async._submission import Observer, Submitter
from apikley_async._tasks import House
from apikley_async._uploads import Uploads
from apikley_async._urls import AddressPolicy, fetch_faults
from apikley_async.errors import StoryboardError

__all__ = ["Environment", "Rooms", "Settings", "open_rooms"]


@attrs.frozen
class Environment:
    """What tests may hand to a `Client` in place of the real thing.

    Args:
        clock: time, monotonic and of the wall; see `apikley_async.testing` for one that jumps.
        rng: source of tokens and jitter.
        transport: sends requests to the API; `ScriptedTransport` answers from a list.
        connector: makes the connector of each session, called with the keyword arguments of
            `aiohttp.TCPConnector`.
    """

    clock: Clock = attrs.field(factory=SystemClock)
    rng: random.Random = attrs.field(factory=random.SystemRandom)
    transport: Transport | None = None
    connector: Connector = aiohttp.TCPConnector


@attrs.frozen
class Settings:
    """The arguments of a client, checked; they hold for every event loop it is used in.

    Attributes:
        limiter: paces submissions; *looking* paces everything else.
        spending: bounds what submissions may cost.
        polling: how often jobs poll; *callback_polling* where a callback is expected.
        job_timeout: seconds that a job is polled for.
        retry_for: seconds for which a request or a download that fails is tried again.
        max_running: films that it has running at once.
        address_policy: where films and images may come from.
    """

    key: Secret
    base_url: str
    network: Network
    limiter: Limiter
    looking: Limiter
    spending: Spending
    polling: Backoff
    callback_polling: Backoff
    job_timeout: float = attrs.field(validator=positive)
    retry_for: float = attrs.field(validator=positive)
    max_running: int
    not_created: frozenset[int]
    address_policy: AddressPolicy
    environment: Environment

    def check_image_url(self, url: str, place: str = "image") -> None:
        """Refuse what the service cannot fetch, before anything is sent."""
        if faults := [*fetch_faults(url, self.address_policy)]:
            raise StoryboardError([f"{place}: {fault}" for fault in faults])


@attrs.frozen
class Rooms:
    """Everything that is made anew for each event loop. *deaf* ends the hearing of callbacks."""

    settings: Settings
    house: House
    transport: Transport
    questions: Questions
    submitter: Submitter
    uploads: Uploads
    saver: Saver
    deaf: Callable[[], None]

    async def urls_of(self, work: Work) -> Urls:
        """Where the service finds the images of *work*; files are uploaded first."""
        async with self.house.inside():
            return await self.uploads.urls_of(work, self.settings.check_image_url)


def open_rooms(
    settings: Settings, observer: Observer, listen: Callable[[], Callable[[], None]]
) -> Rooms:
    """Put the rooms together, in the running loop; *listen* begins the hearing of callbacks."""
    environment, network, house = settings.environment, settings.network, House()
    clock, rng, timeouts = environment.clock, environment.rng, network.timeouts
    transport = environment.transport or HttpTransport(settings.key, settings.base_url, network)
    questions = Questions(
        house, transport, settings.looking, timeouts=timeouts, clock=clock, rng=rng
    )
    submitter = Submitter(
        transport,
        settings.limiter,
        observer,
        retry_for=settings.retry_for,
        not_created=settings.not_created,
        clock=clock,
        rng=rng,
    )
    saver = Saver(
        reissue=questions.new_links,
        policy=settings.address_policy,
        network=network,
        retry_for=settings.retry_for,
        clock=clock,
        rng=rng,
    )
    uploads = Uploads(questions.store, clock=clock, rng=rng)
    return Rooms(settings, house, transport, questions, submitter, uploads, saver, listen())
