"""docs/failure-modes.md explains every code that stands in the package and its tests."""

from __future__ import annotations

import pytest
from failure_modes import PAGE, ROWS, citing_tests, codes_used, with_tests


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_code_is_in_the_table_and_every_row_is_used(page: str) -> None:
    rows = [match["code"] for match in ROWS.finditer(page)]
    used = codes_used()

    unexplained = {code: used[code] for code in used.keys() - {*rows}}
    assert unexplained == {}
    assert {*rows} - used.keys() == set()
    assert len(rows) == len({*rows})


def test_every_row_names_tests_that_exist_and_name_the_code(page: str) -> None:
    """`python tests/support/failure_modes.py` writes them again."""
    wrong = []
    for match in ROWS.finditer(page):
        names = match["tests"].replace("`", "").split("<br>")
        known = citing_tests().get(match["code"], [])
        wrong += [f"{match['code']}: {name or 'no test'}" for name in names if name not in known]

    assert wrong == []


def test_every_code_is_named_by_a_test() -> None:
    """A code that only the source mentions would be a promise without a proof."""
    assert codes_used().keys() - citing_tests().keys() == set()


def test_a_test_that_does_not_exist_is_noticed(page: str) -> None:
    """Writing the table again replaces it."""
    row = next(ROWS.finditer(page)).group()
    wrong = row.replace("::test_", "::test_nothing_", 1)

    assert wrong != row
    assert with_tests(wrong) == row
