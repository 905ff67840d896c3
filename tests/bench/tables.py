"""Figures of interleaved rounds: their medians, their noise, and tables of them in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

__all__ = ["Figure", "ratios", "table"]


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

    @property
    def deviation(self) -> float:
        """The median of the distances from the median."""
        return statistics.median(abs(value - self.median) for value in self.rounds)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.spread
        values = {"median": self.median, "min": low, "max": high, "mad": self.deviation}
        return {**attrs.asdict(self), **values}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each round: both were measured a moment apart."""
    return [value / base for value, base in zip(above, below, strict=True)]


def table(title: str, figures: Iterable[Figure]) -> str:
    """A table in Markdown, with its title."""
    lines = [
        f"### {title}",
        "",
        "| figure | median | min to max | gate |",
        "| --- | --- | --- | --- |",
    ]
    for figure in figures:
        low, high = figure.spread
        unit = f" {figure.unit}" if figure.unit else ""
        gate = "" if figure.gate is None else digits(figure.gate)
        span = f"{digits(low)} to {digits(high)}"
        lines.append(f"| {figure.name} | {digits(figure.median)}{unit} | {span} | {gate} |")
    return "\n".join([*lines, ""])


def digits(value: float) -> str:
    """Three digits that count, as people read numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
