"""The service on this machine: every endpoint, its limits, its prices and its moods.

`Simulator` serves a `World` under the `Terms` it is given; `Fault` says what may go wrong, and
the `Ledger` what really happened. Nothing here needs the network, or an extra.
"""

from apikley_async.simulator._app import Apps, create_apps
from apikley_async.simulator._director import Director, Faults
from apikley_async.simulator._faults import Delivery, Fault
from apikley_async.simulator._films import (
    Animatic,
    FilmOrder,
    Films,
    Placeholder,
    available_renderer,
    rendering_available,
)
from apikley_async.simulator._ledger import (
    Callback,
    Charge,
    Creation,
    FileRequest,
    Ledger,
    Mishap,
    Refund,
)
from apikley_async.simulator._rules import Order, Refusal
from apikley_async.simulator._server import Simulator
from apikley_async.simulator._studio import OneFilm
from apikley_async.simulator._task import Constant, Failure, Lognormal, Task, Uniform
from apikley_async.simulator._terms import Endpoint, Terms, Throttle
from apikley_async.simulator._time import WorldTime
from apikley_async.simulator._world import World

__all__ = [
    "Animatic",
    "Apps",
    "Callback",
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
    "Uniform",
    "World",
    "WorldTime",
    "available_renderer",
    "create_apps",
    "rendering_available",
]
