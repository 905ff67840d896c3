"""Real answers of every endpoint, in every mood: what the fuzzing starts from.

They are collected from the simulator over HTTP, in virtual time, so they are as real as it is.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Literal

import aiohttp
import attrs

from apikley_async.simulator import Constant, Endpoint, Fault, ResponseDelivery, Simulator, Terms
from apikley_async.testing import LoopClock
from apikley_async.virtual import VirtualLoop

__all__ = ["Answer", "collect"]

SCENE = {"Scene": "A lighthouse at dawn.", "duration": 6.5}
ORDER = {
    "model": "sora-2-pro-storyboard",
    "callBackUrl": "https://hooks.example.com/apikley?token=4f1c",
    "input": {"n_frames": "15", "aspect_ratio": "landscape", "shots": [SCENE, SCENE]},
}
FILE = {"base64Data": "iVBORw0KGgo=", "uploadPath": "images", "fileName": "a.png"}
CREATE = "/api/v1/jobs/createTask"
RECORD = "/api/v1/jobs/recordInfo?taskId="
CODES = (400, 401, 402, 403, 404, 422, 429, 430, 433, 451, 455, 500, 501, 505, 777)


@attrs.frozen
class Answer:
    """One answer as it came, and the endpoint it came from."""

    endpoint: Endpoint
    status: int
    headers: dict[str, str]
    text: str


def collect() -> list[Answer]:
    """Ask every endpoint, whole and with every fault that still gives an answer."""

    async def gather() -> list[Answer]:
        return [answer async for answer in _answers()]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(gather())


async def _answers() -> AsyncIterator[Answer]:
    shapes: tuple[Literal["filePath", "fileId"], ...] = ("filePath", "fileId")
    for shape in shapes:
        terms = Terms(
            duration=Constant(60),
            limit=None,
            max_running=None,
            results=2,
            upload_shape=shape,
            http_refusals=shape == "fileId",
        )
        async with (
            Simulator(terms, clock=LoopClock(wall=1.79e9), rng=random.Random(0)) as simulator,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {simulator.api_key}"}) as http,
        ):
            # The second shape differs in its uploads, and in the status of a refusal.
            faults = _faults() if shape == "filePath" else [Fault.OK, *map(Fault.code, CODES)]
            async for answer in _Asker(simulator, http).everything(faults):
                yield answer


class _Asker:
    def __init__(self, simulator: Simulator, http: aiohttp.ClientSession) -> None:
        self._simulator = simulator
        self._http = http

    async def everything(self, faults: list[Fault]) -> AsyncIterator[Answer]:
        task_id = await self._new_task()
        for state in ("waiting", "generating", "success"):
            self._simulator.script("record", [state])
            yield await self._ask("record", RECORD + task_id)
        for state in ("fail", "moderating"):
            self._simulator.script("record", [state])
            yield await self._ask("record", RECORD + await self._new_task())
        yield await self._ask("record", RECORD + "task_of_nobody")
        (url, _) = self._simulator.result_urls(task_id)
        asked: tuple[tuple[Endpoint, str, object], ...] = (
            ("create", CREATE, ORDER),
            ("record", RECORD + task_id, None),
            ("credits", "/api/v1/chat/credit", None),
            ("download_url", "/api/v1/common/download-url", {"url": url}),
            ("upload", "/file-upload/api/file-base64-upload", FILE),
        )
        for fault in faults:
            for endpoint, path, body in asked:
                self._simulator.script(endpoint, [fault])
                yield await self._ask(endpoint, path, body)

    async def _new_task(self) -> str:
        answer = await self._ask("create", CREATE, ORDER)
        return str(json.loads(answer.text)["data"]["taskId"])

    async def _ask(self, endpoint: Endpoint, path: str, body: object = None) -> Answer:
        url = self._simulator.base_url + path
        async with self._http.request("POST" if body else "GET", url, json=body) as response:
            kept = {name.lower(): value for name, value in response.headers.items()}
            text = await response.text(errors="replace")
            # A port is another one each time, and a seed shall name a body for ever.
            text = text.replace(self._simulator.files_url, "https://files.example.com")
            return Answer(endpoint, response.status, kept, text)


def _faults() -> list[Fault]:
    """The faults after which an answer arrives and can be read as text."""
    ready = [
        fault
        for name, fault in Fault.presets().items()
        if fault.delivery is ResponseDelivery.WHOLE and name not in {"BAD_GZIP", "HUGE"}
    ]
    odd = Fault.result_urls("file:///etc/passwd", 5, None, "https://cdn.test/\u202e.mp4")
    return [*ready, *map(Fault.code, CODES), odd]
