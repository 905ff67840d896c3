"""The plots of docs/performance.md: what they show is computed, in virtual time, not measured.

python tests/bench/plots.py           computes, and writes docs/plots/*.json and *.svg
python tests/bench/plots.py --draw    only draws what the JSON files hold
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import attrs
from bench.charts import Axis, Chart, drawing
from bench.tables import Grid

__all__ = ["PLOTS", "drawn"]

PLOTS = Path(__file__).resolve().parents[2] / "docs" / "plots"


def limiter() -> dict[str, Any]:
    """Time and refusals of each way, where the service takes what we do not know."""
    from bench import pacing

    return limiter_of(next(pacing.limits(5, 1.0)))


def limiter_of(grid: Grid) -> dict[str, Any]:
    """The same from a grid that `pacing.limits` has made."""
    taken = [float(column) for column in grid.columns]
    across = Axis("what the service takes per 10 s (all are set to 20)", [2, 5, 10, 15, 20])
    times = {
        name: [(at, cell[0]) for at, cell in zip(taken, cells, strict=True)]
        for name, cells in grid.rows.items()
    }
    refused = {
        name: [(at, max(1.0, cell[1])) for at, cell in zip(taken, cells, strict=True)]
        for name, cells in grid.rows.items()
    }
    most = max(time for points in times.values() for _, time in points)
    up = [1, 1.1, 1.25, 1.5, 2, *([4, 8] if most > 2 else [])]
    charts = [
        Chart("Time / ideal", across, Axis("time / ideal", up), times),
        Chart(
            "Refusals (429) for 200 films",
            across,
            Axis("refusals, 1 for none", [1, 10, 100, 1000, 10_000]),
            refused,
        ),
    ]
    words = "200 submissions by four ways to keep a rate, by what the service takes"
    return {"description": words, "charts": [attrs.asdict(chart) for chart in charts]}


def polls() -> dict[str, Any]:
    """Polls per film and mean lag of each policy."""
    from bench import polling

    return polling.plot()


SHOWN = {"limiter-when-wrong": limiter, "polls-against-lag": polls}


def drawn(name: str) -> str:
    """The SVG of the data that is kept under *name*."""
    data = json.loads((PLOTS / f"{name}.json").read_text(encoding="utf-8"))
    return drawing([Chart.from_dict(chart) for chart in data["charts"]], data["description"])


def main() -> None:
    PLOTS.mkdir(exist_ok=True)
    for name, computed in SHOWN.items():
        if "--draw" not in sys.argv:
            data = json.dumps(computed(), indent=1)
            (PLOTS / f"{name}.json").write_text(f"{data}\n", encoding="utf-8")
        (PLOTS / f"{name}.svg").write_text(drawn(name), encoding="utf-8")


if __name__ == "__main__":
    main()
