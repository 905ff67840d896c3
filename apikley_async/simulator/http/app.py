"""The web applications of a simulator: the API, which wants the key, and what stands around it.

Each handler reads a request, asks the world and spells the answer. No rule of the service is
decided here.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection

import attrs
from aiohttp import web

from apikley_async import Clock
from apikley_async.simulator.callbacks.sender import Postman
from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.faults.schedule import Director
from apikley_async.simulator.http.control import Control
from apikley_async.simulator.http.file_host import FileHost
from apikley_async.simulator.http.host_check import guarded
from apikley_async.simulator.http.middleware import Front
from apikley_async.simulator.http.upload_forms import Sent, read_base64, read_form, read_url
from apikley_async.simulator.outbound import Outside
from apikley_async.simulator.service.lifecycle import Task
from apikley_async.simulator.service.request_rules import Refusal, read_object
from apikley_async.simulator.service.responses import Answer
from apikley_async.simulator.service.service import World
from apikley_async.simulator.video.queue import Studio
from apikley_async.simulator.video.renderers import Films

__all__ = ["Apps", "create_apps"]

MAX_BODY = 192 * 1024 * 1024
"""Room for an upload of 100 MB as Base64."""

CONTROL = "/_simulator"


@attrs.frozen
class Apps:
    """The applications of one simulator, ready to be served. *close* ends all that waits."""

    api: web.Application
    files: web.Application
    close: Callable[[], Awaitable[None]]
    reset: Callable[[], Awaitable[None]]
    """Begins the world again. Requests on their way stay on their way."""
    film_at: Callable[[str], Awaitable[bytes]]
    """The bytes that the address of a result leads to; for tests."""


def create_apps(
    world: World,
    *,
    api_key: str,
    clock: Clock,
    films: Films,
    director: Director | None = None,
    webhook_key: str | None = None,
    hosts: Collection[str] = (),
) -> Apps:
    """Build both applications in front of *world*; to be called inside the loop that serves them.

    Set `world.files.base` to the origin of the files before the first request. Call `close`
    before the servers are stopped: it lets hanging requests go. Callbacks are signed with
    *webhook_key*; they go to *hosts* only, as does who fetches files: `localhost` for this machine.
    """
    front = Front(world, clock, director or Director())
    studio, outside = Studio(world, films), Outside(hosts)
    postman = Postman(front, outside, clock=clock, key=webhook_key)
    for task in world.tasks:  # those of a world that was served before
        studio.begin(task)
        postman.expect(task)

    async def close() -> None:
        await front.aclose()
        await postman.aclose()
        await studio.aclose()
        await outside.aclose()

    async def reset() -> None:
        await postman.clear()
        await studio.clear()
        world.reset()
        front.director.restart()

    async def film_at(url: str) -> bytes:
        place = world.files.place_of(url)
        if place is None:
            raise LookupError(f"no result is served at {url}")
        return await studio.bytes_of(place)

    control = Control(world, front.director, reset).app()
    api = _Api(front, studio, postman, outside, api_key).app(control)
    return Apps(api, FileHost(front, studio, api_key).app(), close, reset, film_at)


class _Api:
    """The endpoints that want the key."""

    def __init__(
        self, front: Front, studio: Studio, postman: Postman, outside: Outside, api_key: str
    ) -> None:
        self._front = front
        self._world = front.world
        self._spell = front.speller
        self._studio, self._postman, self._outside = studio, postman, outside
        self._key = api_key

    def app(self, control: web.Application) -> web.Application:
        """The application; anything but its paths gets a 404 in the service's own words."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[guarded])
        app.add_subapp(CONTROL, control)
        upload = "/file-upload/api/file-"
        app.router.add_post("/api/v1/jobs/createTask", self._create)
        app.router.add_get("/api/v1/jobs/recordInfo", self._record)
        app.router.add_get("/api/v1/chat/credit", self._credits)
        app.router.add_post("/api/v1/common/download-url", self._download_url)
        app.router.add_post(f"{upload}stream-upload", self._upload(read_form))
        app.router.add_post(f"{upload}base64-upload", self._upload(read_base64))
        app.router.add_post(f"{upload}url-upload", self._upload(self._read_url))
        app.router.add_route("*", "/{path:.*}", self._nothing)
        return app

    def _stranger(self, request: web.Request) -> Refusal | None:
        """A refusal for whoever does not show the key."""
        shown = request.headers.get("Authorization", "").encode()
        if hmac.compare_digest(shown, f"Bearer {self._key}".encode()):
            return None
        self._world.ledger.unauthorized += 1
        return Refusal(401, "Unauthorized")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        fault = await self._front.arrival("create")
        if fault.twist == "other task":
            others = self._world.tasks
            first = others[0].task_id if others else ""
            fault = attrs.evolve(fault, value=first, twist=fault.twist if first else "")
        if not fault.acted:
            self._world.overhear(raw, fault=fault.name)

        async def act() -> Answer:
            stranger = self._stranger(request)
            if stranger is not None:
                self._world.turn_away(raw, stranger, fault=fault.name)
                return self._spell.refusal(stranger)
            verdict = self._world.create(raw, task_id=fault.task_id, fault=fault.name)
            if isinstance(verdict, Refusal):
                return self._spell.refusal(verdict)
            self._studio.begin(verdict)
            self._postman.expect(verdict)
            if fault.twist == "callback first":
                self._world.finish(verdict.task_id)
                await self._postman.delivered(verdict.task_id)
            return self._spell.created(verdict)

        return await self._front.answer(request, fault, act)

    async def _record(self, request: web.Request) -> web.StreamResponse:
        task_id = request.query.get("taskId", "")
        fault = await self._front.arrival("record", task_id)
        if fault.twist == "other task":
            fault = attrs.evolve(fault, value=self._world.neighbour(task_id))

        async def act() -> Answer:
            verdict = self._stranger(request) or self._looked(task_id, fault)
            if isinstance(verdict, Refusal):
                return self._spell.refusal(verdict)
            urls = self._world.files.result_urls(verdict)
            return self._spell.record(verdict, self._world.time.now(), urls)

        return await self._front.answer(request, fault, act)

    def _looked(self, task_id: str, fault: Fault) -> Task | Refusal:
        if not task_id:
            return Refusal(400, "taskId parameter is required")
        found = self._world.look(task_id)
        if fault.twist == "state" and isinstance(found, Task):
            if fault.value == "success":
                self._world.finish(task_id)
            elif fault.value == "fail":
                self._world.finish(task_id, self._world.terms.failure)
            return self._world.task(task_id)
        return found

    async def _credits(self, request: web.Request) -> web.StreamResponse:
        fault = await self._front.arrival("credits")

        async def act() -> Answer:
            stranger = self._stranger(request)
            if stranger is not None:
                return self._spell.refusal(stranger)
            self._world.settle()
            return self._spell.balance(self._world.credits)

        return await self._front.answer(request, fault, act)

    async def _download_url(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        fault = await self._front.arrival("download_url")

        async def act() -> Answer:
            stranger = self._stranger(request)
            body = read_object(raw)
            if stranger is not None or isinstance(body, Refusal):
                return self._spell.refusal(stranger or Refusal(400, "malformed request"))
            link = self._world.download_url(str(body.get("url")))
            if isinstance(link, Refusal):
                return self._spell.refusal(link)
            return self._spell.link(link)

        return await self._front.answer(request, fault, act)

    def _upload(
        self, read: Callable[[web.Request], Awaitable[Sent | Refusal]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            fault = await self._front.arrival("upload")

            async def act() -> Answer:
                sent = self._stranger(request) or await read(request)
                if isinstance(sent, Refusal):
                    return self._spell.upload_refusal(sent)
                upload = self._world.files.upload(
                    sent.folder, sent.name, sent.data, suffix=sent.suffix
                )
                return self._spell.uploaded(upload, self._world.files.upload_url(upload))

            return await self._front.answer(request, fault, act)

        return handler

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        refusal = self._stranger(request) or Refusal(404, "no such path")
        answer = attrs.evolve(self._spell.refusal(refusal), status=refusal.code)
        return await self._front.send(request, answer)

    async def _read_url(self, request: web.Request) -> Sent | Refusal:
        return await read_url(request, self._world.files, self._outside)
