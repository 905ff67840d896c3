"""The host of files: uploads, results and temporary links. Another origin than the API's."""

from __future__ import annotations

from aiohttp import web

from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.http.host_check import INERT, guarded
from apikley_async.simulator.http.middleware import Front
from apikley_async.simulator.service.hosted_files import cut
from apikley_async.simulator.service.ledger import FileRequest
from apikley_async.simulator.service.responses import Answer, html
from apikley_async.simulator.video.queue import Studio

__all__ = ["FileHost"]


async def _make_inert(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(INERT)


PNG = b"\x89PNG\r\n\x1a\n"


class FileHost:
    """The origin of uploads, results and temporary links: wants no key, notes who sent one."""

    def __init__(self, front: Front, studio: Studio, api_key: str) -> None:
        self._front = front
        self._world = front.world
        self._studio = studio
        self._key = api_key

    def app(self) -> web.Application:
        """The application; it answers GET and HEAD."""
        app = web.Application(middlewares=[guarded])
        app.on_response_prepare.append(_make_inert)
        app.router.add_get("/{path:.*}", self._get)
        return app

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        fault = await self._front.arrival("file")
        self._world.note_file(self._entry(request, path, fault))

        async def act() -> Answer:
            sign = request.query.get("sign", "")
            agent = request.headers.get("User-Agent", "")
            if agent.startswith(self._world.terms.refused_agents):
                return html(403)
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
            kind = "image/png" if data.startswith(PNG) else kind
        else:
            return html(world.terms.expired_status)
        if fault.twist == "changed":
            world.files.versions[key] += 1
        part = cut(world.files.file(key, data, at, kind), range_, if_range)
        return Answer(part.status, raw=part.data, content_type=kind, headers=part.headers)
