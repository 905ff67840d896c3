"""Films of the simulator, decoded: their frames, boxes, captions and colours."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from apikley_async.simulator import AnimaticRenderer, RenderRequest, rendering_available

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "BLUE",
    "RED",
    "boxes_of",
    "caption_changes",
    "caption_pixels",
    "close",
    "colour_at",
    "frames_of",
    "needs_codec",
    "overlap",
    "rendered",
    "saved",
    "two_colours",
    "wanted",
]

needs_codec = pytest.mark.skipif(
    not rendering_available(), reason="PyAV, Pillow and a font come with the extra `simulator`"
)

RED, BLUE = (200, 40, 30), (30, 60, 200)


def wanted(
    shots: tuple[tuple[str, float], ...] = (("A kitten.", 1.0),),
    duration: float = 1.0,
    aspect: Any = "landscape",
    image: bytes | None = None,
    *,
    seed: int = 1,
    prompt: str | None = None,
) -> RenderRequest:
    """A request for a film of one second, with some parts changed."""
    model = "sora-2-pro-storyboard"
    return RenderRequest("task_1", model, shots, duration, aspect, image, seed, prompt)


async def rendered(request: RenderRequest, *, short_side: int = 180, fps: int = 6) -> bytes:
    return await AnimaticRenderer(short_side=short_side, fps=fps).render(request)


def frames_of(film: bytes) -> list[Image.Image]:
    import av

    with av.open(io.BytesIO(film)) as opened:
        return [frame.to_image() for frame in opened.decode(video=0)]


def boxes_of(film: bytes) -> list[str]:
    """The kinds of the top-level boxes, which must fill the file exactly."""
    kinds, at = [], 0
    while at < len(film):
        size = int.from_bytes(film[at : at + 4], "big")
        kinds.append(film[at + 4 : at + 8].decode())
        at += size
    assert at == len(film)
    return kinds


def caption_pixels(frame: Image.Image) -> set[int]:
    """The pixels of the text: those brighter than most of the last line of a caption."""
    width, height = frame.size
    line = frame.crop((0, height * 85 // 100, width, height * 92 // 100)).convert("L").tobytes()
    veil = sorted(line)[len(line) // 2]
    return {place for place, level in enumerate(line) if level > veil + 30}


def overlap(one: set[int], other: set[int]) -> float:
    """The share of pixels that both have, 0 to 1."""
    return len(one & other) / max(1, len(one | other))


def caption_changes(frames: list[Image.Image]) -> list[int]:
    """The numbers of the frames whose text differs from that of the frame before."""
    pairs = itertools.pairwise([caption_pixels(frame) for frame in frames])
    return [number for number, (a, b) in enumerate(pairs, 1) if overlap(a, b) < 0.4]


def colour_at(frame: Image.Image, across: float, down: float) -> tuple[int, int, int]:
    pixel = round(across * (frame.width - 1)), round(down * (frame.height - 1))
    colour = frame.convert("RGB").getpixel(pixel)
    assert isinstance(colour, tuple)
    return colour[0], colour[1], colour[2]


def close(one: tuple[int, ...], other: tuple[int, ...], by: int = 40) -> bool:
    """Whether two colours differ by at most *by* in each channel."""
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


def two_colours(size: tuple[int, int] = (320, 180)) -> Image.Image:
    """A picture that is red on the left and blue on the right."""
    from PIL import Image

    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
