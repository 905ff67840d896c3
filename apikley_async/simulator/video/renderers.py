"""Renderers: what makes the simulator's films, one per task or the same film for all.

This module neither draws nor encodes. The libraries that do are loaded when the first film is
rendered: without the extra `simulator` this module still imports, and every task gets the
placeholder film.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import attrs

from apikley_async.errors import MissingExtraError
from apikley_async.simulator.service.render_request import RenderRequest
from apikley_async.simulator.video.still_image import still_image

__all__ = [
    "AnimaticRenderer",
    "FixedRenderer",
    "PlaceholderRenderer",
    "Renderer",
    "available_renderer",
    "rendering_available",
]

EXTRA = ("av", "PIL", "fontpkg", "fontpkg_noto_sans")

NO_MEDIA = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + b"\x00\x00\x00\x08free"
"""The boxes of an MP4 without any media."""


@runtime_checkable
class Renderer(Protocol):
    """Makes the films. It may take its time, in a thread or a process of its own."""

    async def render(self, request: RenderRequest) -> bytes:
        """The bytes of an MP4, or of a PNG when a still is requested.

        An exception makes the task fail. A cancellation means that the film is not wanted.
        """
        ...


class AnimaticRenderer:
    """Renders each storyboard as an animatic: a moving picture with the text of the current shot.

    Films are rendered in threads (the encoder and the scaler release the interpreter lock).

    Args:
        short_side: the shorter side of the frame in pixels; the ratio is 16 to 9.
        fps: frames in a second.
        workers: films rendered at once, by default one per processor; others wait.
    """

    def __init__(self, *, short_side: int = 720, fps: int = 12, workers: int | None = None) -> None:
        if not rendering_available():
            raise MissingExtraError.of("Rendering films needs more libraries", "simulator")
        self.short_side = short_side
        self.fps = fps
        self._threads = ThreadPoolExecutor(
            workers or os.cpu_count() or 1, thread_name_prefix="animatic"
        )

    async def render(self, request: RenderRequest) -> bytes:
        """Render *request*; when cancelled, the work ends at the next frame."""
        if request.still:
            return _still(request)
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._encode, request, stop)
        finally:
            stop.set()

    def _encode(self, request: RenderRequest, stop: threading.Event) -> bytes:
        # Imported here: the codecs belong to an extra and take a quarter of a second to load.
        from apikley_async.simulator.video.encode import encode_film

        return encode_film(request, short_side=self.short_side, fps=self.fps, stopped=stop.is_set)

    def __repr__(self) -> str:
        return f"<AnimaticRenderer {self.short_side}p at {self.fps} frames a second>"


class PlaceholderRenderer:
    """Gives every task the same small film, which ships with the package; needs no codec.

    Models that make images get a still.
    """

    async def render(self, request: RenderRequest) -> bytes:
        if request.still:
            return _still(request)
        return files("apikley_async.simulator").joinpath("assets/placeholder.mp4").read_bytes()

    def __repr__(self) -> str:
        return "<PlaceholderRenderer>"


@attrs.frozen
class FixedRenderer:
    """Gives every task *data* at once; by default the boxes of an MP4 without any media."""

    data: bytes = attrs.field(default=NO_MEDIA, repr=False)

    async def render(self, request: RenderRequest) -> bytes:
        return self.data


def rendering_available() -> bool:
    """Whether the libraries of the extra `simulator` are installed; loads none of them."""
    return all(find_spec(name) is not None for name in EXTRA)


def available_renderer() -> Renderer:
    """`AnimaticRenderer` where its libraries are installed, otherwise `PlaceholderRenderer`."""
    return AnimaticRenderer() if rendering_available() else PlaceholderRenderer()


def _still(request: RenderRequest) -> bytes:
    return still_image(request.task_id, request.seed, portrait=request.aspect == "portrait")
