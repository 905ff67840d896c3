"""The pages of the documentation: their fenced code blocks, found and run.

    for block in blocks_of(page.read_text()):
        ...
    run_page(page, text, folder)

`tests/docs/test_examples.py` lists the conventions.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import inspect
import io
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["PAGES", "ROOT", "RUSSIAN", "Block", "blocks_of", "module_of", "run_page"]

ROOT = Path(__file__).resolve().parents[2]
RUSSIAN = ROOT / "docs" / "README.ru.md"  # its blocks are those of README.md
PAGES = [page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]
PAGES.remove(RUSSIAN)

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w{}-]*)[^\n`]*\n"
    r"(?P<body>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
NOTE = re.compile(r"<!-- (?P<what>file|not run|output)(?:: (?P<value>[^\n]+?))? -->\s*\Z")
SAME = doctest.OutputChecker()


class Block(NamedTuple):
    """A fenced block of a page: where it stands, and what the note above it says."""

    line: int
    language: str
    body: str
    what: str = ""
    value: str = ""

    @property
    def runs(self) -> bool:
        return self.language == "python" and not self.what


def blocks_of(text: str) -> Iterator[Block]:
    """Find the fenced blocks of a page, in their order."""
    for match in FENCE.finditer(text):
        note = NOTE.search(text, 0, match.start())
        yield Block(
            line=text.count("\n", 0, match.start("body")) + 1,
            language=match["language"],
            body=textwrap.dedent(match["body"]),
            what=note["what"] if note else "",
            value=(note["value"] or "") if note else "",
        )


def module_of(page: Path, name: str, folder: Path) -> types.ModuleType:
    """A file of a page, written into *folder* and imported."""
    [body] = [block.body for block in blocks_of(page.read_text("utf-8")) if block.value == name]
    path = folder / name
    path.write_text(body, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_page(page: Path, text: str, folder: Path, run: Callable[[Any], object]) -> list[str]:
    """Do with the blocks of a page what their notes say, in *folder*; say what was done.

    *run* runs a coroutine in the loop of the page.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    known = set(sys.modules)
    done = []
    printed = ""
    sys.path.insert(0, str(folder))
    try:
        for block in blocks_of(text):
            if block.what == "file":
                (folder / block.value).write_text(block.body, encoding="utf-8")
                done.append(f"wrote {block.value}")
            if block.what == "output":
                _compare(page, block, printed)
                done.append(f"compared line {block.line}")
            if block.language != "python":
                continue
            code = _compiled(page, block)
            if not block.runs:
                done.append(f"compiled line {block.line}")
                continue
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                outcome = types.FunctionType(code, namespace)()
                if code.co_flags & inspect.CO_COROUTINE:
                    run(outcome)
            printed = stdout.getvalue()
            done.append(f"ran line {block.line}")
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]
    return done


def _compare(page: Path, block: Block, printed: str) -> None:
    if not SAME.check_output(block.body, printed, doctest.ELLIPSIS):
        raise AssertionError(
            f"{page}:{block.line}: the page says\n{block.body}and it is\n{printed}"
        )


def _compiled(page: Path, block: Block) -> types.CodeType:
    source = "\n" * (block.line - 1) + block.body  # so that a traceback names the page's line
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, str(page), "exec", flags=flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    if not block.what:
        tree = _InThisLoop().visit(tree)
    code: types.CodeType = compile(tree, str(page), "exec", flags=flags, dont_inherit=True)
    return code


class _InThisLoop(ast.NodeTransformer):
    """Outside of functions, `asyncio.run(main())` becomes `await main()`: one loop for a page."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) == "asyncio.run":
            return ast.copy_location(ast.Await(node.args[0]), node)
        return node
