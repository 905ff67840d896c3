"""Where a client gets time, randomness and connections from; tests hand in their own."""

from __future__ import annotations

import random

import aiohttp
import attrs

from apikley_async._clock import Clock, SystemClock
from apikley_async._http import Connector, Transport

__all__ = ["Environment"]


@attrs.frozen
class Environment:
    """Where a `Client` gets time, randomness and connections from. Tests replace them.

    Args:
        clock: time, monotonic and of the wall; see `apikley_async.testing` for one that jumps.
        rng: source of tokens and jitter.
        transport: sends requests to the API; `ScriptedTransport` answers from a list.
        connector: makes the connector of each session, called with keyword arguments of
            `aiohttp.TCPConnector`.
    """

    clock: Clock = attrs.field(factory=SystemClock)
    rng: random.Random = attrs.field(factory=random.SystemRandom)
    transport: Transport | None = None
    connector: Connector = aiohttp.TCPConnector
