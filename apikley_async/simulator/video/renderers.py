"""Who makes the films of the simulator: a renderer, or one film for everybody.

Holds what a renderer is asked for and the two that exist. Nothing here draws or encodes, and
the libraries that do are looked for only when a film is wanted: without the extra `simulator`
this module still imports, and every task gets the placeholder.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from importlib.util import find_spec
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import attrs

from apikley_async.errors import MissingExtraError
from apikley_async.simulator.video.still import still

__all__ = [
    "Animatic",
    "FilmOrder",
    "Films",
    "Placeholder",
    "available_renderer",
    "rendering_available",
]

EXTRA = ("av", "PIL", "fontpkg", "fontpkg_noto_sans")


@attrs.frozen
class FilmOrder:
    """What a renderer is told: the film, and nothing of the world around it.

    Equal orders with equal seeds should give equal films.

    Args:
        shots: caption and seconds of each shot; what they leave of the film is an end card.
        duration: seconds of the whole film.
        image: a PNG, JPEG or WebP file that was uploaded here; None where there is none, or
            where it lies elsewhere.
        seed: chooses colours and movement.
        prompt: shown for the whole film when there are no shots, as in tasks of other models.
        still: the model makes images: a PNG is wanted, no film.
    """

    task_id: str
    model: str
    shots: tuple[tuple[str, float], ...]
    duration: float
    aspect: Literal["landscape", "portrait"]
    image: bytes | None = attrs.field(repr=False)
    seed: int
    prompt: str | None
    still: bool = False


FilmTask: TypeAlias = FilmOrder
"""The name under which `_render` knows it."""


@runtime_checkable
class Films(Protocol):
    """Makes the films; may take its time, in a thread or a process of its own."""

    async def film(self, task: FilmOrder) -> bytes:
        """The bytes of an MP4. An exception lets the task fail; a cancel means: not wanted."""
        ...


class Animatic:
    """Renders each storyboard as an animatic: a moving picture, and every shot's text in its time.

    Films are drawn in threads (the encoder and the scaler leave the interpreter free meanwhile),
    at most *workers* at once; the others queue. The long side follows from *short_side*, 16 to 9.
    """

    def __init__(self, *, short_side: int = 720, fps: int = 12, workers: int | None = None) -> None:
        if not rendering_available():
            raise MissingExtraError.of("Rendering films needs more libraries", "simulator")
        self.short_side = short_side
        self.fps = fps
        self._threads = ThreadPoolExecutor(
            workers or os.cpu_count() or 1, thread_name_prefix="animatic"
        )

    async def film(self, task: FilmOrder) -> bytes:
        """Render *task*; when cancelled, the work ends at the next frame."""
        if task.still:
            return still(task.task_id, task.seed, portrait=task.aspect == "portrait")
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._render, task, stop)
        finally:
            stop.set()

    def _render(self, task: FilmOrder, stop: threading.Event) -> bytes:
        # Imported by the thread: the codecs take a quarter of a second to load.
        from apikley_async.simulator.video.encode import render

        return render(task, short_side=self.short_side, fps=self.fps, stopped=stop.is_set)

    def __repr__(self) -> str:
        return f"<Animatic {self.short_side}p at {self.fps} frames a second>"


class Placeholder:
    """Gives every task the same small film, which ships with the package; needs no codec.

    Models that make images get a still.
    """

    async def film(self, task: FilmOrder) -> bytes:
        if task.still:
            return still(task.task_id, task.seed, portrait=task.aspect == "portrait")
        return files("apikley_async.simulator").joinpath("assets/placeholder.mp4").read_bytes()

    def __repr__(self) -> str:
        return "<Placeholder>"


def rendering_available() -> bool:
    """Whether the libraries of the extra `simulator` are installed; loads none of them."""
    return all(find_spec(name) is not None for name in EXTRA)


def available_renderer() -> Films:
    """`Animatic` where its libraries are installed, otherwise `Placeholder`."""
    return Animatic() if rendering_available() else Placeholder()
