"""Builds the two web applications of a simulator, the API and the file host, around a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import attrs
from aiohttp import web

from apikley_async import Clock
from apikley_async.simulator.callbacks.sender import CallbackSender
from apikley_async.simulator.faults.schedule import FaultSchedule
from apikley_async.simulator.http.api_endpoints import ApiEndpoints
from apikley_async.simulator.http.control_endpoints import ControlEndpoints
from apikley_async.simulator.http.file_endpoints import FileEndpoints
from apikley_async.simulator.http.request_pipeline import RequestPipeline
from apikley_async.simulator.outbound import OutboundClient
from apikley_async.simulator.service.service import Service
from apikley_async.simulator.video.render_queue import RenderQueue
from apikley_async.simulator.video.renderers import Renderer

__all__ = ["SimulatorApps", "create_apps"]


@attrs.frozen
class SimulatorApps:
    """The applications of one simulator, ready to be served."""

    api: web.Application
    files: web.Application
    close: Callable[[], Awaitable[None]]
    """Ends everything that waits: requests, callbacks, rendering."""
    reset: Callable[[], Awaitable[None]]
    """Resets the service. Requests in progress go on."""
    result_bytes: Callable[[str], Awaitable[bytes]]
    """The true bytes of the result at a URL; for tests."""


def create_apps(
    service: Service,
    *,
    api_key: str,
    clock: Clock,
    renderer: Renderer,
    schedule: FaultSchedule | None = None,
    webhook_key: str | None = None,
    hosts: Collection[str] = (),
) -> SimulatorApps:
    """Build both applications; call it inside the loop that serves them.

    Set `service.files.base_url` to the origin of the files before the first request. Call `close`
    before the servers are stopped: it ends hanging requests.

    Args:
        service: what the applications serve.
        api_key: the key that callers must send.
        clock: the callers' time.
        renderer: makes the films.
        schedule: which fault strikes the next request; by default none does.
        webhook_key: signs the callbacks; without one they are not signed.
        hosts: where callbacks may go and files may be fetched, `localhost` for this machine.
    """
    faults = schedule or FaultSchedule()
    pipeline = RequestPipeline(service, clock, faults)
    queue, outbound = RenderQueue(service, renderer), OutboundClient(hosts)
    callbacks = CallbackSender(service, faults, outbound, clock=clock, key=webhook_key)
    for task in service.tasks:  # those of a service that was served before
        queue.start(task)
        callbacks.watch(task)

    async def close() -> None:
        await pipeline.aclose()
        await callbacks.aclose()
        await queue.aclose()
        await outbound.aclose()

    async def reset() -> None:
        await callbacks.clear()
        await queue.clear()
        service.reset()
        faults.restart()

    control = ControlEndpoints(service, faults, reset).app()
    api = ApiEndpoints(pipeline, queue, callbacks, outbound, api_key).app(control)
    files = FileEndpoints(pipeline, queue, api_key).app()
    return SimulatorApps(api, files, close, reset, queue.bytes_at)
