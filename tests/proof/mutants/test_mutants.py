"""Every planted mistake still fits the source, and the runner tells what noticed it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import simulation.mutants
from mutants.planting import faults_of
from mutants.run import Verdict, noticed
from mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[3]
TABLES = {
    "tests/proof/mutants": {name: (mutant.change,) for name, mutant in MUTANTS.items()},
    "tests/proof/simulation": simulation.mutants.MUTANTS,
}


@pytest.mark.parametrize("table", TABLES)
def test_every_planted_mistake_still_applies_to_the_source(table: str) -> None:
    """Whoever changes a line that a mistake is planted in changes the mistake as well."""
    faults = [
        f"{name}: {fault}"
        for name, changes in TABLES[table].items()
        for fault in faults_of(changes)
    ]

    assert not faults, "\n".join(faults)


def test_every_planted_mistake_names_tests_that_exist() -> None:
    missing = []
    for name, mutant in MUTANTS.items():
        file, *names = mutant.test.split("::")
        path = ROOT / file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if len(names) > 1:  # a test of a class may be inherited
            inherited = path.parent.glob("conformance*.py")
            text += "".join(contract.read_text(encoding="utf-8") for contract in inherited)
        if not all(re.search(rf"(def|class) {part}\(", text) for part in names or ["test_.*"]):
            missing.append(f"{name}: {mutant.test}")

    assert not missing, "\n".join(missing)


OUTCOMES = (
    (Verdict.NOTICED, "(repeatable and error.retry ==", "(error.retry =="),
    (Verdict.SURVIVED, "Seconds to wait before", "Seconds to sit before"),
    (Verdict.BROKEN, "RETRIES = ", "RETRIES = 1 / 0 or "),
)


def test_only_a_failed_test_counts_as_noticed() -> None:
    """A survivor is red, and so is a mistake that breaks the import: no test has judged it."""
    test = "tests/core/test_retry.py::test_what_is_tried_again"
    mutants = [Mutant(test, ("_retry", *change)) for _, *change in OUTCOMES]

    with ThreadPoolExecutor() as pool:
        found = [verdict for verdict, _ in pool.map(noticed, mutants)]

    assert found == [verdict for verdict, *_ in OUTCOMES]
