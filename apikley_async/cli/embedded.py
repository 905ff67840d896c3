"""The service embedded: the simulator, and a client whose pace fits its quicker time."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import AsyncIterator, Sequence

import attrs

from apikley_async import Backoff, Client, RateLimiter, Shot, Storyboard, Work
from apikley_async.batch import REHEARSAL_MARK
from apikley_async.cli.client_factory import Session
from apikley_async.cli.exit_codes import Refused
from apikley_async.errors import MissingExtraError
from apikley_async.simulator import (
    Animatic,
    Fault,
    FilmOrder,
    Films,
    Lognormal,
    Placeholder,
    Simulator,
    Terms,
    rendering_available,
)

__all__ = ["Known", "Rehearsal", "Stage", "demo_stage", "drawing", "films_named"]

SPEED = 60.0
DEMO_SPEED = 15.0  # slow enough to watch

SAMPLE = Storyboard(
    (Shot("A sample: the simulator does not know what this task really shows.", duration=10),),
    duration=10,
)


@attrs.frozen
class Rehearsal:
    """Makes films that are equal for equal storyboards, and that end in `REHEARSAL_MARK`.

    By the mark one can tell them from films that were paid: they may be replaced.
    """

    films: Films

    async def film(self, task: FilmOrder) -> bytes:
        seed = zlib.crc32(json.dumps([task.shots, task.prompt, task.aspect]).encode())
        return await self.films.film(attrs.evolve(task, seed=seed)) + REHEARSAL_MARK


def films_named(kind: str | None, *, short_side: int = 720) -> Films:
    """Who makes the films: "animatic", "placeholder", or None for the best there is."""
    if kind == "placeholder" or (kind is None and not rendering_available()):
        return Placeholder()
    return Animatic(short_side=short_side)


@attrs.frozen
class Known:
    """A task that the embedded service shall know from its beginning, and of what it is made."""

    task_id: str
    work: Work = SAMPLE
    finished: bool = False


@attrs.frozen
class Stage:
    """How the embedded service is set up: *speed* of its seconds pass in one of ours.

    Without a *key* it has a random one.
    """

    speed: float
    films: str | None = None
    short_side: int = 360
    max_running: int = 100
    timeout: float | None = None
    key: str | None = attrs.field(default=None, repr=False)
    terms: Terms = attrs.field(
        factory=lambda: Terms(duration=Lognormal(150, 0.3), generic_models={"*"})
    )

    @contextlib.asynccontextmanager
    async def session(self, tasks: Sequence[Known] = ()) -> AsyncIterator[Session]:
        """Serve, with a film running or finished for each of *tasks*."""
        films = Rehearsal(films_named(self.films, short_side=self.short_side))
        service = Simulator(self.terms, speed=self.speed, films=films, api_key=self.key)
        async with service as simulator:
            limiter = RateLimiter(
                self.terms.limit or 1_000,
                self.terms.per / self.speed,
                max_running=self.max_running,
            )
            client = Client(
                simulator.api_key,
                base_url=simulator.base_url,
                limiter=limiter,
                polling=Backoff(initial=0.15, factor=1.2, maximum=0.4),
                job_timeout=self.timeout or 1800.0,
            )
            async with client:
                simulator.script("create", [Fault.created_as(task.task_id) for task in tasks])
                for task in tasks:
                    _ = await client.submit(task.work)
                    if task.finished:
                        simulator.finish(task.task_id)
                yield Session(client, limiter)


def demo_stage(kind: str) -> Stage:
    """The stage of the tour: large pictures, and time enough to see the films come along."""
    drawing(kind, "apikley demo --films placeholder")
    return Stage(speed=DEMO_SPEED, films=kind, short_side=720)


def drawing(kind: str, instead: str) -> None:
    """Refuse to draw films where the libraries for it are missing, and say what to do *instead*."""
    if kind == "animatic" and not rendering_available():
        missing = MissingExtraError.of("drawing films needs more libraries", "cli", "simulator")
        raise Refused(f"{missing.message}\nWithout them, the same small film for all: {instead}")
