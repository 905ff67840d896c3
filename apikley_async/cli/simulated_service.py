"""The simulator inside a command (`--simulate`, `demo`, `preview`), and a client that suits it."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import AsyncIterator, Sequence

import attrs

from apikley_async import Backoff, Client, RateLimiter, Shot, Storyboard, Work
from apikley_async.batch import REHEARSAL_MARK
from apikley_async.cli.exit_codes import RefusedError
from apikley_async.errors import MissingExtraError
from apikley_async.simulator import (
    AnimaticRenderer,
    Fault,
    Lognormal,
    PlaceholderRenderer,
    Renderer,
    RenderRequest,
    Simulator,
    Terms,
    rendering_available,
)

__all__ = [
    "KnownTask",
    "RehearsalRenderer",
    "SimulatedService",
    "check_rendering",
    "demo_service",
    "placeholder_note",
    "renderer_named",
]

SPEED = 60.0  # simulated seconds in one real second
DEMO_SPEED = 15.0  # slow enough to watch

SAMPLE = Storyboard(
    (Shot("A sample: the simulator does not know what this task really shows.", duration=10),),
    duration=10,
)


@attrs.frozen
class RehearsalRenderer:
    """Renders equal films for equal storyboards, which end in `REHEARSAL_MARK`.

    The mark tells them from films that were paid: a rehearsal's film may be replaced.
    """

    renderer: Renderer

    async def render(self, request: RenderRequest) -> bytes:
        # Of the content only: a film made again, under another task id, is the same to the byte.
        seed = zlib.crc32(json.dumps([request.shots, request.prompt, request.aspect]).encode())
        return await self.renderer.render(attrs.evolve(request, seed=seed)) + REHEARSAL_MARK


def renderer_named(kind: str | None, *, short_side: int = 720, fps: int = 12) -> Renderer:
    """The renderer "animatic" or "placeholder"; None for the best that is installed."""
    if kind == "placeholder" or (kind is None and not rendering_available()):
        return PlaceholderRenderer()
    return AnimaticRenderer(short_side=short_side, fps=fps)


def placeholder_note(kind: str | None = None) -> str:
    """What is to be said where the best renderer is wanted and films cannot be drawn; else ""."""
    if kind is not None or rendering_available():
        return ""
    need = "All films are the same placeholder, since drawing them needs more libraries"
    return MissingExtraError.of(need, "cli", "simulator").message


@attrs.frozen
class KnownTask:
    """A task that the simulated service knows from the start."""

    task_id: str
    work: Work = SAMPLE
    finished: bool = False


@attrs.frozen
class SimulatedService:
    """How the simulator is set up for a command.

    Attributes:
        speed: simulated seconds that pass in one real second.
        films: the name of the renderer; None for the best that is installed.
        short_side: of the films, in pixels.
        fps: their frames in a second.
        max_running: films in the making at once.
        timeout: seconds for which a job is polled.
        key: its API key; random by default.
        terms: limits, durations and prices of the service.
    """

    speed: float
    films: str | None = None
    short_side: int = 360
    fps: int = 12
    max_running: int = 100
    timeout: float | None = None
    key: str | None = attrs.field(default=None, repr=False)
    terms: Terms = attrs.field(
        factory=lambda: Terms(duration=Lognormal(150, 0.3), generic_models={"*"})
    )

    @contextlib.asynccontextmanager
    async def open_client(self, tasks: Sequence[KnownTask] = ()) -> AsyncIterator[Client]:
        """Run the service, let it know *tasks*, and yield a client for it."""
        renderer = RehearsalRenderer(
            renderer_named(self.films, short_side=self.short_side, fps=self.fps)
        )
        service = Simulator(self.terms, speed=self.speed, renderer=renderer, api_key=self.key)
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
                # The service cannot be told of a task, so each is submitted and gets its old id.
                simulator.script("create", [Fault.created_as(task.task_id) for task in tasks])
                for task in tasks:
                    _ = await client.submit(task.work)
                    if task.finished:
                        simulator.finish(task.task_id)
                yield client


def demo_service(kind: str) -> SimulatedService:
    """The service of the demo: large pictures, and time enough to watch the films progress."""
    check_rendering(kind, "apikley demo --films placeholder")
    return SimulatedService(speed=DEMO_SPEED, films=kind, short_side=720)


def check_rendering(kind: str, alternative: str) -> None:
    """Refuse to render films if the libraries are missing; *alternative* is a command without."""
    if kind == "animatic" and not rendering_available():
        missing = MissingExtraError.of("drawing films needs more libraries", "cli", "simulator")
        raise RefusedError(
            f"{missing.message}\nWithout them, the same small film for all: {alternative}"
        )
