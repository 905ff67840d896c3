"""Still pictures into a film: movement, layers, and H.264 in an MP4 that starts at once.

Everything is kept as the three planes the encoder wants (light, and two of colour at half the
size), so no frame is converted: per frame the picture is scaled and a few layers are pasted.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
from PIL import Image, ImageOps

from apikley_async.simulator.video import frames
from apikley_async.simulator.video.renderers import FilmTask

__all__ = ["StoppedError", "render"]

logger = logging.getLogger("apikley_async.simulator")

Size = tuple[int, int]
Box = tuple[float, float, float, float]

# RGB to limited-range BT.709, which is what players expect of film this large.
BT709 = (
    0.1826, 0.6142, 0.0620, 16,
    -0.1006, -0.3386, 0.4392, 128,
    0.4392, -0.3989, -0.0403, 128,
)  # fmt: skip
# How much larger than the frame a picture is kept: the room it has to move in.
ROOM = 1.18
FADE = 0.4
END_CARD = "…"
# A rest shorter than this, in seconds, is a rounding error and not an end card.
SLACK = 0.05
# A short look ahead with a block tree makes the quick preset's files a quarter as large. With
# b-adapt, x264 gives other bytes for equal frames where a side is no multiple of 16.
H264 = {
    "preset": "superfast",
    "crf": "25",
    "x264-params": "mbtree=1:rc-lookahead=6:b-adapt=0",
}


class StoppedError(Exception):
    """Nobody wants this film any more."""


class Planes(NamedTuple):
    """A picture as light and two colour differences; colour has half the size."""

    y: Image.Image
    u: Image.Image
    v: Image.Image

    @classmethod
    def of(cls, picture: Image.Image) -> Planes:
        y, u, v = picture.convert("RGB").convert("RGB", BT709).split()
        return cls(y, u.reduce(2), v.reduce(2))

    def scaled(self, size: Size, box: Box) -> Planes:
        half: Size = size[0] // 2, size[1] // 2
        small: Box = box[0] / 2, box[1] / 2, box[2] / 2, box[3] / 2
        way = Image.Resampling.BILINEAR
        return Planes(
            self.y.resize(size, way, box),
            self.u.resize(half, way, small),
            self.v.resize(half, way, small),
        )

    def blended(self, other: Planes, share: float) -> Planes:
        return Planes(*(Image.blend(a, b, share) for a, b in zip(self, other, strict=True)))


class Layer(NamedTuple):
    """Something to lay over every frame of a span, at an even place."""

    planes: Planes
    mask: Image.Image
    half: Image.Image
    at: tuple[int, int]

    @classmethod
    def of(cls, picture: Image.Image, at: tuple[float, float]) -> Layer:
        mask = picture.getchannel("A")
        place = round(at[0] / 2) * 2, round(at[1] / 2) * 2
        return cls(Planes.of(picture), mask, mask.reduce(2), place)

    def faded(self, share: float) -> Layer:
        table = [round(level * share) for level in range(256)]
        return self._replace(mask=self.mask.point(table), half=self.half.point(table))

    def cut(self, width: int) -> Layer:
        """The left part of the layer, *width* pixels wide (an even number)."""
        full, half = (0, 0, width, self.mask.height), (0, 0, width // 2, self.half.height)
        y, u, v = self.planes
        return Layer(
            Planes(y.crop(full), u.crop(half), v.crop(half)),
            self.mask.crop(full),
            self.half.crop(half),
            self.at,
        )

    def lay_over(self, frame: Planes) -> None:
        half = self.at[0] // 2, self.at[1] // 2
        frame.y.paste(self.planes.y, self.at, self.mask)
        frame.u.paste(self.planes.u, half, self.half)
        frame.v.paste(self.planes.v, half, self.half)


class Span(NamedTuple):
    """One shot, or the end card: what is written, and from when to when."""

    label: str
    text: str
    start: float
    end: float

    def instants(self, fps: int) -> list[float]:
        """When the frames of this span are shown."""
        first, last = (math.ceil(edge * fps - 1e-6) for edge in (self.start, self.end))
        return [index / fps for index in range(first, last)]

    def fade(self, instant: float) -> float:
        """How far this span has come in, 0 to 1; what begins the film is there at once."""
        if self.start == 0:
            return 1.0
        return min(1.0, (instant - self.start + 0.1) / min(FADE, (self.end - self.start) / 3))


class Backdrop(NamedTuple):
    """A picture that drifts and grows (or shrinks) a little between two instants."""

    planes: Planes
    start: float
    end: float
    drift: tuple[float, float]
    inward: bool

    @classmethod
    def of(cls, picture: Image.Image, start: float, end: float, seed: int) -> Backdrop:
        chance = random.Random(seed)
        drift = chance.choice((-0.9, 0.9)), chance.uniform(-0.5, 0.5)
        return cls(Planes.of(picture), start, end, drift, inward=seed % 2 == 0)

    def at(self, instant: float, size: Size) -> Planes:
        share = min(1.0, max(0.0, (instant - self.start) / (self.end - self.start)))
        near = share if self.inward else 1 - share
        width, height = self.planes.y.size
        wide, tall = (edge * (1 - near * (1 - 1 / ROOM)) for edge in (width, height))
        left = (width - wide) * (1 + self.drift[0]) / 2
        top = (height - tall) * (1 + self.drift[1]) / 2
        return self.planes.scaled(size, (left, top, left + wide, top + tall))


def render(task: FilmTask, *, short_side: int, fps: int, stopped: Callable[[], bool]) -> bytes:
    """Render *task*; raises `StoppedError` soon after *stopped* says so."""
    size = _frame_size(task.aspect, short_side)
    return _encoded(_wanted(_frames(task, size, fps), stopped), size, fps, task)


def _wanted(frames: Iterator[Planes], stopped: Callable[[], bool]) -> Iterator[Planes]:
    for frame in frames:
        if stopped():
            raise StoppedError
        yield frame


def _frame_size(aspect: str, short_side: int) -> Size:
    short = short_side // 2 * 2
    long = round(short * 16 / 9 / 2) * 2
    return (short, long) if aspect == "portrait" else (long, short)


# --- what is seen when ------------------------------------------------------------------------


def _frames(task: FilmTask, size: Size, fps: int) -> Iterator[Planes]:
    face = frames.Typeface()
    spans = _spans(task)
    _warn_about(face.lost("".join(span.text for span in spans)))
    accent = frames.palette(task.seed, 0).sun
    pictured = _pictured(task, size)
    clock = functools.cache(functools.partial(_clock, task.duration, size, face))
    bars = _bars(spans, task.duration, size, accent)
    before: Backdrop | None = None
    for index, span in enumerate(spans):
        backdrop = pictured or _carded(task.seed, index, len(spans), span, size)
        steady, arriving = _layers(span, task.model, size, face, accent)
        for instant in span.instants(fps):
            frame = backdrop.at(instant, size)
            fade = span.fade(instant)
            if fade < 1 and before is not None and before is not backdrop:
                frame = before.at(instant, size).blended(frame, fade)
            for layer in (*steady, clock(int(instant))):
                layer.lay_over(frame)
            for layer in arriving:
                (layer if fade == 1 else layer.faded(fade)).lay_over(frame)
            _lay_bars(bars, (instant + 1 / fps) / task.duration, frame)
            yield frame
        before = backdrop


def _spans(task: FilmTask) -> list[Span]:
    """The shots one after another, none beyond the end of the film, and the rest of it."""
    shots = list(task.shots) or [(task.prompt or "", task.duration)]
    ends = list(itertools.accumulate(seconds for _, seconds in shots))
    starts = [0.0, *ends[:-1]]
    spans = [
        Span(f"{number} / {len(shots)}", text, start, min(end, task.duration))
        for number, ((text, _), start, end) in enumerate(zip(shots, starts, ends, strict=True), 1)
        if start < task.duration
    ]
    if task.duration - spans[-1].end > SLACK:
        return [*spans, Span(END_CARD, END_CARD, spans[-1].end, task.duration)]
    return [*spans[:-1], spans[-1]._replace(end=task.duration)]


def _warn_about(lost: set[str]) -> None:
    if lost:
        named = ", ".join(f"U+{ord(c):04X}" for c in sorted(lost)[:8])
        logger.warning(
            "the captions of a film have characters the font lacks (%s), shown as %s: %s",
            len(lost),
            frames.MISSING,
            named,
        )


def _layers(
    span: Span, model: str, size: Size, face: frames.Typeface, accent: frames.Colour
) -> tuple[list[Layer], list[Layer]]:
    """What stands over the whole span, and what comes in with it."""
    unit = min(size) / frames.GRID
    name = model if len(model) <= 30 else model[:29] + "…"
    badge = frames.heading(span.label, face.spell(name), size, face, accent)
    steady = [Layer.of(badge, (48 * unit, 40 * unit))]
    arriving = []
    if span.label == END_CARD:
        steady.insert(0, Layer.of(Image.new("RGBA", size, (*frames.INK, 120)), (0, 0)))
    if span.text.strip():
        veil, letters = frames.caption(span.text, size, face, accent)
        steady.insert(0, Layer.of(veil, (0, size[1] - veil.height)))
        arriving.append(Layer.of(letters, (0, size[1] - letters.height)))
    return steady, arriving


def _clock(duration: float, size: Size, face: frames.Typeface, second: int) -> Layer:
    def told(seconds: int) -> str:
        return f"{seconds // 60}:{seconds % 60:02d}"

    unit = min(size) / frames.GRID
    badge = frames.strip(f"{told(second)} / {told(math.ceil(duration))}", size, face)
    return Layer.of(badge, (size[0] - badge.width - 48 * unit, 40 * unit))


def _bars(
    spans: list[Span], duration: float, size: Size, accent: frames.Colour
) -> tuple[Layer, Layer]:
    """The timeline, empty and full."""
    unit = min(size) / frames.GRID
    shares = [(span.end - span.start) / duration for span in spans]
    place = round(64 * unit), size[1] - 40 * unit
    empty = frames.timeline(shares, size, frames.PAPER, 80)
    full = frames.timeline(shares, size, accent, 255)
    return Layer.of(empty, place), Layer.of(full, place)


def _lay_bars(bars: tuple[Layer, Layer], share: float, frame: Planes) -> None:
    empty, full = bars
    empty.lay_over(frame)
    width = round(full.mask.width * min(1.0, share) / 2) * 2
    if width:
        full.cut(width).lay_over(frame)


# --- pictures ---------------------------------------------------------------------------------


def _roomy(size: Size) -> Size:
    width, height = (round(edge * ROOM / 2) * 2 for edge in size)
    return width, height


def _carded(seed: int, index: int, count: int, span: Span, size: Size) -> Backdrop:
    hour = (index + 0.5) / count
    colours = frames.palette(seed, index)
    picture = frames.card(_roomy(size), colours, seed * 31 + index, hour)
    # The card before still moves while this one comes in.
    return Backdrop.of(picture, span.start, span.end + FADE, seed + index)


def _pictured(task: FilmTask, size: Size) -> Backdrop | None:
    """The task's own picture, moving through the whole film; None when there is none to see."""
    if task.image is None:
        return None
    try:
        picture = _opened(task.image, frames.palette(task.seed, 0).horizon)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        logger.warning("the image of a task cannot be read, colour cards instead: %s", exc)
        return None
    fitted = ImageOps.fit(picture, _roomy(size), Image.Resampling.LANCZOS)
    return Backdrop.of(fitted, 0.0, task.duration, task.seed)


def _opened(data: bytes, behind: frames.Colour) -> Image.Image:
    """The picture as it is meant to be seen: upright, opaque, in RGB."""
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as source:
        upright = ImageOps.exif_transpose(source)
    if upright.mode.startswith("I"):  # 16 bits of grey
        upright = upright.convert("I").point(lambda level: level / 256).convert("L")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    seen = upright.convert("RGBA")
    ground = Image.new("RGBA", seen.size, behind)
    return Image.alpha_composite(ground, seen).convert("RGB")


# --- the file ---------------------------------------------------------------------------------


def _encoded(frames: Iterator[Planes], size: Size, fps: int, task: FilmTask) -> bytes:
    """An MP4 whose index comes first, so that it plays while it loads."""
    file = io.BytesIO()
    # Room for the index is left at the start; what it does not need becomes a box of padding.
    room = 4_096 + math.ceil(task.duration * fps) * 40
    with av.open(file, "w", format="mp4", options={"moov_size": str(room)}) as film:
        film.metadata["title"] = task.model
        film.metadata["comment"] = "An animatic of the simulator"
        stream = film.add_stream("libx264", rate=fps, options=H264)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.gop_size = 4 * fps
        context.thread_count = 1  # films are rendered side by side, not each on every core
        context.color_range, context.colorspace = 1, 1  # limited, BT.709
        context.color_primaries, context.color_trc = 1, 1
        for index, planes in enumerate(frames):
            frame = _framed(planes)
            frame.pts, frame.time_base = index, Fraction(1, fps)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return file.getvalue()


def _framed(planes: Planes) -> av.VideoFrame:
    frame = av.VideoFrame(*planes.y.size, "yuv420p")
    for target, source in zip(frame.planes, planes, strict=True):
        target.update(source.tobytes("raw", ("L", target.line_size, 1)))
    return frame
