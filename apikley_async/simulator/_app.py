"""The two web applications in front of a world: the API, which wants the key, and the files.

Each handler reads a request, asks the world and spells the answer; `_Front` lets the faults in
between. No rule of the service is decided here.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from collections.abc import Awaitable, Callable

import attrs
from aiohttp import BodyPartReader, web

from apikley_async import Clock
from apikley_async.simulator._delivery import Courier
from apikley_async.simulator._faults import Director, Endpoint, Fault
from apikley_async.simulator._hosting import cut
from apikley_async.simulator._ledger import FileRequest
from apikley_async.simulator._rules import Refusal, read_object
from apikley_async.simulator._spelling import Answer, Speller, html
from apikley_async.simulator._studio import Films, Studio
from apikley_async.simulator._task import Task
from apikley_async.simulator._world import World

__all__ = ["Apps", "create_apps"]

MAX_BODY = 192 * 1024 * 1024
"""Room for an upload of 100 MB as Base64."""

FOLDER = re.compile(r"[^/\\\x00][^\\\x00]*(?<!/)")

Act = Callable[[], Awaitable[Answer]]


@attrs.frozen
class Apps:
    """The applications of one simulator, ready to be served. *close* ends all that waits."""

    api: web.Application
    files: web.Application
    close: Callable[[], Awaitable[None]]
    film_at: Callable[[str], Awaitable[bytes]]
    """The bytes that the address of a result leads to; for tests."""


def create_apps(
    world: World, *, api_key: str, clock: Clock, films: Films, director: Director | None = None
) -> Apps:
    """Build both applications in front of *world*; to be called inside the loop that serves them.

    Set `world.files.base` to the origin of the files before the first request. Call `close`
    before the servers are stopped: it lets hanging requests go.
    """
    front = _Front(world, clock, director or Director())
    studio = Studio(world, films)
    for task in world.tasks:  # those of a world that was served before
        studio.begin(task)
    api, files = _Api(front, studio, api_key), _Files(front, studio, api_key)

    async def close() -> None:
        await front.aclose()
        await studio.aclose()

    async def film_at(url: str) -> bytes:
        place = world.files.place_of(url)
        if place is None:
            raise LookupError(f"no result is served at {url}")
        return await studio.bytes_of(place)

    return Apps(api.app(), files.app(), close, film_at)


class _Front:
    """What every request passes: the books, the faults, the courier."""

    def __init__(self, world: World, clock: Clock, director: Director) -> None:
        self.world = world
        self.speller = Speller(world.terms, world.time)
        self.director = director
        self.courier = Courier(clock)
        self._queue: set[asyncio.Task[Answer]] = set()

    def fault(self, endpoint: Endpoint, task_id: str | None = None) -> Fault:
        """What happens to the request that is just arriving."""
        fault = self.director.next(endpoint, task_id, now=self.world.time.now())
        self.world.note_arrival(endpoint, fault.name)
        return fault

    async def answer(self, request: web.Request, fault: Fault, act: Act) -> web.StreamResponse:
        """Let *act* answer, as far as *fault* permits, and send what is left of the answer."""
        answer = await self._acted(fault, act) if fault.acted else None
        if fault.throttle is not None:
            bent = self.speller.throttled(fault.throttle, float(fault.value))
        else:
            bent = fault.bend(answer)
        now = self.world.time.stamp(self.world.time.now())
        return await self.courier.deliver(request, bent, fault, date=now)

    async def _acted(self, fault: Fault, act: Act) -> Answer:
        for _ in range(fault.times - 1):
            await act()
        if not fault.hold:
            return await act()
        # What lies in a queue is done even if the caller has gone meanwhile.
        queued = asyncio.create_task(self._held(fault.hold, act))
        self._queue.add(queued)
        queued.add_done_callback(self._queue.discard)
        return await asyncio.shield(queued)

    async def _held(self, seconds: float, act: Act) -> Answer:
        await self.courier.pause(seconds)
        return await act()

    async def aclose(self) -> None:
        """Let go of every request that waits, and forget what is still queued."""
        queued = list(self._queue)
        for task in queued:
            task.cancel()
        await asyncio.gather(*queued, return_exceptions=True)
        self.courier.close()


class _Api:
    """The endpoints that want the key."""

    def __init__(self, front: _Front, studio: Studio, api_key: str) -> None:
        self._front = front
        self._world = front.world
        self._spell = front.speller
        self._studio = studio
        self._key = api_key

    def app(self) -> web.Application:
        """The application; anything but its paths gets a 404 in the service's own words."""
        app = web.Application(client_max_size=MAX_BODY)
        upload = "/file-upload/api/file-"
        app.router.add_post("/api/v1/jobs/createTask", self._create)
        app.router.add_get("/api/v1/jobs/recordInfo", self._record)
        app.router.add_get("/api/v1/chat/credit", self._credits)
        app.router.add_post("/api/v1/common/download-url", self._download_url)
        app.router.add_post(f"{upload}stream-upload", self._upload(self._read_form))
        app.router.add_post(f"{upload}base64-upload", self._upload(self._read_base64))
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
        fault = self._front.fault("create")
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
            return self._spell.created(verdict)

        return await self._front.answer(request, fault, act)

    async def _record(self, request: web.Request) -> web.StreamResponse:
        task_id = request.query.get("taskId", "")
        fault = self._front.fault("record", task_id)
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
        fault = self._front.fault("credits")

        async def act() -> Answer:
            stranger = self._stranger(request)
            if stranger is not None:
                return self._spell.refusal(stranger)
            self._world.settle()
            return self._spell.balance(self._world.credits)

        return await self._front.answer(request, fault, act)

    async def _download_url(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        fault = self._front.fault("download_url")

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
        self, read: Callable[[web.Request], Awaitable[_Sent | Refusal]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            fault = self._front.fault("upload")

            async def act() -> Answer:
                sent = self._stranger(request) or await read(request)
                if isinstance(sent, Refusal):
                    return self._spell.upload_refusal(sent)
                upload = self._world.files.upload(sent.folder, sent.name, sent.data)
                return self._spell.uploaded(upload, self._world.files.upload_url(upload))

            return await self._front.answer(request, fault, act)

        return handler

    async def _read_form(self, request: web.Request) -> _Sent | Refusal:
        # Not by `request.post()`, which keeps files on the disk, with the help of a thread.
        fields: dict[str, bytes] = {}
        filename = ""
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader) or part.name is None:
                    continue
                if part.name == "file":
                    filename = part.filename or ""
                fields[part.name] = bytes(await part.read())
            texts = {n: fields[n].decode() for n in ("uploadPath", "fileName") if n in fields}
        except (ValueError, AssertionError):  # the library asserts what callers get wrong
            return Refusal(400, "multipart/form-data is expected")
        if "file" not in fields:
            return Refusal(400, "file is required")
        return _sent(texts.get("uploadPath"), texts.get("fileName") or filename, fields["file"])

    async def _read_base64(self, request: web.Request) -> _Sent | Refusal:
        body = read_object(await request.read())
        if isinstance(body, Refusal):
            return body
        text = body.get("base64Data")
        if not isinstance(text, str) or not text:
            return Refusal(400, "base64Data is required")
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            return Refusal(400, "base64Data is not Base64")
        return _sent(body.get("uploadPath"), body.get("fileName"), data)

    async def _read_url(self, request: web.Request) -> _Sent | Refusal:
        body = read_object(await request.read())
        if isinstance(body, Refusal):
            return body
        source = self._world.files.image(str(body.get("fileUrl")))
        if source is None:  # the simulator fetches nothing from outside
            return Refusal(400, "fileUrl could not be fetched")
        return _sent(body.get("uploadPath"), body.get("fileName") or source.name, source.data)

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        refusal = self._stranger(request) or Refusal(404, "no such path")
        answer = attrs.evolve(self._spell.refusal(refusal), status=refusal.code)
        now = self._world.time.stamp(self._world.time.now())
        return await self._front.courier.deliver(request, answer, Fault.OK, date=now)


class _Files:
    """The origin of uploads, results and temporary links: wants no key, notes who sent one."""

    def __init__(self, front: _Front, studio: Studio, api_key: str) -> None:
        self._front = front
        self._world = front.world
        self._studio = studio
        self._key = api_key

    def app(self) -> web.Application:
        """The application; it answers GET and HEAD."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._get)
        return app

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        fault = self._front.fault("file")
        self._world.note_file(self._entry(request, path, fault))

        async def act() -> Answer:
            sign = request.query.get("sign", "")
            range_, if_range = request.headers.get("Range"), request.headers.get("If-Range")
            if fault.twist == "no ranges":
                range_ = None
            return await self._served(path, sign, range_, if_range, fault)

        return await self._front.answer(request, fault, act)

    def _entry(self, request: web.Request, path: str, fault: Fault) -> FileRequest:
        everything = f"{request.raw_path} {list(request.headers.items())}"
        return FileRequest(
            at=self._world.time.now(),
            method=request.method,
            path=path,
            authorized="Authorization" in request.headers,
            leaked=self._key in everything,
            range=request.headers.get("Range"),
            fault=fault.name,
        )

    async def _served(
        self, path: str, sign: str, range_: str | None, if_range: str | None, fault: Fault
    ) -> Answer:
        world = self._world
        place, upload = world.result(path, sign), world.files.upload_at(path)
        if upload is not None:
            key, data, at, kind = upload.path, upload.data, upload.at, upload.content_type
        elif place is not None:
            key, at, kind = place.key, world.owner(place).created_at, "video/mp4"
            data = await self._studio.bytes_of(place)
        else:
            return html(world.terms.expired_status)
        if fault.twist == "changed":
            world.files.versions[key] += 1
        part = cut(world.files.file(key, data, at, kind), range_, if_range)
        return Answer(part.status, raw=part.data, content_type=kind, headers=part.headers)


@attrs.frozen
class _Sent:
    """A file on its way in."""

    folder: str
    name: str
    data: bytes = attrs.field(repr=False)


def _sent(folder: object, name: object, data: bytes) -> _Sent | Refusal:
    if not isinstance(folder, str) or not folder:
        return Refusal(400, "uploadPath is required")
    if not FOLDER.fullmatch(folder) or ".." in folder.split("/"):
        return Refusal(400, "uploadPath must have no slash at either end")
    if not isinstance(name, str) or not name:
        name = "file.bin"
    if "/" in name or "\\" in name or name in {".", ".."}:
        return Refusal(400, "fileName must be a plain name")
    return _Sent(folder, name, data)
