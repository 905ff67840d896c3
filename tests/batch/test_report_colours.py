"""The colours of the report's chart are told apart, also by people who are colour-blind."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files
from typing import TypeAlias

Colour: TypeAlias = tuple[float, float, float]
"""Red, green and blue in linear light, from 0 to 1."""

CSS = files("apikley_async.batch.report").joinpath("page/report.css").read_text("utf-8")
KINDS = ("sending", "making", "saving", "broken", "open")
# How who lacks one kind of cones sees colours: Machado, Oliveira and Fernandes (2009), severity 1.
SIGHTS: dict[str, tuple[Colour, Colour, Colour]] = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "no green": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "no blue": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def palettes() -> dict[str, dict[str, Colour]]:
    """The colours by name: in light, in the dark, and on paper."""
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    assert len(blocks) == 3
    return {
        name: {
            each: linear(colour)
            for each, colour in re.findall(r"--([a-z]+): (#[0-9a-f]{3,6});", block)
        }
        for name, block in zip(("light", "dark", "paper"), blocks, strict=True)
    }


def linear(colour: str) -> Colour:
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    values = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values
    )
    return red, green, blue


def contrast(one: Colour, other: Colour) -> float:
    """As WCAG counts it."""
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05 for r, g, b in (one, other))
    return high / low


def distance(one: Colour, other: Colour, sight: str) -> float:
    """How different two colours look, in hundredths of OKLab: 2 is just noticeable."""
    pairs = zip(perceived(one, sight), perceived(other, sight), strict=True)
    return 100 * sum((a - b) ** 2 for a, b in pairs) ** 0.5


def perceived(colour: Colour, sight: str) -> Colour:
    """A colour in OKLab, as somebody sees it."""
    r, g, b = (
        min(1.0, max(0.0, sum(part * light for part, light in zip(row, colour, strict=True))))
        for row in SIGHTS[sight]
    )
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    middle = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def test_the_parts_of_a_films_life_are_told_apart() -> None:
    """In light, in the dark and on paper, by whoever looks; and each from its background."""
    alike: list[tuple[str, ...]] = []
    for place, palette in palettes().items():
        alike += [
            (place, kind, "its background")
            for kind in KINDS
            if contrast(palette[kind], palette["card"]) < 3
        ]
        for one, other in itertools.combinations(KINDS, 2):
            alike += [
                (place, one, other, sight)
                for sight in SIGHTS
                if distance(palette[one], palette[other], sight) < 10
            ]

    assert alike == []


def test_what_went_wrong_has_a_pattern_of_its_own() -> None:
    """In the chart and in its key: nobody needs the colour to see it."""
    for kind in ("failed", "uncertain", "idle"):
        assert re.search(rf"\.chart \.p-{kind} {{[^}}]*stroke-dasharray: \d+ \d+", CSS)
        assert re.search(rf"\.p-key \.{kind} {{ background: repeating-linear-gradient", CSS)
