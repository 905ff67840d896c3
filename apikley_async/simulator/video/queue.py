"""Where the films of a world are made: one asyncio task a film, none where all share one.

The world only hears when a film is ready or broken; bytes stay here.
"""

from __future__ import annotations

import asyncio
import logging

import attrs

from apikley_async.simulator.service.hosted_files import Place, labelled
from apikley_async.simulator.service.lifecycle import Task
from apikley_async.simulator.service.service import World
from apikley_async.simulator.video.renderers import FilmOrder, Films, Placeholder

__all__ = ["OneFilm", "Studio"]

log = logging.getLogger(__name__)

MINIMAL = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + b"\x00\x00\x00\x08free"


@attrs.frozen
class OneFilm:
    """Everybody gets *data*, at once. The default looks like an MP4 and holds no picture."""

    data: bytes = attrs.field(default=MINIMAL, repr=False)

    async def film(self, task: FilmOrder) -> bytes:
        return self.data


class Studio:
    """Lets films be made for the tasks of a *world*, and keeps them.

    Where one film serves all, it is made once and each copy ends in a box that names its task:
    the copies differ, so a mix-up shows.
    """

    def __init__(self, world: World, films: Films) -> None:
        self._world = world
        self._films = films
        self._shared: bytes | None = None
        self._work: dict[str, asyncio.Task[bytes]] = {}
        self._closed = False

    @staticmethod
    def renders(films: Films) -> bool:
        """Whether *films* makes a film of its own for each task."""
        return not isinstance(films, (OneFilm, Placeholder))

    def begin(self, task: Task) -> None:
        """Start the film of a task that waits for one."""
        if task.film_at is None and not self._closed:
            self._work[task.task_id] = asyncio.create_task(self._render(task))

    async def bytes_of(self, place: Place) -> bytes:
        """The file that lies at *place*."""
        task = self._world.owner(place)
        label = f"{task.task_id} {place.number}"
        order = task.film_order()
        if not self.renders(self._films):
            if order.still:
                return await self._films.film(order)
            if self._shared is None:
                self._shared = await self._films.film(order)
            return labelled(self._shared, label)
        work = self._work.get(task.task_id)
        if work is None and self._closed:
            raise ConnectionError("the simulator closes")
        if work is None:  # fated to fail, so never begun; then a script let it succeed
            work = self._work[task.task_id] = asyncio.create_task(self._render(task))
        film = await asyncio.shield(work)
        return film if place.number == 1 or order.still else labelled(film, label)

    async def aclose(self) -> None:
        """Stop all work; what is not ready by now will never be."""
        self._closed = True
        await self.clear()

    async def clear(self) -> None:
        """Stop all work and forget every film."""
        work = list(self._work.values())
        self._work.clear()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    async def _render(self, task: Task) -> bytes:
        try:
            film = await self._films.film(task.film_order())
        except Exception as error:  # a broken renderer must not look like a task that hangs
            log.exception("the film of %s cannot be rendered", task.task_id)
            self._world.film_broken(task.task_id, f"{type(error).__name__}: {error}")
            return b""
        self._world.film_ready(task.task_id)
        return film
