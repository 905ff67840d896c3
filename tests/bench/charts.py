"""Line charts as SVG, written by hand: nothing to install, the same bytes everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

import attrs

__all__ = ["Axis", "Chart", "drawing"]

Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 330  # of one chart
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 34, 46
LEGEND = 22  # a line of it
# Colours that people with any colour vision tell apart (Okabe and Ito), and a shape for each.
STYLES = (
    ("#0072b2", "circle"),
    ("#d55e00", "square"),
    ("#009e73", "diamond"),
    ("#cc79a7", "triangle"),
    ("#555555", "cross"),
)


@attrs.frozen
class Axis:
    """One direction of a chart, on a logarithmic scale.

    Attributes:
        label: what it shows.
        ticks: the values that are written; the first and the last are the ends, which may fall.
    """

    label: str
    ticks: Sequence[float]

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the first tick, 1 at the last."""
        first, last = math.log(self.ticks[0]), math.log(self.ticks[-1])
        return min(1.0, max(0.0, (math.log(value) - first) / (last - first)))


@attrs.frozen
class Chart:
    """One chart: a title, two axes, a line or points for each name."""

    title: str
    across: Axis
    up: Axis
    series: dict[str, Points]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Chart:
        across, up = Axis(**data["across"]), Axis(**data["up"])
        return cls(data["title"], across, up, data["series"])

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + self.across.share(point[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - self.up.share(point[1]) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    def elements(self) -> list[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [text(WIDTH / 2, 20, self.title, size=14, weight="bold")]
        for value in self.across.ticks:
            x, _ = self.place((value, self.up.ticks[0]))
            parts.append(line(x, TOP, x, bottom))
            parts.append(text(x, bottom + 16, f"{value:g}"))
        for value in self.up.ticks:
            _, y = self.place((self.across.ticks[0], value))
            parts.append(line(LEFT, y, right, y))
            parts.append(text(LEFT - 6, y + 4, f"{value:,g}", anchor="end"))
        parts.append(text((LEFT + right) / 2, HEIGHT - 10, self.across.label))
        middle = (TOP + bottom) / 2
        turned = f' transform="rotate(-90 14 {middle:g})"'
        parts.append(text(14, middle, self.up.label, more=turned))
        for number, points in enumerate(self.series.values()):
            colour, shape = STYLES[number]
            placed = [self.place(point) for point in points]
            if len(placed) > 1:
                path = " ".join(f"{x:g},{y:g}" for x, y in placed)
                parts.append(
                    f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
                )
            parts += [marker(shape, colour, x, y) for x, y in placed]
        return parts


def drawing(charts: Sequence[Chart], description: str) -> str:
    """The charts side by side, with one legend: all have the same names."""
    names = list(charts[0].series)
    width, height = WIDTH * len(charts), HEIGHT + LEGEND * len(names) + 10
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif">',
        f"<title>{escape(description)}</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
    ]
    for number, chart in enumerate(charts):
        parts.append(f'<g transform="translate({number * WIDTH} 0)">')
        parts += chart.elements()
        parts.append("</g>")
    for number, name in enumerate(names):
        colour, shape = STYLES[number]
        y = HEIGHT + LEGEND * number + 8
        parts.append(marker(shape, colour, LEFT + 6, y))
        parts.append(text(LEFT + 20, y + 4, name, anchor="start"))
    return "\n".join([*parts, "</svg>", ""])


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "middle",
    more: str = "",
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="#222222"{more}>{escape(words)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#dddddd"/>'


def marker(shape: str, colour: str, x: float, y: float) -> str:
    """A point, by shape as well as by colour."""
    if shape == "circle":
        return f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="{colour}"/>'
    outline = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "diamond": ((0, -6), (6, 0), (0, 6), (-6, 0)),
        "triangle": ((0, -6), (5.5, 4), (-5.5, 4)),
        "cross": ((-5, -2), (5, -2), (5, 2), (-5, 2)),
    }[shape]
    corners = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in outline)
    return f'<polygon points="{corners}" fill="{colour}"/>'
