"""docs/architecture.md shows the tree and the three lives as they are in the source."""

from __future__ import annotations

import re

import pytest
from architecture_page import GENERATED, PAGE, generated_part, hops_of, missing_hops
from pages import ROOT


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_tree_and_order_are_those_of_the_source(text: str) -> None:
    """`python tests/support/architecture_page.py` writes them again."""
    for name, generate in GENERATED.items():
        assert generated_part(name, text).splitlines() == generate().splitlines()


def test_every_hop_names_a_function_of_its_file(text: str) -> None:
    hops = hops_of(text)

    assert len(hops) > 60
    assert missing_hops(hops) == []


def test_every_file_that_the_page_names_exists(text: str) -> None:
    package = ROOT / "apikley_async"
    named = set(re.findall(r"`([\w/]+\.py)`", text)) | set(re.findall(r"`(tests/\w+)`", text))

    missing = [
        name
        for name in sorted(named)
        if not any((folder / name).exists() for folder in (ROOT, package, package / "webhook"))
    ]
    assert missing == []


def test_a_hop_that_does_not_exist_is_noticed() -> None:
    assert missing_hops([("_client.py", "Client.submit"), ("_client.py", "Client.nothing")]) == [
        "_client.py: Client.nothing"
    ]
    assert missing_hops([("no_such.py", "f")]) == ["no_such.py: f"]
