"""The parts of docs/architecture.md that follow the source: the tree, the order, the hops.

    python tests/support/architecture_page.py        # writes tree and order into the page again

`tests/docs/test_architecture_page.py` compares.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pages import ROOT

__all__ = ["GENERATED", "PAGE", "generated_part", "hops_of", "missing_hops"]

PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "apikley_async"
WIDTH = 80  # characters of a line
HOP = re.compile(r"^\d+\. `(?P<file>[\w/]+\.py)`: `(?P<name>[\w.]+)`", re.MULTILINE)


def tree_of_package() -> str:
    """Every module with the first sentence of its docstring, folder by folder."""
    return "".join(f"{line}\n" for line in _lines_of(PACKAGE, ""))


def _lines_of(folder: Path, indent: str) -> Iterator[str]:
    yield from _wrapped(f"{indent}{folder.name}/  ", _sentence(folder / "__init__.py"))
    indent += "  "
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    width = max((len(path.name) for path in modules), default=0) + 2
    for path in modules:
        yield from _wrapped(f"{indent}{path.name:{width}}", _sentence(path))
    for below in sorted(path for path in folder.iterdir() if (path / "__init__.py").is_file()):
        yield from _lines_of(below, indent)


def _wrapped(name: str, text: str) -> list[str]:
    """A name and its text in lines that fit."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=name,
        subsequent_indent=" " * len(name),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def order_of_imports() -> str:
    """The order of the core's modules from the bottom up, as tests/architecture holds it."""
    source = (ROOT / "tests" / "architecture" / "test_imports.py").read_text(encoding="utf-8")
    groups: list[list[str]] = []
    for line in source.partition("\nORDER = [\n")[2].partition("]\n")[0].splitlines():
        if line.strip().startswith("#"):
            groups.append([line.strip(" #")])
        else:
            groups[-1].append(line.strip(' ",'))
    lines = []
    for title, *modules in groups:
        lines += [title, *_wrapped("    ", " ".join(modules))]
    return "".join(f"{line}\n" for line in lines)


GENERATED = {"tree": tree_of_package, "order": order_of_imports}


def generated_part(name: str, text: str) -> str:
    """A generated part as the page shows it."""
    (found,) = _pattern(name).findall(text)
    return str(found)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {name} -->\n```text\n).*?(?=```\n)", re.DOTALL)


def hops_of(text: str) -> list[tuple[str, str]]:
    """The hops that a page lists: pairs of a file and a function in it."""
    return [(match["file"], match["name"]) for match in HOP.finditer(text)]


def missing_hops(hops: list[tuple[str, str]]) -> list[str]:
    """Those hops whose function is not in their file."""
    return [
        f"{file}: {name}" for file, name in hops if name not in set(_functions_in(PACKAGE / file))
    ]


def _functions_in(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        yield from _names_of(node, "")


def _names_of(node: ast.AST, prefix: str) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield prefix + node.name
        for inner in node.body:
            yield from _names_of(inner, f"{prefix}{node.name}.")


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    for name, generate in GENERATED.items():
        start, end = next(_pattern(name).finditer(page)).span()
        page = page[:start] + generate() + page[end:]
    PAGE.write_text(page, encoding="utf-8")
