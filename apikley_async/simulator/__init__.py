"""The service on this machine: every endpoint, its limits, its prices and its moods.

`Simulator` serves a `World` under the `Terms` it is given; `Fault` says what may go wrong, and
the `Ledger` what really happened. Nothing here needs the network, or an extra.
"""

from apikley_async.simulator._app import Apps, create_apps
from apikley_async.simulator._faults import Delivery, Director, Endpoint, Fault, Faults
from apikley_async.simulator._films import (
    Animatic,
    Placeholder,
    available_renderer,
    rendering_available,
)
from apikley_async.simulator._ledger import (
    Charge,
    Creation,
    FileRequest,
    Ledger,
    Mishap,
    Refund,
)
from apikley_async.simulator._rules import Order, Refusal
from apikley_async.simulator._server import Simulator
from apikley_async.simulator._studio import Films, OneFilm
from apikley_async.simulator._task import Constant, Failure, FilmOrder, Lognormal, Task
from apikley_async.simulator._terms import Terms, Throttle
from apikley_async.simulator._time import WorldTime
from apikley_async.simulator._world import World

__all__ = [
    "Animatic",
    "Apps",
    "Charge",
    "Constant",
    "Creation",
    "Delivery",
    "Director",
    "Endpoint",
    "Failure",
    "Fault",
    "Faults",
    "FileRequest",
    "FilmOrder",
    "Films",
    "Ledger",
    "Lognormal",
    "Mishap",
    "OneFilm",
    "Order",
    "Placeholder",
    "Refund",
    "Refusal",
    "Simulator",
    "Task",
    "Terms",
    "Throttle",
    "World",
    "WorldTime",
    "available_renderer",
    "create_apps",
    "rendering_available",
]
