"""The sizes of the package's files and functions, docstrings included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from syntax_trees import tree_of

PACKAGE = Path(__file__).resolve().parents[2] / "apikley_async"
LONGEST_FILE = 500  # lines
LONGEST_FUNCTION = 50

# There are at most three. Whoever makes one shorter takes it out.
LONG_FUNCTIONS = {
    "_client.Client.__init__": "it is the list of all options, and lets go of each secret by name",
    "_job.Job.__init__": "all that one job knows is set in one place; it holds no other object",
    "batch.batch.Batch.run": "it is the list of all options of a run; what it does is `_updates`",
}


def functions_of(node: ast.AST, name: str) -> Iterator[tuple[str, int]]:
    """Each function below *node* with its full name and its number of lines."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            full = f"{name}.{child.name}"
            if not isinstance(child, ast.ClassDef) and child.end_lineno is not None:
                yield full, child.end_lineno - child.lineno + 1
            yield from functions_of(child, full)
        elif not isinstance(child, ast.expr):  # no function stands in an expression
            yield from functions_of(child, name)


def test_no_function_is_longer_than_a_page() -> None:
    """A reader sees all of it at once; the few exceptions have their reason here."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        lengths = functions_of(tree_of(path), module)
        found |= {name: lines for name, lines in lengths if lines > LONGEST_FUNCTION}

    assert found.keys() == LONG_FUNCTIONS.keys(), found
    assert len(LONG_FUNCTIONS) <= 3


def test_no_file_is_longer_than_can_be_read() -> None:
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }

    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}
    assert len(lengths) > 100
