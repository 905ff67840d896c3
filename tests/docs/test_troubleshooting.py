"""Every message that docs/howto/troubleshooting.md explains is one that the package says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from pages import ROOT
from syntax_trees import nodes_of

PAGE = ROOT / "docs" / "howto" / "troubleshooting.md"
MESSAGE = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def texts_of_the_package() -> Iterator[str]:
    """Every text in the source; `%s` and what stands in braces become `...`."""
    for path in (ROOT / "apikley_async").rglob("*.py"):
        for node in nodes_of(path):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    str(part.value) if isinstance(part, ast.Constant) else "..."
                    for part in node.values
                )
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%(\.\d)?[sdrf]", "...", node.value)


def test_every_message_of_the_page_is_in_the_source() -> None:
    texts = [" ".join(text.split()).casefold() for text in texts_of_the_package()]
    messages = MESSAGE.findall(PAGE.read_text(encoding="utf-8"))

    assert len(messages) > 20
    unknown = [each for each in messages if not any(each.casefold() in text for text in texts)]
    assert unknown == []
