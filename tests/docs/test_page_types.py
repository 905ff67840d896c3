"""Pages become modules that type checkers read line by line; `nox -s typing` runs the checkers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from page_types import WRONG_LINE, WRONG_PAGE, modules_of, write_modules
from pages import PAGES, ROOT, blocks_of

PAGE = """# Title

```python
x = 1
await x
```

<!-- file: helper.py -->
```python
y = 2
```

1. In a list:

   <!-- not run: it needs a key -->
   ```python
   if x:
       await x
   ```

```console
pip install .
```
"""


def test_lines_keep_their_numbers_and_files_are_modules_of_their_own() -> None:
    modules = dict(modules_of("docs/title.md", PAGE))

    assert modules["helper.py"] == "y = 2\n"
    source = modules["docs_title_md.py"].splitlines()
    assert {number: line for number, line in enumerate(source, 1) if line} == {
        1: "async def page() -> None:",
        4: "    x = 1",
        5: "    await x",
        16: "    async def not_run_17() -> None:",
        17: "        if x:",
        18: "            await x",
    }


def test_every_python_block_of_every_page_is_checked(tmp_path: Path) -> None:
    texts = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in PAGES}
    write_modules(texts, tmp_path)

    written = "\n".join(path.read_text("utf-8") for path in tmp_path.glob("*.py"))
    lines = {line.strip() for line in written.splitlines()}
    missing = [
        f"{name}:{block.line}: {line}"
        for name, text in texts.items()
        for block in blocks_of(text)
        if block.language == "python"
        for line in block.body.splitlines()
        if line.strip() not in lines
    ]
    assert missing == []
    for path in tmp_path.glob("*.py"):
        ast.parse(path.read_text("utf-8"), str(path))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    page = "<!-- file: same.py -->\n```python\nx = 1\n```\n"

    with pytest.raises(ValueError, match=r"two\.md: another page has a file of the name same\.py"):
        write_modules({"one.md": page, "two.md": page}, tmp_path)


def test_the_page_with_a_mistake_has_it_in_the_line_that_the_checkers_must_name() -> None:
    """`nox -s typing` fails unless mypy and pyright both report this line."""
    ((name, source),) = modules_of("wrong.md", WRONG_PAGE)

    assert name == "wrong_md.py"
    assert "outcome.result" in source.splitlines()[WRONG_LINE - 1]
