"""The codes of failure modes, such as (A1): where they stand, and the table that explains them.

    python tests/support/failure_modes.py        # writes the tests into the table again

`tests/docs/test_failure_modes.py` compares.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pages import ROOT

__all__ = ["PAGE", "ROWS", "citing_tests", "codes_used", "with_tests"]

PAGE = ROOT / "docs" / "failure-modes.md"
MOST_TESTS = 3  # of one code are named in the table
IN_TEXT = re.compile(r"\(([A-Z][0-9]+(?:, [A-Z][0-9]+)*)\)")
ROWS = re.compile(r"^\| (?P<code>[A-Z][0-9]+) \| (?P<text>.+?) \| (?P<tests>.*) \|$", re.MULTILINE)


def _sources() -> list[Path]:
    folders = (ROOT / "apikley_async", ROOT / "tests")
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


@cache
def _codes_by_line(path: Path) -> dict[int, set[str]]:
    """The codes in the comments and strings of a module, by line."""
    found: dict[int, set[str]] = defaultdict(set)
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                for offset, line in enumerate(token.string.splitlines()):
                    for match in IN_TEXT.finditer(line):
                        found[token.start[0] + offset].update(match[1].split(", "))
    return found


@cache
def codes_used() -> dict[str, list[str]]:
    """Every code in the package and the tests, with the places where it stands."""
    used: dict[str, list[str]] = defaultdict(list)
    for path in _sources():
        for line, codes in sorted(_codes_by_line(path).items()):
            for code in codes:
                used[code].append(f"{path.relative_to(ROOT)}:{line}")
    return dict(used)


@cache
def citing_tests() -> dict[str, list[str]]:
    """The tests that name each code in a docstring, a comment, or the table of cases above them.

    Tests that name few other codes come first.
    """
    ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for path in _sources():
        if path.name.startswith("test_"):
            by_line = _codes_by_line(path)
            for name, first, last in _tests_in(path):
                codes = set().union(*(by_line.get(line, ()) for line in range(first, last + 1)))
                for code in codes:
                    ranked[code].append((len(codes), f"{path.relative_to(ROOT)}::{name}"))
    return {code: [name for _, name in sorted(tests)] for code, tests in ranked.items()}


def _tests_in(path: Path) -> Iterator[tuple[str, int, int]]:
    """The tests of a module; what stands between two tests belongs to the second one."""
    previous = 0
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.name.startswith("test_"):
            last = node.end_lineno or node.lineno
            yield node.name, previous + 1, last
            previous = last
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(
                    inner, ast.FunctionDef | ast.AsyncFunctionDef
                ) and inner.name.startswith("test_"):
                    yield f"{node.name}::{inner.name}", inner.lineno, inner.end_lineno or 0
            previous = node.end_lineno or previous


def with_tests(page: str) -> str:
    """The page, with the tests of each row written anew."""
    tests = citing_tests()

    def row(match: re.Match[str]) -> str:
        named = "<br>".join(f"`{name}`" for name in tests.get(match["code"], [])[:MOST_TESTS])
        return f"| {match['code']} | {match['text']} | {named} |"

    return ROWS.sub(row, page)


if __name__ == "__main__":
    PAGE.write_text(with_tests(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
