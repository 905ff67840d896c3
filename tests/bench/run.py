"""The benchmarks: `nox -s bench`, or `python tests/bench/run.py --help`.

    python tests/bench/run.py cost polls memory startup --rounds 9 --json figures.json

Prints tables in Markdown and writes every round as JSON. Contenders take turns in each round, so
that what else the machine does strikes all of them; ratios are made within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from bench import batches, callbacks, cost, downloads, growth, pacing, polling, startup
from bench.tables import Measured

Part = Callable[[int, float], Iterator[Measured]]

PARTS: dict[str, Part] = {
    "cost": cost.jobs,
    "polls": cost.polls,
    "memory": cost.memory,
    "startup": startup.starts,
    "limiter": pacing.limits,
    "polling": polling.products,
    "growth": growth.exponents,
    "batch": batches.batches,
    "downloads": downloads.downloads,
    "callbacks": callbacks.answer_times,
}
PACKAGES = (
    *("aiohttp", "replicate", "openai", "fal-client", "runwayml"),
    *("aiolimiter", "pyrate-limiter"),
)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of all sizes")
    parser.add_argument("--json", type=Path, help="where every round is written")
    options = parser.parse_args(words)
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    found: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "tables": {}}
    print(json.dumps(found["machine"]), flush=True)
    for name in options.parts or PARTS:
        for measured in PARTS[name](options.rounds, options.scale):
            print(f"\n{measured.markdown()}", flush=True)
            found["tables"][measured.title] = {"part": name, **measured.to_dict()}
            if options.json:  # what is measured is kept, should the rest be broken off
                options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
