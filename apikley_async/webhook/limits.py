"""How much of our time and memory one caller gets before anything is known of it."""

from __future__ import annotations

import attrs

__all__ = ["Limits"]


@attrs.frozen
class Limits:
    """Bounds for callers and listeners, in seconds unless they count things.

    Attributes:
        idle: how long a connection may wait without sending a whole request head. `serve` only.
        request: from the first byte of a request to the last byte of its response. `serve` only.
        body: for the body of a request.
        dispatch: for the listeners; then the caller gets 503, and the listeners go on.
        connections: open at the same time; one more is closed at once. `serve` only.
        pending: callbacks that listeners have not finished; for one more the caller gets 503.
        inbox_interval: between two reads of an inbox.
    """

    idle: float = 10.0
    request: float = 11.0
    body: float = 5.0
    dispatch: float = 2.0
    connections: int = 256
    pending: int = 10_000
    inbox_interval: float = 0.5
