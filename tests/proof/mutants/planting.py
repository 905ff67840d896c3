"""Planting mistakes into our own code: text replacements, made while a module is imported.

`tests/proof/mutants` and `tests/proof/simulation/mutants.py` each hold a table of such mistakes.
"""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections.abc import Iterable, Iterator
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
            ast.parse(changed(path.read_text(encoding="utf-8"), replacements), path)
        except (LookupError, SyntaxError, OSError) as error:
            yield f"{module}: {error}"


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
