"""The codes of failure modes, such as (A1): where they stand, and the table that explains them.

    python tests/support/failure_modes.py        # writes the tests into the table again

`tests/docs/test_failure_modes.py` compares.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TypeGuard

from pages import ROOT

__all__ = ["PAGE", "ROWS", "citing_tests", "codes_used", "with_tests"]

PAGE = ROOT / "docs" / "failure-modes.md"
MOST_TESTS = 3  # of one code are named in the table
IN_TEXT = re.compile(r"(?<!\w)\(([A-Z][0-9]+(?:, [A-Z][0-9]+)*)\)")
ROWS = re.compile(r"^\| (?P<code>[A-Z][0-9]+) \| (?P<text>.+?) \| (?P<tests>.*) \|$", re.MULTILINE)


def _sources() -> list[Path]:
    folders = (ROOT / "apikley_async", ROOT / "tests")
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


@cache
def _codes_by_line(path: Path) -> dict[int, set[str]]:
    """The codes in a module, by line; `f(A1)` is a call."""
    found: dict[int, set[str]] = defaultdict(set)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for match in IN_TEXT.finditer(line):
            found[number].update(match[1].split(", "))
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
    """The tests that name each code, in a docstring, a comment, or a table or helper they use.

    Tests that name few other codes come first.
    """
    ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for path in _sources():
        if path.name.startswith("test_"):
            for name, codes in _codes_by_test(path).items():
                for code in codes:
                    ranked[code].append((len(codes), f"{path.relative_to(ROOT)}::{name}"))
    return {code: [name for _, name in sorted(tests)] for code, tests in ranked.items()}


def _codes_by_test(path: Path) -> dict[str, set[str]]:
    by_line = _codes_by_line(path)
    if not by_line:
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests: dict[str, tuple[set[str], set[str]]] = {}  # its codes, and the names that it uses
    shared: dict[str, set[str]] = {}  # the codes of tables and helpers
    previous, pending = 0, set[str]()
    for node in tree.body:
        last = node.end_lineno or node.lineno
        codes = set[str]().union(*(by_line.get(line, ()) for line in range(previous + 1, last + 1)))
        previous = last
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        found = [each for each in members if _is_test(each)]
        for test in found:
            prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
            tests[prefix + test.name] = (codes | pending, _names_in(test))
        names = _names_bound_by(node)
        if not found and names:
            shared.update(dict.fromkeys(names, codes))
        pending = set() if found or names else pending | codes
    for codes, names in tests.values():
        codes.update(*(shared[name] for name in names & shared.keys()))
    return {name: codes for name, (codes, _) in tests.items()}


def _is_test(node: ast.AST) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return is_function and node.name.startswith("test_")


def _names_in(node: ast.AST) -> set[str]:
    found = set[str]()
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            found.add(each.id)
        elif isinstance(each, ast.arg):
            found.add(each.arg)
    return found


def _names_bound_by(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return {name.id for each in targets for name in ast.walk(each) if isinstance(name, ast.Name)}


def with_tests(page: str) -> str:
    """The page, with the tests of each row written anew."""
    tests = citing_tests()

    def row(match: re.Match[str]) -> str:
        named = "<br>".join(f"`{name}`" for name in tests.get(match["code"], [])[:MOST_TESTS])
        return f"| {match['code']} | {match['text']} | {named} |"

    return ROWS.sub(row, page)


if __name__ == "__main__":
    PAGE.write_text(with_tests(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
