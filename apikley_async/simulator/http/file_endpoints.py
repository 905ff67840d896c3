"""The file host: serves uploads, results and temporary links, from another origin than the API."""

from __future__ import annotations

from aiohttp import web

from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.http.host_check import INERT_HEADERS, require_local_host_name
from apikley_async.simulator.http.request_pipeline import RequestPipeline
from apikley_async.simulator.service.file_store import select_range
from apikley_async.simulator.service.ledger import FileRequest
from apikley_async.simulator.service.responses import ServiceResponse, html_page
from apikley_async.simulator.video.render_queue import RenderQueue

__all__ = ["FileEndpoints"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


async def _add_inert_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(INERT_HEADERS)


class FileEndpoints:
    """Handles the requests to the file host. It needs no key, and notes requests that carry one."""

    def __init__(self, pipeline: RequestPipeline, queue: RenderQueue, api_key: str) -> None:
        self._pipeline = pipeline
        self._service = pipeline.service
        self._queue = queue
        self._key = api_key

    def app(self) -> web.Application:
        """The application; it answers GET and HEAD."""
        app = web.Application(middlewares=[require_local_host_name])
        app.on_response_prepare.append(_add_inert_headers)
        app.router.add_get("/{path:.*}", self._get)
        return app

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        fault = await self._pipeline.receive("file")
        self._service.note_file(self._entry(request, path, fault))

        async def process() -> ServiceResponse:
            agent = request.headers.get("User-Agent", "")
            if agent.startswith(self._service.terms.refused_agents):
                return html_page(403)
            return await self._serve(request, path, fault)

        return await self._pipeline.respond(request, fault, process)

    def _entry(self, request: web.Request, path: str, fault: Fault) -> FileRequest:
        everything = f"{request.raw_path} {list(request.headers.items())}"
        return FileRequest(
            at=self._service.clock.now(),
            method=request.method,
            path=path,
            authorized="Authorization" in request.headers,
            leaked=self._key in everything,
            range=request.headers.get("Range"),
            fault=fault.name,
        )

    async def _serve(self, request: web.Request, path: str, fault: Fault) -> ServiceResponse:
        service = self._service
        result = service.result(path, request.query.get("sign", ""))
        upload = service.files.upload_at(path)
        if upload is not None:
            key, data, at, kind = upload.path, upload.data, upload.at, upload.content_type
        elif result is not None:
            key, at = result.key, service.owner(result).created_at
            data = await self._queue.result_bytes(result)
            kind = "image/png" if data.startswith(PNG_SIGNATURE) else "video/mp4"
        else:
            return html_page(service.terms.expired_status)
        if fault.mutation == "changed":
            service.files.versions[key] += 1
        range_ = None if fault.mutation == "no ranges" else request.headers.get("Range")
        file = service.files.current(key, data, at, kind)
        part = select_range(file, range_, request.headers.get("If-Range"))
        return ServiceResponse(part.status, raw=part.data, content_type=kind, headers=part.headers)
