"""Where a client gets time, randomness and connections from; tests hand in their own."""

from __future__ import annotations

import random
from collections.abc import Callable

import aiohttp
import attrs

from apikley_async._clock import Clock, SystemClock
from apikley_async._http import Transport
from apikley_async._network import Connector
from apikley_async._validation import of_kind

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

    clock: Clock = attrs.field(factory=SystemClock, validator=of_kind(Clock, "a Clock"))
    rng: random.Random = attrs.field(
        factory=random.SystemRandom, validator=of_kind(random.Random, "a random.Random")
    )
    transport: Transport | None = attrs.field(default=None)
    connector: Connector = attrs.field(
        default=aiohttp.TCPConnector,
        validator=of_kind(Callable, "a callable"),  # type: ignore[arg-type]
    )

    @transport.validator
    def _sends(self, attribute: attrs.Attribute[Transport | None], value: object) -> None:
        if value is not None and not callable(getattr(value, "send", None)):
            raise TypeError(f"transport: something that sends, not {type(value).__name__}")
