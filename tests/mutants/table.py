"""Mistakes that somebody could make in our own code, and the tests that must notice each.

They are chosen where a mistake costs: a film paid twice, a film lost, a wait without an end, a
limit passed, a key shown. A test is a file, or one function of it where the file takes long.
"""

from __future__ import annotations

from typing import NamedTuple

from mutants.planting import Change

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """A mistake: its *changes* to the source, and the *tests* of which one must fail."""

    tests: tuple[str, ...]
    changes: tuple[Change, ...]


def mutant(test: str, *changes: Change) -> Mutant:
    return Mutant((test,), changes)


MUTANTS: dict[str, Mutant] = {
    # --- _policy
    "no jitter": mutant(
        "tests/test_policy.py",
        ("_policy", "return delay * rng.uniform(0.75, 1.0)", "return delay"),
    ),
}  # fmt: skip
