"""The first page in Russian has the code, the pictures and the links of README.md."""

from __future__ import annotations

import posixpath
import re

from pages import ROOT, RUSSIAN, blocks_of

ENGLISH = ROOT / "README.md"
LINK = re.compile(r"\]\(([^)#\s]+)")


def test_both_pages_have_the_same_blocks() -> None:
    english, russian = (
        [(block.language, block.what, block.body) for block in blocks_of(page.read_text("utf-8"))]
        for page in (ENGLISH, RUSSIAN)
    )

    assert len(english) > 5
    assert russian == english


def test_both_pages_lead_to_the_same_places() -> None:
    links = {
        page: {
            link
            if link.startswith("https:")
            else posixpath.relpath((page.parent / link).resolve().as_posix(), ROOT.as_posix())
            for link in LINK.findall(page.read_text("utf-8"))
        }
        for page in (ENGLISH, RUSSIAN)
    }
    badges = {link for link in links[ENGLISH] if "/badge/" in link}

    assert links[ENGLISH] - badges - {"docs/README.ru.md"} == links[RUSSIAN] - {"docs/index.md"}
    assert [link for link in links[RUSSIAN] if ":" not in link and not (ROOT / link).exists()] == []
