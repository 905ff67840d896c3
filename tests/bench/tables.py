"""Figures of interleaved rounds: their medians, their noise, and tables of them in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

__all__ = ["Figure", "Grid", "Measured", "Table", "measured_from", "ratios"]


@attrs.frozen
class Figure:
    """One figure, measured in several rounds.

    Attributes:
        name: what was measured.
        rounds: one value a round.
        unit: of the values; empty for ratios.
        gate: what it is to be at most, if anything.
    """

    name: str
    rounds: Sequence[float]
    unit: str = ""
    gate: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest round."""
        return min(self.rounds), max(self.rounds)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.spread
        deviation = statistics.median(abs(value - self.median) for value in self.rounds)
        values = {"median": self.median, "min": low, "max": high, "mad": deviation}
        return {**attrs.asdict(self), **values}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each round: both were measured a moment apart."""
    return [value / base for value, base in zip(above, below, strict=True)]


@attrs.frozen
class Table:
    """Figures one below the other, each with its noise."""

    title: str
    figures: Sequence[Figure]

    def markdown(self) -> str:
        rows = []
        for figure in self.figures:
            low, high = figure.spread
            unit = f" {figure.unit}" if figure.unit else ""
            gate = "" if figure.gate is None else digits(figure.gate)
            span = f"{digits(low)} to {digits(high)}"
            rows.append([figure.name, f"{digits(figure.median)}{unit}", span, gate])
        return markdown(self.title, ["figure", "median", "min to max", "goal"], rows)

    def to_dict(self) -> dict[str, Any]:
        return {"figures": [figure.to_dict() for figure in self.figures]}


@attrs.frozen
class Grid:
    """Figures by row and column, without noise: nothing of it is measured time.

    Attributes:
        title: what it holds.
        corner: what the rows are, and what the figures of a cell are.
        columns: their heads.
        rows: for each name, one cell a column.
    """

    title: str
    corner: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[tuple[float, ...]]]

    def markdown(self) -> str:
        lines = [
            [name, *("; ".join(map(digits, cell)) for cell in cells)]
            for name, cells in self.rows.items()
        ]
        return markdown(self.title, [self.corner, *self.columns], lines)

    def to_dict(self) -> dict[str, Any]:
        return {"corner": self.corner, "columns": self.columns, "rows": self.rows}


Measured: TypeAlias = Table | Grid


def measured_from(title: str, data: dict[str, Any]) -> Measured:
    """What `to_dict` gave, as it was."""
    if "figures" not in data:
        return Grid(title, data["corner"], data["columns"], data["rows"])
    names = ("name", "rounds", "unit", "gate")
    return Table(title, [Figure(*(each[name] for name in names)) for each in data["figures"]])


def markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, with its title."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def digits(value: float) -> str:
    """Three digits that count, as people read numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
