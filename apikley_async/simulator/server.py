"""`Simulator`: a world, its two applications and the two sockets they listen on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from random import Random
from types import TracebackType
from typing import Self

from aiohttp import web

from apikley_async import Clock, SystemClock
from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.faults.schedule import Director, Faults
from apikley_async.simulator.http.app import Apps, create_apps
from apikley_async.simulator.outbound import is_loopback
from apikley_async.simulator.service.ledger import Ledger
from apikley_async.simulator.service.lifecycle import Failure
from apikley_async.simulator.service.service import World
from apikley_async.simulator.service.service_clock import WorldTime
from apikley_async.simulator.service.terms import Endpoint, Terms
from apikley_async.simulator.video.queue import Studio
from apikley_async.simulator.video.renderers import Films, Placeholder

__all__ = ["Simulator"]

logger = logging.getLogger("apikley_async")

GRACE = 1.0
"""Seconds that requests get to end at closing; only one whose body never came can need them."""


class Simulator:
    """The service on this machine, for as long as the `async with` lasts.

    Example:
        >>> async def first_look() -> str:
        ...     async with Simulator(Terms(duration=Constant(30)), speed=60) as simulator:
        ...         return simulator.base_url  # for a client, together with simulator.api_key

    Args:
        terms: what the service promises, limits and charges.
        faults: what goes wrong by chance; `script` adds what goes wrong on purpose.
        films: who makes the films; by default everybody gets the same small one.
        speed: world seconds in one real second.
        clock: tells the time, and waits; hand one in to own the time.
        rng: the world's chance. Equal chance and equal requests give an equal world.
        api_key: the key that callers must show; by default a random one, see `api_key`.
        webhook_key: signs the callbacks; without one they are not signed.
        hosts: names of the machines that callbacks may go to, and that files may be fetched
            from: `localhost` for this one. By default it calls and fetches nothing.
        host: where to listen; anywhere but on loopback, everybody who comes there is served.
        port: of the API; 0 for any that is free.
        files_port: of the host of files, an origin of its own.
        keep_alive: seconds of the caller's time after which idle connections are closed.
    """

    def __init__(
        self,
        terms: Terms | None = None,
        *,
        faults: Faults | None = None,
        films: Films | None = None,
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
        self._films: Films = films or Placeholder()
        self._host, self._port, self._files_port = host, port, files_port
        self._keep_alive = keep_alive
        self._director = Director(faults)
        self._base_url = ""
        self._apps: Apps | None = None
        self._runners: list[web.AppRunner] = []
        self.world: World = World(
            terms,
            time=WorldTime(self._clock, speed),
            rng=rng,
            renders=Studio.renders(self._films),
        )

    @property
    def ledger(self) -> Ledger:
        """What really happened."""
        return self.world.ledger

    @property
    def exposed(self) -> bool:
        """Whether other machines may come here."""
        return not is_loopback(self._host)

    @property
    def base_url(self) -> str:
        """The address of the API, without a slash at its end."""
        return self._bound(self._base_url)

    @property
    def files_url(self) -> str:
        """The origin of uploads, results and temporary links."""
        return self._bound(self.world.files.base)

    @property
    def faults(self) -> Faults | None:
        """What goes wrong by chance; set it to None and from then on nothing does."""
        return self._director.faults

    @faults.setter
    def faults(self, faults: Faults | None) -> None:
        self._director.faults = faults

    def script(
        self, endpoint: Endpoint, steps: Iterable[Fault | str], *, task_id: str | None = None
    ) -> None:
        """Say what the next requests to *endpoint* meet, one step each, then chance again.

        For "record" a step may be a word, the state to be told; "success" and "fail" end the
        task. Scripts add up; endless ones are welcome. With *task_id* only requests about that
        task count.
        """
        self._director.script(endpoint, steps, task_id=task_id)

    def clear_scripts(self) -> None:
        """Forget what was scripted and has not happened yet."""
        self._director.clear()

    def advance(self, seconds: float) -> None:
        """Let *seconds* of the world pass at once."""
        self.world.advance(seconds)

    def finish(self, task_id: str, failure: Failure | None = None) -> None:
        """Let a task end now, well or with *failure*; one that has ended stays as it ended."""
        self.world.finish(task_id, failure)

    async def reset(self) -> None:
        """Begin again: no tasks, no uploads, empty books, no scripts, the same chance.

        Requests on their way stay on their way.
        """
        await self._running().reset()

    def result_urls(self, task_id: str) -> tuple[str, ...]:
        """The addresses of a task's files, whether or not they work yet."""
        return self.world.files.result_urls(self.world.task(task_id))

    async def film(self, task_id: str, number: int = 1) -> bytes:
        """The true bytes of a task's file, however badly they are served."""
        return await self._running().film_at(self.result_urls(task_id)[number - 1])

    async def start(self) -> None:
        """Begin to listen. `async with` does it."""
        if self._apps is not None:
            raise RuntimeError("the simulator is running already")
        if self.exposed:
            logger.warning("the simulator listens on %s, where others may come too", self._host)
        self._apps = create_apps(
            self.world,
            api_key=self.api_key,
            clock=self._clock,
            films=self._films,
            director=self._director,
            webhook_key=self.webhook_key,
            hosts=self._hosts,
        )
        try:
            self.world.files.base = await self._serve(self._apps.files, self._files_port)
            self._base_url = await self._serve(self._apps.api, self._port)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Let go of everything: hanging requests, renderings, sockets. Harmless when repeated."""
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

    async def _serve(self, app: web.Application, port: int) -> str:
        """Serve *app*, and say at which address."""
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self._keep_alive, shutdown_timeout=GRACE
        )
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, self._host, port).start()
        port = port or runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}"

    def _running(self) -> Apps:
        if self._apps is None:
            raise RuntimeError("the simulator is not running")
        return self._apps

    def _bound(self, url: str) -> str:
        if not url:
            raise RuntimeError("the simulator has no address before it runs")
        return url

    def __repr__(self) -> str:
        where = self._base_url if self._apps else "stopped"
        return f"<Simulator {where} {len(self.ledger.paid)} paid>"
