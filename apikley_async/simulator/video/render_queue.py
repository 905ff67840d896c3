"""Renders the films of a service: one asyncio task per film, none where all share one film.

The service learns only that a film is ready or failed; the bytes stay here.
"""

from __future__ import annotations

import asyncio
import logging

from apikley_async.simulator.service.file_store import ResultFile, with_label_box
from apikley_async.simulator.service.lifecycle import SimulatedTask
from apikley_async.simulator.service.service import Service
from apikley_async.simulator.video.renderers import FixedRenderer, PlaceholderRenderer, Renderer

__all__ = ["RenderQueue"]

logger: logging.Logger = logging.getLogger(__name__)


class RenderQueue:
    """Has the films of a *service* rendered, and keeps them.

    When all tasks share one film it is rendered once, and each copy ends in a box that names its
    task. The copies differ, so a mix-up shows.
    """

    def __init__(self, service: Service, renderer: Renderer) -> None:
        self._service = service
        self._renderer = renderer
        self._shared: bytes | None = None
        self._rendering: dict[str, asyncio.Task[bytes]] = {}
        self._closed = False

    @staticmethod
    def renders_each(renderer: Renderer) -> bool:
        """Whether *renderer* makes a film of its own for each task."""
        return not isinstance(renderer, (FixedRenderer, PlaceholderRenderer))

    def start(self, task: SimulatedTask) -> None:
        """Start to render the film of a task that waits for one."""
        if task.film_at is None and not self._closed:
            self._rendering[task.task_id] = asyncio.create_task(self._render(task))

    async def result_bytes(self, result: ResultFile) -> bytes:
        """The bytes of one result file."""
        task = self._service.owner(result)
        label = f"{task.task_id} {result.number}"
        request = task.render_request()
        if not self.renders_each(self._renderer):
            if request.still:
                return await self._renderer.render(request)
            if self._shared is None:
                self._shared = await self._renderer.render(request)
            return with_label_box(self._shared, label)
        rendering = self._rendering.get(task.task_id)
        if rendering is None and self._closed:
            raise ConnectionError("the simulator closes")
        if (
            rendering is None
        ):  # it was planned to fail, so it was never started; a script changed that
            rendering = self._rendering[task.task_id] = asyncio.create_task(self._render(task))
        film = await asyncio.shield(rendering)
        return film if result.number == 1 or request.still else with_label_box(film, label)

    async def bytes_at(self, url: str) -> bytes:
        """The bytes of the result file that *url* leads to.

        Raises:
            LookupError: *url* is not a result's.
        """
        result = self._service.files.result_of(url)
        if result is None:
            raise LookupError(f"no result is served at {url}")
        return await self.result_bytes(result)

    async def aclose(self) -> None:
        """Stop all rendering; later requests for a film fail."""
        self._closed = True
        await self.clear()

    async def clear(self) -> None:
        """Stop all rendering and forget every film."""
        rendering = list(self._rendering.values())
        self._rendering.clear()
        for task in rendering:
            task.cancel()
        await asyncio.gather(*rendering, return_exceptions=True)

    async def _render(self, task: SimulatedTask) -> bytes:
        try:
            film = await self._renderer.render(task.render_request())
        except Exception as error:  # a broken renderer must not look like a task that hangs
            logger.exception("the film of %s cannot be rendered", task.task_id)
            self._service.rendering_failed(task.task_id, f"{type(error).__name__}: {error}")
            return b""
        self._service.film_rendered(task.task_id)
        return film
