"""What a client has in one event loop, and how it is put together."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from apikley_async._clock import Clock
from apikley_async._files import Films
from apikley_async._house import House
from apikley_async._images import Images
from apikley_async._limiter import Limiter
from apikley_async._questions import Questions
from apikley_async._submit import Attempt, Order, Submitter
from apikley_async._transport import HttpTransport, Network, Secret, Transport
from apikley_async.errors import SubmissionUncertainError

__all__ = ["Rooms", "Settings", "open_rooms"]


@attrs.frozen
class Settings:
    """What a client was told when it was made; good for every loop.

    Attributes:
        limiter: paces submissions; *looking* paces everything else.
        near: whether films and images may lie on this machine.
    """

    key: Secret
    base_url: str
    network: Network
    limiter: Limiter
    looking: Limiter
    treat_as_refused: frozenset[int]
    allow_private: bool
    near: bool
    transport: Transport | None
    clock: Clock
    rng: random.Random


@attrs.frozen
class Rooms:
    """Everything that is made anew for each event loop. *deaf* ends the hearing of callbacks."""

    house: House
    transport: Transport
    questions: Questions
    submitter: Submitter
    images: Images
    films: Films
    deaf: Callable[[], None]


def open_rooms(
    settings: Settings,
    *,
    callback_url: Callable[[str], str | None],
    told: Callable[[Attempt], None],
    unclaimed: Callable[[Order, str], None],
    uncertain: Callable[[SubmissionUncertainError], None],
    listen: Callable[[], Callable[[], None]],
) -> Rooms:
    """Put the rooms together, in the running loop; see `Submitter` for what is told to whom."""
    house, clock, rng, network = House(), settings.clock, settings.rng, settings.network
    timeouts = network.timeouts
    transport = settings.transport or HttpTransport(settings.key, settings.base_url, network)
    questions = Questions(
        house, transport, settings.looking, timeouts=timeouts, clock=clock, rng=rng
    )
    submitter = Submitter(
        transport,
        settings.limiter,
        callback_url,
        timeouts=timeouts,
        treat_as_refused=settings.treat_as_refused,
        clock=clock,
        rng=rng,
        told=told,
        unclaimed=unclaimed,
        uncertain=uncertain,
    )
    films = Films(
        reissue=questions.new_links,
        allow_private=settings.allow_private,
        allow_loopback=settings.near,
        network=network,
        clock=clock,
        rng=rng,
    )
    images = Images(questions.store, clock=clock, rng=rng)
    return Rooms(house, transport, questions, submitter, images, films, listen())
