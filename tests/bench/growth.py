"""Part 5: how cost grows from 10 to 10,000 jobs in flight: exponents, 1 being linear."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from bench.cost import OURS, RAW, in_flight
from bench.films import new_key
from bench.processes import service, workers
from bench.tables import Figure, Table

__all__ = ["exponents"]

SIZES = (10, 100, 1_000, 10_000)
GATE = 1.05


def slope(sizes: list[int], costs: list[float]) -> float:
    """The exponent that fits best: the slope of a line through the logarithms."""
    line = statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    )
    return line.slope


def exponents(rounds: int, scale: float) -> Iterator[Table]:
    """CPU and memory of all jobs together, by their number."""
    sizes = [size for size in SIZES if size <= max(100, 10_000 * scale)]
    contenders = {**RAW, **OURS}
    figures: list[Figure] = []
    with service() as url:
        order = {"url": url, "key": new_key()}
        for what in ("CPU", "memory"):
            found: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(min(rounds, 3) if what == "CPU" else 1):
                for name, place in contenders.items():
                    costs = []
                    for size in sizes:
                        if what == "memory":
                            held = in_flight(url, place, size, window=0.0, traced=True)
                            costs.append(size * held["memory"])
                            continue
                        with workers({name: place}) as fresh:
                            sized = {**order, "jobs": size, "flight": size}
                            costs.append(size * fresh[name].measure(**sized)["cpu"])
                    found[name].append(slope(sizes, costs))
            figures += [
                Figure(f"{what}, {name}", values, gate=GATE if name in OURS else None)
                for name, values in found.items()
            ]
    yield Table(f"Growth from {sizes[0]} to {sizes[-1]:,} jobs, exponents", figures)
