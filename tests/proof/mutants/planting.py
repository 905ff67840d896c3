"""Planting mistakes into our own code: text replacements, made while a module is imported.

`tests/proof/mutants` and `tests/proof/simulation/mutants.py` each hold a table of such mistakes.
"""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["PACKAGE", "Change", "changed", "faults_of", "modules_of", "plant"]

Change: TypeAlias = tuple[str, str, str]
"""A module ("batch.store.journal"), the text that stands in it once, and what replaces it."""

PACKAGE = Path(__file__).parents[3] / "apikley_async"


def modules_of(changes: Iterable[Change]) -> dict[str, list[tuple[str, str]]]:
    """The replacements of each module, by its full name."""
    modules: dict[str, list[tuple[str, str]]] = {}
    for module, old, new in changes:
        modules.setdefault(f"apikley_async.{module}", []).append((old, new))
    return modules


def changed(source: str, replacements: Iterable[tuple[str, str]]) -> str:
    """*source* with each replacement made in turn.

    Raises:
        LookupError: a text is not there exactly once, or its replacement is the same.
    """
    for old, new in replacements:
        if (times := source.count(old)) != 1 or old == new:
            raise LookupError(f"found {times} times, replaced by {new!r}: {old!r}")
        source = source.replace(old, new)
    return source


def faults_of(changes: Iterable[Change]) -> Iterator[str]:
    """Why a mistake cannot be planted into the source as it stands; nothing when it can."""
    for module, replacements in modules_of(changes).items():
        path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
        try:
            source = path.read_text(encoding="utf-8")
            ast.parse(part_changed(path, source, changed(source, replacements)), path)
        except (LookupError, SyntaxError, OSError) as error:
            yield f"{module}: {error}"


def part_changed(path: Path, before: str, after: str) -> str:
    """The function or method that was changed, as a module; all of it where that is not one.

    To parse whole modules for hundreds of mistakes takes seconds.
    """
    old, new = before.splitlines(), after.splitlines()
    same = equal_at_first(old, new)
    same_after = equal_at_first(old[same:][::-1], new[same:][::-1])
    for first, last, indent in functions_of(path):
        if first <= same + 1 and len(old) - same_after <= last:
            lines = new[first - 1 : last + len(new) - len(old)]
            return "\n".join([*(["class _:"] if indent else []), *lines])
    return after


def equal_at_first(one: list[str], other: list[str]) -> int:
    """How many lines are equal until the first that is not."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


@cache
def functions_of(path: Path) -> list[tuple[int, int, int]]:
    """The first and last line of each function and method of a module, and its indent."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    members = [inner for node in body if isinstance(node, ast.ClassDef) for inner in node.body]
    return [
        (node.lineno, node.end_lineno or node.lineno, node.col_offset)
        for node in [*body, *members]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def plant(changes: Iterable[Change]) -> None:
    """Let the package be imported with a mistake in it, in this process only."""
    modules = modules_of(changes)
    assert not {*modules} & {*sys.modules}, "too late: the package is there already"
    find = importlib.machinery.PathFinder.find_spec

    class Loader(importlib.machinery.SourceFileLoader):
        def source_to_code(self, data: Any, path: Any, **options: Any) -> Any:
            text = changed(bytes(data).decode(), modules[self.name])
            return super().source_to_code(text.encode(), path, **options)

        def get_code(self, fullname: str) -> Any:  # never what was compiled before
            path = self.get_filename(fullname)
            return self.source_to_code(self.get_data(path), path)

    class Finder:
        @staticmethod
        def find_spec(fullname: str, path: Any = None, target: Any = None) -> Any:
            if fullname not in modules:
                return None
            spec = find(fullname, path, target)
            if spec is not None:
                spec.loader = Loader(fullname, str(spec.origin))
            return spec

    sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
