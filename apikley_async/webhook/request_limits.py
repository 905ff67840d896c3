"""How much a stranger may ask of us before anything is known of him."""

from __future__ import annotations

import attrs

__all__ = ["Limits"]


@attrs.frozen
class Limits:
    """What a caller gets; seconds, unless it is a number of things.

    Attributes:
        idle: for a connection without a whole head of a request. `serve` only.
        request: from the first byte of a request to the last of its answer. `serve` only.
        body: for a request's body.
        hear: for those who listen; after that the answer is given, and they go on.
        connections: at the same time; more are closed at once. `serve` only.
        waiting: callbacks not yet heard to their end; more are told to come again (503).
        poll: between two looks into an inbox.
    """

    idle: float = 10.0
    request: float = 11.0
    body: float = 5.0
    hear: float = 2.0
    connections: int = 256
    waiting: int = 10_000
    poll: float = 0.5
