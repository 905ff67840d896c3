"""The examples of docs/howto/test-your-code.md, run as a reader would run them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks_of
from volume import volume

TEST_PAGES = [
    page
    for page in PAGES
    if any(block.value.startswith("test_") for block in blocks_of(page.read_text("utf-8")))
]


def write_files(page: Path, folder: Path, films: int = 300) -> int:
    """Write the files of a page, with *films* for its three hundred; the number of their tests."""
    files = [block for block in blocks_of(page.read_text("utf-8")) if block.what == "file"]
    for block in files:
        body = re.sub(r"\b300\b", str(films), block.body)
        (folder / block.value).write_text(body, encoding="utf-8")
    return sum(
        len(re.findall(r"^(?:async )?def test_", block.body, re.MULTILINE)) for block in files
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", TEST_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
@pytest.mark.slow
def test_the_tests_of_a_page_pass(
    page: Path,
    pytester: pytest.Pytester,
    project: Callable[..., pytest.RunResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reader's copy runs with nothing but the plugin."""
    tests = write_files(page, pytester.path, films=volume(40, 300))
    for name in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE"):  # both take more time than the films
        monkeypatch.delenv(name, raising=False)

    project(own_process=True).assert_outcomes(passed=tests)


def test_the_page_shows_six_tests_and_three_hundred_films(pytester: pytest.Pytester) -> None:
    """The page keeps its promise."""
    page = ROOT / "docs" / "howto" / "test-your-code.md"

    assert page in TEST_PAGES
    assert write_files(page, pytester.path) == 6
    assert "range(300)" in (pytester.path / "test_campaign.py").read_text("utf-8")
