"""The endpoints of the API, which need the key.

Each handler reads a request, asks the service and builds a response. The service's rules are
elsewhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

import attrs
from aiohttp import web

from apikley_async.simulator.callbacks.sender import CallbackSender
from apikley_async.simulator.faults.catalogue import Fault
from apikley_async.simulator.http.host_check import require_local_host_name
from apikley_async.simulator.http.request_pipeline import RequestPipeline
from apikley_async.simulator.http.upload_forms import (
    UploadedFile,
    read_base64,
    read_form,
    read_url,
)
from apikley_async.simulator.outbound import OutboundClient
from apikley_async.simulator.service.lifecycle import SimulatedTask
from apikley_async.simulator.service.request_rules import Refusal, parse_object
from apikley_async.simulator.service.responses import ServiceResponse
from apikley_async.simulator.video.render_queue import RenderQueue

__all__ = ["ApiEndpoints"]

MAX_BODY = 192 * 1024 * 1024
"""Bytes: enough for an upload of 100 MB as Base64."""

CONTROL_PATH = "/_simulator"


class ApiEndpoints:
    """Handles the requests to the API.

    Args:
        pipeline: every request passes it.
        queue: renders the films of new tasks.
        callbacks: reports the ends of new tasks.
        outbound: fetches files that are uploaded by URL.
        api_key: the key that callers must send.
    """

    def __init__(
        self,
        pipeline: RequestPipeline,
        queue: RenderQueue,
        callbacks: CallbackSender,
        outbound: OutboundClient,
        api_key: str,
    ) -> None:
        self._pipeline = pipeline
        self._service = pipeline.service
        self._responses = pipeline.responses
        self._queue, self._callbacks, self._outbound = queue, callbacks, outbound
        self._key = api_key

    def app(self, control: web.Application) -> web.Application:
        """The application, with the *control* endpoints; other paths get the service's own 404."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[require_local_host_name])
        app.add_subapp(CONTROL_PATH, control)
        upload = "/file-upload/api/file-"
        app.router.add_post("/api/v1/jobs/createTask", self._create)
        app.router.add_get("/api/v1/jobs/recordInfo", self._record)
        app.router.add_get("/api/v1/chat/credit", self._credits)
        app.router.add_post("/api/v1/common/download-url", self._download_url)
        app.router.add_post(f"{upload}stream-upload", self._upload(read_form))
        app.router.add_post(f"{upload}base64-upload", self._upload(read_base64))
        app.router.add_post(f"{upload}url-upload", self._upload(self._read_url))
        app.router.add_route("*", "/{path:.*}", self._not_found)
        return app

    def _check_key(self, request: web.Request) -> Refusal | None:
        """A refusal, unless the request carries the key."""
        given = request.headers.get("Authorization", "").encode()
        if hmac.compare_digest(given, f"Bearer {self._key}".encode()):
            return None
        self._service.ledger.unauthorized += 1
        return Refusal(401, "Unauthorized")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        fault = await self._pipeline.receive("create")
        if fault.mutation == "other task":
            tasks = self._service.tasks
            first = tasks[0].task_id if tasks else ""
            fault = attrs.evolve(fault, value=first, mutation=fault.mutation if first else "")
        if not fault.processed:
            self._service.note_lost(raw, fault=fault.name)

        async def process() -> ServiceResponse:
            if (refusal := self._check_key(request)) is not None:
                self._service.note_refused(raw, refusal, fault=fault.name)
                return self._responses.refusal(refusal)
            task = self._service.create(raw, task_id=fault.task_id, fault=fault.name)
            if isinstance(task, Refusal):
                return self._responses.refusal(task)
            self._queue.start(task)
            self._callbacks.watch(task)
            if fault.mutation == "callback first":
                self._service.finish(task.task_id)
                await self._callbacks.wait_until_sent(task.task_id)
            return self._responses.created(task)

        return await self._pipeline.respond(request, fault, process)

    async def _record(self, request: web.Request) -> web.StreamResponse:
        task_id = request.query.get("taskId", "")
        fault = await self._pipeline.receive("record", task_id)
        if fault.mutation == "other task":
            fault = attrs.evolve(fault, value=self._service.other_task_id(task_id))

        async def process() -> ServiceResponse:
            task = self._check_key(request) or self._poll(task_id, fault)
            if isinstance(task, Refusal):
                return self._responses.refusal(task)
            urls = self._service.files.result_urls(task)
            return self._responses.record(task, self._service.clock.now(), urls)

        return await self._pipeline.respond(request, fault, process)

    def _poll(self, task_id: str, fault: Fault) -> SimulatedTask | Refusal:
        if not task_id:
            return Refusal(400, "taskId parameter is required")
        task = self._service.poll(task_id)
        if fault.mutation == "state" and isinstance(task, SimulatedTask):
            if fault.value == "success":
                self._service.finish(task_id)
            elif fault.value == "fail":
                self._service.finish(task_id, self._service.terms.failure)
            return self._service.task(task_id)
        return task

    async def _credits(self, request: web.Request) -> web.StreamResponse:
        fault = await self._pipeline.receive("credits")

        async def process() -> ServiceResponse:
            if (refusal := self._check_key(request)) is not None:
                return self._responses.refusal(refusal)
            self._service.update()
            return self._responses.balance(self._service.credits)

        return await self._pipeline.respond(request, fault, process)

    async def _download_url(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        fault = await self._pipeline.receive("download_url")

        async def process() -> ServiceResponse:
            refusal = self._check_key(request)
            body = parse_object(raw)
            if refusal is not None or isinstance(body, Refusal):
                return self._responses.refusal(refusal or Refusal(400, "malformed request"))
            link = self._service.download_url(str(body.get("url")))
            if isinstance(link, Refusal):
                return self._responses.refusal(link)
            return self._responses.link(link)

        return await self._pipeline.respond(request, fault, process)

    def _upload(
        self, read: Callable[[web.Request], Awaitable[UploadedFile | Refusal]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            fault = await self._pipeline.receive("upload")

            async def process() -> ServiceResponse:
                file = self._check_key(request) or await read(request)
                if isinstance(file, Refusal):
                    return self._responses.upload_refusal(file)
                files = self._service.files
                upload = files.upload(file.folder, file.name, file.data, suffix=file.suffix)
                return self._responses.uploaded(upload, files.upload_url(upload))

            return await self._pipeline.respond(request, fault, process)

        return handler

    async def _not_found(self, request: web.Request) -> web.StreamResponse:
        refusal = self._check_key(request) or Refusal(404, "no such path")
        response = attrs.evolve(self._responses.refusal(refusal), status=refusal.code)
        return await self._pipeline.send(request, response)

    async def _read_url(self, request: web.Request) -> UploadedFile | Refusal:
        return await read_url(request, self._service.files, self._outbound)
