"""The service on this machine: every endpoint, its limits, its prices and its moods.

`Simulator` serves a `World` under the `Terms` it is given; `Fault` says what may go wrong, and
the `Ledger` what really happened. Nothing here needs the network, or an extra.
"""

from apikley_async.simulator.faults.catalogue import Delivery, Fault
from apikley_async.simulator.faults.schedule import Director, Faults
from apikley_async.simulator.http.app import Apps, create_apps
from apikley_async.simulator.server import Simulator
from apikley_async.simulator.service.ledger import (
    Callback,
    Charge,
    Creation,
    FileRequest,
    Ledger,
    Mishap,
    Refund,
)
from apikley_async.simulator.service.lifecycle import Constant, Failure, Lognormal, Task, Uniform
from apikley_async.simulator.service.request_rules import Order, Refusal
from apikley_async.simulator.service.service import World
from apikley_async.simulator.service.service_clock import WorldTime
from apikley_async.simulator.service.terms import Endpoint, Terms, Throttle
from apikley_async.simulator.video.queue import OneFilm
from apikley_async.simulator.video.renderers import (
    Animatic,
    FilmOrder,
    Films,
    Placeholder,
    available_renderer,
    rendering_available,
)

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
