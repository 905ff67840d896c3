"""The two pictures of the demo's storyboards, drawn by this project itself.

Usage; writes apikley_async/cli/storyboards/kitten.webp and lighthouse.webp again:

    python tests/support/demo_pictures.py
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parents[2] / "apikley_async" / "cli" / "storyboards"
SCALE = 4  # it is drawn so many times as large, and made smaller: edges are smooth then
DARK, CREAM = "#4a2c26", "#fff4e3"

Point: TypeAlias = tuple[float, float]


class Canvas:
    """A picture of so many pixels, in whose units everything is drawn."""

    def __init__(self, width: int, height: int, top: str, bottom: str) -> None:
        strip = Image.linear_gradient("L").resize((width * SCALE, height * SCALE))
        ends = [Image.new("RGB", strip.size, colour) for colour in (bottom, top)]
        self.picture = Image.composite(*ends, strip)
        self._draw = ImageDraw.Draw(self.picture, "RGBA")

    def oval(self, x: float, y: float, across: float, down: float, colour: str) -> None:
        """An oval around (x, y)."""
        box = (x - across, y - down, x + across, y + down)
        self._draw.ellipse([each * SCALE for each in box], fill=colour)

    def box(
        self, x: float, y: float, width: float, height: float, colour: str, round_: float = 0
    ) -> None:
        """A rectangle with round corners whose upper left one is (x, y)."""
        box = [each * SCALE for each in (x, y, x + width, y + height)]
        self._draw.rounded_rectangle(box, round_ * SCALE, fill=colour)

    def shape(self, points: Sequence[Point], colour: str) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=colour)

    def line(self, points: Sequence[Point], colour: str, width: float = 2) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")

    def arc(
        self, x: float, y: float, radius: float, begin: float, end: float, colour: str, width: float
    ) -> None:
        """A part of a circle around (x, y), from one angle to another, clockwise from the right."""
        box = [each * SCALE for each in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.arc(box, begin, end, fill=colour, width=round(width * SCALE))

    def small(self) -> Image.Image:
        width, height = self.picture.size
        size = (width // SCALE, height // SCALE)
        return self.picture.resize(size, Image.Resampling.LANCZOS)


# --- a kitten with headphones ---------------------------------------------------------------------


def kitten() -> Image.Image:
    canvas = Canvas(640, 360, "#fbd9a4", "#f3b878")
    window(canvas)
    shelf(canvas)
    cat(canvas, 320, 165)
    canvas.box(0, 262, 640, 98, "#8a4b32")
    canvas.box(0, 262, 640, 9, "#a3603f")
    canvas.line([(0, 315), (640, 312)], "#7b4029", 3)
    for x in (276, 364):
        canvas.box(x - 26, 236, 52, 36, CREAM, 18)
        for offset in (-8, 6):
            canvas.line([(x + offset, 256), (x + offset, 267)], "#e4c8a8", 2)
    cake(canvas, 130, 262)
    microphone(canvas, 430, 262)
    fish(canvas, 535, 250)
    return canvas.small()


def window(canvas: Canvas) -> None:
    canvas.box(30, 30, 140, 160, "#8a4b32", 4)
    canvas.box(38, 38, 124, 144, "#5d82ad")
    canvas.oval(126, 76, 18, 18, "#ffeab5")
    canvas.shape([(38, 182), (38, 148), (80, 118), (118, 150), (162, 126), (162, 182)], "#5f8f74")
    canvas.box(97, 38, 6, 144, "#8a4b32")
    canvas.box(38, 104, 124, 6, "#8a4b32")
    for left, right in ((14, 52), (186, 148)):
        inside = (left + 2 * right) / 3
        canvas.shape([(left, 22), (right, 22), (inside, 110), (left, 198)], "#d9694f")
    canvas.box(8, 16, 184, 8, "#6f3a28", 4)


def shelf(canvas: Canvas) -> None:
    canvas.box(470, 104, 150, 9, "#8a4b32", 3)
    books = (("#c8503f", 44), ("#3f7f86", 38), ("#efb544", 50), ("#51609c", 42), ("#e9dcc5", 34))
    for number, (colour, height) in enumerate(books):
        canvas.box(482 + number * 14, 104 - height, 12, height, colour, 2)
    canvas.shape([(566, 78), (602, 78), (596, 104), (572, 104)], "#c96a3e")
    for angle in range(-60, 61, 24):
        x, y = 584 + 46 * math.sin(math.radians(angle)), 78 - 46 * math.cos(math.radians(angle))
        canvas.shape([(578, 80), (590, 80), (x + 5, y + 8), (x, y)], "#4b8a58")


def cat(canvas: Canvas, x: float, y: float) -> None:
    fur, stripe, pink = "#f09a44", "#c9701f", "#f3a58f"
    canvas.oval(x, y + 100, 84, 62, fur)
    canvas.oval(x, y + 118, 46, 56, CREAM)
    for side in (-1, 1):
        ear = [(x + side * 34, y - 62), (x + side * 88, y - 126), (x + side * 98, y - 22)]
        canvas.shape(ear, fur)
        inner = [(x + side * 50, y - 62), (x + side * 82, y - 102), (x + side * 88, y - 38)]
        canvas.shape(inner, pink)
    canvas.oval(x, y, 104, 82, fur)
    canvas.shape([(x - 16, y - 80), (x + 16, y - 80), (x + 34, y + 30), (x - 34, y + 30)], CREAM)
    canvas.oval(x, y + 38, 70, 42, CREAM)
    for offset in (-58, -42, 42, 58):
        canvas.line([(x + offset, y - 64), (x + offset * 0.86, y - 42)], stripe, 6)
    for side in (-1, 1):
        eye = x + side * 44
        canvas.oval(eye, y - 6, 23, 26, DARK)
        canvas.oval(eye, y - 5, 19, 22, "#7fae43")
        canvas.oval(eye, y - 5, 11, 17, "#1f1a1a")
        canvas.oval(eye - 6, y - 14, 6, 7, "#ffffff")
        canvas.oval(eye + 6, y + 4, 3, 3, "#ffffff")
        canvas.oval(x + side * 66, y + 34, 15, 8, "#f6b9a0")
        canvas.arc(x + side * 11, y + 36, 11, 15, 165, DARK, 3)
        for tilt in (-6, 3, 12):
            canvas.line([(x + side * 74, y + 26), (x + side * 122, y + 22 + tilt)], CREAM, 2)
    canvas.shape([(x - 9, y + 20), (x + 9, y + 20), (x, y + 32)], "#dd6f66")
    canvas.oval(x, y + 52, 7, 8, "#ea8079")
    canvas.arc(x, y - 2, 118, 188, 352, "#ef6a23", 13)
    for side in (-1, 1):
        canvas.oval(x + side * 108, y + 6, 15, 38, DARK)
        canvas.oval(x + side * 118, y + 6, 18, 36, "#ef6a23")
        canvas.oval(x + side * 121, y + 6, 9, 20, "#ffa35c")


def cake(canvas: Canvas, x: float, y: float) -> None:
    canvas.oval(x, y + 12, 84, 15, "#e9dccd")
    canvas.oval(x, y + 8, 76, 11, "#ffffff")
    canvas.shape([(x - 48, y - 34), (x + 52, y - 22), (x + 52, y + 6), (x - 48, y + 6)], "#f6cf97")
    canvas.shape([(x - 48, y - 16), (x + 52, y - 9), (x + 52, y - 3), (x - 48, y - 8)], "#d9534a")
    canvas.shape([(x - 50, y - 32), (x - 4, y - 52), (x + 54, y - 22), (x + 54, y - 16)], "#fff1ee")
    canvas.oval(x + 8, y - 50, 12, 11, "#d4373b")
    canvas.line([(x + 8, y - 60), (x + 15, y - 68)], "#4b8a58", 3)


def microphone(canvas: Canvas, x: float, y: float) -> None:
    canvas.oval(x, y + 14, 30, 8, "#5d6473")
    canvas.box(x - 3, y - 30, 6, 44, "#5d6473")
    canvas.box(x - 14, y - 64, 28, 46, "#aab2bf", 14)
    for row in range(4):
        canvas.line([(x - 13, y - 54 + row * 7), (x + 13, y - 54 + row * 7)], "#8a93a3", 1.5)
    canvas.box(x - 15, y - 30, 30, 6, "#ef6a23")


def fish(canvas: Canvas, x: float, y: float) -> None:
    canvas.shape([(x + 38, y), (x + 68, y - 20), (x + 62, y), (x + 68, y + 22)], "#23778f")
    canvas.shape([(x - 10, y - 18), (x + 8, y - 36), (x + 24, y - 14)], "#23778f")
    canvas.oval(x, y, 48, 24, "#36a0b4")
    for offset in (-4, 10, 24):
        canvas.arc(x + offset, y, 14, -60, 60, "#bfe6ea", 2.5)
    canvas.oval(x - 28, y - 6, 6, 6, "#ffffff")
    canvas.oval(x - 29, y - 6, 3, 3, "#1f1a1a")


# --- a lighthouse at dawn -------------------------------------------------------------------------


def lighthouse() -> Image.Image:
    canvas, rng = Canvas(360, 640, "#3a3f86", "#f7a072"), random.Random(4)
    for _ in range(60):
        canvas.oval(rng.uniform(0, 360), rng.uniform(0, 230), 0.9, 0.9, "#f5ecff")
    for x, y, width in ((60, 150, 90), (190, 214, 70), (40, 276, 100), (300, 250, 110)):
        cloud(canvas, x, y, width)
    canvas.shape([(232, 172), (0, 84), (0, 176)], "#fff6c955")
    canvas.shape([(266, 172), (360, 150), (360, 200)], "#fff6c955")
    for radius, colour in ((78, "#ffd58a55"), (58, "#ffe0a088"), (40, "#fff0c8")):
        canvas.oval(112, 396, radius, radius, colour)
    sea(canvas, rng)
    boat(canvas, 178, 412)
    for x, y in ((80, 318), (104, 304), (178, 282), (146, 336), (54, 340)):
        for side in (-1, 1):
            canvas.arc(x + side * 6, y + 5, 7, 200, 340, "#2b2a52", 2)
    cliff(canvas)
    tower(canvas, 249)
    return canvas.small()


def cloud(canvas: Canvas, x: float, y: float, width: float) -> None:
    for offset, share in ((-0.2, 0.7), (0.1, 1.0), (0.3, 0.6)):
        left = x + width * (offset - share / 2)
        canvas.box(left, y + offset * 18, width * share, 12, "#f6b7a866", 6)


def sea(canvas: Canvas, rng: random.Random) -> None:
    surface = Canvas(360, 244, "#c777a0", "#1f4476")
    canvas.picture.paste(surface.picture, (0, 396 * SCALE))
    for row in range(10):
        width = rng.uniform(18, 44)
        canvas.box(112 - width, 402 + row * 9, 2 * width, 3, "#ffe6b3", 1.5)
    for _ in range(16):
        canvas.box(
            rng.uniform(-20, 180), rng.uniform(500, 630), rng.uniform(20, 60), 2.5, "#8fb7dd88", 1
        )


def boat(canvas: Canvas, x: float, y: float) -> None:
    canvas.shape([(x - 20, y), (x + 20, y), (x + 12, y + 11), (x - 13, y + 11)], "#2b2a52")
    canvas.shape([(x - 1, y - 4), (x - 1, y - 44), (x + 18, y - 4)], "#fff4e3")
    canvas.shape([(x - 4, y - 4), (x - 4, y - 34), (x - 16, y - 4)], "#ffd9b8")


def cliff(canvas: Canvas) -> None:
    edge = [(360, 640), (124, 640), (140, 590), (132, 552), (160, 506), (176, 456), (204, 430)]
    canvas.shape([*edge, (250, 424), (360, 436)], "#3b2d53")
    for x, y, across, down in ((212, 500, 28, 22), (290, 480, 36, 20), (240, 570, 40, 28)):
        canvas.oval(x, y, across, down, "#4b3a66")
    canvas.shape([(204, 430), (250, 424), (360, 436), (360, 446), (240, 436)], "#5f8f5b")


def tower(canvas: Canvas, x: float) -> None:
    canvas.box(284, 388, 60, 48, "#fbe7cf")
    canvas.shape([(276, 392), (290, 360), (340, 360), (352, 392)], "#c2473d")
    canvas.box(294, 402, 14, 14, "#ffd564")
    canvas.box(322, 406, 14, 30, "#7b3b34")
    top, foot = 196.0, 432.0
    for band in range(5):
        upper, lower = (top + (foot - top) * share / 5 for share in (band, band + 1))
        half = [22 + 14 * (y - top) / (foot - top) for y in (upper, lower)]
        sides = [(x - half[0], upper), (x + half[0], upper), (x + half[1], lower)]
        colour, shade = (("#d4483e", "#b53a35"), ("#fff4ea", "#e6d3d3"))[band % 2]
        canvas.shape([*sides, (x - half[1], lower)], colour)
        canvas.shape([(x + half[0] * 0.3, upper), *sides[1:], (x + half[1] * 0.3, lower)], shade)
    for y in (236, 292, 348):
        canvas.box(x - 5, y, 10, 17, "#ffd564", 5)
    canvas.box(x - 11, 400, 22, 34, "#5b2b34", 11)
    canvas.box(x - 30, 186, 60, 10, "#4b3a66", 2)
    canvas.box(x - 17, 152, 34, 34, "#fff6d5", 2)
    for offset in (-9, 0, 9):
        canvas.box(x + offset - 1, 152, 2, 34, "#4b3a66")
    canvas.shape([(x - 22, 154), (x - 13, 134), (x + 13, 134), (x + 22, 154)], "#c2473d")
    canvas.line([(x, 134), (x, 116)], "#4b3a66", 3)
    canvas.oval(x, 115, 4, 4, "#ffd564")
    for offset in range(-28, 29, 8):
        canvas.line([(x + offset, 186), (x + offset, 174)], "#4b3a66", 1.5)
    canvas.line([(x - 29, 174), (x + 29, 174)], "#4b3a66", 2)


if __name__ == "__main__":
    for name, picture in (("kitten", kitten()), ("lighthouse", lighthouse())):
        picture.save(FOLDER / f"{name}.webp", quality=72, method=6)
