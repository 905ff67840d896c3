"""The mutants of the suite, read from the TOML files beside this one.

They are chosen where a mistake costs: a film paid twice, a film lost, a wait without an end, a
limit passed, a key shown. Each names the fastest test that must notice it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

from mutants.planting import Change

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """A planted mistake: a change to the source, and the test that must fail with it."""

    test: str
    change: Change


def read() -> dict[str, Mutant]:
    """All mutants by name, in their order; a name that stands twice is an error."""
    mutants: dict[str, Mutant] = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for name, row in tomllib.loads(path.read_text(encoding="utf-8")).items():
            assert name not in mutants, f"{name!r} stands twice"
            mutants[name] = Mutant(row["test"], (row["module"], row["old"], row["new"]))
    return mutants


MUTANTS = read()
