"""The service on this machine: every endpoint with its limits, prices and failures.

`Simulator` serves a `Service` under `Terms`. `Fault` is what can go wrong, `Ledger` what really
happened. Needs no network and no extra.
"""

from apikley_async.simulator.applications import SimulatorApps, create_apps
from apikley_async.simulator.faults.catalogue import Fault, ResponseDelivery
from apikley_async.simulator.faults.schedule import FaultSchedule, RandomFaults
from apikley_async.simulator.server import Simulator
from apikley_async.simulator.service.durations import Constant, Lognormal, Uniform
from apikley_async.simulator.service.ledger import (
    CallbackDelivery,
    Creation,
    FileRequest,
    InjectedFault,
    Ledger,
    Refund,
    TaskCharge,
)
from apikley_async.simulator.service.lifecycle import Failure, SimulatedTask
from apikley_async.simulator.service.record_form import RecordForm
from apikley_async.simulator.service.render_request import RenderRequest
from apikley_async.simulator.service.request_rules import Refusal, TaskRequest
from apikley_async.simulator.service.service import Service
from apikley_async.simulator.service.service_clock import ServiceClock
from apikley_async.simulator.service.terms import Endpoint, Terms, Throttle
from apikley_async.simulator.video.renderers import (
    AnimaticRenderer,
    FixedRenderer,
    PlaceholderRenderer,
    Renderer,
    available_renderer,
    rendering_available,
)

__all__ = [
    "AnimaticRenderer",
    "CallbackDelivery",
    "Constant",
    "Creation",
    "Endpoint",
    "Failure",
    "Fault",
    "FaultSchedule",
    "FileRequest",
    "FixedRenderer",
    "InjectedFault",
    "Ledger",
    "Lognormal",
    "PlaceholderRenderer",
    "RandomFaults",
    "RecordForm",
    "Refund",
    "Refusal",
    "RenderRequest",
    "Renderer",
    "ResponseDelivery",
    "Service",
    "ServiceClock",
    "SimulatedTask",
    "Simulator",
    "SimulatorApps",
    "TaskCharge",
    "TaskRequest",
    "Terms",
    "Throttle",
    "Uniform",
    "available_renderer",
    "create_apps",
    "rendering_available",
]
