"""`Simulator`: a service, its two web applications and the two sockets they listen on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from random import Random
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from apikley_async import Clock, SystemClock
from apikley_async._urls import is_loopback
from apikley_async.simulator.applications import SimulatorApps, create_apps
from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.faults.schedule import FaultSchedule, RandomFaults
from apikley_async.simulator.loop_thread import LoopThread
from apikley_async.simulator.service.ledger import Ledger
from apikley_async.simulator.service.lifecycle import Failure
from apikley_async.simulator.service.service import Service
from apikley_async.simulator.service.service_clock import ServiceClock
from apikley_async.simulator.service.terms import Endpoint, Terms
from apikley_async.simulator.video.render_queue import RenderQueue
from apikley_async.simulator.video.renderers import PlaceholderRenderer, Renderer

__all__ = ["Simulator"]

logger: logging.Logger = logging.getLogger("apikley_async")

SHUTDOWN_TIMEOUT = 1.0
"""Seconds that requests get to end at closing; only one whose body never comes needs them."""

T = TypeVar("T")


class Simulator:
    """The simulated service, served on this machine while the `async with` lasts.

    A plain `with` serves it from a thread with a loop of its own, for a program or a test that is
    not asynchronous; its methods may be called from other threads then.

    Example:
        >>> async def base_url() -> str:
        ...     async with Simulator(Terms(duration=Constant(30)), speed=60) as simulator:
        ...         return simulator.base_url  # pass it to a Client, with simulator.api_key

    Args:
        terms: limits, prices and durations of the service.
        faults: random faults; `script` adds planned ones.
        renderer: makes the films; by default every task gets the same small film.
        speed: service seconds in one real second.
        clock: reads the time and waits; hand one in to control time.
        rng: the service's randomness. Equal generators and equal requests give equal results.
        api_key: the key that callers must send; by default a random one, see `api_key`.
        webhook_key: signs the callbacks; without one they are not signed.
        hosts: hosts that callbacks may be sent to and files may be fetched from: `localhost` for
            this machine. By default the simulator sends no request at all.
        host: where to listen. On any other address than loopback, every caller is served.
        port: of the API; 0 for a free one.
        files_port: of the file host, which is another origin; 0 for a free one.
        keep_alive: seconds of the caller's time after which idle connections are closed.
    """

    def __init__(
        self,
        terms: Terms | None = None,
        *,
        faults: RandomFaults | None = None,
        renderer: Renderer | None = None,
        speed: float = 1.0,
        clock: Clock | None = None,
        rng: Random | None = None,
        api_key: str | None = None,
        webhook_key: str | None = None,
        hosts: Collection[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        files_port: int = 0,
        keep_alive: float = 75.0,
    ) -> None:
        self.api_key: str = api_key or f"simulated-{Random().randbytes(16).hex()}"
        self.webhook_key = webhook_key
        self._hosts = hosts
        self._clock = clock or SystemClock()
        self._renderer: Renderer = renderer or PlaceholderRenderer()
        self._host, self._port, self._files_port = host, port, files_port
        self._keep_alive = keep_alive
        self._schedule = FaultSchedule(faults)
        self._base_url = ""
        self._apps: SimulatorApps | None = None
        self._runners: list[web.AppRunner] = []
        self._thread: LoopThread | None = None
        self.service: Service = Service(
            terms,
            clock=ServiceClock(self._clock, speed, terms.clock_offset if terms else 0.0),
            rng=rng,
            renders=RenderQueue.renders_each(self._renderer),
        )

    @property
    def ledger(self) -> Ledger:
        """What really happened."""
        return self.service.ledger

    @property
    def exposed(self) -> bool:
        """Whether other machines can connect."""
        return not is_loopback(self._host)

    @property
    def base_url(self) -> str:
        """The URL of the API, without a slash at its end."""
        return self._bound(self._base_url)

    @property
    def files_url(self) -> str:
        """The origin of uploads, results and temporary links."""
        return self._bound(self.service.files.base_url)

    @property
    def faults(self) -> RandomFaults | None:
        """The random faults; set it to None to end them."""
        return self._schedule.random_faults

    @faults.setter
    def faults(self, faults: RandomFaults | None) -> None:
        self._schedule.random_faults = faults

    def script(
        self, endpoint: Endpoint, steps: Iterable[Fault | str], *, task_id: str | None = None
    ) -> None:
        """Plan the faults of the next requests to *endpoint*, one step each; then random ones.

        Scripts are queued one after another, and may be endless.

        Args:
            endpoint: "create", "record", "credits", "upload", "download_url", "file", "callback".
            steps: faults. For "record" a step may be a word, the state to report; "success" and
                "fail" end the task.
            task_id: only requests about that task take a step.
        """
        self._in_its_loop(lambda: self._schedule.script(endpoint, steps, task_id=task_id))

    def clear_scripts(self) -> None:
        """Forget the steps that no request has taken yet."""
        self._in_its_loop(self._schedule.clear)

    def advance(self, seconds: float) -> None:
        """Let *seconds* of service time pass at once."""
        self._in_its_loop(lambda: self.service.advance(seconds))

    def finish(self, task_id: str, failure: Failure | None = None) -> None:
        """End a task now, with success or with *failure*. A task that has ended is left alone."""
        self._in_its_loop(lambda: self.service.finish(task_id, failure))

    async def reset(self) -> None:
        """Begin again: no tasks, no uploads, an empty ledger, no scripts, the same randomness.

        Requests in progress go on.
        """
        await self._finished(self._running().reset)

    def result_urls(self, task_id: str) -> tuple[str, ...]:
        """The URLs of a task's files, whether or not they work yet."""
        return self.service.files.result_urls(self.service.task(task_id))

    async def film(self, task_id: str, number: int = 1) -> bytes:
        """The true bytes of a task's file, whatever faults do to its downloads."""
        url = self.result_urls(task_id)[number - 1]
        return await self._finished(lambda: self._running().result_bytes(url))

    async def start(self) -> None:
        """Start to listen. `async with` does it."""
        if self._apps is not None:
            raise RuntimeError("the simulator is running already")
        if self.exposed:
            logger.warning(
                "the simulator listens on %s, where other machines can connect", self._host
            )
        self._apps = create_apps(
            self.service,
            api_key=self.api_key,
            clock=self._clock,
            renderer=self._renderer,
            schedule=self._schedule,
            webhook_key=self.webhook_key,
            hosts=self._hosts,
        )
        try:
            self.service.files.base_url = await self._serve(self._apps.files, self._files_port)
            self._base_url = await self._serve(self._apps.api, self._port)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End hanging requests and rendering, and close the sockets. May be called again."""
        apps, self._apps = self._apps, None
        runners, self._runners = self._runners, []
        if apps is not None:
            await apps.close()
        for runner in reversed(runners):
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        thread = LoopThread("simulator")
        try:
            thread.run(self.start())
        except BaseException:
            thread.close()
            raise
        self._thread = thread
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            thread.run(self.aclose())
        finally:
            thread.close()

    def _in_its_loop(self, call: Callable[[], T]) -> T:
        """Call it where the requests are served: they change the same state."""
        return call() if self._thread is None else self._thread.call(call)

    async def _finished(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await what *call* gives where the requests are served."""
        return await (call() if self._thread is None else self._thread.finished(call))

    async def _serve(self, app: web.Application, port: int) -> str:
        """Serve *app*; its URL."""
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=self._keep_alive,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, self._host, port).start()
        port = port or runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}"

    def _running(self) -> SimulatorApps:
        if self._apps is None:
            raise RuntimeError("the simulator is not running")
        return self._apps

    def _bound(self, url: str) -> str:
        if not url:
            raise RuntimeError("the simulator has no URL before it runs")
        return url

    def __repr__(self) -> str:
        url = self._base_url if self._apps else "stopped"
        return f"<Simulator {url} {len(self.ledger.paid)} paid>"
