"""Encodes still pictures as a film: motion, layers, and H.264 in an MP4 with its index first.

Pictures are kept as the three planes that the encoder takes (luma, and two chroma planes of half
the size), so no frame is converted: per frame one picture is scaled and a few layers are pasted.
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

from apikley_async.simulator.service.render_request import RenderRequest
from apikley_async.simulator.video import frames
from apikley_async.simulator.video.fonts import Typeface, borrowed_typeface

__all__ = ["StoppedError", "encode_film"]

logger: logging.Logger = logging.getLogger("apikley_async.simulator")

Size = tuple[int, int]
Box = tuple[float, float, float, float]

# RGB to limited-range BT.709, which players expect of HD video.
BT709 = (
    0.1826, 0.6142, 0.0620, 16,
    -0.1006, -0.3386, 0.4392, 128,
    0.4392, -0.3989, -0.0403, 128,
)  # fmt: skip
# How much larger than the frame a backdrop is kept, so that it can move.
OVERSIZE = 1.18
FADE = 0.4
# How shots frame one and the same picture: how much closer, and which part (0 to 1 across and
# down). Each differs from its neighbours enough for the cut to be seen.
FRAMINGS = ((1.0, 0.5, 0.5), (1.55, 0.4, 0.35), (1.25, 0.65, 0.6), (1.8, 0.55, 0.4))
END_CARD = "…"
# A remainder shorter than this, in seconds, is a rounding error and gets no end card.
TOLERANCE = 0.05
# A short lookahead with mbtree makes the fast preset's files a quarter as large. With
# b-adapt, x264 encodes equal frames differently where a side is no multiple of 16.
H264 = {
    "preset": "superfast",
    "crf": "25",
    "x264-params": "mbtree=1:rc-lookahead=6:b-adapt=0",
}


class StoppedError(Exception):
    """The film is not wanted any more."""


class Planes(NamedTuple):
    """A picture as luma and two chroma planes of half the size."""

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
    """A picture pasted over every frame of a span, at even coordinates."""

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

    def cropped(self, width: int) -> Layer:
        """The left part of the layer, *width* pixels wide (an even number)."""
        full, half = (0, 0, width, self.mask.height), (0, 0, width // 2, self.half.height)
        y, u, v = self.planes
        return Layer(
            Planes(y.crop(full), u.crop(half), v.crop(half)),
            self.mask.crop(full),
            self.half.crop(half),
            self.at,
        )

    def paste_on(self, frame: Planes) -> None:
        half = self.at[0] // 2, self.at[1] // 2
        frame.y.paste(self.planes.y, self.at, self.mask)
        frame.u.paste(self.planes.u, half, self.half)
        frame.v.paste(self.planes.v, half, self.half)


class Span(NamedTuple):
    """One shot or the end card: its label, its text, and its start and end in seconds."""

    label: str
    text: str
    start: float
    end: float

    def instants(self, fps: int) -> list[float]:
        """When the frames of this span are shown."""
        first, last = (math.ceil(edge * fps - 1e-6) for edge in (self.start, self.end))
        return [index / fps for index in range(first, last)]

    def fade(self, instant: float) -> float:
        """How far this span has faded in, 0 to 1; the first one does not fade."""
        if self.start == 0:
            return 1.0
        return min(1.0, (instant - self.start + 0.1) / min(FADE, (self.end - self.start) / 3))


class Backdrop(NamedTuple):
    """A picture that moves and zooms a little between two instants."""

    planes: Planes
    start: float
    end: float
    drift: tuple[float, float]
    inward: bool

    @classmethod
    def of(cls, picture: Image.Image, start: float, end: float, seed: int) -> Backdrop:
        rng = random.Random(seed)
        drift = rng.choice((-0.9, 0.9)), rng.uniform(-0.5, 0.5)
        return cls(Planes.of(picture), start, end, drift, inward=seed % 2 == 0)

    def at(self, instant: float, size: Size) -> Planes:
        share = min(1.0, max(0.0, (instant - self.start) / (self.end - self.start)))
        near = share if self.inward else 1 - share
        width, height = self.planes.y.size
        wide, tall = (edge * (1 - near * (1 - 1 / OVERSIZE)) for edge in (width, height))
        left = (width - wide) * (1 + self.drift[0]) / 2
        top = (height - tall) * (1 + self.drift[1]) / 2
        return self.planes.scaled(size, (left, top, left + wide, top + tall))


def encode_film(
    request: RenderRequest, *, short_side: int, fps: int, stopped: Callable[[], bool]
) -> bytes:
    """Render *request* as an MP4; raises `StoppedError` once *stopped* returns true."""
    size = _frame_size(request.aspect, short_side)
    with borrowed_typeface() as face:
        drawn = _until_stopped(_frames(request, size, fps, face), stopped)
        return _encoded(drawn, size, fps, request)


def _until_stopped(frames: Iterator[Planes], stopped: Callable[[], bool]) -> Iterator[Planes]:
    for frame in frames:
        if stopped():
            raise StoppedError
        yield frame


def _frame_size(aspect: str, short_side: int) -> Size:
    short = short_side // 2 * 2
    long = round(short * 16 / 9 / 2) * 2
    return (short, long) if aspect == "portrait" else (long, short)


# --- frames -----------------------------------------------------------------------------------


def _frames(request: RenderRequest, size: Size, fps: int, face: Typeface) -> Iterator[Planes]:
    spans = _spans(request)
    if cure := face.cure(" ".join(span.text for span in spans)):
        logger.warning("the captions of a film have %s", cure)
    accent = frames.palette(request.seed, 0).sun
    image = _image_of(request)
    clock_at = functools.cache(functools.partial(_clock_layer, request.duration, size, face))
    bars = _timeline_layers(spans, request.duration, size, accent)
    before: Backdrop | None = None
    for index, span in enumerate(spans):
        if image is not None:
            backdrop = _framed_backdrop(image, index, span, size)
        else:
            backdrop = _drawn_backdrop(request.seed, index, len(spans), span, size)
        constant, fading = _layers(span, request.model, size, face, accent)
        for instant in span.instants(fps):
            frame = backdrop.at(instant, size)
            fade = span.fade(instant)
            if fade < 1 and before is not None and image is None:
                frame = before.at(instant, size).blended(frame, fade)
            for layer in (*constant, clock_at(int(instant))):
                layer.paste_on(frame)
            for layer in fading:
                (layer if fade == 1 else layer.faded(fade)).paste_on(frame)
            _paste_timeline(bars, (instant + 1 / fps) / request.duration, frame)
            yield frame
        before = backdrop


def _spans(request: RenderRequest) -> list[Span]:
    """The shots one after another, none beyond the end of the film, and an end card."""
    shots = list(request.shots) or [(request.prompt or "", request.duration)]
    ends = list(itertools.accumulate(seconds for _, seconds in shots))
    starts = [0.0, *ends[:-1]]
    spans = [
        Span(f"{number} / {len(shots)}", text, start, min(end, request.duration))
        for number, ((text, _), start, end) in enumerate(zip(shots, starts, ends, strict=True), 1)
        if start < request.duration
    ]
    if request.duration - spans[-1].end > TOLERANCE:
        return [*spans, Span(END_CARD, END_CARD, spans[-1].end, request.duration)]
    return [*spans[:-1], spans[-1]._replace(end=request.duration)]


def _layers(
    span: Span, model: str, size: Size, face: Typeface, accent: frames.Colour
) -> tuple[list[Layer], list[Layer]]:
    """The layers of the whole span, and those that fade in with it."""
    unit = min(size) / frames.GRID
    name = model if len(model) <= 30 else model[:29] + "…"
    badge = frames.shot_badge(span.label, face.displayable(name), size, face, accent)
    constant = [Layer.of(badge, (48 * unit, 40 * unit))]
    fading = []
    if span.label == END_CARD:
        constant.insert(0, Layer.of(Image.new("RGBA", size, (*frames.INK, 120)), (0, 0)))
    if span.text.strip():
        veil, text = frames.caption(span.text, size, face, accent)
        constant.insert(0, Layer.of(veil, (0, size[1] - veil.height)))
        fading.append(Layer.of(text, (0, size[1] - text.height)))
    return constant, fading


def _clock_layer(duration: float, size: Size, face: Typeface, second: int) -> Layer:
    def minutes(seconds: int) -> str:
        return f"{seconds // 60}:{seconds % 60:02d}"

    unit = min(size) / frames.GRID
    badge = frames.clock_badge(f"{minutes(second)} / {minutes(math.ceil(duration))}", size, face)
    return Layer.of(badge, (size[0] - badge.width - 48 * unit, 40 * unit))


def _timeline_layers(
    spans: list[Span], duration: float, size: Size, accent: frames.Colour
) -> tuple[Layer, Layer]:
    """The timeline when the film begins and when it ends."""
    unit = min(size) / frames.GRID
    shares = [(span.end - span.start) / duration for span in spans]
    place = round(64 * unit), size[1] - 40 * unit
    empty = frames.timeline(shares, size, frames.PAPER, 80)
    full = frames.timeline(shares, size, accent, 255)
    return Layer.of(empty, place), Layer.of(full, place)


def _paste_timeline(bars: tuple[Layer, Layer], share: float, frame: Planes) -> None:
    empty, full = bars
    empty.paste_on(frame)
    width = round(full.mask.width * min(1.0, share) / 2) * 2
    if width:
        full.cropped(width).paste_on(frame)


# --- pictures ---------------------------------------------------------------------------------


def _oversized(size: Size) -> Size:
    width, height = (round(edge * OVERSIZE / 2) * 2 for edge in size)
    return width, height


def _drawn_backdrop(seed: int, index: int, count: int, span: Span, size: Size) -> Backdrop:
    hour = (index + 0.5) / count
    colours = frames.palette(seed, index)
    picture = frames.landscape(_oversized(size), colours, seed * 31 + index, hour)
    # It still moves while the next one fades in.
    return Backdrop.of(picture, span.start, span.end + FADE, seed + index)


def _framed_backdrop(picture: Image.Image, index: int, span: Span, size: Size) -> Backdrop:
    """The task's own image as shot *index* frames it: whole, or closer to one of its parts."""
    zoom, across, down = FRAMINGS[index % len(FRAMINGS)]
    whole = min(picture.width / size[0], picture.height / size[1])
    wide, tall = size[0] * whole / zoom, size[1] * whole / zoom
    # What lies outside of the frame's shape is not shown: the whole is the middle of the image.
    left = (picture.width - size[0] * whole) / 2 + (size[0] * whole - wide) * across
    top = (picture.height - size[1] * whole) / 2 + (size[1] * whole - tall) * down
    box = (left, top, min(picture.width, left + wide), min(picture.height, top + tall))
    closer = picture.resize(_oversized(size), Image.Resampling.LANCZOS, box)
    return Backdrop.of(closer, span.start, span.end, index)


def _image_of(request: RenderRequest) -> Image.Image | None:
    """The task's own image; None without a readable one."""
    if request.image is None:
        return None
    try:
        return _opened(request.image, frames.palette(request.seed, 0).horizon)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        logger.warning("the image of a task cannot be read, landscapes are drawn instead: %s", exc)
        return None


def _opened(data: bytes, behind: frames.Colour) -> Image.Image:
    """The picture upright, opaque and in RGB."""
    with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as source:
        upright = ImageOps.exif_transpose(source)
    if upright.mode.startswith("I"):  # 16 bits of grey
        upright = upright.convert("I").point(lambda level: level / 256).convert("L")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    picture = upright.convert("RGBA")
    background = Image.new("RGBA", picture.size, behind)
    return Image.alpha_composite(background, picture).convert("RGB")


# --- the file ---------------------------------------------------------------------------------


def _encoded(frames: Iterator[Planes], size: Size, fps: int, request: RenderRequest) -> bytes:
    """An MP4 whose index comes first, so that it plays while it is loaded."""
    file = io.BytesIO()
    # Space for the index is reserved at the start; what it does not use becomes a padding box.
    index_size = 4_096 + math.ceil(request.duration * fps) * 40
    with av.open(file, "w", format="mp4", options={"moov_size": str(index_size)}) as film:
        film.metadata["title"] = request.model
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
            frame = _video_frame(planes)
            frame.pts, frame.time_base = index, Fraction(1, fps)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return file.getvalue()


def _video_frame(planes: Planes) -> av.VideoFrame:
    frame = av.VideoFrame(*planes.y.size, "yuv420p")
    for target, source in zip(frame.planes, planes, strict=True):
        target.update(source.tobytes("raw", ("L", target.line_size, 1)))
    return frame
