"""The tables of docs/performance.md, from the JSON files that `run.py --json` has written.

    python tests/bench/page.py figures.json [MORE.json ...]

Each part of the page stands between `<!-- PART -->` and `<!-- end -->`. Parts that no file holds
stay as they are.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.tables import measured_from

__all__ = ["PAGE", "filled", "parts_of", "shown_parts"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
PART = re.compile(r"(?<=<!-- )(?!end )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def parts_of(found: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown of each part that a file holds."""
    parts: dict[str, str] = {}
    for title, data in found["tables"].items():
        table = measured_from(title, data).markdown()
        parts[data["part"]] = parts.get(data["part"], "") + f"\n{table}"
    return {name: f"{text}\n" for name, text in parts.items()}


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with these parts in their places."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        return f"{name}{match[2]}{parts[name]}" if name in parts else match[0]

    return PART.sub(replaced, page)


def shown_parts(page: str) -> list[str]:
    """The names of the parts that the page shows."""
    return [match[1] for match in PART.finditer(page)]


def main(files: list[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for file in files:
        page = filled(page, parts_of(json.loads(Path(file).read_text(encoding="utf-8"))))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
