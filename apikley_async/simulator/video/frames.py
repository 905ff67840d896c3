"""Draws what the frames of an animatic show: captions, badges, the timeline, landscapes.

Uses Pillow only. Each picture is drawn once per shot; time and motion are in `encode`.
"""

from __future__ import annotations

import itertools
import math
import random
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw, ImageOps

from apikley_async.simulator.video.fonts import Typeface, TypefaceSize, is_right_to_left

__all__ = [
    "Caption",
    "Palette",
    "TextBlock",
    "caption",
    "clock_badge",
    "fit_text",
    "landscape",
    "palette",
    "shot_badge",
    "timeline",
]

Colour = tuple[int, int, int]
Size = tuple[int, int]

INK: Colour = (9, 11, 18)
PAPER: Colour = (252, 250, 245)
VEIL = 180  # how opaque it is behind the text, of 255
# All lengths are in units of which the film's short side has 720, whatever its size in pixels.
GRID = 720
LARGEST_FONT, SMALLEST_FONT = 34, 22
NOTE_FONT = 20  # of what is said about a caption
# More characters than this fit into no frame at the smallest size; the rest is not measured.
MAX_TEXT = 1_500


class Palette(NamedTuple):
    """The colours of one landscape, from the top of the sky to the nearest dune."""

    zenith: Colour
    horizon: Colour
    sun: Colour
    far: Colour
    near: Colour


def _palette(*colours: str) -> Palette:
    def parse(text: str) -> Colour:
        return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)

    return Palette(*map(parse, colours))


# One day, hour by hour. The shots of a film take neighbouring entries, which match.
DAY = (
    _palette("2b2d5b", "f2a07b", "ffe3b0", "a8657f", "2a1f42"),
    _palette("6d83b8", "ffd3a5", "fff3d1", "c58d8d", "46385f"),
    _palette("4aa3c7", "d9f0e6", "fffbe0", "7fb5ab", "1f4d57"),
    _palette("2f8fb3", "ffe9b8", "fff8dd", "e0b060", "6a4a35"),
    _palette("3c6fa5", "ffc27a", "fff0c2", "d98352", "512b3b"),
    _palette("5a3f86", "ff8a66", "ffd98f", "b34f6c", "2b1a3f"),
    _palette("2a2460", "c06a9c", "ffd0c2", "71408a", "191238"),
    _palette("0f1738", "3f5c92", "f3efdc", "2c4372", "0a1026"),
)


def palette(seed: int, index: int) -> Palette:
    """The colours of shot *index*: a day that begins at an hour chosen by *seed*."""
    return DAY[(seed + index) % len(DAY)]


# --- text -------------------------------------------------------------------------------------


class TextBlock(NamedTuple):
    """Lines in one font size: at most *room*, or one more when the text does not fit."""

    lines: list[str]
    font: TypefaceSize
    leading: int
    room: int

    @property
    def fits(self) -> bool:
        return len(self.lines) <= self.room


def fit_text(text: str, face: Typeface, unit: float, width: int, height: int) -> TextBlock:
    """*text* in the largest font size that fits; beyond the smallest, it ends in an ellipsis."""
    for points in range(LARGEST_FONT, SMALLEST_FONT, -2):
        block = _wrapped_block(text, face, points * unit, width, height)
        if block.fits:
            return block._replace(lines=_balanced(text, block, width))
    block = _wrapped_block(text, face, SMALLEST_FONT * unit, width, height)
    if block.fits:
        return block
    *kept, last = block.lines[: block.room]
    return block._replace(lines=[*kept, _shortened(last + "…", block.font, width)])


def _wrapped_block(text: str, face: Typeface, points: float, width: int, height: int) -> TextBlock:
    font, leading = face.at(points), round(points * 1.34)
    room = max(1, height // leading)
    # One line too many shows that it does not fit; the rest need not be measured.
    lines = list(itertools.islice(_wrapped(text, font, width), room + 1))
    return TextBlock(lines, font, leading, room)


def _wrapped(text: str, font: TypefaceSize, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        *full, line = _pieces(word, font, width)
        yield from full
    yield line


def _pieces(word: str, font: TypefaceSize, width: int) -> Iterator[str]:
    """*word* as it is, or cut where it would exceed the width."""
    rest = word
    while rest:
        # No line holds two hundred characters, even of the narrowest.
        lengths = range(2, min(len(rest), 200) + 1)
        fitting = 1 + bisect_left(lengths, True, key=lambda n: font.getlength(rest[:n]) > width)
        while 1 < fitting < len(rest) and unicodedata.combining(rest[fitting]):
            fitting -= 1
        yield rest[:fitting]
        rest = rest[fitting:]


def _balanced(text: str, block: TextBlock, width: int) -> list[str]:
    """The same number of lines with more equal lengths, so that no last line has one word only."""
    for share in (60, 66, 72, 78, 84, 90, 95):
        narrower = list(_wrapped(text, block.font, width * share // 100))
        if len(narrower) == len(block.lines):
            return narrower
    return block.lines


def _shortened(line: str, font: TypefaceSize, width: int) -> str:
    cut = len(line) - 1
    while cut > 0 and font.getlength(line[:cut].rstrip() + "…") > width:
        cut -= 1
    return line[:cut].rstrip(" .,;:") + "…"


class Caption(NamedTuple):
    """The lower part of a frame: a veil that dims the picture, and the text on it."""

    veil: Image.Image
    text: Image.Image


def caption(text: str, size: Size, face: Typeface, accent: Colour) -> Caption:
    """*text* as the caption of a frame of *size*; a line below it says which fonts it lacks."""
    width, height = size
    unit = min(size) / GRID
    margin, foot = round(64 * unit), round(58 * unit)
    indent = round(26 * unit)
    text = text[:MAX_TEXT]
    cure = face.cure(text)
    room = width - 2 * margin - indent
    block = fit_text(face.displayable(text), face, unit, room, round(height * 0.24))
    note = fit_text(cure, face, unit * NOTE_FONT / LARGEST_FONT, room, 1)
    below = note.leading if cure else 0
    tall = len(block.lines) * block.leading + below
    rise = round(72 * unit)
    veil = _veil((width, _even(min(height, tall + foot + rise))), rise)
    layer = Image.new("RGBA", (width, _even(tall + foot)), (*PAPER, 0))
    top = layer.height - foot - tall
    bar = round(3 * unit) or 1
    to_the_left = is_right_to_left(text)
    edge = width - margin - 2 * bar if to_the_left else margin
    ImageDraw.Draw(layer).rounded_rectangle(
        (edge, top + 5 * unit, edge + 2 * bar, top + tall - 3 * unit), bar, fill=accent
    )
    for number, line in enumerate(block.lines):
        middle = top + round((number + 0.5) * block.leading)
        left = width - margin - indent - block.font.getlength(line) if to_the_left else 0
        block.font.draw(layer, (left or margin + indent, middle), line, PAPER)
    if cure:
        note.font.draw(layer, (margin + indent, top + tall - below / 2), note.lines[0], accent)
    return Caption(veil, layer)


def _veil(size: Size, rise: int) -> Image.Image:
    """Dark behind the text, fading out *rise* pixels above it."""
    column = Image.new("L", (1, size[1]))
    for y in range(size[1]):
        share = min(1.0, y / rise)
        column.putpixel((0, y), round(VEIL * share * share * (3 - 2 * share)))
    veil = Image.new("RGBA", size, INK)
    veil.putalpha(column.resize(size))
    return veil


def shot_badge(number: str, text: str, size: Size, face: Typeface, accent: Colour) -> Image.Image:
    """The badge in the upper left corner: the shot's *number*, and *text* in a smaller font."""
    unit = min(size) / GRID
    bold, small = face.at(24 * unit, 700), face.at(20 * unit)
    wide = [round(bold.getlength(number) + 36 * unit), round(small.getlength(text) + 36 * unit)]
    tall = _even(44 * unit)
    picture = Image.new("RGBA", (_even(sum(wide)), tall), (*INK, 0))
    draw = ImageDraw.Draw(picture)
    radius = tall / 2 - 1
    draw.rounded_rectangle((0, 0, picture.width - 1, tall - 1), radius, fill=(*INK, 170))
    draw.rounded_rectangle((0, 0, wide[0] - 1, tall - 1), radius, fill=(*accent, 255))
    draw.text((wide[0] / 2, tall / 2), number, INK, bold.font, anchor="mm")
    small.draw(picture, (wide[0] + 16 * unit, tall / 2), text, PAPER)
    return picture


def clock_badge(text: str, size: Size, face: Typeface) -> Image.Image:
    """The badge in the upper right corner, for the time."""
    unit = min(size) / GRID
    font = face.at(20 * unit)
    tall = _even(44 * unit)
    picture = Image.new("RGBA", (_even(font.getlength(text) + 40 * unit), tall), (*INK, 0))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((0, 0, picture.width - 1, tall - 1), tall / 2 - 1, fill=(*INK, 170))
    draw.text((picture.width / 2, tall / 2), text, PAPER, font.font, anchor="mm")
    return picture


def timeline(shares: list[float], size: Size, fill: Colour, alpha: int) -> Image.Image:
    """The timeline at the bottom: one bar per shot, as long as its share of the film."""
    unit = min(size) / GRID
    margin, tall = round(64 * unit), max(2, round(6 * unit))
    width = size[0] - 2 * margin
    picture = Image.new("RGBA", (_even(width), _even(tall)), (*fill, 0))
    draw = ImageDraw.Draw(picture)
    gap = 5 * unit
    start = 0.0
    for share in shares:
        end = start + share * width
        right = end - gap if end < width - 1 else end
        draw.rounded_rectangle(
            (start, 0, max(start, right - 1), tall - 1), tall / 2, fill=(*fill, alpha)
        )
        start = end
    return picture


def _even(length: float) -> int:
    """*length* rounded up to an even number: chroma has half the resolution of luma."""
    return 2 * math.ceil(length / 2)


# --- landscapes -------------------------------------------------------------------------------


def landscape(size: Size, colours: Palette, seed: int, hour: float) -> Image.Image:
    """A landscape of dunes. *hour* (0 to 1) is the position of the sun."""
    rng = random.Random(seed)
    sky = _gradient(size, colours.zenith, colours.horizon)
    _draw_sun(sky, colours, hour, night=sum(colours.zenith) < 160, rng=rng)
    picture = sky.resize((size[0] * 2, size[1] * 2))
    layers = 5
    for layer in range(layers):
        share = layer / (layers - 1)
        crest = _crest(picture.size, 0.56 + 0.36 * share, 0.05 + 0.05 * share, rng)
        ImageDraw.Draw(picture).polygon(crest, fill=_mixed(colours.far, colours.near, share))
    return _grained(picture.reduce(2), rng)


def _gradient(size: Size, top: Colour, bottom: Colour) -> Image.Image:
    shade = Image.linear_gradient("L").point(_eased).resize(size, Image.Resampling.BICUBIC)
    return ImageOps.colorize(shade, top, bottom)


def _eased(level: float) -> float:
    """Let the gradient reach the horizon's colour before the dunes begin."""
    return min(255.0, level * 1.5)


def _draw_sun(
    sky: Image.Image, colours: Palette, hour: float, *, night: bool, rng: random.Random
) -> None:
    """Draw the sun or moon with its glow, and stars at night."""
    width, height = sky.size
    short = min(sky.size)
    if night:
        draw = ImageDraw.Draw(sky)
        for _ in range(90):
            x, y = rng.uniform(0, width), rng.uniform(0, height * 0.55)
            r = rng.uniform(0.5, 1.6) * short / GRID
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_mixed(colours.zenith, PAPER, 0.7))
    centre = width * (0.22 + 0.56 * hour), height * (0.46 - 0.22 * math.sin(math.pi * hour))
    # The gradient reaches 181 where the circle touches the square, and goes on into the corners.
    glow = Image.radial_gradient("L").point(lambda level: max(0, 180 - level) ** 2 / 210)
    _paste_centred(sky, colours.sun, glow, centre, short * 1.5)
    disc = Image.new("L", (256, 256))
    ImageDraw.Draw(disc).ellipse((4, 4, 251, 251), fill=245)
    _paste_centred(sky, colours.sun, disc, centre, short * 0.17)


def _paste_centred(
    onto: Image.Image, colour: Colour, mask: Image.Image, centre: tuple[float, float], wide: float
) -> None:
    edge = round(wide)
    corner = round(centre[0] - edge / 2), round(centre[1] - edge / 2)
    onto.paste(colour, (*corner, corner[0] + edge, corner[1] + edge), mask.resize((edge, edge)))


def _crest(size: Size, level: float, swing: float, rng: random.Random) -> list[tuple[float, float]]:
    """The outline of one dune: three sine waves, the longer ones higher."""
    width, height = size
    waves = [
        (swing / (n + 1) ** 1.6, (n + 1) * rng.uniform(0.7, 1.2), rng.uniform(0, math.tau))
        for n in range(3)
    ]
    outline = [(0.0, float(height))]
    for x in range(0, width + 16, 16):
        turn = math.tau * x / max(size)
        rise = sum(high * math.sin(often * turn + phase) for high, often, phase in waves)
        outline.append((float(x), height * (level + rise)))
    return [*outline, (float(width), float(height))]


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _grained(picture: Image.Image, rng: random.Random) -> Image.Image:
    """*picture* with a little noise: without it, video shows a soft gradient as stripes."""
    noise = Image.frombytes("L", picture.size, rng.randbytes(picture.width * picture.height))
    grain = noise.point(lambda level: 124 + level / 32)
    return ImageChops.add(picture, Image.merge("RGB", [grain] * 3), offset=-128)
