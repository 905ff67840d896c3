"""Type-checks the Python examples of README.md and docs/, with mypy and pyright, both strict.

    python tests/support/page_types.py

Each page becomes one module: its blocks, in their order, as the body of one async function, since
`await` may stand at the top level of a page. Every line keeps the number that it has in the page,
so an error of `tutorial_md.py:75` is in line 75 of tutorial.md. A block that is not run is a
function of its own inside. A block that is a file is a module of that name.

At the end each tool is given a page with a mistake, and has to find it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pages import PAGES, ROOT, Block, blocks_of

__all__ = ["modules_of", "write_modules"]

PYRIGHT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "reportUnusedVariable": "none",  # a page shows what a call returns, and may leave it at that
    "reportUnusedFunction": "none",  # nobody calls a block that is not run
}

WRONG_PAGE = """\
# A page with a mistake

```python
from apikley_async import Client, Shot, Storyboard

board = Storyboard([Shot("Snow on a roof.", duration=10)], duration=10)
async with Client() as client:
    async for outcome in client.generate_many([board]):
        print(outcome.result.urls)
```
"""
WRONG_LINE = 9  # the outcome may be `Failed`, which has no result


def modules_of(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Convert the page *name* to modules: pairs of a file name and its source."""
    lines = ["async def page() -> None:", *[""] * text.count("\n")]
    for block in blocks_of(text):
        if block.what == "file":
            if block.language == "python":
                yield block.value, block.body
        elif block.language == "python":
            _insert(lines, block)
    if any(lines[1:]):
        yield re.sub(r"\W", "_", name) + ".py", "\n".join(lines) + "\n"


def _insert(lines: list[str], block: Block) -> None:
    indent = "    "
    if not block.runs:
        lines[block.line - 2] = f"{indent}async def not_run_{block.line}() -> None:"
        indent *= 2
    for offset, line in enumerate(textwrap.indent(block.body, indent).splitlines()):
        lines[block.line - 1 + offset] = line


def write_modules(pages: dict[str, str], folder: Path) -> None:
    """Write the modules of all *pages* into *folder*; raise ValueError if two have one name."""
    for name, text in pages.items():
        for file, source in modules_of(name, text):
            path = folder / file
            if path.exists():
                raise ValueError(f"{name}: another page has a file of the name {file}")
            path.write_text(source, encoding="utf-8")
    (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT), encoding="utf-8")


def checked(tool: str, pages: dict[str, str]) -> tuple[bool, str]:
    """Run a type checker on *pages*; return whether it found nothing, and its report."""
    commands = {
        "mypy": ["mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "."],
        "pyright": ["pyright", "--project", ".", "--pythonpath", sys.executable],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        write_modules(pages, folder)
        done = subprocess.run(
            [sys.executable, "-m", *commands[tool]],
            cwd=folder,
            env={**os.environ, "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")},
            capture_output=True,
            text=True,
            check=False,
        )
    return done.returncode == 0, (done.stdout + done.stderr).replace(f"{folder}{os.sep}", "")


def main() -> int:
    """Check every page and the page with the mistake; return the exit status."""
    pages = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
    status = 0
    for tool in ("mypy", "pyright"):
        passed, report = checked(tool, pages)
        if not passed:
            print(f"{tool} on the examples of the documentation:\n{report}")
            status = 1
        passed, report = checked(tool, {"wrong.md": WRONG_PAGE})
        if passed or f"wrong_md.py:{WRONG_LINE}:" not in report:
            print(f"{tool} did not find the mistake of the page that has one:\n{report}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
